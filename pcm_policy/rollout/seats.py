"""Environments side by side, and what goes wrong with them: they raise, die, hang or give NaN."""

import logging
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from pcm_policy.envs.vector import UNKNOWN

LOG = logging.getLogger("pcm_policy.rollout")


class SeatFailure(Exception):
    """An environment failed.

    Args:
        slot: which one, if that is known.
        what: how, for a sentence that begins with the environment.
    """

    def __init__(self, slot: int | None, what: str) -> None:
        super().__init__(what)
        self.slot, self.what = slot, what


@dataclass(frozen=True)
class Stepped:
    """What a step gave, one row an environment.

    Attributes:
        observation: ``(n, ...)``, or a dictionary of such arrays.
        rewards: ``(n,)`` best of the chunk, minus infinity where nothing was executed.
        steps: ``(n,)`` executed actions.
        success: ``(n,)`` 1, 0, or ``UNKNOWN``.
        finite: ``(n,)`` whether all rewards were finite.
        over: ``(n,)`` whether the episode is over.
    """

    observation: Any
    rewards: NDArray[np.float64]
    steps: NDArray[np.int64]
    success: NDArray[np.int64]
    finite: NDArray[np.bool_]
    over: NDArray[np.bool_]

    def success_of(self, slot: int) -> bool | None:
        """Return whether an environment reported success; None if it reports none."""
        code = int(self.success[slot])
        return None if code == UNKNOWN else bool(code)


class Seats:
    """A vector environment whose failures have a name and a number.

    Args:
        envs: environments of :class:`~pcm_policy.envs.vector.ActionChunks`.
        timeout_s: how long a reset or a step may take where every environment has a process of its
            own; None waits for ever.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], timeout_s: float | None = None) -> None:
        self.envs, self.timeout_s = envs, timeout_s
        self.count = envs.num_envs
        shape = envs.single_action_space.shape
        self.action_shape: tuple[int, ...] = () if shape is None else shape

    def reset(self, seeds: Sequence[int], mask: NDArray[np.bool_]) -> Any:
        """Start the episodes of ``mask``; returns the observations of all environments.

        Raises:
            SeatFailure: one raised, died or did not answer in time.
        """
        given: Any = list(seeds)
        options = {"reset_mask": mask}
        try:
            if isinstance(self.envs, AsyncVectorEnv):
                self.envs.reset_async(seed=given, options=options)
                return self.envs.reset_wait(self.timeout_s)[0]
            return self.envs.reset(seed=given, options=options)[0]
        except Exception as error:
            raise self._failure(error) from error

    def step(self, chunks: NDArray[np.float32]) -> Stepped:
        """Execute chunks ``(n, Ta, Da)``; rows with NaN are no action.

        Raises:
            SeatFailure: one raised, died or did not answer in time.
        """
        try:
            if isinstance(self.envs, AsyncVectorEnv):
                self.envs.step_async(chunks)
                found = self.envs.step_wait(self.timeout_s)
            else:
                found = self.envs.step(chunks)
        except Exception as error:
            raise self._failure(error) from error
        observation, rewards, terminated, truncated, info = found
        return Stepped(
            observation=observation,
            rewards=np.asarray(rewards, np.float64),
            steps=np.asarray(info["steps"]),
            success=np.asarray(info["success"]),
            finite=np.asarray(info["finite"]),
            over=np.asarray(terminated | truncated, np.bool_),
        )

    def close(self, broken: bool = False) -> None:
        """Release the environments; what they raise then is logged, as nothing is lost by it.

        Args:
            broken: do not wait for their processes.
        """
        if not (broken and isinstance(self.envs, AsyncVectorEnv)):
            try:
                self.envs.close()
            except Exception as error:
                LOG.warning("an environment raised when it was closed: %s", _words(error))
        self.envs.closed = True
        for process in getattr(self.envs, "processes", ()):
            process.terminate()
            process.join()

    def _failure(self, error: Exception) -> SeatFailure:
        """Say which environment failed, if that can be known, and how."""
        pipes = list(getattr(self.envs, "parent_pipes", ()))
        if isinstance(error, multiprocessing.TimeoutError):
            hanging = [s for s, pipe in enumerate(pipes) if pipe is not None and not pipe.poll()]
            slot = hanging[0] if hanging else None
            return SeatFailure(slot, f"did not answer within {self.timeout_s:g} s (timeout_s)")
        for slot, process in enumerate(getattr(self.envs, "processes", ())):
            process.join(0.2 if isinstance(error, EOFError | OSError) else 0)
            if process.exitcode:
                code = process.exitcode
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                return SeatFailure(slot, f"died ({how})")
        failed = [slot for slot, pipe in enumerate(pipes) if pipe is None]
        if isinstance(self.envs, SyncVectorEnv):
            copies: Any = self.envs.envs
            failed = [slot for slot, env in enumerate(copies) if env.failed]
        return SeatFailure(
            failed[0] if failed else None, f"raised {type(error).__name__}: {_words(error)}"
        )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())
