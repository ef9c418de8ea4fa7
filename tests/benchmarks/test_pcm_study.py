"""The study's arithmetic by hand, its searches against brute force, and a small run of it."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.study import pcm as pcm_study
from benchmarks.study import spread as study_spread
from benchmarks.study.pareto import front
from benchmarks.study.perturbed import noisy, robustness, shifted_goal, situations, turned
from benchmarks.study.ratios import Needed, at_outcome, first_round, fractional_round, ratios
from benchmarks.study.rows import parallel_solver, play, rmse_by_round
from benchmarks.study.search import TUNING_SEED, candidates
from pcm_policy.measure.exactness import solved
from pcm_policy.measure.few_steps import rmse
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.search import search
from pcm_policy.solvers.registry import Solver
from tests.rollout.test_spread import NoProcesses

NAME = "released/pusht_mlp"


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return DiffusionPolicy.from_pretrained(NAME)


@pytest.fixture(scope="module")
def obs() -> torch.Tensor:
    return held_out_observations(NAME)[::16]


def test_the_first_round_is_the_one_that_stays() -> None:
    assert first_round([0.3, 0.01, 0.03, 0.02, 0.001], 0.02) == 4
    assert first_round([0.02, 0.01], 0.02) == 1
    assert first_round([0.3, 0.2], 0.02) is None
    assert first_round([math.nan, 0.01], 0.02) == 2


def test_between_rounds_the_logarithm_is_straight() -> None:
    assert fractional_round([0.1, 0.001], 0.01) == pytest.approx(1.5)
    assert fractional_round([0.1, 0.01], 0.01) == pytest.approx(2.0)
    assert fractional_round([0.001], 0.01) == 1
    assert fractional_round([0.1], 0.01) is None


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(-9, 9)), min_size=1, max_size=12))
def test_a_front_is_what_nobody_beats(points: list[tuple[float, float]]) -> None:
    kept = front(points)
    for i, (time, loss) in enumerate(points):
        better = [p for p in points if p != (time, loss) and p[0] <= time and p[1] <= loss]
        twin = any(points[k] == (time, loss) for k in kept)
        assert (i in kept) <= (not better)
        assert twin == (not better)
    assert [points[k][0] for k in kept] == sorted(points[k][0] for k in kept)


def test_ratios_by_hand() -> None:
    needed = {"PCM": Needed(2, 4.0), "Picard": Needed(4, 6.0), "DDIM": Needed(None, None)}
    found = ratios(needed)
    assert found["Picard"] == {"rounds": 2.0, "time": 1.5}
    assert found["DDIM"] == {"rounds": None, "time": None}
    assert ratios({"PCM": Needed(), "Picard": Needed(4, 6.0)})["Picard"]["rounds"] is None


def test_equal_score_needs_the_whole_interval() -> None:
    def row(family: str, rounds: int, low: float, high: float) -> dict[str, object]:
        score = {"difference_ci95": [low, high]}
        return {"family": family, "rounds": rounds, "score": score, "ms": {"p50": 1.0 * rounds}}

    rows = [row("base", 16, 0, 0), row("PCM", 1, -0.05, 0.01), row("PCM", 2, -0.02, 0.03)]
    rows += [row("PCM", 3, 0, 0), row("Picard", 4, -0.2, -0.1)]
    found = at_outcome(rows, "score", 0.03)
    assert found == {"base": Needed(16, 16.0), "PCM": Needed(2, 2.0), "Picard": Needed()}


def test_the_search_finds_the_best_schedule_there_is() -> None:
    wanted = np.array([17, 11, 2])

    def cost(schedule: tuple[int, ...]) -> float:
        return float(np.abs(np.array(schedule) - wanted).sum())

    best, value = search(cost, [(19, 12, 6)], 20, seed=0)
    slow = min(itertools.combinations(range(19, -1, -1), 3), key=cost)
    assert best == slow
    assert value == 0


def test_few_steps_stand_for_a_path_without_noise_and_ddim_is_tried_with_it_too(
    obs: torch.Tensor,
) -> None:
    noisy_base = DiffusionPolicy.from_pretrained("released/pusht")
    path = SamplerConfig("ddim", 8, temperature=0.6)
    found = candidates(noisy_base, noisy_base, "DDIM", 1, obs[:4], path)
    own = {name: found.pop(name) for name in ("own, noisy", "own, without its noise")}
    assert set(found) == {
        f"{name}{noise}"
        for name in ("leading", "linspace", "trailing", "searched")
        for noise in ("", ", noisy")
    }
    for name, sampler in found.items():
        noise = (1.0, 0.1) if "noisy" in name else (0.0, 0.6)  # the base's, or the path's
        assert (sampler.eta, sampler.temperature) == noise
    exact = solved(noisy_base, Solver.of("sequential", path), obs[:4], TUNING_SEED).sample
    off = {
        name: float(rmse(noisy_base, found[name], obs[:4], exact, TUNING_SEED).mean())
        for name in ("leading", "linspace", "trailing", "searched")
    }
    assert min(off, key=lambda name: off[name]) == "searched"
    assert [(s.eta, s.temperature) for s in own.values()] == [(1.0, 0.1), (1.0, 0.0)]
    base = Solver.of("sequential", noisy_base.config.head.sampler)  # type: ignore[union-attr]
    near = solved(noisy_base, base, obs[:4], TUNING_SEED).sample
    for sampler in own.values():
        spaced = [
            replace(sampler, timesteps=found[s].timesteps, spacing=found[s].spacing)
            for s in ("leading", "linspace", "trailing")
        ]
        least = min(float(rmse(noisy_base, s, obs[:4], near, TUNING_SEED).mean()) for s in spaced)
        assert float(rmse(noisy_base, sampler, obs[:4], near, TUNING_SEED).mean()) <= least
    others = " ".join(candidates(noisy_base, noisy_base, "DPM-Solver++", 1, obs[:4], path))
    assert "own" not in others
    assert "noisy" not in others


@pytest.mark.parametrize("family", ["PCM", "Picard", "ParaDiGMS"])
def test_errors_by_round_are_those_of_separate_solves(
    policy: DiffusionPolicy, obs: torch.Tensor, family: str
) -> None:
    assert policy.config.head is not None
    exact = solved(policy, Solver.of("sequential", policy.config.head.sampler), obs).sample
    trace = rmse_by_round(policy, family, obs, exact)
    assert trace.shape == (16, len(obs))
    for r in (1, 2, 4):
        sample = solved(policy, parallel_solver(policy, family, r), obs).sample
        alone = (sample - exact).square().mean(dim=(1, 2)).sqrt()
        torch.testing.assert_close(trace[r - 1], alone, rtol=0, atol=1e-5)
    assert trace[-1].max() < 1e-4
    assert rmse(policy, policy.config.head.sampler, obs, exact, 0).max() == 0


def test_perturbations_are_what_they_say(obs: torch.Tensor) -> None:
    def points(seen: torch.Tensor) -> torch.Tensor:
        return seen.unflatten(-1, (-1, 2))

    generator = torch.Generator().manual_seed(0)
    assert float((noisy(obs, 3.0, generator) - obs).std()) == pytest.approx(3.0, rel=0.1)
    moved = points(shifted_goal(obs, 30.0, generator)) - points(obs)
    torch.testing.assert_close(moved, moved[:, :1, :1].expand_as(moved), rtol=0, atol=1e-3)
    torch.testing.assert_close(moved.norm(dim=-1), torch.full(moved.shape[:-1], 30.0))
    spun = points(turned(obs, 15.0, generator))
    torch.testing.assert_close(spun[..., -1, :], points(obs)[..., -1, :])
    for seen, before in zip(spun.flatten(0, 1), points(obs).flatten(0, 1), strict=True):
        lengths = torch.pdist(seen[:-1]), torch.pdist(before[:-1])
        torch.testing.assert_close(*lengths, rtol=1e-3, atol=1e-2)
        first, second = (p[0] - p[:-1].mean(dim=0) for p in (seen, before))
        angle = math.degrees(
            float(torch.atan2(first[1], first[0]) - torch.atan2(second[1], second[0]))
        )
        assert abs((angle + 180) % 360 - 180) == pytest.approx(15, abs=0.1)


def test_perturbed_chunks_stay_certified(policy: DiffusionPolicy, obs: torch.Tensor) -> None:
    rows = robustness(policy, obs, rounds=(2,))
    assert [row["observations"] for row in rows] == list(situations(obs))
    assert rows[0]["growth_2"] == 1
    for row in rows:
        # Certificates are estimates: nearly all hold, and none is far off.
        assert row["coverage"] >= 0.9, row["observations"]
        assert row["worst_error"] <= 2e-2, row["observations"]


def test_a_finished_row_is_read_again(policy: DiffusionPolicy, tmp_path: Path) -> None:
    solver = Solver.of("sequential", SamplerConfig("ddim", 1))
    first = play(policy, solver, 1, 7, tmp_path)
    (file,) = tmp_path.glob("*.json")
    changed = json.loads(file.read_text()) | {"scores": [0.5]}
    file.write_text(json.dumps(changed))
    assert play(policy, solver, 1, 7, tmp_path).scores == [0.5]
    assert play(policy, solver, 1, 8, tmp_path).scores != [0.5]
    assert len(first.scores) == 1
    assert policy.limits is None


def test_rows_of_a_cluster_are_those_of_one_process(
    policy: DiffusionPolicy,
    obs: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = NoProcesses()
    monkeypatch.setattr(study_spread, "require", lambda *_: fake)
    tasks = [
        study_spread.Task(f"DDIM {n}", 0, Solver.of("sequential", SamplerConfig("ddim", n)))
        for n in (1, 2, 3)
    ]
    assert policy.config.head is not None
    setting = study_spread.Setting((NAME,), obs, policy.config.head.sampler, 1, 7, 1)
    play(policy, tasks[0].solver, 1, 7, tmp_path / "ray")
    study_spread.play_rows(setting, [policy], tasks, tmp_path / "ray", "local")
    assert {task.name for task in fake.ran} == {"DDIM 2", "DDIM 3"}
    for task in tasks:
        play(policy, task.solver, 1, 7, tmp_path / "one")
    files = [sorted((tmp_path / name).iterdir()) for name in ("one", "ray")]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]
    study_spread.play_rows(setting, [policy], tasks, tmp_path / "ray", "local")
    assert len(fake.ran) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_the_command(tmp_path: Path) -> None:
    few = ["--policy", "released/pusht_mlp", "--rounds", "1", "--episodes", "2"]
    few += ["--tuning-episodes", "1", "--search-episodes", "1", "--fit-steps", "1"]
    pcm_study.main([*few, "--observations", "8", "--calls", "1", "--output", str(tmp_path)])
    report = json.loads((tmp_path / "study.json").read_text())
    names = [row["name"] for row in report["rows"]]
    assert names[:3] == ["base 16", "DDPM 100", "PCM 1"]
    assert {"Picard 1", "ParaDiGMS 1", "DDIM 1", "DPM-Solver++ 1", "EPD 1", "STEP 1"} < set(names)
    schedules = report["tuning"]["schedules"]
    assert schedules["path"]["eta"] == 0
    tried = schedules["DDIM 1"]["candidates"]
    assert schedules["DDIM 1"]["chosen"] in ("trailing", "searched")
    assert tried["searched"]["temperature"] == schedules["path"]["temperature"]
    assert report["ratios"]["RMSE 0.02"]["Picard"]["rounds"] >= 1
    assert "| PCM 1 |" in (tmp_path / "study.md").read_text()
    for picture in ("error.png", "score.png"):
        assert (tmp_path / picture).stat().st_size > 5000
