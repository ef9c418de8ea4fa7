"""vla-eval's protocol: episodes, seeds, images as PNG, what is refused; and the harness itself."""

import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import connect

from pcm_policy import DiffusionPolicy
from pcm_policy.cli.main import run_command
from pcm_policy.serving.options import ObserveOptions
from pcm_policy.serving.planner import Planner
from pcm_policy.serving.server import PolicyServer
from pcm_policy.serving.vla_eval_wire import pack, read_array
from tests.seeing import glance, make
from tests.serving import running
from tests.serving.running import planned

ROOT = Path(__file__).parents[2]
HELLO = {"harness_version": "0.8.0", "protocol_version": 1}


class Shard:
    """What ``vla_eval.connection`` does, and no more."""

    def __init__(self, uri: str) -> None:
        self.socket = connect(uri, compression=None, max_size=None, proxy=None).__enter__()
        self.seq = 0
        self.told = self.ask("hello", HELLO)["payload"]

    def send(self, kind: str, payload: Any) -> None:
        self.seq += 1
        self.socket.send(pack(kind, payload, self.seq))

    def hear(self) -> dict[str, Any]:
        found: dict[str, Any] = msgpack.unpackb(self.socket.recv(timeout=20))
        return found

    def ask(self, kind: str, payload: Any) -> dict[str, Any]:
        self.send(kind, payload)
        found = self.hear()
        assert found["seq"] == self.seq
        return found

    def act(self, obs: Any) -> Any:
        found = self.ask("observation", obs)
        assert found["type"] == "action", found
        return read_array(found["payload"]["actions"], "actions")


def picture(image: Any, form: str = "png") -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form.upper())
    return {"__image__": True, "format": form, "data": file.getvalue(), "shape": list(image.shape)}


def shown(seed: int) -> dict[str, Any]:
    """Return an observation as the harness sends it: one camera as PNG, one as an array."""
    seen = glance(seed)
    images = {"top": picture(seen["top"]), "wrist": seen["wrist"]}
    return {"images": images, "state": seen["state"], "task_description": "push the T"}


@pytest.fixture
def server(quick: None) -> Iterator[tuple[str, PolicyServer]]:
    seen = ObserveOptions(seed=100)
    with running.serving(protocol="vla-eval", observe=seen, max_errors=1000) as found:
        yield found


def test_episodes_of_two_shards(server: tuple[str, PolicyServer]) -> None:
    """Each has its history and chunk; the task's number names the noise."""
    own, near = Planner(make()), {"atol": 1e-5}
    one, other = Shard(server[0]), Shard(server[0])
    assert one.told["protocol_version"] == 1
    assert one.told["images"] == {"images/top": [40, 52, 3], "images/wrist": [36, 36, 3]}
    assert (one.told["replan_steps"], one.told["seed"]) == (4, 100)
    for episode in (3, 4):
        for shard, first in ((one, 0), (other, 20)):
            shard.send("episode_start", {"task": {"name": "x", "episode_idx": episode + first}})
        chunks = {}
        for tick in range(6):
            for shard, first in ((one, 0), (other, 20)):
                if tick % 4 == 0:
                    seeds = [max(tick - 1, 0) + first, tick + first]
                    chunks[first] = planned(own, seeds, 100 + episode + first, tick)
                action = shard.act(shown(tick + first))
                np.testing.assert_allclose(action, chunks[first][tick % 4], **near)
        for shard in (one, other):
            shard.send("episode_end", {"metrics": {"success": True}, "steps": 6})
    assert server[1].health()["plans"] == 8
    assert server[1].health()["errors"] == {}


