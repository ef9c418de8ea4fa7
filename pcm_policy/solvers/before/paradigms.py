"""ParaDiGMS: Picard iteration on increments, the published baseline.

Shih et al. 2023, Algorithm 1: every round evaluates a window of states, and each state becomes the
window's first state plus the sum of the increments ``step(x_i) - x_i`` so far. The linear part of
the sampler is iterated too, which is why it needs many more rounds than the affine form.
"""

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.before.base import SolveResult, Watch, check_reach, forcing


def paradigms(
    denoise: Denoiser,
    noise: Noise,
    *,
    rounds: int | None = None,
    tolerance: float | None = None,
    safety: float = 1.0,
    window: int | None = None,
    watch: Watch | None = None,
) -> SolveResult:
    """Solve the same system as :func:`~pcm_policy.solvers.before.picard.picard`, by increments.

    Args:
        denoise: the map ``D``, with a one-step sampler.
        noise: all the randomness of the solve.
        rounds: number of rounds, or with a tolerance the largest number.
        tolerance: a state has settled when ``safety`` times its last change is below this. (The
            paper scales its tolerance by each step's variance, which is zero at the last one.)
        safety: assumed ratio of the true error to the change.
        window: number of states evaluated in a round; None for all of them.
        watch: called with all states ``(N + 1, B, T, Da)`` after every round.

    Raises:
        PcmError: neither ``rounds`` nor ``tolerance``, a window of no state, or too few rounds
            to reach the last state.
    """
    if rounds is None and tolerance is None:
        raise PcmError("give solver.rounds, solver.tolerance or both")
    sampler, steps = denoise.sampler, denoise.sampler.steps
    if not sampler.one_step:
        raise PcmError(
            "solver.method=paradigms iterates on one-step increments and this sampler's steps use "
            "earlier predictions: use solver=picard, or sampler=ddim (flow_euler for a flow)"
        )
    denoise = denoise.encode()
    window = steps if window is None else window
    if window < 1 or (rounds is not None and rounds < 1):
        raise PcmError(f"solver.window={window}, solver.rounds={rounds}: both must be at least 1")
    check_reach(steps, rounds, tolerance, window)
    start = forcing(sampler, noise)[0]  # raises if the step noises are missing
    states = start.expand(steps + 1, *start.shape).clone()
    scale = (-1, 1, 1, 1)
    kicks = torch.zeros_like(states[1:])
    if sampler.stochastic and noise.steps is not None:
        kicks = sampler.noise.view(scale) * noise.steps[:steps]
    lo = used = nfe = 0
    residuals: list[Tensor] = []
    change = torch.zeros_like(states[:, :, 0, 0])
    while lo < steps and (rounds is None or used < rounds):
        nodes = slice(lo, min(lo + window, steps))
        x = states[nodes]
        stepped = (
            sampler.decay[nodes].view(scale) * x
            + sampler.gain[nodes].view(scale) * denoise(x, nodes)
            + kicks[nodes]
        )
        updated = states[lo] + (stepped - x).cumsum(dim=0)
        reached = slice(lo + 1, nodes.stop + 1)
        change[reached] = (updated - states[reached]).abs().amax(dim=(2, 3))
        states[reached] = updated
        states[nodes.stop + 1 :] = updated[-1]
        residuals.append(change[reached].amax(dim=0))
        used, nfe = used + 1, nfe + x.shape[0]
        if watch is not None:
            watch(states)
        lo += 1
        if tolerance is not None:
            settled = (safety * change.amax(dim=1) <= tolerance).tolist()
            while lo < nodes.stop and settled[lo + 1]:
                lo += 1
    done = torch.full_like(residuals[-1], lo >= steps, dtype=torch.bool)
    bound = torch.where(done, safety * residuals[-1], torch.inf)
    return SolveResult(states[-1], used, nfe, torch.stack(residuals), done, bound, states)
