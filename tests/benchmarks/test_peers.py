"""Other people's samplers against loops over rows and numbers, and as rows of the study."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers.epd import EPD, levels, path, solve_groups, together
from benchmarks.peers.fitting import fitted, own_sampler
from benchmarks.peers.rows import PEERS, best_peer, epd_candidates, families
from benchmarks.peers.warm import Warm, searched_levels, warm_solver
from benchmarks.study import peers as study_peers
from benchmarks.study.rows import Played
from pcm_policy.errors import PcmError
from pcm_policy.measure.exactness import paired_noise, solved
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.solvers.loop import solve, start
from pcm_policy.solvers.registry import Solver, flat
from pcm_policy.solvers.result import Ended
from pcm_policy.solvers.stops import Rounds
from pcm_policy.solvers.system import System

NAME, F64, B, T, DA = "released/pusht_mlp", torch.float64, 3, 4, 2
ONE = EPD((90.0,), (61.5, 30.2), (0.5, -1.0), (0.3, 0.7), (1.02,), 0, 0)
TWO = EPD((93.1, 55.0), (80.4, 61.0, 33.3, 9.9), (1.0, -2.0, 0.3, 0.0), (0.4, 0.6, 0.9, 0.1))
TWO = replace(TWO, scales=(0.97, 1.01))
KINDS = [
    replace(plan, analytic=analytic, clean=clean)
    for plan in (ONE, TWO)
    for analytic in (0, 1)
    for clean in (0, 1)
]


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return DiffusionPolicy.from_pretrained(NAME)


@pytest.fixture(scope="module")
def obs() -> torch.Tensor:
    return held_out_observations(NAME)[::32]


class Net:
    """Predict noise from state and time, entry by entry; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.one(x, t.to(x).view(-1, 1, 1))

    @staticmethod
    def one(x: torch.Tensor, t: torch.Tensor | float) -> torch.Tensor:
        return 0.7 * x + 0.1 * (x + 0.03 * t).sin()


def level(t: float) -> tuple[float, float]:
    """Signal and noise at any time, ``log(alpha / sigma)`` straight between whole ones."""
    abar = NoiseSchedule().alphas_cumprod().tolist()
    low = min(int(t), 98)
    known = [math.log(math.sqrt(abar[i] / (1 - abar[i]))) for i in (low, low + 1)]
    ratio = math.exp(known[0] + (t - low) * (known[1] - known[0]))
    alpha = ratio / math.sqrt(1 + ratio**2)
    return alpha, math.sqrt(1 - alpha**2)


def slow(e: EPD, x: torch.Tensor) -> torch.Tensor:
    """One row ``(T, Da)`` step by step, in the noise's or the chunk's form of the step."""
    K = len(e.points) // len(e.starts)
    for s, t in enumerate(e.starts):
        last = s + 1 == len(e.starts)
        (a, c), (b, d) = level(t), (1.0, 0.0) if last else level(e.starts[s + 1])
        eps = x / c if e.analytic and s == 0 else Net.one(x, t)
        noise, clean = torch.zeros_like(x), torch.zeros_like(x)
        for k in range(s * K, s * K + K):
            ak, ck = level(e.points[k])
            moved = ak * (x / a + (ck / ak - c / a) * eps)
            found = Net.one(moved, e.points[k] + e.shown[k])
            noise = noise + e.weights[k] * found
            clean = clean + e.weights[k] * (moved - ck * found) / ak
        if e.clean:
            x = d / c * x + (b - a * d / c) * e.scales[s] * clean
        else:
            x = b * (x / a + (d / b - c / a) * e.scales[s] * noise)
    return x


@pytest.mark.parametrize("step", KINDS, ids=lambda e: e.label())
def test_epd_is_a_loop_over_steps_and_points(step: EPD) -> None:
    draws = torch.Generator().manual_seed(0)
    noise = Noise(torch.randn(B, T, DA, generator=draws, dtype=F64))
    sampler = build_sampler(NoiseSchedule(), SamplerConfig("ddim", 100)).to("cpu", F64)
    net = Net()
    denoise = Denoiser(net, sampler, torch.zeros(B, 0, dtype=F64), "epsilon", clip=None)
    found = solve(*start(denoise, noise), step, Rounds(1))
    assert net.calls == found.rounds == step.plan.calls == 2 * len(step.starts) - step.analytic
    assert found.nfe == len(step.points) + len(step.starts) - step.analytic
    assert not found.certified.any()
    assert found.ended is Ended.ROUNDS
    for row, x in zip(found.sample, noise.initial, strict=True):
        torch.testing.assert_close(row, slow(step, x), rtol=1e-8, atol=1e-8)


