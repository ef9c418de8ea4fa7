"""Closed loop in a simulator that keeps moving while the policy thinks; see :mod:`.controlled`."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pcm_policy.control.config import Rest
from pcm_policy.control.delay import LatencyModel
from pcm_policy.control.settings import ControlSettings
from pcm_policy.envs.vector import Wrap
from pcm_policy.rollout.controlled import ControlAgent, Watch
from pcm_policy.rollout.flight import ControlOutcome
from pcm_policy.rollout.outcomes import EvalResult, outcomes
from pcm_policy.rollout.trials import Trials
from pcm_policy.serving.planner import Planner


@dataclass(frozen=True)
class SimulationResult:
    """What happened.

    Attributes:
        result: outcomes in the order of their seeds.
        control: what the controllers did.
        commands: one array ``(steps, Da)`` an episode.
    """

    result: EvalResult
    control: ControlOutcome
    commands: tuple[NDArray[np.float32], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return self.result.to_json() | self.control.to_json()


def simulate(
    planner: Planner,
    env_id: str,
    latency: LatencyModel,
    settings: ControlSettings | None = None,
    *,
    episodes: int,
    seed: int,
    num_envs: int = 32,
    mode: Literal["sync", "async"] = "sync",
    solve_batch: int = 32,
    max_steps: int | None = None,
    rest: Rest | None = None,
    initial_delay_steps: int | None = None,
    wrap: Wrap | None = None,
    watch: Watch | None = None,
    progress: bool = True,
    **env_kwargs: Any,
) -> SimulationResult:
    """Run episodes under latency.

    Args:
        planner: policy and solver.
        env_id: a gymnasium id.
        latency: how long solves take.
        settings: how every controller works.
        episodes: number of episodes, at least 1.
        seed: of the first one; the others count on from it.
        num_envs: environments side by side.
        mode: ``sync`` (this process) or ``async`` (one process an environment).
        solve_batch: rows of every solve; measured latencies are always of one row.
        max_steps: longest episode; None takes the environment's own limit.
        rest: what the robot does until its first plan; None lets time stand still until then.
        initial_delay_steps: the controllers' first delay estimate; None asks the latency model.
        wrap: applied to every environment, as a disturbance; picklable for ``async``.
        watch: sees every request and its plan.
        progress: show a bar, if the terminal is interactive.
        **env_kwargs: for ``gymnasium.make``.

    Raises:
        Interrupted: not all episodes ran; it has those that had finished.
        PcmError: an argument is out of range.
    """
    trials = Trials(env_id, episodes, seed, num_envs, mode, max_steps, None, env_kwargs)
    agent = ControlAgent(
        planner,
        latency,
        settings,
        solve_batch=solve_batch,
        rest=rest,
        initial_delay_steps=initial_delay_steps,
        watch=watch,
    )
    seats = trials.seats(agent.obs_steps, wrap)
    try:
        runs = trials.run(agent, seats=seats, progress=progress)
    finally:
        seats.close()
    commands = tuple(run.actions for run in runs)
    return SimulationResult(EvalResult(outcomes(runs)), agent.outcome(runs), commands)
