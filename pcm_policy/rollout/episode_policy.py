"""A policy as the evaluator calls it: noise named by episode and tick, rounds counted."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.policy.observe import select
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.noise import episode_noise
from pcm_policy.solvers.before.solve import SolverConfig

KEPT_OBSERVATIONS = 256


class EpisodePolicy:
    """Predict for many episodes at once; every solver sees the same noise.

    Args:
        policy: the policy.
        solver: how to solve.
    """

    def __init__(self, policy: DiffusionPolicy, solver: SolverConfig) -> None:
        self.policy, self.solver = policy, solver
        stochastic = policy.sampler(solver.sampler).stochastic
        self._noise_steps = solver.sampler.steps if stochastic else 0
        self._rounds: list[float] = []
        self._nfe: list[int] = []
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
        """
        shape = self.policy.config.chunk_shape
        noise = episode_noise(seeds.tolist(), ticks.tolist(), shape, self._noise_steps)
        seen = select(self.policy.config, obs)
        found = self.policy.predict(seen, solver=self.solver, noise=noise)
        rounds = found.solve.row_rounds
        self._rounds.append(found.solve.rounds if rounds is None else float(rounds.float().mean()))
        self._nfe.append(found.solve.nfe)
        if len(self._seen) < KEPT_OBSERVATIONS:
            row = len(self._seen) % len(seeds)
            self._seen.append(
                {name: values[row].copy() for name, values in seen.items()}
                if isinstance(seen, dict)
                else seen[row].copy()
            )
        return found.action

    @property
    def mean_rounds(self) -> float:
        """Mean number of rounds of a solve."""
        return float(np.mean(self._rounds))

    @property
    def mean_nfe(self) -> float:
        """Mean number of network evaluations per chunk."""
        return float(np.mean(self._nfe))

    def observations(self) -> list[Any]:
        """Return some of the observations seen, each as ``predict`` takes one."""
        return list(self._seen)
