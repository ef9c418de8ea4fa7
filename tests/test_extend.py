"""docs/extend.md: every file that it shows, as it stands there, does what the page says."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.cli.main import run_command
from pcm_policy.heads import build_head
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers import PCM, Rounds, Tolerance, solve, start
from pcm_policy.solvers.registry import Solver
from tests.cli.documented import FENCED, files_shown
from tests.problems import DA, B, C, N, T, problem

PAGE = Path(__file__).parents[1] / "docs/extend.md"


@pytest.fixture(autouse=True)
def _mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with the page's files."""
    for name, text in files_shown(PAGE).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path / "mine"), str(tmp_path), *sys.path])


def settings(command: str, *words: str) -> Any:
    found: list[Any] = []
    run_command(command, found.append, ["--config-dir", "mine", *words])
    return found[0]


def test_the_page_has_every_part() -> None:
    found = files_shown(PAGE)
    assert {name.split("/")[1] for name in found if name.endswith(".yaml")} == {
        "solver", "head", "network", "task",
    }  # fmt: skip
    assert len([name for name in found if name.endswith(".py")]) == 6
    for title in ("solver", "head", "network", "sampler", "task", "dataset format"):
        assert f"## A {title}\n" in PAGE.read_text()
    assert all(len(text.splitlines()) <= 45 for text in found.values())  # one screen


def test_tests_that_are_named_exist() -> None:
    for name in re.findall(r"`((?:tests|pcm_policy)/[\w/]+\.py)`", PAGE.read_text()):
        assert (PAGE.parents[1] / name).exists(), name


def test_the_solver_ends_at_the_sequential_chunk() -> None:
    s, x = start(*problem())
    step = Solver.of("damped:Damped", share=0.9).step
    found = solve(s, x, step, Tolerance(error=1e-5))
    assert bool(found.certified.all())
    exact = solve(s, x, Solver.of("sequential").step, Rounds())
    torch.testing.assert_close(found.sample, exact.sample, rtol=0, atol=1e-4)


def test_rounds_are_walked_through() -> None:
    (code,) = (b for b in FENCED.findall(PAGE.read_text()) if "def chunks" in b)
    names: dict[str, Any] = {}
    exec("\n".join(code.splitlines()[1:-1]), names)
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    obs = torch.full((1, 2, 20), 256.0)
    noise = policy.draw_noise(1, policy.config.sampler)
    found = list(names["chunks"](policy, obs, noise, {"method": "anderson", "rounds": 3}))
    assert len(found) == 3
    assert found[0][0].shape == (1, *policy.config.chunk_shape)


def test_the_head_is_the_base_until_it_is_trained() -> None:
    chosen = settings(
        "distill", "plugins=[diagonal]", "head=diagonal", "policy=released/pusht_mlp",
        "dataset.path=D", "output_dir=DIR",
    )  # fmt: skip
    assert chosen.head.name == "diagonal"
    denoise, noise = problem()
    head = build_head("diagonal", denoise.network, N, DA, T, C, {"scale": 1.0})
    s, x = start(denoise, noise, head=head)
    found = solve(s, x, PCM(), Rounds(2)).sample
    assert found.shape == (B, T, DA)
    torch.testing.assert_close(found, solve(s, x, Solver.of("picard").step, Rounds(2)).sample)
    with torch.no_grad():
        head.gain += 0.1
    assert not torch.allclose(found, solve(s, x, PCM(), Rounds(2)).sample)


def test_the_network_makes_a_policy() -> None:
    chosen = settings(
        "train", "plugins=[small]", "network=small", "task=pusht", "dataset.path=D",
        "output_dir=DIR",
    )  # fmt: skip
    assert (chosen.network.name, chosen.network.options) == ("small", {"width": 64})
    policy = DiffusionPolicy(PolicyConfig(4, 2, network="small"))
    policy.obs_normalizer.low.fill_(-1)
    policy.obs_normalizer.high.fill_(1)
    assert policy.predict(np.zeros((2, 4))).action.shape == (1, 8, 2)


def test_a_sampler_of_its_own_samples_a_released_policy() -> None:
    __import__("closer")
    trained = ["task=pusht", "dataset.path=D", "output_dir=DIR", "policy.sampler.name=closer"]
    assert settings("train", "plugins=[closer]", *trained).policy.sampler.name == "closer"
    distilled = ["policy=P", "dataset.path=D", "output_dir=DIR", "sampler.name=closer"]
    assert settings("distill", "plugins=[closer]", *distilled).sampler.name == "closer"
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    obs = np.full((2, 20), 256.0)
    config = SamplerConfig("closer", 12)
    noise = policy.draw_noise(1, config)
    one, many = (
        policy.predict(
            obs, solver=policy.solver({"method": method, "sampler": "closer", **more}), noise=noise
        )
        for method, more in (("sequential", {"steps": 12}), ("picard", {"steps": 12, "rounds": 12}))
    )
    assert one.solve.rounds == many.solve.rounds == 12
    np.testing.assert_allclose(one.chunk, many.chunk, rtol=0, atol=1e-2)  # of 512 pixels


def test_the_task_is_played(tmp_path: Path) -> None:
    config = PolicyConfig(4, 2, network_options={"width": 16, "depth": 1}, obs_fields=("state",))
    policy = DiffusionPolicy(config)
    for part in (policy.obs_normalizer, policy.action_normalizer):
        part.low.fill_(-1)
        part.high.fill_(1)
    policy.save_pretrained(tmp_path / "policy")
    words = ["task=reach", "policy=policy", "output_dir=DIR", "episodes=1", "max_steps=6"]
    words += ["num_envs=1", "solve_batch=1", "latency_calls=0", "solver=ddim"]
    run_command("eval", None, ["--config-dir", "mine", *words])
    found = json.loads((tmp_path / "DIR/eval.json").read_text())
    assert found["episodes"]


def test_the_format_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.episodes").mkdir()
    np.savez(tmp_path / "a.episodes/0.npz", action=np.zeros((5, 2), np.float32))
    run_command("data info", None, ["a.episodes", "formats=[mine.npz]"])
    assert "action" in capsys.readouterr().out
