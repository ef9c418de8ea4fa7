"""A policy as the evaluator calls it: noise named by episode and tick, rounds counted."""

from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.errors import PcmError
from pcm_policy.policy.observe import select
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.chunks import RowFaults
from pcm_policy.rollout.episodes import row
from pcm_policy.sampling.noise import Noise, episode_noise
from pcm_policy.solvers.registry import Solver

KEPT_OBSERVATIONS = 256


class EpisodePolicy:
    """Predict for many episodes at once; every solver sees the same noise.

    Args:
        policy: the policy.
        solver: how to solve.
    """

    def __init__(self, policy: DiffusionPolicy, solver: Solver) -> None:
        self.policy, self.solver = policy, policy.complete(solver)
        self._noise_steps = policy.sampler(self.solver.sampler).noise_steps
        self._rounds: list[float] = []
        self._work: list[tuple[int, int | None]] = []
        self._seen: list[Any] = []

    def __call__(
        self,
        obs: NDArray[Any] | dict[str, NDArray[Any]],
        seeds: NDArray[np.int64],
        ticks: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return ``(B, Ta, Da)`` actions for ``(B, To, Do)`` observations.

        Args:
            obs: observations, oldest first; or their entries by name, each with these axes.
            seeds: ``(B,)`` seed of each row's episode.
            ticks: ``(B,)`` control steps executed so far.

        Raises:
            RowFaults: some rows cannot be predicted: an observation that is not finite or far
                outside training, or a solve that diverged.
            PcmError: no row can be.
        """
        shape = self.policy.config.chunk_shape
        noise = episode_noise(seeds.tolist(), ticks.tolist(), shape, self._noise_steps)
        seen = select(self.policy.config, obs)
        try:
            found = self.policy.predict(seen, solver=self.solver, noise=noise)
        except PcmError as error:
            raise self._row_faults(seen, noise) or error from error
        self._work = found.solve.work()
        self._rounds.append(float(np.mean([rounds for rounds, _ in self._work])))
        if len(self._seen) < KEPT_OBSERVATIONS:
            self._seen.append(deepcopy(row(seen, len(self._seen) % len(seeds))))
        return found.action

    def _row_faults(self, seen: Any, noise: Noise) -> RowFaults | None:
        """Predict every row alone, and say what is wrong with those that cannot be."""
        faults = {}
        for index in range(len(noise.initial)):
            part = row(seen, index)
            one = {n: v[None] for n, v in part.items()} if isinstance(part, dict) else part[None]
            try:
                self.policy.predict(one, solver=self.solver, noise=noise.row(index))
            except PcmError as error:
                text = str(error).replace("at batch 0, ", "at ")
                out = "out of range" in text
                more = f", more than max_excess={self.policy.config.max_excess:g} ranges outside"
                faults[index] = text + (more if out else "")
        return RowFaults(faults) if faults else None

    @property
    def mean_rounds(self) -> float | None:
        """Mean number of rounds of a solve; None before the first."""
        return float(np.mean(self._rounds)) if self._rounds else None

    def work(self) -> list[tuple[int, int | None]]:
        """Return rounds and network evaluations of every row of the last prediction."""
        return self._work

    def observations(self) -> list[Any]:
        """Return some of the observations seen, each as ``predict`` takes one."""
        return list(self._seen)
