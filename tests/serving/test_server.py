"""The real server process: good clients, bad clients, and its end in the middle of an episode."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from pcm_policy.cli.main import run_command
from pcm_policy.control import ControlSettings, PlanRequest
from pcm_policy.control.client import Link, RemoteController
from pcm_policy.control.wire import VERSION, encode, encode_array, plan_message
from pcm_policy.errors import PcmError
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.serving.planner import Planner

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
POLICY = "released/pusht_mlp"
SERVED = (f"policy={POLICY}", "threads=1", "device=cpu")
OBS = held_out_observations(POLICY).numpy()
NONE = np.zeros((0, 2), np.float32)


@contextmanager
def serving(*words: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [str(BIN / "pcm-serve"), *SERVED, f"serve.port={port}", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        line = process.stdout.readline()
        assert " at ws://" in line, line
        yield process, line.split(" at ")[1].strip()
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    words = ("serve.hello_timeout_s=0.5", "serve.idle_timeout_s=2", "serve.max_clients=12")
    with serving(*words) as (process, uri):
        yield uri
        assert process.poll() is None, "the server died"


def health(uri: str) -> dict[str, Any]:
    with urllib.request.urlopen(uri.replace("ws:", "http:") + "/healthz", timeout=5) as reply:
        found: dict[str, Any] = json.loads(reply.read())
        return found


def request(i: int, **changes: Any) -> PlanRequest:
    base = {"id": i, "seed": i, "tick": i, "clock": 0.0, "obs": OBS[i % 256], "prefix": NONE}
    return PlanRequest(**base | changes)


def opened(uri: str) -> Any:
    return connect(uri, compression=None, max_size=None, proxy=None, close_timeout=0.2).__enter__()


def greeted(uri: str) -> Any:
    link = opened(uri)
    link.send(encode({"type": "hello", "version": VERSION}))
    link.recv(timeout=5)
    return link


def test_plans_are_the_planner_s_own(server: str, planner: Planner) -> None:
    link = Link(server)
    assert link.open() == planner.spec
    warm = {"warm_start": "trajectory", "couple_noise": True}
    here = there = None
    for i in range(4):
        changes = warm | {"executed": 8 if i else 0}
        plan = planner.plan(request(i, **changes, memory=here))
        served = link.ask(request(i, **changes, memory=there))
        here, there = plan.memory, served.memory
        np.testing.assert_allclose(served.actions, plan.actions, atol=0.02)
        assert {"queue_ms", "solve_ms", "total_ms", "batch"} <= set(link.timing)
    cold = link.ask(request(3, **warm, executed=8, memory=(link.connects + 1, 2)))
    assert np.abs(cold.actions - plan.actions).max() > 0.02  # memory of another connection
    link.close()


def bad_messages() -> dict[str, Callable[[random.Random], Any]]:
    """More than ten kinds of malformed message."""

    def valid(**changes: Any) -> dict[str, Any]:
        base: dict[str, Any] = msgpack.unpackb(encode(plan_message(request(1), None)))
        return base | changes

    def pack(**changes: Any) -> bytes:
        return msgpack.packb(valid(**changes))  # type: ignore[no-any-return]

    def array(value: Any) -> dict[str, Any]:
        return encode_array(np.asarray(value, np.float32))

    good = encode_array(OBS[0])
    return {
        "random bytes": lambda r: r.randbytes(r.randrange(1, 300)),
        "nothing": lambda r: b"",
        "text": lambda r: "hello " * r.randrange(1, 50),
        "not a map": lambda r: msgpack.packb([r.random()] * 5),
        "unknown type": lambda r: msgpack.packb({"type": "x" * r.randrange(99), "id": 1}),
        "truncated": lambda r: pack()[: r.randrange(1, 150)],
        "spoiled": lambda r: bytes(b ^ (r.random() < 0.05) * 255 for b in pack()),
        "wrong shape": lambda r: pack(obs=array(np.zeros((r.randrange(5), 3)))),
        "huge shape": lambda r: pack(obs=good | {"shape": [2, 2 ** r.randrange(30, 60)]}),
        "nan": lambda r: pack(obs=array(np.where(OBS[0] == OBS[0].max(), np.nan, OBS[0]))),
        "infinite": lambda r: pack(obs=array(np.full((2, 20), np.inf))),
        "out of range": lambda r: pack(obs=array(np.full((2, 20), 10.0 ** r.randrange(5, 30)))),
        "bad prefix": lambda r: pack(prefix=array(np.zeros((r.randrange(16, 99), 2)))),
        "bad id": lambda r: pack(id=r.choice([-1, 2**63, 1.5, None, "1", True])),
        "object dtype": lambda r: pack(obs=good | {"dtype": "|O"}),
        "deep nesting": lambda r: b"\x91" * r.randrange(600, 5000),
        "map bomb": lambda r: b"\xdf\xff\xff\xff\xff",
        "second hello": lambda r: encode({"type": "hello", "version": VERSION}),
        "too large": lambda r: r.randbytes(1 << 20) + b"more",
    }


def test_200_malformed_messages_harm_nobody(server: str) -> None:
    stop, answered, trouble = threading.Event(), [], []

    def good() -> None:
        try:
            link, i = Link(server), 0
            while not stop.is_set():
                answered.append(link.ask(request(i := i + 1)))
                time.sleep(0.02)
            link.close()
        except PcmError as error:
            trouble.append(error)

    thread = threading.Thread(target=good)
    thread.start()
    while not answered and not trouble:
        time.sleep(0.01)
    before = len(answered)
    kinds, rng = bad_messages(), random.Random(0)
    assert len(kinds) >= 10
    answers = dict.fromkeys(kinds, 0)
    link = greeted(server)
    for i in range(209):
        kind = list(kinds)[i % len(kinds)]
        try:
            link.send(kinds[kind](rng))
            reply = msgpack.unpackb(link.recv(timeout=5))
            assert reply["type"] == ("error" if kind != "spoiled" else reply["type"]), kind
            answers[kind] += 1
            time.sleep(0.004)
        except (ConnectionClosed, OSError):
            answers[kind] += 1
            link = greeted(server)
    link.close()
    stop.set()
    thread.join()
    assert not trouble
    assert all(count == 11 for count in answers.values())
    assert len(answered) >= before + 10  # meanwhile; how fast is for benchmarks.control.openpi
    assert health(server)["errors"]["garbage"] >= 50


def test_a_gigabyte_is_refused_before_it_is_read(server: str) -> None:
    link = greeted(server)
    raw: socket.socket = link.socket
    # the header of one binary frame of 2**30 masked bytes, and the first of them
    raw.sendall(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + b"mask")
    with suppress(OSError):
        for _ in range(16):
            raw.sendall(bytes(1 << 16))
    with pytest.raises(ConnectionClosed) as closed:
        link.recv(timeout=5)
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    assert health(server)["status"] == "ok"


def test_silence_ends_in_a_time_out(server: str) -> None:
    before = health(server)["errors"].get("timeout", 0)
    mute = opened(server)  # no hello
    raw = socket.create_connection(("127.0.0.1", int(server.rsplit(":", 1)[1])))  # no handshake
    idle = greeted(server)  # a hello and then nothing
    begin = time.monotonic()
    with pytest.raises(ConnectionClosed):
        mute.recv(timeout=5)
    raw.settimeout(5)
    raw.recv(1000)  # returns when the server has given up
    with pytest.raises(ConnectionClosed):
        idle.recv(timeout=6)
    assert time.monotonic() - begin < 6
    raw.close()
    assert health(server)["errors"]["timeout"] == before + 2
    deadline = time.monotonic() + 5
    while health(server)["clients"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert health(server)["clients"] == 0


def test_wrong_version_and_plain_http_garbage(server: str) -> None:
    link = opened(server)
    link.send(encode({"type": "hello", "version": 99}))
    assert msgpack.unpackb(link.recv(timeout=5))["code"] == "version"
    with socket.create_connection(("127.0.0.1", int(server.rsplit(":", 1)[1]))) as raw:
        raw.sendall(b"\x00\xff GET nonsense\r\n\r\n" * 20)
        raw.settimeout(5)
        with suppress(OSError):
            raw.recv(1000)
    assert health(server)["status"] == "ok"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_while_a_plan_is_being_solved(number: signal.Signals) -> None:
    """By DDPM, which takes some tenths of a second; another client says nothing at all."""
    with serving("solver=ddpm", "serve.batching=false") as (process, uri):
        said: list[str] = []
        link, silent = Link(uri, reply_timeout_s=30), greeted(uri)
        link.open()

        def ask() -> None:
            try:
                for i in range(1000):
                    link.ask(request(i))
            except PcmError as error:
                said.append(str(error))

        thread = threading.Thread(target=ask)
        thread.start()
        while health(uri)["plans"] < 1:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(20) == 0
        thread.join(20)
        assert said == ["server: the server is closing"] or "lost" in said[0]
        with pytest.raises(ConnectionClosed):
            silent.recv(timeout=5)


def test_too_many_clients(server: str) -> None:
    links = [greeted(server) for _ in range(12)]
    with pytest.raises(InvalidStatus):
        opened(server)
    for link in links:
        link.close()
    with pytest.raises(PcmError, match="no policy server"):
        RemoteController("ws://127.0.0.1:9")


def test_robot_example_with_a_server_that_dies() -> None:
    """Killed and started again in mid-episode: the robot goes on, and says what happened."""
    with serving() as (first, uri):
        port = int(uri.rsplit(":", 1)[1])
        robot = subprocess.Popen(
            [sys.executable, str(ROOT / "examples/robot_client.py"), uri, "200", "10"],
            stdout=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 20
        while health(uri)["plans"] < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait()
        with serving(port=port) as (second, _):
            out, _ = robot.communicate(timeout=60)
            assert robot.returncode == 0
            assert health(uri)["plans"] >= 3
            second.send_signal(signal.SIGTERM)
            assert second.wait(10) == 0
    assert out.startswith("score ")
    assert "failed_solve" in out
    assert "reconnected" in out


def test_the_program_of_the_page_about_your_own_robot(server: str) -> None:
    """Its loop drives a robot whose tick is short; every command is within the limits."""
    text = (ROOT / "docs/own_robot.md").read_text()
    (code,) = re.findall(r"```python\n(from pcm_policy.control import.*?)```", text, re.S)
    code = code.replace("low=-3.1", "low=0.0").replace("high=3.1", "high=512.0")
    code = code.replace("max_step=0.05", "max_step=5.0").replace("[:7]", "[18:20]")
    names: dict[str, Any] = {}
    exec(code, names)

    class Robot:
        sent: ClassVar[list[Any]] = []

        def reset(self) -> None:
            pass

        def observe(self) -> Any:
            time.sleep(0.01)
            return OBS[0, -1]

        def send(self, command: Any) -> None:
            self.sent.append(command)

        def done(self) -> bool:
            return len(self.sent) >= 60

    counts = names["drive"](Robot(), server)
    sent = np.array(Robot.sent)
    assert counts["plans"] >= 1
    assert sent.shape == (60, 2)
    assert np.abs(np.diff(sent, axis=0)).max() <= 5.001
    assert len(np.unique(sent, axis=0)) > 5


def test_example_is_short() -> None:
    lines = (ROOT / "examples/robot_client.py").read_text().split('"""')[2].splitlines()
    assert len([x for x in lines if x.strip()]) <= 30


