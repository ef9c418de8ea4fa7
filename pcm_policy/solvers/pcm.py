"""Picard consistency: a head jumps towards the fixed point, then the base goes on (So et al. 2025).

A head has a fixed point of its own; once its share is zero the iteration is the base model's and
converges to the base model's sample.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pcm_policy.checks import number, whole
from pcm_policy.solvers.anderson import Anderson
from pcm_policy.solvers.newton import Newton
from pcm_policy.solvers.picard import Picard
from pcm_policy.solvers.settings import setting
from pcm_policy.solvers.step import STEPS, Known, Step, after
from pcm_policy.solvers.stops import Rounds, Stop
from pcm_policy.solvers.system import Iterate, Round, System


@STEPS.add("pcm")
@dataclass(frozen=True)
class PCM(Step):
    """Use the head in the first rounds, each at its share, then another step.

    Attributes:
        shares: ``lambda(k)``, the head's share of round ``k``. A round with share 0, or past the
            end of the list, is one of the step ``then``. :func:`ramp` makes the paper's shares.
        then: the step after the head; Anderson mixing certifies soonest, see docs/pcm.md.

    Example:
        >>> import numpy as np
        >>> from pcm_policy import DiffusionPolicy, Solver
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> obs = np.full((2, 20), 256.0)
        >>> from pcm_policy.solvers import PCM, Tolerance
        >>> found = policy.predict(obs, solver=Solver(PCM((1.0, 1.0)), Tolerance(error=1e-3))).solve
        >>> found.certified.tolist()
        [True]
    """

    shares: tuple[float, ...] = setting((1.0, 1.0), least=0, most=1)
    then: Step = Anderson()
    needs: ClassVar[frozenset[str]] = frozenset({"head"})
    usual: ClassVar[Stop] = Rounds(2)

    def fitted(self, known: Known, stop: Stop, said: Collection[str]) -> "PCM":
        """Use the head for as many fixed rounds as it was trained for, then its Jacobian."""
        if stop.fixed is None:
            return self
        count = min(stop.fixed, known.head_rounds)
        shares = self.shares if "shares" in said else (1.0,) * count
        if "then" in said or stop.fixed <= len(shares):
            return replace(self, shares=shares)
        return replace(self, shares=shares, then=Newton() if known.head_jacobian else Picard())

    def details(self, stop: Stop | None) -> str:
        """Return how long the head is used, and what follows it, for the label."""
        if not set(self.shares) <= {1.0}:
            return super().details(stop)
        count, usual = len(self.shares), type(self)().shares
        fixed = None if stop is None else stop.fixed
        told = self.shares != usual if fixed is None else fixed > count
        then = super(PCM, replace(self, shares=usual)).details(stop)
        return f" head {count}{then}" if told else then

    def ready(self, s: System, stop: Stop) -> System:
        """Encode only what the head evaluates, where no other round is made.

        Raises:
            PcmError: the system has no head.
        """
        head, count = s.needed_head(), len(self.shares)
        if not any(self.shares):
            return self.then.ready(s, stop)
        if stop.rounds is None or stop.rounds > count or 0.0 in self.shares[: stop.rounds]:
            return s.encoded()
        return s.encoded(head.nodes(s.denoise.sampler)[0])

    def early(self) -> int | None:
        """Return the rounds of the head and the early rounds of the other step."""
        return after(len(self.shares), self.then)

    def step(self, s: System, x: Iterate, memory: Any) -> tuple[Round, Any]:
        """Make a round of the head, or of the other step."""
        share = self.shares[x.k] if x.k < len(self.shares) else 0.0
        if share == 0.0:
            return self.then.step(s, x, memory)
        return x.head_round(s, x.correct(s, share)), memory


def ramp(rounds: int, stiffness: float) -> tuple[float, ...]:
    """Return the paper's shares, ``lambda(k) = clip(1 - s k / K, 0, 1)`` for ``K = rounds``.

    Raises:
        PcmError: no round, or a stiffness that is not positive.
    """
    whole("rounds", rounds, 1)
    number("stiffness", stiffness, above=0)
    return tuple(min(1.0, max(0.0, 1.0 - stiffness * k / rounds)) for k in range(rounds))
