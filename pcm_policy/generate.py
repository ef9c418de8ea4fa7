"""Demonstrations by a policy: roll it out, keep the successful episodes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.writing import write_replay
from pcm_policy.envs.pusht import keypoints
from pcm_policy.errors import PcmError
from pcm_policy.evaluate import Trajectory, evaluate
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.rollout_policy import EpisodePolicy
from pcm_policy.solve import SolverConfig


def generate(
    policy: DiffusionPolicy,
    solver: SolverConfig,
    task: dict[str, Any],
    path: Path,
    *,
    episodes: int,
    attempts: int,
    seed: int,
    num_envs: int,
    mode: Literal["sync", "async"],
    solve_batch: int,
    source: str,
) -> None:
    """Write successful episodes as a replay buffer of ``keypoint``, ``state`` and ``action``.

    Args:
        policy: what is rolled out.
        solver: how it solves.
        task: the task section of the config; only Push-T stores its raw state this way.
        path: the replay buffer to write; must not exist.
        episodes: number of successful episodes.
        attempts: give up after this many episodes.
        seed: seed of the first episode.
        num_envs: environments side by side.
        mode: ``sync`` or ``async``.
        solve_batch: rows of every solve.
        source: name of the policy, for the file's attributes.

    Raises:
        PcmError: another task, an existing path, or too few successes; nothing is written then.
    """
    if task["name"] != "pusht":
        raise PcmError(f"pcm-data generate does not know task {task['name']!r}: use task=pusht")
    if path.exists():
        raise PcmError(f"{path} exists: choose another path or remove it")
    kept: list[tuple[int, Trajectory]] = []
    tried = 0
    while len(kept) < episodes and tried < attempts:
        count = min(max(num_envs, episodes - len(kept)), attempts - tried)
        result = evaluate(
            EpisodePolicy(policy, solver),
            task["env_id"],
            episodes=count,
            seed=seed + tried,
            n_obs_steps=policy.config.obs_steps,
            num_envs=num_envs,
            mode=mode,
            solve_batch=solve_batch,
            record=True,
        )
        pairs = zip(result.episodes, result.trajectories, strict=True)
        kept += [(outcome.seed, t) for outcome, t in pairs if outcome.success]
        tried += count
    if len(kept) < episodes:
        raise PcmError(
            f"{len(kept)} of {tried} episodes succeeded, {episodes} were asked for: raise attempts="
            " or use a better policy; nothing was written"
        )
    kept = kept[:episodes]
    write_replay(
        path,
        _arrays([trajectory for _, trajectory in kept]),
        attrs={
            "made_by": f"pcm-data generate policy={source} solver={solver.label}",
            "selection": f"successful episodes only, {len(kept)} of the first {tried} attempts",
            "seeds": [number for number, _ in kept],
        },
    )


def _arrays(trajectories: list[Trajectory]) -> Iterator[dict[str, NDArray[np.float32]]]:
    for trajectory in trajectories:
        state = trajectory.states.astype(np.float32)
        yield {
            "keypoint": keypoints(trajectory.states[:, 2:]).astype(np.float32),
            "state": state,
            "action": trajectory.actions.astype(np.float32),
        }
