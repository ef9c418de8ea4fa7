"""Every solver as one function of a problem: what most tests of solvers need."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pcm_policy.heads import Head
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers import (
    PCM,
    Adaptive,
    Anderson,
    Coarse,
    Iterate,
    Newton,
    Paradigms,
    Picard,
    Rounds,
    Settle,
    SolveResult,
    Step,
    Stop,
    Subspace,
    System,
    Tolerance,
    start,
)
from pcm_policy.solvers import rounds as walk
from pcm_policy.solvers import solve as solve_loop
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.sequential import sequential

__all__ = ["adaptive", "anderson", "call", "coarse", "newton", "paradigms", "picard", "sequential"]
__all__ += ["subspace"]


def stop_of(
    rounds: int | None, tolerance: float | None, settle: float | None, safety: float
) -> Stop:
    """Return the stop of the usual words."""
    if tolerance is not None:
        return Tolerance(rounds, safety, tolerance)
    return Rounds(rounds, safety) if settle is None else Settle(rounds, safety, level=settle)


def run(
    step: Step,
    denoise: Denoiser,
    noise: Noise,
    *,
    rounds: int | None = None,
    tolerance: float | None = None,
    settle: float | None = None,
    safety: float = 4.0,
    guess: Tensor | None = None,
    head: Head | None = None,
    jacobian: Jacobian | None = None,
    late: Callable[[], bool] = lambda: False,
    watch: Callable[[Tensor], None] | None = None,
) -> SolveResult:
    """Solve; ``watch`` gets all states after every round of a solve of its own."""
    stop = stop_of(rounds, tolerance, settle, safety)
    s, x = start(denoise, noise, guess, head, jacobian)
    if watch is not None:
        for _, y, _ in walk(s, x, step, stop):
            watch(y.X)
    return solve_loop(s, x, step, stop, late)


def picard(
    denoise: Denoiser,
    noise: Noise,
    *,
    window: int | None = None,
    head: Head | None = None,
    shares: Sequence[float] = (),
    **options: Any,
) -> SolveResult:
    """Plain rounds, after those of a head."""
    step: Step = Picard(window)
    step = PCM(tuple(shares), step) if shares or head is not None else step
    return run(step, denoise, noise, head=head, **options)


def mixed(memory: int, inner: Step) -> Step:
    """Anderson mixing over a step; a memory of 0 leaves it alone."""
    return Anderson(memory, inner=inner) if memory else inner


def anderson(
    denoise: Denoiser, noise: Noise, *, memory: int = 2, window: int | None = None, **options: Any
) -> SolveResult:
    """Anderson mixing."""
    return run(mixed(memory, Picard(window)), denoise, noise, **options)


def coarse(
    denoise: Denoiser,
    noise: Noise,
    *,
    shares: Sequence[float] = (0.25, 0.5),
    memory: int = 2,
    **options: Any,
) -> SolveResult:
    """Coarse to fine."""
    return run(Coarse(tuple(shares), mixed(memory, Picard())), denoise, noise, **options)


def newton(
    denoise: Denoiser,
    noise: Noise,
    *,
    jacobian: Jacobian,
    shares: Sequence[float] = (),
    memory: int = 2,
    window: int | None = None,
    **options: Any,
) -> SolveResult:
    """Quasi-Newton rounds, mixed."""
    step = mixed(memory, Newton(Picard(window)))
    step = Coarse(tuple(shares), step) if shares else step
    return run(step, denoise, noise, jacobian=jacobian, **options)


def subspace(
    denoise: Denoiser, noise: Noise, *, modes: int = 3, nodes: int = 4, **options: Any
) -> SolveResult:
    """Newton rounds in a subspace."""
    return run(Subspace(modes, nodes), denoise, noise, **options)


def adaptive(
    denoise: Denoiser,
    noise: Noise,
    *,
    head: Head,
    most: int,
    shrink: float = 0.5,
    memory: int = 2,
    jacobian: Jacobian | None = None,
    **options: Any,
) -> SolveResult:
    """The head on top of base rounds."""
    inner = mixed(memory, Picard() if jacobian is None else Newton())
    step = Adaptive(most, shrink, inner)
    return run(step, denoise, noise, head=head, jacobian=jacobian, **options)


def paradigms(
    denoise: Denoiser,
    noise: Noise,
    *,
    window: int | None = None,
    safety: float = 1.0,
    **options: Any,
) -> SolveResult:
    """The baseline, at its own certificate."""
    return run(Paradigms(window), denoise, noise, safety=safety, **options)


def solve(
    solver: Solver,
    denoise: Denoiser,
    noise: Noise,
    head: Head | None = None,
    guess: Tensor | None = None,
    jacobian: Jacobian | None = None,
) -> SolveResult:
    """Run a solver on a problem, as a policy with this head would."""
    head = head if solver.uses_head else None
    jacobian = jacobian if head is None else head.jacobian(denoise.sampler)
    return solver(*start(denoise, noise, guess, head, jacobian))


def call(
    head: Head,
    denoise: Denoiser,
    forced: Tensor,
    states: Tensor,
    k: int | Tensor,
    share: float,
    base: Tensor | None = None,
) -> Tensor:
    """Call a head with what the noise gives and the states, both before the last one."""
    s = System(denoise, Noise(forced[0]), torch.cat([forced, forced[-1:]]))
    X = torch.cat([states, states[-1:]])
    at = k if isinstance(k, Tensor) else torch.full((X.shape[1],), k, device=X.device)
    found: Tensor = head(s, Iterate.trained(X, at), share, base)
    return found
