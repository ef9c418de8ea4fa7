"""One call that samples from any network: the front door of the solver library."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.library import Callable2, Callable3, Sampling
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.anderson import Anderson
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.solvers.loop import start
from pcm_policy.solvers.newton import mean_jacobian
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.stops import Tolerance

if TYPE_CHECKING:
    from pcm_policy.heads.base import Head

USUAL = Solver(Anderson(), Tolerance())


@torch.no_grad()
def sample(
    network: Callable2 | Callable3,
    sampling: Sampling,
    noise: Noise,
    solver: Solver = USUAL,
    *,
    cond: Tensor | None = None,
    guess: Tensor | None = None,
    head: "Head | None" = None,
    jacobian: Jacobian | None = None,
) -> SolveResult:
    """Return samples ``(B, ...)``: those of the sequential sampler, in parallel rounds.

    Args:
        network: ``(x, t) -> output``, or with a condition ``(x, t, cond) -> output``.
        sampling: which sampler, and what the network outputs.
        noise: ``initial (B, ...)``, and ``steps (N, B, ...)`` if the sampler draws noise.
        solver: how; by default Anderson rounds until each sample is certified to 1e-3.
        cond: ``(B, ...)``.
        guess: ``(B, ...)``, samples to start from.
        head: a PCM head, for steps that use one.
        jacobian: for quasi-Newton steps, see :func:`measured_jacobian`.

    Raises:
        PcmError: types or shapes that do not fit, or something that the solver needs and is not
            given.

    Example:
        >>> from pcm_policy.sampling.samplers import SamplerConfig
        >>> from pcm_policy.sampling.schedules import NoiseSchedule
        >>> s = Sampling.of(NoiseSchedule("linear", 1000), SamplerConfig("ddim", 50), "epsilon")
        >>> found = sample(lambda x, t: 0.1 * x, s, Noise(torch.randn(2, 3, 8, 8)))
        >>> found.sample.shape, found.rounds < 50
        (torch.Size([2, 3, 8, 8]), True)
    """
    for name, value, kind in (("noise", noise, Noise), ("solver", solver, Solver)):
        if not isinstance(value, kind):
            raise PcmError(f"{name} is a {type(value).__name__}: give a {kind.__name__}")
    denoise = sampling.denoiser(network, noise, cond)
    return solver(*start(denoise, noise, guess, head, jacobian))


def measured_jacobian(
    network: Callable2 | Callable3,
    sampling: Sampling,
    noise: Noise,
    cond: Tensor | None = None,
) -> Jacobian:
    """Return a network's mean Jacobian on a sampler, for ``sample(..., jacobian=...)``.

    Args:
        network: as of :func:`sample`.
        sampling: likewise.
        noise: of some tens of samples, other than those to sample later.
        cond: ``(B, ...)``.
    """
    denoise = sampling.denoiser(network, noise, cond)
    return Jacobian.of(denoise.sampler, mean_jacobian(denoise, noise))
