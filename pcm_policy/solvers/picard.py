"""Picard iteration in affine form: plain rounds ``X <- F + M D(X)``.

Sources: Shih et al. 2023 (ParaDiGMS), Tang et al. 2024 (the full-order system).
"""

from dataclasses import dataclass
from typing import Any

import torch

from pcm_policy.errors import PcmError
from pcm_policy.solvers.settings import setting
from pcm_policy.solvers.step import STEPS, Step
from pcm_policy.solvers.stops import Stop
from pcm_policy.solvers.system import Iterate, Round, System


@STEPS.add("picard")
@dataclass(frozen=True)
class Picard(Step):
    """Evaluate the base at all states that are not final, and sweep.

    Every round makes one more leading state exact, so ``N`` of them are always enough.

    Attributes:
        window: largest number of states evaluated in a round; None for all. The window slides past
            the states that are final. A window of 1 is sequential sampling.

    Example:
        >>> import numpy as np
        >>> from pcm_policy import DiffusionPolicy, Solver
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> obs = np.full((2, 20), 256.0)
        >>> from pcm_policy.solvers import Picard, Tolerance
        >>> found = policy.predict(obs, solver=Solver(Picard(), Tolerance(error=1e-3))).solve
        >>> found.certified.tolist()
        [True]
    """

    window: int | None = setting(None, int, least=1)

    def ready(self, s: System, stop: Stop) -> System:
        """Refuse fixed rounds whose window, sliding by one a round, never reaches the chunk.

        Raises:
            PcmError: it does not.
        """
        reach = (
            s.steps if self.window is None or stop.fixed is None else stop.fixed - 1 + self.window
        )
        if reach < s.steps:
            raise PcmError(
                f"solver.rounds={stop.fixed} with solver.window={self.window} never reaches the "
                f"last of {s.steps} states: use more rounds, a larger window, or a tolerance"
            )
        return super().ready(s, stop)

    def early(self) -> int | None:
        """Return 0, because all rounds are alike; None if a window slides."""
        return 0 if self.window is None else None

    def step(self, s: System, x: Iterate, memory: Any) -> tuple[Round, Any]:
        """Sweep once; nodes past the window repeat its last prediction in the first rounds."""
        hi = min(x.lo + (self.window or s.steps), s.steps)
        found = x.evaluate(s, slice(x.lo, hi))
        ahead = found[-1:].expand_as(x.P[hi:]) if x.cold else x.P[hi:]
        return x.base_round(s, torch.cat([x.P[: x.lo], found, ahead]), hi, hi - x.lo), memory
