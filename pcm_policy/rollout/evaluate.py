"""Closed-loop evaluation of anything that maps observations to action chunks.

Episode i has environment seed ``seed + i`` and always sits in row ``i % solve_batch`` of a solve
of exactly ``solve_batch`` rows. If the rows of ``predict`` do not influence each other, the results
are therefore bitwise the same for every number of environments, in one process or many.
"""

from typing import Any, Literal

from pcm_policy.rollout.chunks import ChunkAgent, Predict
from pcm_policy.rollout.episodes import Interrupted
from pcm_policy.rollout.outcomes import EpisodeOutcome, EvalResult, EvaluationCut, outcomes
from pcm_policy.rollout.repeats import trajectories
from pcm_policy.rollout.trials import Trials

__all__ = ["EpisodeOutcome", "EvalResult", "EvaluationCut", "evaluate"]


def evaluate(
    predict: Predict,
    env_id: str,
    *,
    episodes: int,
    seed: int,
    n_obs_steps: int = 2,
    num_envs: int = 32,
    mode: Literal["sync", "async"] = "sync",
    solve_batch: int = 32,
    max_steps: int | None = None,
    timeout_s: float | None = None,
    record: bool = False,
    progress: bool = True,
    **env_kwargs: Any,
) -> EvalResult:
    """Run episodes in receding horizon: predict a chunk, execute all of it, predict again.

    An environment whose episode is over takes its next one when the others re-plan. Trajectories
    are made afterwards, by repeating the executed actions. An episode whose observation cannot be
    predicted, or whose prediction is not finite (it is never executed), ends there and says why.

    Args:
        predict: The policy; see ``pcm_policy.rollout.chunks.Predict``.
        env_id: A gymnasium id.
        episodes: Number of episodes, at least 1.
        seed: Environment seed of the first one; the others count on from it.
        n_obs_steps: To; the first frame is repeated at the start of an episode.
        num_envs: Environments side by side; no prediction has free rows at ``solve_batch``.
        mode: "sync" (this process) or "async" (one process an environment).
        solve_batch: Rows of every prediction.
        max_steps: Longest episode; None takes the environment's own limit.
        timeout_s: How long a reset or a step may take in "async"; None waits for ever.
        record: Also return the trajectories.
        progress: Show a bar, if the terminal is interactive.
        **env_kwargs: For ``gymnasium.make``.

    Returns:
        Outcomes and statistics.

    Raises:
        EvaluationCut: An environment raised, died or hung, or ``predict`` failed for all rows; it
            has the episodes that had finished.
        PcmError: An argument is out of range, or an episode to record did not repeat exactly.
    """
    trials = Trials(env_id, episodes, seed, num_envs, mode, max_steps, timeout_s, env_kwargs)
    agent = ChunkAgent(predict, n_obs_steps, solve_batch)
    try:
        runs = trials.run(agent, progress=progress)
    except Interrupted as error:
        raise EvaluationCut(str(error), EvalResult(outcomes(error.runs)), error.by_user) from error
    return EvalResult(outcomes(runs), trajectories(runs, trials) if record else ())
