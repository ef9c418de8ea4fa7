"""When a solve ends, and which states are final before that.

A stop is a frozen dataclass of numbers, as a step is. ``after`` runs on the device and can be
recorded; ``look`` is the one place that reads the device.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcm_policy.solvers.result import Ended
from pcm_policy.solvers.settings import Settings, setting
from pcm_policy.solvers.system import Iterate, Round, changed, distance, wide, within

SAFETY = 4.0
"""Assumed ratio of true error to last base residual; docs/solvers.md has measured ratios."""


@dataclass(frozen=True)
class Rounds(Settings):
    """End after ``rounds`` rounds, or when all states are exact, without reading the device.

    Attributes:
        rounds: the number of rounds; None for no limit.
        safety: assumed ratio of the true error to the residual of a base round.
        error: certified error, in normalised action units; with 0 only an exact chunk is certified.

    Example:
        >>> Rounds(4)
        Rounds(rounds=4, safety=4.0, error=0.0)
    """

    rounds: int | None = setting(None, int, least=1)
    safety: float = setting(SAFETY, least=1)
    error: float = setting(0.0, said="tolerance", least=0)
    reads: ClassVar[bool] = False
    """Whether :meth:`look` reads the device."""
    words: ClassVar[str] = ""
    """What a solver's label says of it after the rounds; a format of the stop."""

    @property
    def fixed(self) -> int | None:
        """The number of rounds, where nothing else ends a solve before it is exact."""
        return self.rounds

    def begin(self, x: Iterate) -> Iterate:
        """Return the first iterate with what this stop keeps in it."""
        return x

    def ended(self, x: Iterate) -> Ended | None:
        """Return why the solve is over, None if it is not; known without the device."""
        if x.lo >= x.P.shape[0]:
            return Ended.EXACT
        return Ended.ROUNDS if self.rounds is not None and x.k >= self.rounds else None

    def after(self, r: Round) -> tuple[Iterate, Tensor]:
        """Return the next iterate, and how far the round moved each row, ``(B,)``."""
        x, lo = r.before, r.before.lo + r.exact
        about = slice(x.lo + 1, r.hi + 1)
        moved = distance(r.swept[about], x.X[about])
        if r.hi < r.P.shape[0]:  # states past a window moved when they were last computed
            moved = torch.cat([moved, x.moved[r.hi + 1 :]])
        residual = moved.amax(dim=0)
        moved = pad(moved[r.exact :], (0, 0, lo + 1, 0))  # exact states move no more
        return changed(x, k=x.k + 1, X=r.X, P=r.P, moved=moved, lo=lo), residual

    def look(self, x: Iterate) -> Iterate:
        """Read how much to evaluate next: the one place that waits for the device."""
        return x

    def bound(self, x: Iterate) -> Tensor:
        """Return the estimated error ``(B,)`` after a whole round."""
        return self.safety * x.moved.amax(dim=0)


Stop = Rounds
"""What ends a solve: this or one derived from it."""


