"""Sequential sampling: forward substitution in the triangular system, one network call a step."""

from dataclasses import replace

import torch
from torch import Tensor

from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from tests.oracle.base import SolveResult, combine, forcing


def sequential(denoise: Denoiser, noise: Noise) -> SolveResult:
    """Solve ``X = F + M D(X)`` state by state: the sampler as everybody runs it.

    No round revises a state, so all residuals are zero and the result is certified by definition.

    Args:
        denoise: the map ``D``, with its sampler.
        noise: ``initial (B, T, Da)``, and ``steps (N, B, T, Da)`` for stochastic samplers.
    """
    denoise, sampler = denoise.encode(), denoise.sampler
    states = forcing(sampler, noise)
    if getattr(torch.compiler, "is_exporting", bool)():  # older torch cannot say, and unrolls
        states = states + combine(sampler.M, _scanned(denoise, states))
    else:
        predictions = torch.zeros_like(states[1:])
        for j in range(sampler.steps):
            predictions[j] = denoise(states[j : j + 1], slice(j, j + 1))[0]
            states[j + 1] += combine(sampler.M[j + 1 : j + 2, : j + 1], predictions[: j + 1])[0]
    batch = states.shape[1]
    return SolveResult(
        sample=states[-1],
        rounds=sampler.steps,
        nfe=sampler.steps,
        residuals=states.new_zeros(sampler.steps, batch),
        certified=torch.ones(batch, dtype=torch.bool, device=states.device),
        bound=states.new_zeros(batch),
        trajectory=states,
    )


def _scanned(denoise: Denoiser, forced: Tensor) -> Tensor:
    """Return ``(N, B, T, Da)`` predictions by a loop that a package holds once, not ``N`` times."""
    from torch._higher_order_ops.scan import scan  # not in every torch that samples

    sampler = denoise.sampler
    # The loop's body takes nothing from outside that was not computed by the traced program.
    traced = {k: v.clone() for k, v in vars(sampler).items() if isinstance(v, Tensor)}
    denoise = replace(denoise, sampler=replace(sampler, **traced))  # type: ignore[arg-type]
    at = torch.arange(sampler.steps, device=forced.device)

    def step(found: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        node = j[None]
        state = forced[node] + combine(denoise.sampler.M[node], found)
        new = denoise(state, node)
        return torch.where((at == j)[:, None, None, None], new, found), j.clone()

    found: Tensor = scan(step, torch.zeros_like(forced[1:]), at)[0]
    return found
