"""PCM with adaptive switching: the head is used, row by row, for as long as it helps.

A head that adds to the base prediction has ``D(X)`` at hand in every round, and with it the base
residual ``|F + M D(X) - X|``. A row leaves its head when that residual no longer shrinks, and is
certified, in any round, as soon as the residual is small enough; the base round that proves it has
been computed already, so that certification costs no further round.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from pcm_policy.errors import PcmError
from pcm_policy.solvers.anderson import Anderson
from pcm_policy.solvers.newton import Newton
from pcm_policy.solvers.settings import setting
from pcm_policy.solvers.step import STEPS, Known, Step, after
from pcm_policy.solvers.stops import Stop
from pcm_policy.solvers.system import Iterate, Round, System, wide, within


@STEPS.add("adaptive")
@dataclass(frozen=True)
class Adaptive(Step):
    """The head on top of base rounds, row by row, for as long as their residual shrinks.

    Attributes:
        head_rounds: rounds that the head may be used in; one certifies soonest.
        shrink: a row leaves its head after a round that reduces the base residual to more than
            this share.
        inner: the step that makes the base rounds; rows that left their head take its states.

    Example:
        >>> import numpy as np
        >>> from pcm_policy import DiffusionPolicy, Solver
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> obs = np.full((2, 20), 256.0)
        >>> from pcm_policy.solvers import Adaptive, Tolerance
        >>> found = policy.predict(obs, solver=Solver(Adaptive(), Tolerance(error=1e-3))).solve
        >>> found.certified.tolist()
        [True]
    """

    head_rounds: int = setting(1, int, least=1)
    shrink: float = setting(0.5, least=0)
    inner: Step = Anderson()
    needs: ClassVar[frozenset[str]] = frozenset({"head"})

    def fitted(self, known: Known, stop: Stop, said: Collection[str]) -> "Adaptive":
        """Take quasi-Newton rounds where the head keeps the Jacobian."""
        if known.head_jacobian and "inner" not in said and isinstance(self.inner, Anderson):
            return replace(self, inner=replace(self.inner, inner=Newton()))
        return self

    def details(self, stop: Stop | None) -> str:
        """Return the settings that differ from the defaults; a head's Jacobian is no setting."""
        usual = self.inner in (Anderson(), Anderson(inner=Newton()))
        return super(Adaptive, replace(self, inner=Anderson()) if usual else self).details(stop)

    def ready(self, s: System, stop: Stop) -> System:
        """Check that the head can be added to a base prediction.

        Raises:
            PcmError: no head, or one that has weights of its own.
        """
        if not s.needed_head().adds_to_base:
            raise PcmError(
                "solver=adaptive needs a head that adds to the base prediction (head=window): this "
                "one changes the weights; use solver=pcm"
            )
        return self.inner.ready(s, stop)

    def init(self, s: System) -> Any:
        """Return the inner step's memory, and no residual."""
        return self.inner.init(s), None

    def early(self) -> int | None:
        """Return the rounds with the head and the early rounds of the inner step."""
        return after(self.head_rounds, self.inner)

    def step(self, s: System, x: Iterate, memory: Any) -> tuple[Round, Any]:
        """Make the inner step's round; the head's states replace it in rows that still use it."""
        inner, last = memory
        r, inner = self.inner.step(s, x, inner)
        if not r.whole or x.k >= self.head_rounds:
            return r, (inner, last)
        residual = (r.swept - x.X).abs().amax(dim=(0, *within(x.X, 2)))
        on = torch.ones_like(residual, dtype=torch.bool)
        if last is not None:
            on = last[1] & (residual <= self.shrink * last[0])
        jumped = s.sweep(x.correct(s, 1.0, r.P))
        return replace(r, X=torch.where(wide(on, r.X[0]), jumped, r.X)), (inner, (residual, on))
