"""The best schedule of a few-step sampler: three spacings and a searched one, on other seeds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pcm_study_rows import FEW_STEPS, play
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.exactness import solved
from pcm_policy.few_steps import searched
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.samplers import SamplerConfig
from pcm_policy.solve import SolverConfig

TUNING_SEED = 500_000


def candidates(
    policy: DiffusionPolicy,
    base: DiffusionPolicy,
    family: str,
    steps: int,
    obs: Tensor,
) -> dict[str, SamplerConfig]:
    """Return the three spacings that there are and the searched schedule, by name.

    The search minimises the mean RMSE to the base chunk on ``obs``, which no episode or held-out
    observation that is reported has a part in.
    """
    assert base.config.head is not None
    exact = solved(base, SolverConfig("sequential", base.config.head.sampler), obs, TUNING_SEED)
    found: dict[str, SamplerConfig] = {}
    for spacing in ("trailing", "linspace", "leading"):
        sampler = SamplerConfig(FEW_STEPS[family], steps, spacing)  # type: ignore[arg-type]
        try:
            policy.sampler(sampler)
        except PcmError:  # so many steps of this spacing do not fit
            continue
        found[spacing] = sampler
    kinds = list(found.values())
    found["searched"] = searched(policy, kinds, obs, exact.sample, TUNING_SEED)
    return found


def best_sampler(
    policy: DiffusionPolicy,
    base: DiffusionPolicy,
    family: str,
    steps: int,
    obs: Tensor,
    episodes: int,
    kept: Path,
) -> tuple[SamplerConfig, dict[str, Any]]:
    """Choose a schedule by its mean score on episodes from ``TUNING_SEED``.

    Returns:
        The sampler, and for every candidate its timesteps and score.
    """
    tried, scores = candidates(policy, base, family, steps, obs), {}
    for name, sampler in tried.items():
        played = play(policy, SolverConfig("sequential", sampler), episodes, TUNING_SEED, kept)
        scores[name] = float(np.mean(played.scores))
    best = max(scores, key=lambda name: scores[name])
    record = {
        name: {"timesteps": policy.sampler(sampler).timesteps.tolist(), "score": scores[name]}
        for name, sampler in tried.items()
    }
    return tried[best], {"chosen": best, "candidates": record}


def visited_observations(policy: DiffusionPolicy, episodes: int) -> Tensor:
    """Return up to 256 observations that the base visits in episodes from ``TUNING_SEED``."""
    from pcm_policy.evaluate import evaluate
    from pcm_policy.rollout_policy import EpisodePolicy

    config = policy.config
    sampler = config.sampler if config.head is None else config.head.sampler
    runner = EpisodePolicy(policy, SolverConfig("sequential", sampler))
    evaluate(
        runner,
        "pcm_policy/PushTKeypoints-v0",
        episodes=episodes,
        seed=TUNING_SEED,
        n_obs_steps=policy.config.obs_steps,
        num_envs=1,
        solve_batch=1,
    )
    return torch.from_numpy(np.stack(runner.observations()))
