"""Policies with cameras from frames to episodes: trained, resumed, distilled, rolled out, timed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcm_policy.cli import bench as cli_bench
from pcm_policy.cli import eval as cli_eval
from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.errors import PcmError
from pcm_policy.policy.held_out import held_out_observations, held_out_sights
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.training.cameras import SeeingNetwork

SMALL = [
    *("task=pusht_image", "network.options.width=32", "network.options.depth=1", "device=cpu"),
    *("train.batch=4", "train.warmup=1", "train.log_every=1", "policy.vision.keypoints=8"),
    *("policy.vision.features=16", "policy.vision.crop=[40,40]", "policy.vision.resize=[48,48]"),
]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("frames") / "demos.zarr"

    def episode(steps: int) -> dict[str, np.ndarray[Any, Any]]:
        state = rng.uniform(100, 400, (steps, 5)).astype(np.float32)
        image = rng.integers(0, 256, (steps, 96, 96, 3)).astype(np.float32)
        return {"state": state, "action": state[:, :2], "img": image}

    write_replay(path, [episode(20) for _ in range(3)])
    return path


def train(frames: Path, output: Path, *words: str) -> DiffusionPolicy:
    words = (*SMALL, f"dataset.path={frames}", f"output_dir={output}", *words)
    return DiffusionPolicy.from_pretrained(cli_train.train_main(compose("train", words)))


@pytest.fixture(scope="module")
def trained(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("seeing")
    train(frames, output, "train.steps=4", "train.save_every=2")
    return output


def test_encoders_are_trained_and_a_resumed_run_is_the_same(
    frames: Path, trained: Path, tmp_path: Path
) -> None:
    policy = DiffusionPolicy.from_pretrained(trained / "policy")
    assert policy.vision is not None
    assert policy.config.obs_dim == 2 + 16
    one = train(frames, tmp_path / "one", "train.steps=1")
    assert one.vision is not None
    moved = [
        not torch.equal(a, b)
        for a, b in zip(policy.vision.parameters(), one.vision.parameters(), strict=True)
    ]
    assert all(moved)
    for file in sorted((trained / "checkpoints").iterdir())[-1:]:
        file.rename(tmp_path / file.name)  # as if killed before the last checkpoint
    torch.manual_seed(99)  # what draws crops must not matter
    again = train(frames, trained, "train.steps=4", "train.save_every=2", "resume=true")
    for a, b in zip(policy.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_images_are_encoded_once_for_all_noise_levels(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    see = SeeingNetwork.see

    def counted(self: SeeingNetwork, *given: Any) -> torch.Tensor:
        encoded.append(1)
        return see(self, *given)

    monkeypatch.setattr(SeeingNetwork, "see", counted)
    train(frames, tmp_path / "many", "noises=5", "train.steps=3", "dataset.val_fraction=0")
    assert len(encoded) == 3


def test_a_batch_in_parts_is_cut_at_the_same_places(frames: Path, tmp_path: Path) -> None:
    """The first loss, before weights differ in any bit."""
    words = ["train.steps=2", "train.lr=1e-9"]
    found = []
    for parts in (1, 2):
        train(frames, tmp_path / str(parts), *words, f"train.accumulate={parts}")
        lines = (tmp_path / str(parts) / "metrics.jsonl").read_text().splitlines()
        found.append([x["loss"] for x in map(json.loads, lines) if "loss" in x])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_what_training_saw_is_what_the_policy_sees(frames: Path, trained: Path) -> None:
    policy = DiffusionPolicy.from_pretrained(trained / "policy")
    sights = held_out_sights(trained / "policy")
    held_out = held_out_observations(trained / "policy")
    assert len(sights) == 13  # windows of the one episode that was held out
    assert sights[0]["image"].dtype == np.uint8
    vector = policy.observe(sights[0])
    np.testing.assert_allclose(vector[0], held_out[0], atol=1e-5)
    assert policy.predict(sights[3]).action.shape == (1, 8, 2)


def test_distilled_rolled_out_and_timed(frames: Path, trained: Path, tmp_path: Path) -> None:
    words = ["task=pusht_image", f"policy={trained}/policy", f"dataset.path={frames}"]
    words += [f"output_dir={tmp_path}", "train.steps=2", "train.batch=4", "distill.pool=8"]
    folder = cli_train.distill_main(compose("distill", [*words, "device=cpu"]))
    words = ["task=pusht_image", f"policy={folder}", "episodes=2", "max_steps=10", "num_envs=2"]
    words += ["solve_batch=2", "latency_calls=1", f"output_dir={tmp_path}/eval", "device=cpu"]
    report = cli_eval.eval_main(compose("eval", words))
    assert report["rounds"] == 2
    assert 0 < report["latency_ms"]["encode"] < report["latency_ms"]["p50"] * 3
    words = [f"policy={folder}", f"output_dir={tmp_path}/bench", "observations=2", "calls=1"]
    cli_bench.bench_main(compose("bench", [*words, "methods=[pcm]", "device=cpu"]))
    bench = json.loads((tmp_path / "bench/bench.json").read_text())
    assert bench["encode_ms"]["p50"] > 0


def test_images_are_not_reflected_by_a_map_of_numbers(frames: Path, tmp_path: Path) -> None:
    with pytest.raises(PcmError, match="maps numbers, not images"):
        train(frames, tmp_path, "task.symmetry=pcm_policy.envs.pusht:mirror")
