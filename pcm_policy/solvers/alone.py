"""A tolerance for a batch of one row: the host knows which states are final.

A row that is alone is final as far as the whole batch is, which the host has read after every
round. So nothing about rows is computed on the device: half of the small operations of a round, of
which a policy that takes a millisecond a round notices a twentieth. Recordings cannot use it, since
they replay what they were recorded with.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcm_policy.solvers.stops import Stop, Tolerance
from pcm_policy.solvers.system import Iterate, Round, changed, distance, wide


def alone(stop: Stop, x: Iterate) -> Stop:
    """Return what does the same as a stop in less time, where a tolerance has a single row."""
    if type(stop) is Tolerance and x.X.shape[1] == 1:
        return Alone(stop.rounds, stop.safety, stop.error)
    return stop


@dataclass(frozen=True)
class Alone(Tolerance):
    """What :class:`~pcm_policy.solvers.stops.Tolerance` does, for one row of an eager solve.

    Example:
        >>> import torch
        >>> from pcm_policy.solvers.system import Iterate
        >>> x = Iterate.trained(torch.zeros(9, 1, 4, 2), torch.zeros(1))
        >>> alone(Tolerance(error=1e-3), x)
        Alone(rounds=None, safety=4.0, error=0.001)
    """

    def begin(self, x: Iterate) -> Iterate:
        """Return the iterate after no round."""
        return changed(x, taken=torch.zeros_like(x.moved[0], dtype=torch.int64))

    def after(self, r: Round) -> tuple[Iterate, Tensor]:
        """Return the next iterate, and how far the round moved the row, ``(1,)``."""
        x, lo, X = r.before, r.before.lo, r.X
        assert x.taken is not None
        about = slice(lo + 1, r.hi + 1)
        parts = [x.moved[: lo + 1], distance(r.swept[about], x.X[about])]
        if r.hi < r.P.shape[0]:  # states past a window have not moved
            parts.append(x.moved[r.hi + 1 :])
        moved = torch.cat(parts)
        residual = moved.amax(dim=0)
        if r.exact:  # exact, however far the round moved it
            moved[lo + 1 : lo + 1 + r.exact].zero_()
        small = self.safety * moved[about] <= self.error if r.full else None
        if small is not None and X is not r.swept:  # what has become final is what the base says
            final = small.int().cumprod(dim=0) > 0
            X[about] = torch.where(wide(final, X), r.swept[about], X[about])
        lo += 0 if r.full else r.exact
        taken = x.taken + 1
        now = changed(x, k=x.k + 1, X=X, P=r.P, moved=moved, lo=lo, small=small, taken=taken)
        return now, residual

    def look(self, x: Iterate) -> Iterate:
        """Read how many states have become final."""
        if x.small is None:
            return x
        small = x.small[:, 0].tolist()
        new = small.index(False) if False in small else len(small)
        return changed(x, lo=x.lo + new, small=None)
