"""From flat settings to a solver, and from a solver's name to its result."""

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from pcm_policy.errors import PcmError
from pcm_policy.heads.switching import ramp
from pcm_policy.policy.config import HeadConfig, PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.before import coarse, paradigms, picard, sequential
from pcm_policy.solvers.before.iterate import SAFETY
from pcm_policy.solvers.before.solve import SolverConfig, as_predictor, solve

OWN = SamplerConfig(
    "ddim", 12, "linspace", 0.5, "ratio", 1, final_alpha_one=False, rederive_epsilon=False
)
HEAD = SamplerConfig("ddim", 8)
NOTHING = dict.fromkeys(
    [*asdict(OWN), "sampler", "method", "rounds", "tolerance", "window", "pcm_rounds", "stiffness"]
)
del NOTHING["name"]


def make_policy(head: bool) -> DiffusionPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = PolicyConfig(
            obs_dim=3,
            action_dim=2,
            horizon=4,
            action_steps=3,
            network_options={"width": 16, "depth": 1, "step_embed_dim": 8},
            sampler=OWN,
            head=HeadConfig("window", {"width": 8}, HEAD, "none") if head else None,
        )
        policy = DiffusionPolicy(config)
        with torch.no_grad():
            for p in policy.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return policy


# --- SolverConfig.from_flat


def test_none_takes_the_policys_sampler() -> None:
    given = NOTHING | {"method": "sequential"}
    assert SolverConfig.from_flat(given, OWN).sampler == OWN
    assert SolverConfig.from_flat({"method": "sequential"}, OWN).sampler == OWN


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 5),
        ("spacing", "leading"),
        ("eta", 0.0),
        ("previous", "next"),
        ("offset", 0),
        ("final_alpha_one", True),
        ("rederive_epsilon", True),
        ("variance", "fixed_large"),
    ],
)
def test_one_sampler_setting_replaces_one(key: str, value: Any) -> None:
    """Values that are false, such as an eta of zero, are values."""
    found = SolverConfig.from_flat(NOTHING | {"method": "picard", key: value}, OWN)
    assert getattr(OWN, key) != value
    assert found.sampler == replace(OWN, **{key: value})


def test_the_sampler_is_named_under_sampler() -> None:
    found = SolverConfig.from_flat({"sampler": "ddpm", "steps": 7}, OWN)
    assert found.sampler == replace(OWN, name="ddpm", steps=7)


def test_solver_settings_arrive() -> None:
    values = {
        "method": "pcm",
        "rounds": 6,
        "tolerance": 1e-2,
        "safety": 2.0,
        "window": 5,
        "pcm_rounds": 1,
    }
    assert SolverConfig.from_flat(values, OWN) == SolverConfig(sampler=OWN, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "rounds", "tolerance"),
    [
        ({"method": "picard"}, None, 1e-3),
        ({"method": "paradigms"}, None, 1e-3),
        ({"method": "pcm"}, 2, None),
        ({"method": "pcm", "pcm_rounds": 5}, 5, None),
        ({"method": "pcm", "pcm_rounds": 0}, 2, None),
        ({"method": "picard", "rounds": 3}, 3, None),
        ({"method": "pcm", "tolerance": 0.1}, None, 0.1),
        ({"method": "picard", "rounds": 3, "tolerance": 0.1}, 3, 0.1),
    ],
)
def test_default_stop(values: dict[str, Any], rounds: int | None, tolerance: float | None) -> None:
    found = SolverConfig.from_flat(NOTHING | values, OWN)
    assert (found.rounds, found.tolerance) == (rounds, tolerance)
    assert found.safety == SAFETY
    assert found.window is None


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"round": 3}, "unknown solver setting 'round'"),
        ({"zeal": 1, "ardour": 2}, "unknown solver setting 'ardour'"),
        ({"method": "gauss"}, "solver.method='gauss': use one of"),
        ({"spacing": "even"}, "spacing='even': use one of"),
        ({"eta": 2.0}, "eta=2.0"),
        ({"sampler": "euler"}, "name='euler': use one of ddpm, ddim"),
        (
            {"method": "pcm", "rounds": 4, "stiffness": 1.0, "pcm_rounds": 2},
            r"pcm_rounds \(a step\) or solver.stiffness \(a ramp\)",
        ),
        ({"method": "picard", "shares": [0.5]}, "for coarse and newton"),
        ({"method": "coarse", "shares": [0.0]}, r"shares of the nodes in \(0, 1\]"),
    ],
)
def test_bad_settings_are_refused_in_one_line(values: dict[str, Any], match: str) -> None:
    with pytest.raises(PcmError, match=match) as caught:
        SolverConfig.from_flat(values, OWN)
    assert "\n" not in str(caught.value)


def test_a_ramp_needs_its_length() -> None:
    with pytest.raises(PcmError, match=r"ramp over solver\.rounds: give both"):
        SolverConfig("pcm", stiffness=1.0, tolerance=1e-3)


# --- strengths and label


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rounds": 3}, (1.0,) * 3),
        ({"rounds": 3, "pcm_rounds": 2}, (1.0,) * 2),
        ({"rounds": 3, "pcm_rounds": 0}, ()),
        ({"tolerance": 1e-3}, (1.0,) * 2),
        ({"tolerance": 1e-3, "pcm_rounds": 1}, (1.0,)),
        ({"rounds": 4, "stiffness": 2.0}, ramp(4, 2.0)),
    ],
)
def test_strengths(options: dict[str, Any], expected: tuple[float, ...]) -> None:
    assert SolverConfig("pcm", **options).strengths == expected
    assert SolverConfig("picard", **options).strengths == ()


