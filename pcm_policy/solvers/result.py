"""What a solve returns, and why it ended."""

from dataclasses import dataclass
from enum import Enum

from torch import Tensor


class Ended(Enum):
    """Why a solve ended; the value is the advice.

    Example:
        >>> import numpy as np
        >>> from pcm_policy import DiffusionPolicy
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> obs = np.full((2, 20), 256.0)
        >>> solver = policy.solver({"method": "picard", "rounds": 2})
        >>> found = policy.predict(obs, solver=solver).solve
        >>> found.why().value
        'the rounds were used up: raise solver.rounds or give a tolerance; see `bound`'
    """

    EXACT = "every state is exact: this is the sequential sampler's chunk"
    CERTIFIED = "every chunk is within the tolerance"
    ROUNDS = "the rounds were used up: raise solver.rounds or give a tolerance; see `bound`"
    SETTLED = "every chunk moved less than solver.settle: nothing is proven"
    LATE = "the deadline came first: the best chunk so far; see `bound`, or use solver=pcm"
    DIVERGED = "a state is not finite: check the weights and the observation, or use solver=ddim"


@dataclass(frozen=True)
class SolveResult:
    """One solve of ``X = F + M D(X)``.

    Attributes:
        sample: ``(B, T, Da)`` action chunk, the last state.
        rounds: batched network calls, one after another.
        nfe: network evaluations per chunk, for the row with the most rounds.
        residuals: ``(rounds, B)`` largest change that each round made anywhere on the trajectory,
            in normalised action units. Only a round of the base model alone says something about
            the distance to the sequential sample.
        certified: ``(B,)`` bool, whether the sample is the sequential sampler's: enough base rounds
            prove it, or ``bound`` is within the tolerance.
        bound: ``(B,)`` estimated largest error of the sample, in normalised action units: the last
            base round's residual times the safety factor. Zero if the sample is proven exact,
            infinite if the last round was not a base round over all states.
        trajectory: ``(N + 1, B, T, Da)`` all states.
        chunk: ``(B, T, Da)`` float32, the sample in raw units, if a policy solved.
        row_rounds: ``(B,)`` int64, rounds until each row ended, under stops that end rows one by
            one. A solve of that row alone takes as many.
        spent: network evaluations of a row after each round; empty for several rows under a
            tolerance, where a batch evaluates what its slowest row still needs.
        ended: why the solve ended; it does not show states that are not finite, see :meth:`why`.

    Example:
        >>> import numpy as np
        >>> from pcm_policy import DiffusionPolicy
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> obs = np.full((2, 20), 256.0)
        >>> solver = policy.solver({"method": "picard", "rounds": 2})
        >>> found = policy.predict(obs, solver=solver).solve
        >>> found.sample.shape, found.residuals.shape, found.certified.tolist()
        (torch.Size([1, 16, 2]), torch.Size([2, 1]), [False])
    """

    sample: Tensor
    rounds: int
    nfe: int
    residuals: Tensor
    certified: Tensor
    bound: Tensor
    trajectory: Tensor
    chunk: Tensor | None = None
    row_rounds: Tensor | None = None
    spent: tuple[int, ...] = ()
    ended: Ended = Ended.ROUNDS

    def work(self) -> list[tuple[int, int | None]]:
        """Return what each row alone would take: its rounds, and evaluations where known."""
        if self.row_rounds is None:
            return [(self.rounds, self.nfe)] * self.sample.shape[0]
        rounds: list[int] = self.row_rounds.tolist()
        return [(k, (0, *self.spent)[k] if self.spent else None) for k in rounds]

    def why(self) -> Ended:
        """Return why the solve ended. This waits for the device and checks that all is finite."""
        return self.ended if bool(self.sample.isfinite().all()) else Ended.DIVERGED
