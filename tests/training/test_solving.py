"""What solves the base for a head's targets, against one solve after another."""

import pytest
import torch

from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.sampling.denoise import Prefix
from pcm_policy.sampling.noise import generator_noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.training import solving
from pcm_policy.training.solving import Solving
from tests.solving import sequential

ROWS = 7
NOISY = SamplerConfig("ddim", 5, eta=1.0, temperature=0.3)
SAMPLERS = (SamplerConfig("ddim", 5), NOISY, SamplerConfig("ddpm", 4), SamplerConfig("dpmpp_2m", 3))


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return DiffusionPolicy.from_pretrained("released/pusht_mlp")


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("mode", "sampler"),
    [*(("eager", sampler) for sampler in SAMPLERS), ("openvino", NOISY)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_all_states_in_parts(
    policy: DiffusionPolicy,
    mode: str,
    sampler: SamplerConfig,
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parts of three rows, the last of one; noise that a sampler does not take is left alone."""
    if mode == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setattr(solving, "AT_ONCE", 3)
    draw = torch.Generator().manual_seed(0)
    cond = torch.rand(ROWS, 40, generator=draw) * 0.4 - 0.2
    noise = generator_noise(draw, ROWS, policy.config.chunk_shape, sampler.steps)
    prefix = None
    if known:
        shown = torch.rand(ROWS, 16, 1, generator=draw) < 0.3
        prefix = Prefix(torch.rand(ROWS, 16, 2, generator=draw), shown)
    runtime = Runtime(policy, RuntimeConfig(mode=mode))  # type: ignore[arg-type]
    found = Solving(policy, runtime)(cond, prefix, noise, sampler)
    for row in range(ROWS):
        at = torch.tensor([row])
        denoise = policy.denoiser(cond[at], sampler, prefix and prefix.pick(at))
        exact = sequential(denoise, noise.pick(at)).trajectory
        torch.testing.assert_close(found[:, at], exact, rtol=0, atol=2e-4)
        torch.testing.assert_close(found[-1, at], exact[-1], rtol=0, atol=1e-4)