def test_what_is_refused(server: tuple[str, PolicyServer]) -> None:
    shard, top = Shard(server[0]), glance(1)["top"]
    assert "no episode has begun" in shard.ask("observation", shown(1))["payload"]["error"]
    for payload, reason in (
        ({}, "field: an episode begins with a task"),
        ({"task": {"episode_idx": -1}}, "field: episode_idx is a whole number"),
        ({"task": {"episode_idx": "1"}}, "field: episode_idx is a whole number"),
    ):
        assert reason in shard.ask("episode_start", payload)["payload"]["error"]
    shard.send("episode_start", {"task": {}})
    objects = {"__ndarray__": True, "dtype": "|O"}
    bad = {b"x": 1, "state": glance(1)["state"]}
    for obs, reason in (
        (bad, "field: the entries of an observation have names"),
        (shown(1) | {"state": objects}, "field: state has the type |O"),
        (shown(1) | {"state": "x"}, "field: state is str"),
        (shown(1) | {"state": [0.1, 0.2]}, "value: observation has shape (2,)"),
        (
            {"state": glance(1)["state"]},
            "lacks images/top: it has state; see serve.observe.images.top",
        ),
        *(
            ({"state": glance(1)["state"], "images": {"top": one, "wrist": top}}, reason)
            for one, reason in (
                (picture(top, "jpeg"), "field: images/top is JPEG, which is not exact: send PNG"),
                (picture(top) | {"data": b"x" * 40}, "value: images/top is not a PNG image"),
                (picture(top) | {"data": picture(top)["data"][:90]}, "images/top is not a PNG"),
                (picture(top[:30]), "shape: images/top has size (30, 52)"),
                (picture(top[..., 0]), "shape: images/top has size (40, 52), mode L"),
                (picture(top) | {"format": "bmp"}, "field: images/top is no image"),
                (picture(top), "shape: observation images/wrist has shape (40, 52, 3)"),
            )
        ),
    ):
        shard.socket.send(pack("observation", obs, 7))
        said = shard.hear()
        assert said["seq"] == 7
        assert reason in said["payload"]["error"], said
    for raw, reason in (
        (b"\xc1", "garbage: not a msgpack message"),
        (msgpack.packb([1]), "garbage: a message is a map"),
        (msgpack.packb({"type": "observation", "seq": 1}), "garbage: a message is a map of type"),
        (msgpack.packb({"type": "x", "payload": {}, "seq": -1}), "field: seq is a whole number"),
        (pack("reset", {}, 1), "type: unknown message type"),
        (
            pack("hello", HELLO | {"protocol_version": 2}, 1),
            "version: this server speaks version 1",
        ),
    ):
        shard.socket.send(raw)
        assert reason in shard.hear()["payload"]["error"]
    np.testing.assert_allclose(
        shard.act(shown(1)), planned(Planner(make()), [1, 1], 100, 0)[0], atol=1e-5
    )


@pytest.fixture
def harness() -> str:
    python = os.environ.get("PCM_VLA_EVAL_PYTHON", "")
    if not python:
        pytest.skip("PCM_VLA_EVAL_PYTHON names no Python that has vla-eval and this package")
    return python


def test_the_real_harness_gives_the_episodes_of_pcm_eval(harness: str, tmp_path: Path) -> None:
    """Two shards side by side, one row a solve: every score is the same number."""
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    seen = ObserveOptions(state=("state",), seed=100_000)
    with running.serving(Planner(policy), protocol="vla-eval", observe=seen) as (uri, served):
        common = [harness, "-m", "vla_eval.cli.main", "run", "--no-docker"]
        common += ["-c", str(ROOT / "examples/vla_eval/pusht.yaml"), "--server-url", uri]
        common += ["--output-dir", str(tmp_path), "--eval-id", "both", "--num-shards", "2"]
        common += ["--benchmark-field", "episodes_per_task=3"]
        common += ["--benchmark-field", "max_steps=60"]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        shards = [
            subprocess.Popen([*common, "--shard-id", str(i)], env=env, stderr=subprocess.DEVNULL)
            for i in range(2)
        ]
        assert [shard.wait(120) for shard in shards] == [0, 0]
        assert served.health()["errors"] == {}
    recording = str(tmp_path / "recording-both.sqlite")
    subprocess.run([harness, "-m", "vla_eval.cli.main", "export", recording], check=True)
    found = json.loads((tmp_path / "pusht_aggregate.json").read_text())
    episodes = {e["episode_idx"]: e["metrics"]["score"] for e in found["tasks"][0]["episodes"]}
    words = "policy=released/pusht_mlp task=pusht episodes=3 seed=100000 num_envs=1 solve_batch=1"
    more = f"mode=sync max_steps=60 latency_calls=0 device=cpu output_dir={tmp_path / 'own'}"
    run_command("eval", argv=f"{words} {more}".split())
    own = json.loads((tmp_path / "own/eval.json").read_text())["episodes"]
    assert [episodes[i] for i in range(3)] == [episode["score"] for episode in own]