def test_levels_are_the_schedules_at_whole_times() -> None:
    sampler = build_sampler(NoiseSchedule(), SamplerConfig("ddim", 100)).to("cpu", F64)
    times = torch.tensor([0.0, 7.0, 50.0, 99.0], dtype=F64)
    alpha, sigma = levels(sampler, times)
    abar = NoiseSchedule().alphas_cumprod()[times.long()]
    torch.testing.assert_close(alpha, abar.sqrt(), rtol=1e-9, atol=0)
    torch.testing.assert_close(sigma, (1 - abar).sqrt(), rtol=1e-9, atol=0)


def filled_in(s: System, groups: tuple[slice, ...]) -> torch.Tensor:
    """Return the chunk with every state brought up to date after each call."""
    P, X, M = torch.zeros_like(s.F[1:]), s.F.clone(), s.denoise.sampler.M
    for group in groups:
        P[group] = s.denoise(X[group], group)
        X = s.F + torch.einsum("ij,jbtd->ibtd", M, P)
    return X[-1]


@pytest.mark.parametrize("step", [ONE, TWO])
def test_what_is_fitted_is_what_runs(policy: DiffusionPolicy, obs: torch.Tensor, step: EPD) -> None:
    config = own_sampler(policy, 1.0)
    made = path(policy.sampler(config).to("cpu", F64), step.plan)
    groups = together(*step.plan.points.shape, step.plan.analytic)
    made = replace(made.to("cpu", torch.float32), timesteps=made.timesteps.float())
    start_at = paired_noise(policy, Solver(step, Rounds(1), config), len(obs)).initial
    with torch.no_grad():
        denoise = replace(policy.denoiser(policy.condition(obs), config), sampler=made)
        s = System(denoise, Noise(start_at), made.p.view(-1, 1, 1, 1) * start_at)
        fast, slowly = solve_groups(s, groups)[0][-1], filled_in(s, groups)
    torch.testing.assert_close(fast, slowly, rtol=0, atol=1e-5)
    found = solved(policy, Solver(step, Rounds(1), config), obs).sample
    torch.testing.assert_close(found, slowly, rtol=0, atol=1e-4)


def test_a_fit_comes_nearer_and_leaves_the_network(
    policy: DiffusionPolicy, obs: torch.Tensor
) -> None:
    wanted = policy.config.sampler
    before = {k: v.clone() for k, v in policy.network.state_dict().items()}
    asks = [p.requires_grad for p in policy.network.parameters()]
    first = fitted(policy, wanted, obs, 2, 2, clean=True, steps=0, seed=0)[1]
    solver, error = fitted(policy, wanted, obs, 2, 2, clean=True, steps=20, seed=0)
    assert error < first
    assert all(before[k].equal(v) for k, v in policy.network.state_dict().items())
    assert asks == [p.requires_grad for p in policy.network.parameters()]
    exact = solved(policy, Solver.of("sequential", wanted), obs).sample
    off = solved(policy, solver, obs).sample - exact
    assert float(off.square().mean(dim=(1, 2)).sqrt().mean()) == pytest.approx(error, rel=1e-5)
    step = solver.step
    assert isinstance(step, EPD)
    assert sum(step.weights) == pytest.approx(1, abs=1e-3)
    assert all(0 <= t <= step.starts[0] <= 98 for t in step.points)


@pytest.mark.parametrize("fresh", [0.0, 1.0])
def test_step_is_a_loop_over_rows_and_levels(
    policy: DiffusionPolicy, obs: torch.Tensor, fresh: float
) -> None:
    """DDIM's equation 12 from the noised guess, on a head whose sampler draws noise."""
    policy = DiffusionPolicy.from_pretrained("released/pusht")
    head, obs = policy.config.head, held_out_observations("released/pusht")[:3]
    assert head is not None
    assert policy.head is not None
    step = Warm((12, 27), 0.3, fresh)
    solver = warm_solver(policy, step)
    noise = paired_noise(policy, solver, len(obs))
    found = policy.solve(obs, solver, noise)
    assert (found.rounds, found.nfe) == (2, 2)
    sampler, abar = policy.sampler(head.sampler), NoiseSchedule().alphas_cumprod().tolist()
    times = [int(sampler.timesteps[node]) for node in step.nodes]
    assert noise.steps is not None
    for b in range(len(obs)):
        with torch.inference_mode():
            cond = policy.condition(obs[b : b + 1])
            _, x = start(policy.denoiser(cond, head.sampler), noise.row(b), head=policy.head)
            chunk = x.P[0]
            state = math.sqrt(abar[times[0]]) * chunk
            state = state + 0.3 * math.sqrt(1 - abar[times[0]]) * noise.initial[b]
            for j, t in enumerate(times):
                now, then = abar[t], abar[times[j + 1]] if j == 0 else 1.0
                eps = policy.network(state, torch.tensor([t]), cond)
                clean = ((state - math.sqrt(1 - now) * eps) / math.sqrt(now)).clamp(-1, 1)
                eps = (state - math.sqrt(now) * clean) / math.sqrt(1 - now)
                spread = fresh * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
                state = math.sqrt(then) * clean + math.sqrt(1 - then - spread**2) * eps
                state = state + 0.3 * spread * noise.steps[step.nodes[j], b]
        torch.testing.assert_close(found.sample[b], state[0], rtol=0, atol=2e-4)


