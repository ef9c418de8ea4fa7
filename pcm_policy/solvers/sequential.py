"""Sequential sampling: forward substitution in the triangular system, one network call a step."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.loop import solve, start
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.step import STEPS, Step
from pcm_policy.solvers.stops import Rounds, Stop
from pcm_policy.solvers.system import Iterate, Round, System, combine, wide


@STEPS.add("sequential")
@dataclass(frozen=True)
class Sequential(Step):
    """The sampler as everybody runs it: all ``N`` steps in one round of ``N`` network calls.

    The round computes every state once and revises none, so its residual is zero and the result
    is exact.

    Example:
        >>> import numpy as np
        >>> from pcm_policy import DiffusionPolicy, Solver
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> obs = np.full((2, 20), 256.0)
        >>> from pcm_policy.solvers import Sequential
        >>> found = policy.predict(obs, solver=Solver(Sequential())).solve
        >>> found.rounds == policy.config.sampler.steps
        True
    """

    limits: ClassVar[tuple[str, ...]] = ()
    usual: ClassVar[Stop] = Rounds()

    def step(self, s: System, x: Iterate, memory: None) -> tuple[Round, None]:
        """Solve state by state."""
        N, M = s.steps, s.denoise.sampler.M
        if getattr(torch.compiler, "is_exporting", bool)():  # older torch cannot say, and unrolls
            P = scanned(s.denoise, s.F)
            X = s.F + combine(M, P)
        else:
            P, X = torch.zeros_like(s.F[1:]), s.F.clone()
            for j in range(N):
                P[j] = s.denoise(X[j : j + 1], slice(j, j + 1))[0]
                X[j + 1] += combine(M[j + 1 : j + 2, : j + 1], P[: j + 1])[0]
        x = replace(x, X=X)
        return Round(x, P, X, X, N, N, exact=N, full=True, whole=True, calls=N), None


def sequential(denoise: Denoiser, noise: Noise) -> SolveResult:
    """Solve ``X = F + M D(X)`` state by state.

    Args:
        denoise: the map ``D``, with its sampler.
        noise: ``initial (B, T, Da)``, and ``steps (N, B, T, Da)`` for stochastic samplers.
    """
    return solve(*start(denoise, noise), Sequential(), Rounds())


def scanned(denoise: Denoiser, forced: Tensor) -> Tensor:
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
        return torch.where(wide(at == j, found), new, found), j.clone()

    found: Tensor = scan(step, torch.zeros_like(forced[1:]), at)[0]
    return found
