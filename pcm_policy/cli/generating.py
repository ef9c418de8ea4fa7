"""Who makes demonstrations for ``pcm-data generate``: here, or in all processes of a Ray cluster.

With ``launcher=ray`` every task runs a few episodes into a journal of its own and returns the files
of that; the driver puts them into its journal, from which the demonstrations are written.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pcm_policy.cli.cluster import absolute, check_same, connected, prepare, spread
from pcm_policy.cli.compose import env_kwargs, load_policy, plain
from pcm_policy.cli.settings.data import GenerateSettings
from pcm_policy.datasets.journal import Journal
from pcm_policy.envs.workers import fitting_workers, side_by_side
from pcm_policy.files import to_json
from pcm_policy.measure.conditions import commit, versions
from pcm_policy.optional import require
from pcm_policy.policy.fingerprint import whole_fingerprint
from pcm_policy.rollout.actors import Actor, ExpertActor, PolicyActor, World
from pcm_policy.rollout.episode_policy import EpisodePolicy
from pcm_policy.rollout.generate import packages

Seeds = tuple[int, ...]
_LOADED: dict[str, Actor] = {}


def world_of(config: GenerateSettings) -> World:
    """Return where the episodes happen, of settings that have an environment."""
    task = config.task
    assert task.env_id is not None
    kwargs = env_kwargs(task, demonstrate=config.policy is None)
    if config.max_steps is not None:
        kwargs["max_episode_steps"] = config.max_steps
    return World(task.name or task.env_id, task.env_id, kwargs)


def actor_of(config: GenerateSettings, world: World) -> Actor:
    """Return who acts in this process, or in processes of this machine."""
    if config.policy is None:
        return ExpertActor(world, config.workers or fitting_workers())
    policy = load_policy(config)
    solver = policy.solver(plain(config.solver))
    return PolicyActor(
        world,
        EpisodePolicy(policy, solver),
        seed=config.seed,
        obs_steps=policy.config.obs_steps,
        num_envs=side_by_side(config.num_envs, config.mode),
        mode=config.mode,
        solve_batch=config.solve_batch,
        settings={"policy": config.policy, "solver": solver.label},
    )


class RayActor:
    """Acts in a Ray cluster.

    Args:
        config: of the command; the processes of the cluster make of it what they need.
        actor: who would act here.
    """

    def __init__(self, config: GenerateSettings, actor: Actor) -> None:
        self.config, self.actor, self.block = config, actor, actor.block
        self._ray = require("ray", "launcher=ray", "ray")

    def describe(self) -> dict[str, Any]:
        """Return what the episodes depend on, which is nobody's place."""
        return self.actor.describe()

    def run(self, seeds: Iterator[int], journal: Journal) -> Iterator[int]:
        """Run episodes; yields each seed when its file is in the journal.

        Raises:
            PcmError: no cluster, a task failed more often than ``ray.retries``, or a machine has
                another version; the finished episodes are in the journal.
        """
        config, own = self.config, identity_of(self.actor)
        threads = config.threads or 1
        policy = config.policy and absolute(config.policy)
        given = replace(config, policy=policy, threads=threads, workers=1, launcher="local")
        size = self.block * -(-config.ray.episodes // self.block)
        units = neighbours(seeds, config.seed, size)
        place = str(journal.folder)
        with connected(self._ray, config.ray, threads):
            made = spread(self._ray, make_episodes, given, units, config.ray, threads, place)
            for _, found in made:
                check_same(own, found["identity"])
                for seed, content in found["files"].items():
                    journal.take(seed, content)
                    yield seed


def neighbours(seeds: Iterator[int], first: int, size: int) -> Iterator[Seeds]:
    """Put seeds together that are of one block of ``size``, counted from the first seed."""
    for _, block in groupby(seeds, lambda seed: (seed - first) // size):
        yield tuple(block)


def identity_of(actor: Actor) -> dict[str, Any]:
    """Return what episodes depend on and another machine may have otherwise."""
    digest = None
    if isinstance(actor, PolicyActor):
        digest = whole_fingerprint(actor.predict.policy)
    return {"versions": versions() | packages() | {"commit": commit()}, "policy": digest}


def make_episodes(config: GenerateSettings, seeds: Seeds) -> dict[str, Any]:
    """Run episodes in a process of the cluster; returns their files by seed."""
    prepare(config.plugins, config.threads)
    actor = _loaded(config)
    with tempfile.TemporaryDirectory() as scratch:
        journal = Journal.open(Path(scratch) / "episodes", {}, config.failures)
        for _ in actor.run(iter(seeds), journal):
            pass
        return {"identity": identity_of(actor), "files": journal.contents()}


def _loaded(config: GenerateSettings) -> Actor:
    """Return who acts, made once a process for all tasks of the same settings."""
    key = to_json(plain(config))
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = actor_of(config, world_of(config))
    return _LOADED[key]