@pytest.mark.parametrize(
    ("config", "label"),
    [
        (SolverConfig("sequential", OWN), "ddim-12 eta 0.5"),
        (SolverConfig("sequential", SamplerConfig("ddpm", 100), rounds=2), "ddpm-100"),
        (SolverConfig("pcm", HEAD, rounds=2), "pcm 2 (ddim-8)"),
        (SolverConfig("picard", HEAD, tolerance=1e-3), "picard tol 0.001 (ddim-8)"),
        (SolverConfig("paradigms", HEAD, rounds=5, tolerance=0.5), "paradigms 5 tol 0.5 (ddim-8)"),
    ],
)
def test_label(config: SolverConfig, label: str) -> None:
    assert config.label == label


# --- DiffusionPolicy.solver


def test_defaults_come_from_the_policy_or_from_its_head() -> None:
    plain, headed = make_policy(False), make_policy(True)
    assert plain.solver(NOTHING).sampler == OWN
    assert plain.solver(NOTHING).method == "sequential"
    assert headed.solver(NOTHING) == SolverConfig("pcm", HEAD, rounds=2)
    assert headed.solver(NOTHING) == headed.default_solver()
    assert headed.solver({"method": "picard"}).sampler == OWN
    assert headed.solver({"method": "pcm", "rounds": 3}) == SolverConfig("pcm", HEAD, rounds=3)
    longer = headed.solver({"method": "pcm", "rounds": 5})
    assert longer.strengths == (1.0, 1.0, 1.0), "rounds that the head was not trained for are base"


def test_another_sampler_starts_from_its_own_defaults() -> None:
    policy = make_policy(False)
    ddpm = policy.solver({"method": "sequential", "sampler": "ddpm"}).sampler
    assert ddpm == SamplerConfig("ddpm", policy.config.schedule.train_steps)
    short = policy.solver({"method": "sequential", "sampler": "ddpm", "steps": 9}).sampler
    assert short == SamplerConfig("ddpm", 9)
    assert policy.solver({"method": "picard", "sampler": "ddim"}).sampler == OWN


@pytest.mark.parametrize(
    ("head", "values", "match"),
    [
        (False, {"method": "pcm"}, "no PCM head: run pcm-distill, or use solver=picard"),
        (True, {"steps": 16}, "trained for sampler steps=8, not 16: leave solver.steps out"),
        (True, {"sampler": "ddpm"}, "sampler name='ddim', not 'ddpm': leave solver.sampler out"),
        (True, {"method": "pcm", "eta": 1.0}, "eta=0.0, not 1.0"),
        (True, {"speed": 1}, "unknown solver setting 'speed'"),
    ],
)
def test_settings_that_do_not_fit_the_policy(
    head: bool, values: dict[str, Any], match: str
) -> None:
    with pytest.raises(PcmError, match=match) as caught:
        make_policy(head).solver(values)
    assert "\n" not in str(caught.value)


# --- solve


def parts(policy: DiffusionPolicy) -> tuple[Denoiser, Noise]:
    gen = torch.Generator().manual_seed(3)
    denoise = policy.denoiser(torch.randn(3, 6, generator=gen), HEAD)
    return denoise, Noise(torch.randn(3, 4, 2, generator=gen))


@torch.no_grad()
def test_solve_runs_the_named_solver_with_all_its_settings() -> None:
    policy = make_policy(True)
    denoise, noise = parts(policy)
    assert policy.head is not None
    head = as_predictor(policy.head)
    guess = torch.full((3, 4, 2), 0.3)
    limits: dict[str, Any] = {"rounds": 5, "tolerance": 1e-2, "window": 6}
    for config, expected in [
        (SolverConfig("sequential", HEAD), sequential(denoise, noise)),
        (SolverConfig("paradigms", HEAD, **limits), paradigms(denoise, noise, **limits)),
        (
            SolverConfig("picard", HEAD, **limits, safety=2.0),
            picard(denoise, noise, **limits, safety=2.0, guess=guess),
        ),
        (
            SolverConfig("pcm", HEAD, **limits, pcm_rounds=1),
            picard(denoise, noise, **limits, guess=guess, head=head, strengths=(1.0,)),
        ),
        (
            SolverConfig("pcm", HEAD, rounds=3, stiffness=1.0),
            picard(denoise, noise, rounds=3, guess=guess, head=head, strengths=ramp(3, 1.0)),
        ),
        (
            SolverConfig.from_flat({"method": "coarse", "rounds": 3, "shares": [0.3]}, HEAD),
            coarse(denoise, noise, rounds=3, guess=guess, shares=(0.3,)),
        ),
    ]:
        found = solve(config, denoise, noise, policy.head, guess)
        assert torch.equal(found.trajectory, expected.trajectory), config.label
        assert torch.equal(found.residuals, expected.residuals)
        assert (found.rounds, found.nfe) == (expected.rounds, expected.nfe)


def test_picard_leaves_the_head_alone() -> None:
    policy = make_policy(True)
    denoise, noise = parts(policy)
    with torch.no_grad():
        config = SolverConfig("picard", HEAD, rounds=2)
        with_head = solve(config, denoise, noise, policy.head)
        without = solve(config, denoise, noise)
        pcm = solve(replace(config, method="pcm"), denoise, noise, policy.head)
    assert torch.equal(with_head.sample, without.sample)
    assert not torch.allclose(pcm.sample, without.sample, atol=1e-3)


def test_a_missing_head_is_named() -> None:
    denoise, noise = parts(make_policy(False))
    with pytest.raises(PcmError, match="no PCM head"):
        solve(SolverConfig("pcm", HEAD, rounds=2), denoise, noise)
