"""From flat settings to a solver and back, and from a solver's name to its result."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.heads import Head
from pcm_policy.policy.config import HeadConfig, PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers import (
    PCM,
    STEPS,
    Adaptive,
    Anderson,
    Coarse,
    Iterate,
    Newton,
    Picard,
    Rounds,
    Sequential,
    Settle,
    Step,
    Stop,
    System,
    Tolerance,
)
from pcm_policy.solvers.pcm import ramp
from pcm_policy.solvers.registry import Solver, flat, read
from pcm_policy.solvers.step import Known
from tests.builders import PLAIN_HEAD
from tests.solving import coarse, paradigms, picard, sequential, solve

OWN = SamplerConfig(
    "ddim", 12, "linspace", 0.5, "ratio", 1, final_alpha_one=False, rederive_epsilon=False
)
HEAD = SamplerConfig("ddim", 8)
KNOWN = Known(OWN, 100)
NOTHING = dict.fromkeys([*asdict(OWN), "sampler", "method", "rounds", "tolerance", "window"])
del NOTHING["name"]
YAML = Path(__file__).parents[2] / "configs" / "solver"


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
            head=HeadConfig("window", {"width": 8, **PLAIN_HEAD}, HEAD, "none") if head else None,
        )
        policy = DiffusionPolicy(config)
        with torch.no_grad():
            for p in policy.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return policy


# --- what a sampler's settings mean


def test_none_takes_the_policys_sampler() -> None:
    assert read(NOTHING | {"method": "sequential"}, KNOWN).sampler == OWN
    assert read({"method": "sequential"}, KNOWN).sampler == OWN


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
    found = read(NOTHING | {"method": "picard", key: value}, KNOWN)
    assert getattr(OWN, key) != value
    assert found.sampler == replace(OWN, **{key: value})


def test_another_sampler_takes_steps_and_temperature_alone() -> None:
    cool = replace(KNOWN, sampler=replace(OWN, temperature=0.5))
    assert read({"sampler": "ddpm", "steps": 7}, cool).sampler == SamplerConfig(
        "ddpm", 7, temperature=0.5
    )
    assert read({"sampler": "ddpm"}, cool).sampler.steps == 100
    assert read({"sampler": "dpmpp_2m"}, cool).sampler.steps == 12


# --- what a step's and a stop's settings mean


@pytest.mark.parametrize(
    ("values", "step", "stop"),
    [
        ({"method": "picard"}, Picard(), Tolerance()),
        ({"method": "sequential"}, Sequential(), Rounds()),
        ({"method": "pcm"}, PCM(), Rounds(2)),
        ({"method": "pcm", "deadline_ms": 5}, PCM(), Tolerance()),
        ({"method": "pcm", "safety": 2}, PCM(), Rounds(2, 2.0)),
        ({"method": "pcm", "rounds": 5}, PCM((1.0, 1.0), Picard()), Rounds(5)),
        ({"method": "pcm", "rounds": 1}, PCM((1.0,)), Rounds(1)),
        ({"method": "pcm", "settle": 0.1}, PCM((1.0, 1.0), Picard()), Settle(4, level=0.1)),
        ({"method": "pcm", "tolerance": 0.1}, PCM(), Tolerance(error=0.1)),
        ({"method": "pcm", "rounds": 3, "tolerance": 0.1}, PCM(), Tolerance(3, error=0.1)),
        ({"method": "pcm", "shares": [1, 0.5], "rounds": 2}, PCM((1.0, 0.5)), Rounds(2)),
        ({"method": "picard", "rounds": 3, "window": 6}, Picard(6), Rounds(3)),
        ({"method": "adaptive", "head_rounds": 2}, Adaptive(2), Tolerance()),
        ({"method": "anderson", "window": 6}, Anderson(inner=Picard(6)), Tolerance()),
        ({"method": "coarse", "memory": 3}, Coarse(then=Anderson(3)), Tolerance()),
        ({"method": "coarse", "then": "picard", "window": 9}, Coarse(then=Picard(9)), Tolerance()),
        (
            {"method": "coarse", "then": {"method": "linearised", "inner": {"method": "picard"}}},
            Coarse(then=Newton()),
            Tolerance(),
        ),
    ],
)
def test_what_is_said_and_what_is_usual(values: dict[str, Any], step: Step, stop: Stop) -> None:
    found = read(NOTHING | values, KNOWN)
    assert (found.step, found.stop) == (step, stop)


def test_a_head_with_the_jacobian_uses_it_in_base_rounds_that_are_not_certified() -> None:
    known = replace(KNOWN, head_jacobian=True, head_rounds=3)
    assert read({"method": "pcm", "rounds": 4}, known).step == PCM((1.0,) * 3, Newton())
    assert read({"method": "pcm", "tolerance": 1e-3}, known).step == PCM((1.0, 1.0), Anderson())
    assert read({"method": "pcm", "rounds": 4, "then": "picard"}, known).step == PCM(
        (1.0,) * 3, Picard()
    )
    inner = Anderson(inner=Newton())
    assert read({"method": "adaptive"}, known).step == Adaptive(inner=inner)


def read_or_refused(values: dict[str, Any]) -> Solver | str:
    try:
        return read(values, KNOWN)
    except PcmError as error:
        return str(error)


WRAPPED = {"method": "picard", "window": 3}
ALL: dict[str, Any] = {
    "rounds": 3,
    "tolerance": 0.1,
    "settle": 0.1,
    "safety": 2.0,
    "deadline_ms": 9.0,
}
ALL |= {"window": 5, "memory": 3, "ridge": 0.1, "shares": [0.5], "head_rounds": 2, "shrink": 0.7}
ALL |= {"then": WRAPPED, "inner": WRAPPED, "pcm_rounds": 2, "stiffness": 1.0, "adaptive": True}


@pytest.mark.parametrize("name", list(STEPS))
@pytest.mark.parametrize("setting", ALL)
def test_a_setting_has_an_effect_or_is_refused(name: str, setting: str) -> None:
    """Whatever is accepted makes another solver; what a solver lacks is an error that says so."""
    found = read_or_refused({"method": name, setting: ALL[setting]})
    if isinstance(found, str):
        assert f"solver={name} has no setting {setting}: it has " in found
        assert "\n" not in found
    else:
        assert found != read({"method": name}, KNOWN)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"round": 3}, "solver=sequential has no setting round: it has sampler, steps"),
        ({"method": "gauss"}, "unknown solver 'gauss': use one of .*picard"),
        ({"method": ["picard"]}, "unknown solver"),
        ({"method": "coarse", "then": "gauss"}, "unknown solver 'gauss'"),
        ({"method": "coarse", "then": 3}, "unknown solver 3"),
        ({"method": "coarse", "then": {"method": "picard", "memory": 1}}, "then has no setting m"),
        ({"method": "math:pi"}, "math has no Step of that name"),
        ({"method": "no_such_module:X"}, "No module named 'no_such_module'"),
        ({"spacing": "even"}, "spacing='even': use one of"),
        ({"eta": 2.0}, "eta=2.0"),
        ({"sampler": "euler"}, "name='euler': use one of .*ddim, ddpm"),
        ({"method": "picard", "rounds": 0}, "solver.rounds=0: use a whole number from 1"),
        ({"method": "picard", "rounds": 2.5}, "solver.rounds=2.5"),
        ({"method": "picard", "rounds": True}, "solver.rounds=True"),
        ({"method": "picard", "rounds": "3"}, "solver.rounds='3'"),
        ({"method": "picard", "tolerance": -1}, "solver.tolerance=-1: use a finite number from 0"),
        ({"method": "picard", "tolerance": float("nan")}, "solver.tolerance=nan"),
        ({"method": "picard", "tolerance": float("inf")}, "solver.tolerance=inf"),
        ({"method": "picard", "safety": 0}, "solver.safety=0: use a finite number from 1"),
        ({"method": "picard", "safety": float("nan")}, "solver.safety=nan"),
        ({"method": "picard", "settle": 0}, "solver.settle=0: use a finite number above 0"),
        ({"method": "picard", "deadline_ms": 0}, "solver.deadline_ms=0"),
        ({"method": "picard", "window": 0}, "solver.window=0"),
        ({"method": "anderson", "memory": 0}, "solver.memory=0"),
        ({"method": "anderson", "memory": "two"}, "solver.memory='two'"),
        ({"method": "coarse", "shares": 0.5}, "solver.shares=0.5: use a list of numbers"),
        ({"method": "coarse", "shares": "half"}, "solver.shares='half': use a list of numbers"),
        ({"method": "coarse", "shares": [0.0]}, "solver.shares=0.0"),
        ({"method": "pcm", "shares": [float("nan")]}, "solver.shares=nan"),
        ({"method": "pcm", "shares": [1.5]}, "solver.shares=1.5"),
        ({"method": "pcm", "settle": 0.1, "tolerance": 0.1}, "a solve ends by one of them"),
    ],
)
def test_bad_settings_are_refused_in_one_line(values: dict[str, Any], match: str) -> None:
    with pytest.raises(PcmError, match=match) as caught:
        read(values, KNOWN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"step": Picard, "stop": Rounds(1)}, {"step": Rounds(1)}])
def test_a_solver_is_made_of_steps_and_stops(wrong: dict[str, Any]) -> None:
    with pytest.raises(PcmError, match=r"solver\.step=.*give a Step"):
        Solver(**wrong)
    with pytest.raises(PcmError, match=r"solver\.then='newton': name a solver"):
        Coarse(then="newton")  # type: ignore[arg-type]


SETTINGS = {
    "rounds": st.integers(1, 30),
    "tolerance": st.floats(0, 1),
    "safety": st.floats(1, 10),
    "window": st.integers(1, 9),
    "memory": st.integers(1, 4),
    "shares": st.lists(st.floats(0.1, 1), min_size=1, max_size=3),
    "deadline_ms": st.floats(0.1, 99),
    "then": st.sampled_from(["picard", "newton", {"method": "coarse", "shares": [0.5]}]),
    "inner": st.sampled_from(["picard", "linearised"]),
    "temperature": st.floats(0, 1),
    "steps": st.integers(1, 20),
}


@given(st.sampled_from(list(STEPS)), st.fixed_dictionaries({}, optional=SETTINGS))
def test_what_is_written_is_read_again(name: str, values: dict[str, Any]) -> None:
    """Through JSON; equal solvers hash alike; a label is one line."""
    solver = read_or_refused({"method": name, **values})
    if isinstance(solver, str):
        assert "has no setting" in solver
        return
    again = read(json.loads(json.dumps(flat(solver))), KNOWN)
    assert again == solver
    assert hash(again) == hash(solver)
    assert "\n" not in solver.label


@pytest.mark.parametrize("file", sorted(YAML.glob("*.yaml")), ids=lambda f: f.stem)
def test_the_files_hold_what_differs_from_the_steps(file: Path) -> None:
    """Every file is a solver; what it says besides its name is not usual; all steps have one."""
    values: Any = OmegaConf.to_container(OmegaConf.load(file)) or {}
    solver = read(values, Known(OWN, 100))
    for key in values.keys() - {"method", "sampler"}:
        less = {k: v for k, v in values.items() if k != key}
        assert read(less, Known(OWN, 100)) != solver, key
    own = set(STEPS) - {"sequential", "linearised"}
    assert own <= {f.stem for f in YAML.glob("*.yaml")}
    if file.stem in STEPS:
        assert solver.method == file.stem


@pytest.mark.parametrize(
    ("config", "label"),
    [
        (Solver.of("sequential", OWN), "ddim-12 eta 0.5"),
        (Solver.of("sequential", SamplerConfig("ddpm", 100)), "ddpm-100"),
        (Solver.of("pcm", HEAD, rounds=2), "pcm 2 (ddim-8)"),
        (
            Solver.of("pcm", HEAD, rounds=3, shares=(1, 1), then="picard"),
            "pcm 3 head 2 then picard",
        ),
        (Solver.of("pcm", HEAD, rounds=3, shares=(1,), then="anderson"), "pcm 3 head 1 (ddim-8)"),
        (Solver.of("pcm", HEAD, rounds=2, shares=(1, 0.5)), "pcm 2 shares 1,0.5 (ddim-8)"),
        (Solver.of("pcm", HEAD, settle=0.1, rounds=2), "pcm 2 settle 0.1 (ddim-8)"),
        (Solver.of("picard", HEAD, tolerance=1e-3), "picard tol 0.001 (ddim-8)"),
        (Solver.of("picard", HEAD, deadline_ms=5), "picard tol 0.001 5 ms (ddim-8)"),
        (Solver.of("newton", HEAD, rounds=3), "newton 3 (ddim-8)"),
        (Solver.of("paradigms", HEAD, rounds=5, tolerance=0.5), "paradigms 5 tol 0.5 (ddim-8)"),
        (Solver.of("adaptive", HEAD, tolerance=0.01), "adaptive tol 0.01 (ddim-8)"),
    ],
)
def test_label(config: Solver, label: str) -> None:
    assert config.label.startswith(label)


# --- DiffusionPolicy.solver


def test_defaults_come_from_the_policy_or_from_its_head() -> None:
    plain, headed = make_policy(False), make_policy(True)
    assert plain.solver(NOTHING).sampler == OWN
    assert plain.solver(NOTHING).method == "sequential"
    assert headed.solver(NOTHING) == Solver.of("pcm", HEAD, rounds=2)
    assert headed.solver(NOTHING) == headed.default_solver()
    assert headed.solver({"method": "picard"}).sampler == OWN
    assert headed.solver({"method": "pcm", "rounds": 3}) == Solver.of("pcm", HEAD, rounds=3)
    longer = headed.solver({"method": "pcm", "rounds": 5}).step
    assert isinstance(longer, PCM)
    assert longer.shares == (1.0,) * 3, "rounds that the head was not trained for are base rounds"
    assert headed.complete(Solver(PCM(), Rounds(2))).sampler == HEAD
    assert headed.complete(Solver(Picard(), Rounds(2))).sampler == OWN


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
        (False, {"method": "paradigms", "sampler": "dpmpp_2m"}, "one-step increments"),
        (False, {"method": "coarse", "then": "paradigms", "sampler": "dpmpp_3m"}, "increments"),
        (True, {"speed": 1}, "solver=pcm has no setting speed: it has shares, then"),
    ],
)
def test_settings_that_do_not_fit_the_policy(
    head: bool, values: dict[str, Any], match: str
) -> None:
    with pytest.raises(PcmError, match=match) as caught:
        make_policy(head).solver(values)
    assert "\n" not in str(caught.value)


def test_a_solver_without_a_sampler_takes_the_policys() -> None:
    policy, obs = make_policy(True), torch.zeros(2, 2, 3)
    noise = Noise(torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(1)))
    found = policy.solve(obs, Solver(PCM(), Rounds(2)), noise)
    assert torch.equal(found.sample, policy.solve(obs, policy.solver(), noise).sample)


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
    head = policy.head
    guess = torch.full((3, 4, 2), 0.3)
    limits: dict[str, Any] = {"rounds": 5, "tolerance": 1e-2, "window": 6}
    for config, expected in [
        (Solver.of("sequential", HEAD), sequential(denoise, noise)),
        (
            Solver.of("paradigms", HEAD, **limits, safety=1.0),
            paradigms(denoise, noise, **limits),
        ),
        (
            Solver.of("picard", HEAD, **limits, safety=2.0),
            picard(denoise, noise, **limits, safety=2.0, guess=guess),
        ),
        (
            Solver.of("pcm", HEAD, **limits, shares=(1.0,), then="picard"),
            picard(denoise, noise, **limits, guess=guess, head=head, shares=(1.0,)),
        ),
        (
            Solver.of("pcm", HEAD, rounds=3, shares=ramp(3, 1.0)),
            picard(denoise, noise, rounds=3, guess=guess, head=head, shares=ramp(3, 1.0)),
        ),
        (
            Solver.of("coarse", HEAD, rounds=3, shares=[0.3]),
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
        config = Solver.of("picard", HEAD, rounds=2)
        with_head = solve(config, denoise, noise, policy.head)
        without = solve(config, denoise, noise)
        pcm = solve(replace(config, step=PCM()), denoise, noise, policy.head)
    assert torch.equal(with_head.sample, without.sample)
    assert not torch.allclose(pcm.sample, without.sample, atol=1e-3)


def test_a_missing_head_is_named() -> None:
    denoise, noise = parts(make_policy(False))
    with pytest.raises(PcmError, match="no PCM head"):
        solve(Solver.of("pcm", HEAD, rounds=2), denoise, noise)


def test_a_head_is_told_the_round_and_its_share() -> None:
    denoise, noise = parts(make_policy(True))
    seen: list[tuple[list[int], float]] = []

    class Spy(Head):
        def forward(
            self, s: System, x: Iterate, share: float, base: Tensor | None = None
        ) -> Tensor:
            seen.append((x.round_of_rows().tolist(), share))
            return s.denoise(x.X[:-1], slice(0, s.steps))

    with torch.no_grad():
        shares = ramp(3, 2.0)
        solve(Solver.of("pcm", HEAD, rounds=3, shares=shares), denoise, noise, Spy())
    assert seen == [([0] * 3, 1.0), ([1] * 3, pytest.approx(1 / 3))]