def test_levels_are_searched_and_settings_come_back(
    policy: DiffusionPolicy, obs: torch.Tensor
) -> None:
    assert families(policy) == ["EPD", "STEP"]
    tried = searched_levels(policy, obs, 1, 0)
    assert [error for _, error in tried] == sorted(error for _, error in tried)
    exact = solved(policy, Solver.of("sequential", policy.config.sampler), obs).sample
    every = []
    for node in range(policy.config.sampler.steps):
        off = solved(policy, warm_solver(policy, Warm((node,), 0.0)), obs).sample - exact
        every.append(float(off.square().mean(dim=(1, 2)).sqrt().mean()))
    cold = next(error for solver, error in tried if flat(solver)["share"] == 0)
    assert cold == pytest.approx(min(every), rel=1e-6)
    for solver in (tried[0][0], Solver(TWO, Rounds(1), own_sampler(policy, 0.6))):
        assert policy.solver(json.loads(json.dumps(flat(solver)))) == solver


def test_fits_are_kept_and_the_best_that_played_is_chosen(
    policy: DiffusionPolicy, obs: torch.Tensor, tmp_path: Path
) -> None:
    kept = tmp_path / "episodes"
    solver, record = best_peer(policy, "EPD", 1, obs[:4], 1, kept, 0)
    tried = record["candidates"]
    assert {name.partition(" ")[0] for name in tried} == {"K"}
    outcomes = {name: one["outcome"] for name, one in tried.items() if one["outcome"] is not None}
    assert outcomes[record["chosen"]] == max(outcomes.values())
    assert flat(solver) == tried[record["chosen"]]["solver"]
    (file, *_), count = (tmp_path / "fits").iterdir(), len(tried)
    assert len(list((tmp_path / "fits").iterdir())) == count
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rmse": 7.0}))
    again = epd_candidates(policy, 1, obs[:4], kept, 0)
    assert 7.0 in [error for _, error in again.values()]


def test_outcomes_by_hand(tmp_path: Path) -> None:
    played = Played([1.0, 0.5], [1.0, 0.0])
    found = study_peers.outcomes(played, {"base": [1.0, 1.0, 0.0], "short": [1.0]})
    assert found["score"]["mean"] == 0.75
    assert found["successes"] == "10"
    assert set(found["success - other"]) == {"base"}
    assert found["success - other"]["base"]["difference"] == -0.5
    file = tmp_path / "longer.json"
    report = {"seed": 100_000, "weights": {"network": "a"}}
    file.write_text(json.dumps(report | {"rows": [{"name": "base", "successes": "101"}]}))
    assert study_peers.successes(file, "a") == {"base": [1.0, 0.0, 1.0]}
    with pytest.raises(PcmError, match="other weights"):
        study_peers.successes(file, "b")


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_the_command(tmp_path: Path) -> None:
    few = ["--policy", NAME, "--episodes", "2", "--tuning-episodes", "1", "--fit-steps", "1"]
    few += ["--search-episodes", "1", "--observations", "8", "--output", str(tmp_path)]
    study_peers.main([*few, "--longer", str(tmp_path / "none"), "--only", "EPD 1"])
    study_peers.main([*few, "--longer", str(tmp_path / "none"), "--only", "STEP 1"])
    report = json.loads((tmp_path / "peers.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["EPD 1", "STEP 1"]
    assert set(report["tuning"]["schedules"]) == {"EPD 1", "STEP 1"}
    assert all(len(row["scores"]) == 2 for row in report["rows"])
    assert np.isfinite([row["rmse"] for row in report["rows"]]).all()
    assert set(PEERS) == {"EPD", "STEP"}
    longer = [*few, "--longer", str(tmp_path / "none"), "--again", "--episodes", "3", "--only"]
    study_peers.main([*longer, "EPD 1"])
    again = {row["name"]: row for row in json.loads((tmp_path / "peers.json").read_text())["rows"]}
    before = report["rows"][0]
    assert again["EPD 1"]["solver"] == before["solver"]
    np.testing.assert_allclose(again["EPD 1"]["scores"][:2], before["scores"], atol=1e-4)
    assert [len(again[name]["scores"]) for name in ("EPD 1", "STEP 1")] == [3, 2]
    with pytest.raises(PcmError, match="no row EPD 3; leave out --again to fit it"):
        study_peers.main([*longer, "EPD 3"])