def test_token(capsys: pytest.CaptureFixture[str]) -> None:
    with serving("serve.token=secret") as (_, uri):
        with pytest.raises(PcmError, match="401"):
            Link(uri).open()
        with pytest.raises(PcmError, match="401"):
            Link(uri, token="guess").open()
        link = Link(uri, token="secret")
        link.open()
        link.close()
        assert health(uri)["errors"] == {"token": 2}
    with pytest.raises(SystemExit) as ended:
        run_command("serve", argv=["serve.host=0.0.0.0"])
    assert ended.value.code == 2
    assert "give serve.token=..., or serve.anonymous=true" in capsys.readouterr().err


def test_client_needs_no_torch() -> None:
    program = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "gymnasium", "hydra", "omegaconf", "safetensors",
                                  "tqdm", "matplotlib", "accelerate", "zarr", "scipy"}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Refuse())
import importlib, pkgutil
import pcm_policy.control
for module in pkgutil.walk_packages(pcm_policy.control.__path__, "pcm_policy.control."):
    importlib.import_module(module.name)
from pcm_policy.control.client import RemoteController
from pcm_policy.control import Controller, ControlSettings
try:
    RemoteController("ws://127.0.0.1:9")
except ValueError as error:
    assert "no policy server" in str(error), error
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_remote_controller_without_latency_trouble(server: str) -> None:
    settings = ControlSettings(control_hz=10.0)
    with RemoteController(server, settings, seed=1) as remote:
        remote.reset(1, OBS[0, -1, 18:20])
        commands = [remote.step(OBS[i, -1]) for i in range(10)]
        assert all(c.action is not None and np.isfinite(c.action).all() for c in commands)
        remote.step(np.full(20, np.nan))
        assert remote.controller.record.counts["bad_observation"] == 1
