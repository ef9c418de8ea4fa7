"""Demonstrations by whoever acts: run episodes by their seeds, keep all or the successful ones."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pcm_policy.datasets.convert import refuse_existing, target_format, write_recording
from pcm_policy.datasets.journal import Journal
from pcm_policy.datasets.recording import Recording, step_type
from pcm_policy.errors import PcmError
from pcm_policy.rollout.actors import Actor, World
from pcm_policy.rollout.shards import Shard

_PACKAGES = ("pcm_policy", "numpy", "gymnasium", "mujoco", "metaworld", "robosuite", "gym-pusht")


def generate(
    actor: Actor,
    world: World,
    path: Path,
    *,
    episodes: int,
    attempts: int,
    seed: int,
    control_hz: float,
    failures: bool = False,
) -> dict[str, Any]:
    """Write the first successful episodes of seeds ``seed``, ``seed + 1``, ...

    What has finished is kept beside ``path`` until it is written, so that the same command goes on
    after a kill. The file depends on nothing but the settings and the seeds.

    Args:
        actor: an expert or a policy.
        world: where it acts.
        path: a new file; its ending names the format, see :func:`target_format`.
        episodes: number of successful episodes.
        attempts: give up after this many.
        seed: of the first episode.
        control_hz: rate of the actions.
        failures: count and write failed episodes as well: what a policy meets, not what to imitate.

    Returns:
        How the file was made, as the file says it.

    Raises:
        PcmError: the path exists, a worker died, or too few episodes succeeded.
    """
    if min(episodes, attempts) < 1 or seed < 0:
        raise PcmError(f"episodes={episodes}, attempts={attempts} are at least 1, seed={seed} is 0")
    kind = target_format(path)
    journal, made = _begun(actor, world, path, seed, control_hz, failures)
    kept, tried = _run(actor, journal, episodes, range(seed, seed + attempts))
    if len(kept) < episodes:
        raise PcmError(
            f"{len(kept)} of {tried} episodes succeeded, {episodes} were asked for: raise attempts="
            f" or use a better actor; the episodes are kept in {journal.folder}"
        )
    selection = f"successful episodes only, {episodes} of the first {tried} attempts"
    rate = {"success_rate": round(episodes / tried, 4)}
    if failures:
        selection, rate = "all episodes", {}
    made |= {"attempts": tried, **rate, "selection": selection, "seeds": kept}
    write_recording(path, _recording(path, kind, journal, kept, made, control_hz))
    journal.remove()
    return made


def generate_part(
    actor: Actor,
    world: World,
    path: Path,
    shard: Shard,
    *,
    episodes: int,
    attempts: int,
    seed: int,
    control_hz: float,
    failures: bool = False,
) -> str:
    """Run a shard's share of the episodes, into the folder beside ``path`` that all shards share.

    The shards' seeds are blocks of the actor in turn. :func:`generate` then finds these episodes,
    runs those that are missing in the row, and writes the file.

    Args:
        actor: as :func:`generate` takes it.
        world: the same.
        path: the file to come.
        shard: which seeds are run, and of which of the episodes so many.
        episodes: as :func:`generate` takes it, of all shards.
        attempts: the same.
        seed: the same.
        control_hz: the same.
        failures: the same.

    Returns:
        What was kept, in words.

    Raises:
        PcmError: the path exists, or a worker died.
    """
    target_format(path)
    share = len(shard.numbers(episodes))
    journal, _ = _begun(actor, world, path, seed, control_hz, failures)
    own = [n for n in range(attempts) if n // actor.block % shard.count == shard.index]
    kept, tried = _run(actor, journal, share, [seed + number for number in own])
    return f"{len(kept)} of {tried} episodes in {journal.folder}"


def _begun(
    actor: Actor, world: World, path: Path, seed: int, control_hz: float, failures: bool
) -> tuple[Journal, dict[str, Any]]:
    """Return the journal, and how the file is made so far."""
    refuse_existing(path)
    made = _made(actor, world, seed, control_hz) | ({"failures": True} if failures else {})
    return Journal.open(path, made, failures), made


def packages() -> dict[str, str]:
    """Return the versions of what simulates, as far as it is installed."""
    return {name: found for name in _PACKAGES if (found := _version(name))}


def _made(actor: Actor, world: World, seed: int, control_hz: float) -> dict[str, Any]:
    """Return how a file is made: what decides its episodes, and the versions they ran with."""
    return {
        "made_by": "pcm-data generate",
        "task": world.task,
        "env_id": world.env_id,
        **actor.describe(),
        "seed": seed,
        "env_args": json.dumps(_env_args(world, control_hz)),
        "versions": packages(),
    }


class _Row:
    """An unbroken row of seeds whose episodes are in the journal, and those that are kept."""

    def __init__(self, journal: Journal, episodes: int, numbers: Sequence[int]) -> None:
        self.journal, self.episodes, self.numbers = journal, episodes, numbers
        self.kept: list[int] = []
        self.tried = 0

    @property
    def going(self) -> bool:
        """Whether more are wanted, and may be tried."""
        return len(self.kept) < self.episodes and self.tried < len(self.numbers)

    def missing(self) -> Iterator[int]:
        """Yield the seeds that have not run."""
        return (number for number in self.numbers if self.journal.outcome(number) is None)

    def catch_up(self) -> None:
        """Take in what has run since, up to the first seed that has not."""
        while self.going:
            number = self.numbers[self.tried]
            outcome = self.journal.outcome(number)
            if outcome is None:
                return
            self.kept += [number] if outcome else []
            self.tried += 1


def _run(
    actor: Actor, journal: Journal, episodes: int, numbers: Sequence[int]
) -> tuple[list[int], int]:
    """Run until enough episodes of an unbroken row of seeds are kept: these, and the row."""
    seeds = _Row(journal, episodes, numbers)
    seeds.catch_up()
    with tqdm(total=episodes, desc="kept", unit="ep", disable=None) as bar:
        bar.update(len(seeds.kept))
        if not seeds.going:
            return seeds.kept, seeds.tried
        with closing(actor.run(seeds.missing(), journal)) as running:  # type: ignore[type-var]
            for _ in running:
                seeds.catch_up()
                bar.update(len(seeds.kept) - bar.n)
                if seeds.tried:
                    bar.set_postfix(share=f"{len(seeds.kept) / seeds.tried:.2f}")
                if len(seeds.kept) == episodes:
                    break
    return seeds.kept, seeds.tried


def _recording(
    path: Path,
    kind: str,
    journal: Journal,
    seeds: list[int],
    made: Mapping[str, Any],
    control_hz: float,
) -> Recording:
    first, _ = journal.read(seeds[0])
    names = [name for name in first if kind == "robomimic" or not name.startswith("next_obs.")]

    def episodes(wanted: Collection[str]) -> Iterator[dict[str, Any]]:
        for episode in journal.episodes(seeds):
            yield {name: episode[name] for name in wanted}

    attrs = {k: v if isinstance(v, str) else json.dumps(v) for k, v in made.items()}
    return Recording(
        path,
        {name: step_type(first[name]) for name in names},
        len(seeds),
        episodes,
        {"fps": control_hz, "zarr": {"attrs": dict(made)}, "robomimic": {"attrs": attrs}},
        attributes=lambda i: journal.read(seeds[i])[1],
    )


def _env_args(world: World, control_hz: float) -> dict[str, Any]:
    """Return robomimic's record of the environment: its own if it has one, else a gymnasium id."""
    with closing(world.make()) as env:
        own = getattr(env.unwrapped, "env_args", None)
    kwargs = {k: v for k, v in world.env_kwargs.items() if k != "max_episode_steps"}
    kwargs["control_freq"] = control_hz
    return dict(own) if own else {"env_name": world.env_id, "type": 2, "env_kwargs": kwargs}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
