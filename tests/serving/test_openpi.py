"""openpi's protocol: what its client sends and gets, its history, and what is refused."""

import json
import os
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from pcm_policy.control import Plan, PlanRequest
from pcm_policy.control.client import Link
from pcm_policy.control.wire import WireError
from pcm_policy.errors import PcmError
from pcm_policy.serving import server as module
from pcm_policy.serving.openpi_wire import pack, read_array, unpack
from pcm_policy.serving.options import ObserveOptions, ServeOptions
from pcm_policy.serving.planner import Planner
from pcm_policy.serving.server import PolicyServer
from tests.seeing import glance, make
from tests.serving import running
from tests.serving.running import planned

KEYS: dict[str, Any] = {
    "images": {"top": "observation/image", "wrist": "images/wrist"},
    "history": "steps",
}
"""An entry with a slash in its name, as LIBERO's, and one in a map, as ALOHA's."""


def serving(planner: Planner | None = None, **options: Any) -> Any:
    """Serve to openpi's clients."""
    seen = ObserveOptions(
        **KEYS | {k: options.pop(k) for k in ("replan_steps", "history") if k in options}
    )
    return running.serving(planner, **{"protocol": "openpi", "observe": seen} | options)


class Client:
    """What ``openpi_client.websocket_client_policy`` does, and no more."""

    def __init__(self, uri: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Api-Key {key}"} if key else None
        self.socket = connect(
            uri, compression=None, max_size=None, proxy=None, additional_headers=headers
        ).__enter__()
        self.metadata = unpack(self.socket.recv(timeout=20))

    def send(self, data: Any) -> Any:
        self.socket.send(data)
        return self.socket.recv(timeout=60)

    def infer(self, obs: Any) -> dict[str, Any]:
        answer = self.send(pack(obs))
        if isinstance(answer, str):
            raise RuntimeError(answer)
        found: dict[str, Any] = msgpack.unpackb(answer)
        return found | {"actions": read_array(found["actions"], "actions")}


def shown(seed: int, channels_first: bool = False) -> dict[str, Any]:
    """Return an observation as a client sends it."""
    seen = glance(seed)
    wrist = np.moveaxis(seen["wrist"], -1, 0) if channels_first else seen["wrist"]
    images = {"wrist": wrist}
    return {
        "state": seen["state"].astype(float),
        "observation/image": seen["top"],
        "images": images,
    }


@pytest.fixture
def server(quick: None) -> Iterator[tuple[str, PolicyServer]]:
    with serving(max_errors=1000) as found:
        yield found


def test_history_seeds_and_what_a_client_is_told(server: tuple[str, PolicyServer]) -> None:
    own, client, other = Planner(make()), Client(server[0]), Client(server[0])
    told = client.metadata
    assert told["images/observation/image"] == [40, 52, 3]
    assert told["images/images/wrist"] == [36, 36, 3]
    assert (told["prompt"], told["obs_steps"], told["actions"]) == ("ignored", 2, [7, 2])
    near = {"atol": 1e-5}
    first = client.infer(shown(1) | {"prompt": "push the T"})
    np.testing.assert_allclose(first["actions"], planned(own, [1, 1], 0, 0), **near)
    again = other.infer(shown(1))  # a connection has noise of its own
    np.testing.assert_allclose(again["actions"], planned(own, [1, 1], 1, 0), **near)
    second = client.infer(shown(2, channels_first=True))
    np.testing.assert_allclose(second["actions"], planned(own, [1, 2], 0, 1), **near)
    reset = client.infer(shown(3) | {"pcm/reset": True, "pcm/seed": 7})
    np.testing.assert_allclose(reset["actions"], planned(own, [3, 3], 7, 0), **near)
    both = {k: np.stack([shown(4)[k], shown(5)[k]]) for k in ("state", "observation/image")}
    wrists = np.stack([shown(4, True)["images"]["wrist"], shown(5, True)["images"]["wrist"]])
    whole = client.infer(both | {"images": {"wrist": wrists}, "pcm": {"tick": 40}})
    np.testing.assert_allclose(whole["actions"], planned(own, [4, 5], 7, 40), **near)
    assert {"infer_ms", "queue_ms", "encode_ms", "total_ms"} <= set(whole["server_timing"])
    assert whole["policy_timing"] == {"infer_ms": whole["server_timing"]["infer_ms"]}
    assert server[1].health()["plans"] == 5
    assert server[1].health()["errors"] == {}


@pytest.mark.usefixtures("quick")
def test_a_chunk_is_used_up_before_the_next() -> None:
    """As a policy's own loop does: one observation a control step, a solve every three."""
    own = Planner(make())
    with serving(replan_steps=3) as (uri, served):
        client = Client(uri)
        found = [client.infer(shown(seed)) for seed in range(8)]
        assert [len(reply["actions"]) for reply in found] == [7, 6, 5, 7, 6, 5, 7, 6]
        assert served.health()["plans"] == 3
        assert served.health()["frames"]["seen"] == 5  # encoded before a plan needs them
        for tick, seeds in ((0, [0, 0]), (3, [2, 3]), (6, [5, 6])):
            chunk = planned(own, seeds, 0, tick)
            for later in range(min(3, 8 - tick)):
                np.testing.assert_allclose(found[tick + later]["actions"], chunk[later:], atol=1e-5)
        assert client.infer(shown(8) | {"pcm/reset": True})["actions"].shape == (7, 2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("history", ["newest", "message"])
def test_other_histories_than_the_connection_s(history: str) -> None:
    own = Planner(make())
    with serving(history=history) as (uri, _):
        client = Client(uri)
        assert client.metadata["history"] == history
        if history == "message":
            with pytest.raises(RuntimeError, match="shape: an observation comes with its history"):
                client.infer(shown(1))
        else:
            client.infer(shown(1))
            second = client.infer(shown(2))["actions"]
            np.testing.assert_allclose(second, planned(own, [2, 2], 0, 1), atol=1e-5)
        parts = shown(4), shown(5)
        both = {k: np.stack([one[k] for one in parts]) for k in ("state", "observation/image")}
        both["images"] = {"wrist": np.stack([one["images"]["wrist"] for one in parts])}
        whole = client.infer(both | {"pcm/tick": 2})["actions"]
        np.testing.assert_allclose(whole, planned(own, [4, 5], 0, 2), atol=1e-5)


class Gate(Planner):
    """Solves when it is let to; counts the rows of its solves."""

    def __init__(self) -> None:
        super().__init__(make())
        self.rows: list[int] = []
        self.open, self.begun = threading.Event(), threading.Event()
        self.slow_s = 0.0

    def plan_batch(
        self, requests: Sequence[PlanRequest], rows: Sequence[int] | None = None, batch: int = 0
    ) -> list[Plan]:
        self.rows.append(len(requests))
        self.begun.set()
        assert self.open.wait(20)
        plans = super().plan_batch(requests, rows, batch)
        time.sleep(self.slow_s)
        return plans


@pytest.mark.usefixtures("quick")
def test_eight_clients_share_a_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", lambda *_: {1: 10.0, 8: 11.0})
    gate, own = Gate(), Planner(make())
    with serving(gate, batching=True) as (uri, served):
        found: dict[int, Any] = {}

        def be(number: int) -> None:
            found[number] = Client(uri).infer(shown(number) | {"pcm/seed": number})

        threads = [threading.Thread(target=be, args=(number,)) for number in range(8)]
        threads[0].start()
        assert gate.begun.wait(20)
        for thread in threads[1:]:
            thread.start()
        while len(served.batcher._queue) < 7:
            time.sleep(0.005)
        gate.open.set()
        for thread in threads:
            thread.join(20)
        assert gate.rows == [1, 7]
        assert found[5]["server_timing"]["batch"] == 7
        assert found[5]["server_timing"]["queue_ms"] > 0
        for number, reply in found.items():
            own_actions = planned(own, [number] * 2, number, 0)
            np.testing.assert_allclose(reply["actions"], own_actions, atol=1e-5)
        gate.slow_s = 0.05  # the time to the end of the solve, and not to its launch
        timing = Client(uri).infer(shown(1))["server_timing"]
        assert 50 <= timing["infer_ms"] <= timing["total_ms"]


def bad() -> dict[str, tuple[Any, str, str]]:
    """Return messages, and the code and the reason that answer them."""

    def entry(kind: Any, shape: Any, data: Any) -> dict[bytes, Any]:
        return {b"__ndarray__": True, b"dtype": kind, b"shape": shape, b"data": data}

    def obs(**changes: Any) -> bytes:
        return pack(shown(1) | changes)

    def image(value: Any) -> bytes:
        return pack(shown(1) | {"observation/image": value})

    top, lacking = shown(1)["observation/image"], shown(1)
    del lacking["observation/image"]
    half = np.stack([shown(1)["state"]] * 2)
    return {
        "bytes": (b"\xc1\xff", "garbage", "not a msgpack message"),
        "nothing": (b"", "garbage", "not a msgpack message"),
        "text": ("hello", "garbage", "binary msgpack, not text"),
        "a list": (msgpack.packb([1]), "garbage", "a map of its entries"),
        "an array": (msgpack.packb(entry("<f4", [0], b"")), "garbage", "a map of its entries"),
        "truncated": (obs()[:400], "garbage", "not a msgpack message"),
        "nested": (b"\x91" * 3000, "garbage", "not a msgpack message"),
        "a map bomb": (b"\xdf\xff\xff\xff\xff", "garbage", "not a msgpack message"),
        "deep maps": (obs(a={"b": {"c": {"d": {"e": 1}}}}), "field", "more than 4 maps"),
        "twice": (pack(shown(1) | {"images/wrist": 1}), "field", "two entries images/wrist"),
        "names": (msgpack.packb({b"x": 1}), "field", "names, not bytes"),
        "objects": (obs(state=entry("|O", [3], b"x" * 24)), "field", "has the type |O"),
        "records": (obs(state=entry("|V8", [3], b"x" * 24)), "field", "has the type |V8"),
        "texts": (obs(state=entry("<U1", [3], b"x" * 12)), "field", "has the type <U1"),
        "a list for a type": (obs(state=entry([["f", "O"]], [3], b"")), "field", "has the type"),
        "no bytes": (obs(state=entry("<f4", [3], "x" * 12)), "shape", "bytes of its shape"),
        "too few bytes": (obs(state=entry("<f4", [4], b"x" * 12)), "shape", "bytes of its shape"),
        "huge": (obs(state=entry("<f4", [2**62, 2**62], b"")), "shape", "bytes of its shape"),
        "negative": (obs(state=entry("<f4", [-1, -3], b"")), "shape", "has no shape"),
        "axes": (obs(state=entry("<f4", [1] * 9, b"x" * 4)), "shape", "has 9 axes"),
        "a word": (obs(state="left"), "field", "state is str"),
        "wide": (obs(state=np.zeros(4)), "value", "has shape (4,): this policy takes (3,)"),
        "long": (obs(state=np.zeros((3, 3))), "shape", "with the history (2, 3)"),
        "nan": (obs(state=np.full(3, np.nan)), "value", "not finite"),
        "far": (obs(state=np.full(3, 1e300)), "value", "not finite"),
        "out of range": (obs(state=np.full(3, 1e5)), "value", "out of range"),
        "half a history": (obs(state=half), "shape", "state have a history, observation/image"),
        "no camera": (
            pack(lacking),
            "field",
            "lacks observation/image: it has state, images/wrist; see serve.observe.images.top",
        ),
        "size": (image(top[:30]), "shape", "takes (40, 52, 3); resize it as the training images"),
        "floats": (image(top.astype(np.float32)), "shape", "is float32: give images"),
        "a number": (image(3), "shape", "observation/image has shape ()"),
        "reset": (obs(**{"pcm/reset": 1}), "field", "pcm/reset is true or false"),
        "seed": (obs(**{"pcm/seed": -1}), "field", "pcm/seed is a whole number"),
        "tick": (obs(**{"pcm/tick": 2**40}), "field", "pcm/tick is a whole number"),
    }


def test_malformed_messages_are_named_and_harm_nobody(server: tuple[str, PolicyServer]) -> None:
    good, client, own = Client(server[0]), Client(server[0]), Planner(make())
    cases = bad()
    for index, (name, (data, code, reason)) in enumerate(cases.items()):
        said = client.send(data)
        assert isinstance(said, str), name
        assert said.startswith(f"{code}: "), (name, said)
        assert reason in said, (name, said)
        if index % 10 == 0:
            good.infer(shown(index))
    last = client.infer(shown(1))  # none of them is history
    np.testing.assert_allclose(last["actions"], planned(own, [1, 1], 1, 0), atol=1e-5)
    assert sum(server[1].health()["errors"].values()) == len(cases)


@pytest.mark.usefixtures("quick")
def test_doors() -> None:
    with serving(token="secret", max_errors=2, max_bytes=1 << 16) as (uri, served):
        with pytest.raises(InvalidStatus, match="401"):
            Client(uri)
        with pytest.raises(InvalidStatus, match="401"):
            Client(uri, "guess")
        client = Client(uri, "secret")
        assert [client.send(b"")[:7] for _ in range(3)] == ["garbage"] * 3
        with pytest.raises(ConnectionClosed, match="too many errors"):
            client.send(b"")
        large = Client(uri, "secret")
        with pytest.raises(ConnectionClosed, match="1009"):
            large.send(bytes(1 << 17))
        with urllib.request.urlopen(uri.replace("ws:", "http:") + "/healthz", timeout=5) as reply:
            assert json.loads(reply.read())["policy"] == "seeing"
        assert served.errors["token"] == 2
    with serving() as (uri, _), pytest.raises(PcmError, match=r"serves openpi: give serve\.proto"):
        Link(uri).open()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"protocol": "ros"}, r"serve\.protocol='ros'"),
        ({"protocol": "openpi", "jpeg": True}, r"serve\.jpeg with serve\.protocol=openpi"),
        ({"protocol": "openpi", "kinds": ("plain",)}, r"serve\.kinds with serve\.protocol=openpi"),
        ({"observe": ObserveOptions(replan_steps=2)}, r"give serve\.protocol=openpi"),
    ],
)
def test_settings_of_the_other_protocol_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(PcmError, match=reason):
        ServeOptions(**options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"images": {"side": "x"}}, "names the camera side: this policy has top, wrist"),
        ({"images": {"top": ""}}, r"serve\.observe\.images\.top is empty"),
        ({"images": ["top"]}, "use camera: entry"),
        ({"state": ()}, r"serve\.observe\.state"),
        ({"state": ("a b",)}, "expected a key"),
        ({"state": (3,)}, "use a text"),
        ({"replan_steps": 8}, "a chunk has 7 usable steps"),
        ({}, r"sees 2 observations: say what clients send: serve\.observe\.history=steps"),
        ({"history": "none"}, r"serve\.observe\.history"),
        ({"history": "newest", "replan_steps": 2}, "leave one of them out"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(PcmError, match=reason):
        PolicyServer(
            Planner(make()), "x", ServeOptions(protocol="openpi", observe=ObserveOptions(**options))
        )


NUMBERS = arrays.arrays(
    st.one_of(
        arrays.boolean_dtypes(),
        arrays.integer_dtypes(),
        arrays.unsigned_integer_dtypes(),
        arrays.floating_dtypes(sizes=(16, 32, 64)),
    ),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
)


@settings(max_examples=60)
@given(NUMBERS, st.sampled_from("CF"))
def test_arrays_arrive_as_they_were_sent(array: Any, order: Any) -> None:
    found = read_array(unpack(pack({"x": np.array(array, order=order)}))["x"], "x")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@settings(max_examples=100)
@given(st.data())
def test_a_spoiled_message_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(
        pack({"state": np.arange(3.0), "images": {"top": np.zeros((2, 2, 3), np.uint8)}})
    )
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    try:
        for name, value in unpack(bytes(raw)).items():
            read_array(value, name)
    except WireError:
        pass


def test_the_format_is_that_of_the_client() -> None:
    """As ``openpi_client`` 0.1.2 packs ``{"a": np.float32([1, 2]), "n": np.int64(3)}``."""
    theirs = bytes.fromhex(REAL)
    found = unpack(theirs)
    np.testing.assert_array_equal(read_array(found["a"], "a"), np.array([1, 2], np.float32))
    assert read_array(found["n"], "n") == 3
    assert pack({"a": np.array([1, 2], np.float32)})[1:] in theirs


REAL = (
    "82a16184c40b5f5f6e6461727261795f5fc3c40464617461c4080000803f00000040c4056474797065a33c6634c40573"
    "686170659102a16e83c40d5f5f6e7067656e657269635f5fc3c4046461746103c4056474797065a33c6938"
)


@pytest.fixture
def real_python() -> str:
    python = os.environ.get("PCM_OPENPI_PYTHON", "")
    if not python:
        pytest.skip("PCM_OPENPI_PYTHON names no Python that has openpi-client")
    return python


@pytest.mark.usefixtures("quick")
def test_the_real_client(real_python: str, tmp_path: Path) -> None:
    """Eight of them with cameras, openpi's own chunk broker, an error, a wrong key."""
    own, script = Planner(make()), Path(__file__).with_name("drive_openpi.py")
    for seed in range(10):
        np.savez(tmp_path / f"{seed}.npz", **glance(seed))
    with serving(batching=True, token="secret") as (uri, served):
        words = [real_python, str(script), uri, "secret", str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert served.health()["errors"] == {"token": 1, "shape": 1}
    said = json.loads(done.stdout)
    assert said["error"].startswith("Error in inference server:\nshape: observation")
    assert said["brokered"] == said["chunk"]
    assert said["metadata"]["images"] == {
        "observation/image": [40, 52, 3],
        "images/wrist": [36, 36, 3],
    }
    for client in range(8):
        actions = np.load(tmp_path / f"client{client}.npy")
        expected = [
            planned(own, [max(k - 1, 0) + client % 3, k + client % 3], client, k) for k in range(4)
        ]
        np.testing.assert_allclose(actions, expected, atol=1e-5)