@dataclass(frozen=True)
class Tolerance(Rounds):
    """End when ``safety`` times the residual of a base round is at most ``error``.

    A state is final when this holds for it and all states before it. A row ends when it holds for
    all its states, whatever the other rows of the batch do; it is not evaluated again. ``rounds``
    is the largest number of rounds.

    Example:
        >>> Tolerance(error=1e-3).rounds is None
        True
    """

    error: float = setting(1e-3, said="tolerance", least=0)
    reads: ClassVar[bool] = True
    words: ClassVar[str] = " tol {0.error:g}"

    @property
    def fixed(self) -> int | None:
        """None: rows end by themselves."""
        return None

    def begin(self, x: Iterate) -> Iterate:
        """Return the iterate with no state final."""
        none = torch.zeros_like(x.moved[0], dtype=torch.int64)
        index = torch.arange(len(x.X), device=x.X.device)[:, None]
        return changed(x, index=index, front=none, taken=none)

    def ended(self, x: Iterate) -> Ended | None:
        """Return why the solve is over, None if it is not; known without the device."""
        found = super().ended(x)
        return Ended.CERTIFIED if found is Ended.EXACT and self.error > 0 else found

    def after(self, r: Round) -> tuple[Iterate, Tensor]:
        """Return the next iterate, and how far the round moved each row, ``(B,)``."""
        x, N = r.before, r.P.shape[0]
        assert x.index is not None
        assert x.front is not None
        assert x.taken is not None
        at, front = x.index, x.front
        past = at - front
        ahead, going = past > 0, front < N
        new = ahead if r.hi == N else ahead & (at <= r.hi)
        moved = torch.where(new, distance(r.swept, x.X), x.moved)
        residual = moved.amax(dim=0)
        if r.exact:  # exact, however far the round moved it
            moved = moved.masked_fill(ahead & (past <= r.exact), 0.0)
        if r.full:  # the last state before the first one that is not small; what is exact is small
            found = torch.where(self.safety * moved <= self.error, r.hi, at - 1).amin(dim=0)
            front = found if r.hi == N else torch.where(going, found, N)
        elif r.exact:
            front = (front + r.exact).clamp(max=N)
        # What has become final is what the base says, what was final before stays.
        X = r.X if r.X is r.swept else torch.where(wide(at <= front, r.X), r.swept, r.X)
        if X.shape[1] > 1 or r.X is not r.swept:  # one row's final states are those that all have
            X = torch.where(wide(ahead, X), X, x.X)
        now = changed(x, k=x.k + 1, X=X, P=r.P, moved=moved, front=front, taken=x.taken + going)
        return now, residual

    def look(self, x: Iterate) -> Iterate:
        """Read back what is final: states in all rows, and rows. The device is waited for once."""
        assert x.front is not None
        front, rows, N = x.front.tolist(), x.rows, x.P.shape[0]
        if sum(row < N for row in front) < (len(front) if rows is None else len(rows)):
            rows = (x.front < N).nonzero()[:, 0]
        return changed(x, lo=min(front), rows=rows)


@dataclass(frozen=True)
class Settle(Rounds):
    """End each row after a round that moves its chunk by at most ``level``. That proves nothing.

    Attributes:
        rounds: the largest number of rounds.
        level: root mean square over a chunk, in normalised action units.

    Example:
        >>> Settle(4, level=0.02).level
        0.02
    """

    rounds: int | None = setting(4, int, least=1)
    level: float = setting(0.015, said="settle", above=0)
    reads: ClassVar[bool] = True
    words: ClassVar[str] = " settle {0.level:g}"

    def begin(self, x: Iterate) -> Iterate:
        """Return the iterate with no row ended."""
        none = torch.zeros_like(x.moved[0], dtype=torch.int64)
        return changed(x, over=none > 0, taken=none)

    def ended(self, x: Iterate) -> Ended | None:
        """Return why the solve is over, None if it is not; known without the device."""
        all_over = x.rows is not None and not len(x.rows)
        return Ended.SETTLED if all_over else super().ended(x)

    def after(self, r: Round) -> tuple[Iterate, Tensor]:
        """Return the next iterate, and how far the round moved each row, ``(B,)``."""
        x, (now, residual) = r.before, super().after(r)
        assert x.over is not None
        assert x.taken is not None
        X, over = now.X, x.over
        if len(over) > 1:  # one row alone is over when the solve is
            X = torch.where(wide(over, X[0]), x.X, X)
        if r.hi == r.P.shape[0]:  # a window that has not reached the chunk does not move it
            change = (X[-1] - x.X[-1]).square().mean(dim=within(X[-1], 1)).sqrt()
            over = over | (change <= self.level)
        return changed(now, X=X, over=over, taken=x.taken + ~x.over), residual

    def look(self, x: Iterate) -> Iterate:
        """Read which rows have ended."""
        assert x.over is not None
        over = x.over.tolist()
        if not any(over):
            return changed(x, rows=None)
        going = [i for i, row in enumerate(over) if not row]
        return changed(x, rows=torch.tensor(going, dtype=torch.int64, device=x.X.device))

    def bound(self, x: Iterate) -> Tensor:
        """Return the estimated error ``(B,)`` after a whole round; infinite in rows that ended."""
        assert x.over is not None
        return torch.where(x.over, torch.inf, super().bound(x))
