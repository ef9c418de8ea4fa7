"""The one loop behind every solver of ``X = F + M D(X)``.

A *step* makes a round. A *stop* says how many leading states of every row are final. Final states
never change again, and a solve ends when all states are final. Step and stop do not know each
other. Code that needs the rounds of a solve, to train, count, draw or record them, walks through
:func:`rounds`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.alone import alone
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.solvers.result import Ended, SolveResult
from pcm_policy.solvers.step import Step
from pcm_policy.solvers.stops import Stop
from pcm_policy.solvers.system import Iterate, Round, System, forcing, within

if TYPE_CHECKING:
    from pcm_policy.heads.base import Head


def start(
    denoise: Denoiser,
    noise: Noise,
    guess: Tensor | None = None,
    head: "Head | None" = None,
    jacobian: Jacobian | None = None,
) -> tuple[System, Iterate]:
    """Return a solve's system and its first iterate.

    Args:
        denoise: the base map ``D``, with its sampler.
        noise: all the randomness of the solve.
        guess: see :func:`first_iterate`.
        head: the PCM head.
        jacobian: of the base on this sampler.

    Raises:
        PcmError: a guess of the wrong shape, or noise that is missing or a single number a row.
    """
    if noise.initial.ndim < 2:
        raise PcmError(
            f"noise has shape {tuple(noise.initial.shape)}: give every row of the batch a shape of "
            "its own, such as (B, 1)"
        )
    s = System(denoise, noise, forcing(denoise.sampler, noise), head, jacobian)
    return s, first_iterate(s, guess)


def first_iterate(s: System, guess: Tensor | None = None) -> Iterate:
    """Return where a solve starts.

    Args:
        s: the system.
        guess: ``(B, T, Da)`` or ``(N, B, T, Da)`` guess of the clean chunks. The fixed point does
            not depend on it. Without a guess, and in rows where it is NaN, the solve starts from
            the head's first guess, else from zeros.

    Raises:
        PcmError: a guess of the wrong shape.
    """
    like = s.F[1:]
    if guess is not None and guess.shape not in (like.shape, like.shape[1:]):
        raise PcmError(
            f"guess has shape {tuple(guess.shape)}: expected {tuple(like.shape[1:])} "
            f"or {tuple(like.shape)}"
        )
    own = clipped_start(s)
    if guess is None or own is None:
        guess = own if guess is None else guess
    else:
        guess = torch.where(guess.isnan(), own, guess)
    if guess is None:  # a sweep of zeros is what the noise gives
        X, P = s.F, torch.zeros_like(like)
    else:
        P = torch.where(guess.isnan(), 0.0, guess.to(like)).expand_as(like).clone()
        X = s.sweep(P)
    return Iterate(0, X, P, torch.zeros_like(X.flatten(2)[..., 0]), cold=guess is None)


def clipped_start(s: System) -> Tensor | None:
    """Return what the system's head starts from, clipped as the base's predictions are."""
    own, clip = None if s.head is None else s.head.start(s), s.denoise.clip
    return own if own is None or clip is None else own.clamp(-clip, clip)


def advance(
    s: System, step: Step, stop: Stop, x: Iterate, memory: Any
) -> tuple[Round, Iterate, Tensor, Any]:
    """Make one round. This is what the loop repeats and what a runtime records.

    Nothing is read back from the device, and no tensor is made from host data.

    Returns:
        The round, the next iterate, how far the round moved every row ``(B,)``, and the memory.
    """
    r, memory = step.step(s, x, memory)
    if r.exact and r.X is not r.swept:  # exact states are what they are, whatever was proposed
        known = r.before.lo + 1 + r.exact
        r.X[:known] = r.swept[:known]
    x, residual = stop.after(r)
    return r, x, residual, memory


def rounds(
    s: System, x: Iterate, step: Step, stop: Stop
) -> Iterator[tuple[Round, Iterate, Tensor]]:
    """Yield every round, the iterate after it and how far it moved each row.

    Args:
        s: the system.
        x: where to start from, see :func:`start`.
        step: how each round is made.
        stop: when they end.

    Raises:
        PcmError: the step cannot solve this system, or not until this stop.
    """
    s, stop = step.ready(s, stop), alone(stop, x)
    x, memory = stop.begin(x), step.init(s)
    while not stop.ended(x):
        r, x, residual, memory = advance(s, step, stop, x, memory)
        x = stop.look(x)
        yield r, x, residual


def never() -> bool:
    """Say that there is no deadline."""
    return False


def solve(
    s: System, x: Iterate, step: Step, stop: Stop, late: Callable[[], bool] = never
) -> SolveResult:
    """Repeat a step until all states are final, the rounds are used up, or the deadline has come.

    Args:
        s: the system.
        x: where to start from, see :func:`start`.
        step: how each round is made.
        stop: when they end.
        late: asked after every round; see :class:`~pcm_policy.solvers.deadline.Deadline`.
    """
    return collect(rounds(s, x, step, stop), stop, late)


def collect(
    walk: Iterable[tuple[Round, Iterate, Tensor]], stop: Stop, late: Callable[[], bool] = never
) -> SolveResult:
    """Walk through the rounds of a solve, as :func:`rounds` yields them, and return its result."""
    residuals: list[Tensor] = []
    nfe, spent = 0, list[int]()
    for r, now, residual in walk:
        residuals += [residual] * r.calls
        nfe, x = nfe + r.nfe, now
        spent.append(nfe)
        if late():
            break
    largest = x.X[-1].abs().amax(dim=within(x.X[-1], 1))  # NaN is below nothing
    bound = torch.where(largest < (torch.inf if r.whole else 0), stop.bound(x), torch.inf)
    return SolveResult(
        sample=x.X[-1],
        rounds=len(residuals),
        nfe=nfe,
        residuals=torch.stack(residuals),
        certified=bound <= stop.error,
        bound=bound,
        trajectory=x.X,
        row_rounds=x.taken,
        spent=tuple(spent) if x.front is None or len(x.front) == 1 else (),
        ended=stop.ended(x) or Ended.LATE,
    )
