"""Observations as entries of the trajectory, against a plain loop that writes them every step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.errors import PcmError
from pcm_policy.export import FixedSolve
from pcm_policy.policy.config import HeadConfig
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver
from pcm_policy.training.batches import Windows
from pcm_policy.training.cloning import Cloning
from tests.builders import PLAIN_HEAD

DO, DA, T, TO, B = 3, 2, 8, 2, 4
NETWORKS: dict[str, dict[str, Any]] = {
    "unet1d": {"down_dims": [8, 16], "kernel_size": 3, "step_embed_dim": 8},
    "transformer": {"n_layer": 2, "n_head": 2, "n_emb": 16, "time_as_cond": False},
}
DDPM = SamplerConfig("ddpm", 12, "leading")
DDIM = SamplerConfig("ddim", 10, "leading", final_alpha_one=False, rederive_epsilon=False)
TO_ONE = SamplerConfig("ddim", 10, "leading")


def make(network: str = "unet1d", sampler: SamplerConfig = DDIM, **changes: Any) -> DiffusionPolicy:
    torch.manual_seed(0)
    config = PolicyConfig(DO, DA, T, TO, 4, network, NETWORKS[network], sampler=sampler)
    policy = DiffusionPolicy(replace(config, inpainting=True, **changes))
    for value in policy.network.parameters():
        value.data += 0.3 * torch.randn_like(value)
    for normal in (policy.obs_normalizer, policy.action_normalizer):
        normal.scale.uniform_(0.5, 2.0)
        normal.low.fill_(-9.0)
        normal.high.fill_(9.0)
    return policy.double()


def draw(sampler: SamplerConfig) -> tuple[Tensor, Noise]:
    g = torch.Generator().manual_seed(1)
    obs, initial = (torch.randn(*s, generator=g).double() for s in ((B, TO, DO), (B, T, DA + DO)))
    steps = torch.randn(sampler.steps, B, T, DA + DO, generator=g).double()
    return obs, Noise(initial, steps if sampler.name == "ddpm" else None)


@torch.no_grad()
def loop(policy: DiffusionPolicy, obs: Tensor, noise: Noise) -> Tensor:
    """``conditional_sample``: write the observation, call the network, step the scheduler."""
    diffusers = pytest.importorskip("diffusers")
    config, name = policy.config, policy.config.sampler.name
    common = {"num_train_timesteps": 100, "beta_schedule": config.schedule.name}
    common |= {"clip_sample": config.clip is not None, "prediction_type": config.prediction}
    if name == "ddim":
        made = diffusers.DDIMScheduler(**common, set_alpha_to_one=False)
    else:
        made = diffusers.DDPMScheduler(**common)
    for key in ("betas", "alphas", "alphas_cumprod", "one", "final_alpha_cumprod"):
        if hasattr(made, key):
            setattr(made, key, getattr(made, key).double())
    made.set_timesteps(config.sampler.steps)
    seen = policy.obs_normalizer.normalize(obs)
    x, rows = noise.initial.clone(), iter(() if noise.steps is None else noise.steps)
    with pytest.MonkeyPatch.context() as patch:
        module = f"diffusers.schedulers.scheduling_{name}"
        patch.setattr(f"{module}.randn_tensor", lambda *a, **k: next(rows))
        for t in made.timesteps:
            x[:, :TO, DA:] = seen
            x = made.step(policy.network(x, t.expand(B), seen.new_zeros(B, 0)), t, x).prev_sample
    x[:, :TO, DA:] = seen
    return x


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("sampler", [DDPM, DDIM], ids=["ddpm", "ddim"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_solver_finds_the_chunk_of_the_plain_loop(
    network: str, sampler: SamplerConfig, prediction: Any
) -> None:
    policy = make(network, sampler, prediction=prediction)
    obs, noise = draw(sampler)
    expected = loop(policy, obs, noise)[..., :DA]
    assert expected.std() > 0.1
    for method in ("sequential", "picard", "anderson", "coarse", "paradigms", "newton"):
        if method == "newton":
            policy.calibrate(obs, sampler)
        tolerance = None if method == "sequential" else 1e-10
        solver = Solver.of(method, sampler, tolerance=tolerance)  # type: ignore[arg-type]
        found = policy.solve(obs, solver, noise)
        gap = (found.sample[..., :DA] - expected).abs().max()
        assert gap < 1e-6, method  # diffusers computes coefficients in float32
        assert found.chunk is not None
        raw = (expected - policy.action_normalizer.shift) / policy.action_normalizer.scale
        torch.testing.assert_close(found.chunk.double(), raw, rtol=1e-5, atol=1e-5)


def test_the_observation_counts_and_a_batch_row_is_its_own() -> None:
    policy = make()
    obs, noise = draw(DDIM)
    solver = Solver.of("sequential", DDIM)
    found = policy.solve(obs, solver, noise).sample
    obs[1, 0, 2] += 0.5
    change = (policy.solve(obs, solver, noise).sample - found).abs().amax((1, 2))
    assert change[1] > 1e-3
    assert change[[0, 2, 3]].max() < 1e-12


@pytest.mark.parametrize("overwrite_input", [False, True])
def test_known_actions_beside(overwrite_input: bool) -> None:
    policy = make(sampler=TO_ONE)
    obs, noise = draw(TO_ONE)
    actions = torch.full((B, 2, DA), 0.3).numpy()
    prefix = policy.known_prefix(actions, overwrite_input)
    exact = policy.solve(obs, Solver.of("sequential", TO_ONE), noise, prefix=prefix)
    assert exact.chunk is not None
    np.testing.assert_allclose(exact.chunk[:, 1:3], actions, atol=1e-6)
    seen = policy.obs_normalizer.normalize(obs)
    assert (exact.sample[:, :TO, DA:] - seen).abs().max() < 1e-6
    solver = Solver.of("picard", TO_ONE, tolerance=1e-10)
    found = policy.solve(obs, solver, noise, prefix=prefix)
    assert (found.sample - exact.sample).abs().max() < 1e-8


def test_heads_see_the_observation(tmp_path: Path) -> None:
    head = HeadConfig(
        "window", {"width": 16, "depth": 1, "cond_width": 8, **PLAIN_HEAD}, DDIM, "", 2
    )
    policy = make(head=head).float()
    assert isinstance(policy.head, nn.Module)
    obs, noise = draw(DDIM)
    one = policy.solve(obs.float(), Solver.of("pcm", DDIM, rounds=2), noise)
    assert one.sample.shape == (B, T, DA + DO)
    plain = make().float()
    plain.save_pretrained(tmp_path / "p")
    again = DiffusionPolicy.from_pretrained(tmp_path / "p")
    assert again.config == plain.config
    solver = Solver.of("sequential", DDIM)
    first, second = (p.solve(obs.float(), solver, noise).sample for p in (plain, again))
    assert torch.equal(first, second)
    action = again.predict(obs.float().numpy()).action
    assert action.shape == (B, 4, DA)


def test_what_is_refused() -> None:
    with pytest.raises(PcmError, match="prefix_steps=0"):
        PolicyConfig(DO, DA, prefix_steps=2, inpainting=True)
    empty = Windows(torch.zeros(0, TO * DO), torch.zeros(0, T, DA))
    with pytest.raises(PcmError, match="distil a PCM head"):
        Cloning(make(), empty, empty, 4, 0)


def test_exported() -> None:
    policy = make().float()
    obs, noise = draw(DDIM)
    inputs = obs.float(), noise.initial.float()
    call = FixedSolve(policy, Solver.of("picard", DDIM, rounds=2))
    expected = call(*inputs)  # the sampler's coefficients are kept from here on
    program = torch.export.export(call, inputs).module()
    torch.testing.assert_close(program(*inputs), expected, rtol=1e-5, atol=1e-5)
