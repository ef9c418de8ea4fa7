"""Steps and stops on samples of any shape, and on a network of diffusers."""

from typing import Any

import diffusers
import pytest
import torch

from pcm_policy.sampling.diffusers import from_diffusers
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers import (
    Anderson,
    Coarse,
    Paradigms,
    Picard,
    Rounds,
    Sequential,
    Settle,
    Step,
    Stop,
    Tolerance,
)
from pcm_policy.solvers.newton import MixedNewton
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.sample import measured_jacobian, sample
from tests.imaging import drawn, loop, unet

D: Any = diffusers
SIZE = 12
SHAPES = [(SIZE,), (1, SIZE), (3, 4), (2, 3, 2), (1, 2, 2, 3)]
STEPS: list[Step] = [
    Sequential(),
    Picard(),
    Picard(window=5),
    Anderson(),
    Coarse(),
    Paradigms(),
    MixedNewton(),
]
STOPS: list[Stop] = [Rounds(6), Tolerance(error=1e-4), Settle(4, level=0.1)]
MIX = 0.35 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def mixing(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A nonlinear network of all entries of a sample."""
    inner = x.flatten(1) @ MIX + t[:, None].to(x) / 500
    return torch.tanh(inner).view_as(x)


@pytest.mark.parametrize("stop", STOPS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.label())
def test_the_shape_of_a_sample_does_not_matter(step: Step, stop: Stop) -> None:
    if isinstance(step, Picard) and step.window and not isinstance(stop, Tolerance):
        stop = Rounds(20)
    if isinstance(step, Sequential):
        stop = Rounds()
    sampling = from_diffusers(D.DDIMScheduler(), 12, eta=0.3)
    noise = drawn(3, 12, (SIZE,))
    found: list[SolveResult] = []
    for shape in SHAPES:
        parts = noise.initial.view(3, *shape), noise.steps.view(12, 3, *shape)  # type: ignore[union-attr]
        other = Noise(torch.randn(8, *shape, generator=torch.Generator().manual_seed(5)))
        more = Noise(other.initial, other.initial.expand(12, *other.initial.shape))
        jacobian = measured_jacobian(mixing, sampling, more)
        solver = Solver(step, stop)
        found.append(sample(mixing, sampling, Noise(*parts), solver, jacobian=jacobian))
        assert found[-1].sample.shape == (3, *shape)
    for other_found in found[1:]:
        assert other_found.rounds == found[0].rounds
        assert other_found.certified.equal(found[0].certified)
        torch.testing.assert_close(
            other_found.sample.flatten(1), found[0].sample, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        (D.DDIMScheduler(prediction_type="v_prediction"), 20),
        (D.DDPMScheduler(prediction_type="v_prediction"), 24),
        (D.FlowMatchEulerDiscreteScheduler(), 20),
    ],
    ids=["ddim", "ddpm", "flow"],
)
def test_every_solver_gives_diffusers_images(scheduler: Any, steps: int) -> None:
    """Untrained: with ``epsilon`` such a network turns 1e-7 into 0.1, diffusers' own loop too."""
    network, noise = unet(), drawn(1, steps)
    theirs = loop(scheduler, steps, lambda x, t: network(x, t).sample, noise.initial)
    sampling = from_diffusers(scheduler, steps)
    jacobian = None
    for step in (Sequential(), Picard(), Anderson(), MixedNewton()):
        stop = Rounds() if isinstance(step, Sequential) else Tolerance(error=1e-5)
        if isinstance(step, MixedNewton):
            jacobian = measured_jacobian(network, sampling, drawn(2, steps, seed=3))
        found = sample(network, sampling, noise, Solver(step, stop), jacobian=jacobian)
        scale = theirs.abs().amax().clamp(min=1)
        torch.testing.assert_close(found.sample / scale, theirs / scale, atol=1e-4, rtol=0)
        assert bool(found.certified.all())
        assert isinstance(step, Sequential) or found.rounds < 0.8 * steps
