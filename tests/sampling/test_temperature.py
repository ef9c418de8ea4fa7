"""A sampler's temperature: all drawn noise times a share, whoever solves it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcm_policy.adopt.lerobot_sampling import common_sampler, unsupported
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import PredictionType
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.solvers.registry import Solver
from pcm_policy.training.guessing import NEAR, near_sampler
from pcm_policy.training.headed import with_head
from tests.problems import F64, distance, problem
from tests.solving import anderson, paradigms, picard, sequential

STEPS = 8
KINDS: list[dict[str, Any]] = [
    {"name": "ddpm"},
    {"name": "ddim"},
    {"name": "ddim", "eta": 0.7},
    {"name": "dpmpp_2m"},
    {"name": "consistency"},
    {"name": "flow_euler"},
]


def sampler(kind: dict[str, Any], temperature: float) -> Any:
    schedule = NoiseSchedule("flow") if kind["name"].startswith("flow") else NoiseSchedule()
    return build_sampler(schedule, SamplerConfig(steps=STEPS, temperature=temperature, **kind))


def scaled(noise: Noise, share: float) -> Noise:
    steps = None if noise.steps is None else share * noise.steps
    return Noise(share * noise.initial, steps)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: "-".join(map(str, k.values())))
def test_it_is_the_sampler_of_less_noise(kind: dict[str, Any], temperature: float) -> None:
    prediction: PredictionType = "flow_velocity" if kind["name"] == "flow_euler" else "epsilon"
    denoise, noise = problem(F64, prediction, steps=STEPS, name="ddpm")
    full = replace(denoise, sampler=sampler(kind, 1.0).to("cpu", F64))
    cool = replace(denoise, sampler=sampler(kind, temperature).to("cpu", F64))
    expected = sequential(full, scaled(noise, temperature))
    found = sequential(cool, noise)
    torch.testing.assert_close(found.trajectory, expected.trajectory, rtol=0, atol=1e-12)
    others = [picard(cool, noise, rounds=STEPS), anderson(cool, noise, rounds=STEPS)]
    if cool.sampler.one_step:
        others.append(paradigms(cool, noise, rounds=STEPS))
    for other in others:
        assert distance(other, expected) < 1e-9


def test_without_temperature_noise_changes_nothing() -> None:
    denoise, noise = problem(F64, steps=STEPS, name="ddpm")
    cold = replace(denoise, sampler=sampler({"name": "ddpm"}, 0.0).to("cpu", F64))
    found, other = sequential(cold, noise), sequential(cold, scaled(noise, -3.0))
    torch.testing.assert_close(found.sample, other.sample, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [-0.1, 1.1, float("nan")])
def test_only_shares_are_temperatures(temperature: float) -> None:
    with pytest.raises(PcmError, match=r"sampler temperature=.*from 0 to 1"):
        SamplerConfig(temperature=temperature)


def tiny(**own: Any) -> DiffusionPolicy:
    torch.manual_seed(0)
    options = {"width": 16, "depth": 1, "step_embed_dim": 8}
    return DiffusionPolicy(
        PolicyConfig(
            3, 2, horizon=8, action_steps=4, network_options=options, sampler=SamplerConfig(**own)
        )
    )


def test_every_sampler_of_a_policy_is_at_its_temperature_unless_told() -> None:
    policy = tiny(temperature=0.5)
    for name in ("ddpm", "ddim", "dpmpp_2m"):
        found = policy.solver({"method": "sequential", "sampler": name})
        assert found.sampler.temperature == 0.5
    told = policy.solver({"method": "picard", "sampler": "ddpm", "temperature": 1.0})
    assert told.sampler.temperature == 1


def test_a_label_says_what_is_not_plain() -> None:
    own = SamplerConfig("ddim", 32, eta=1.0, temperature=0.3)
    assert Solver.of("pcm", own, rounds=2).label == "pcm 2 (ddim-32 eta 1 at 0.3)"
    assert Solver.of("sequential", SamplerConfig("ddpm", 100)).label == "ddpm-100"


def test_a_head_and_its_guess_are_at_the_temperature_they_are_asked_for() -> None:
    options = {"width": 8, "nodes": 4, "guess_width": 8, "guess_noises": 1}
    head = {"name": "window", "options": options}
    policy = with_head(tiny(), head, {"steps": STEPS, "temperature": 0.4}, seed=0)
    assert policy.config.head is not None
    assert policy.config.head.sampler.temperature == 0.4
    noise = Noise(torch.randn(4, 8, 2, generator=torch.Generator().manual_seed(0)))
    few = near_sampler(policy, torch.zeros(4, policy.config.cond_dim), noise, 2)
    assert few is not None
    assert few.temperature == 0.4
    with pytest.raises(PcmError, match="head was trained"):
        policy.solver({"method": "pcm", "rounds": 2, "temperature": 1.0})


def headed(**sampler: Any) -> DiffusionPolicy:
    options = {"width": 8, "nodes": 4, "guess_width": 8, "guess_noises": 1}
    base = tiny()
    base.config = replace(base.config, prediction="sample")  # else random weights follow the noise
    return with_head(base, {"name": "window", "options": options}, sampler, seed=0)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_little_noise_in_every_step_has_a_near_sampler_without_noise(name: str) -> None:
    eta = {"eta": 1.0} if name == "ddim" else {}
    policy = headed(name=name, steps=2, temperature=0.01, **eta)
    assert policy.config.head is not None
    draws = torch.Generator().manual_seed(0)
    cond = torch.randn(16, policy.config.cond_dim, generator=draws)
    noise = Noise(*(torch.randn(*shape, 16, 8, 2, generator=draws) for shape in ((), (2,))))
    few = near_sampler(policy, cond, noise, 2)
    assert few is not None
    assert (few.name, few.steps, few.temperature) == (name, 2, 0.0)

    def chunk(sampler: SamplerConfig) -> torch.Tensor:
        return sequential(policy.denoiser(cond, sampler), noise).sample

    error = (chunk(few) - chunk(policy.config.head.sampler)).square().mean(dim=(1, 2)).sqrt().mean()
    assert error < NEAR
    loud = headed(name=name, steps=2, **eta)
    assert near_sampler(loud, cond, noise, 2) is None


def test_lerobot_has_no_temperature() -> None:
    options = {"down_dims": [8, 16], "n_groups": 4, "step_embed_dim": 8}
    policy = DiffusionPolicy(PolicyConfig(3, 2, network="unet1d", network_options=options))
    plain = common_sampler("ddim", 4)
    assert unsupported(policy, plain) is None
    assert "temperature" in str(unsupported(policy, replace(plain, temperature=0.5)))
