"""An evaluation in shards: which episodes each has, and its file.

A shard is a run of neighbouring episodes, so that their rows of a solve are neighbours too. Every
episode is a function of its number and seed; a shard's file holds one record an episode, and all
that the episodes depend on, and :mod:`.merging` makes of such files what one machine would have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.files import read_json
from pcm_policy.rollout.records import Record

FORMAT = "pcm_policy evaluation shard 1"
FOLDER = "shards"
PAIRS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)
"""Variables that number the processes of a job, and count them: torchrun's and Slurm's."""
EXPLICIT = "give shard=... shards=... (shard=0 shards=1 is the whole)"


@dataclass(frozen=True)
class Shard:
    """One of several shards.

    Attributes:
        index: which one, from 0.
        count: how many there are.
        taken_from: what said so.
    """

    index: int
    count: int
    taken_from: str = "shard and shards"

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise PcmError(
                f"{self.taken_from}: shard {self.index} of {self.count}: shards are numbered 0 to "
                f"{self.count - 1}; {EXPLICIT}"
            )

    def numbers(self, episodes: int) -> range:
        """Return the numbers of its episodes: as many as any other shard has, or one more.

        Raises:
            PcmError: there are fewer episodes than shards.
        """
        if self.count > episodes:
            raise PcmError(
                f"{self.taken_from}: {self.count} shards of {episodes} episodes: use at most "
                f"shards={episodes}"
            )
        first, end = (episodes * at // self.count for at in (self.index, self.index + 1))
        return range(first, end)

    def file(self, output: Path) -> Path:
        """Return where its file is."""
        return output / FOLDER / f"{self.index:05d}-of-{self.count:05d}.json"

    def __str__(self) -> str:
        return f"shard {self.index} of {self.count}"


def shard_of(
    environment: Mapping[str, str], index: int | None = None, count: int | None = None
) -> Shard | None:
    """Return which shard a process is to make.

    Args:
        environment: of the process; see ``PAIRS``.
        index: as the command line says, which is stronger.
        count: the same.

    Returns:
        The shard; None for the whole: nothing names a shard, or there is only one.

    Raises:
        PcmError: only one of a pair is there, a value is no number, or two pairs differ.
    """
    if index is not None and count is not None:
        explicit = Shard(index, count)
        return explicit if count > 1 else None
    if index is not None or count is not None:
        given, lacking = ("shard", "shards") if count is None else ("shards", "shard")
        raise PcmError(f"{given} is given without {lacking}: {EXPLICIT}")
    found = [shard for pair in PAIRS if (shard := _from(environment, *pair)) is not None]
    for other in found[1:]:
        if (other.index, other.count) != (found[0].index, found[0].count):
            raise PcmError(
                f"{found[0].taken_from} say {found[0]}, {other.taken_from} say {other}: {EXPLICIT}"
            )
    return found[0] if found else None


def _from(environment: Mapping[str, str], id_name: str, count_name: str) -> Shard | None:
    """Return the shard that two variables name; None where there is one process or none."""
    texts = {name: environment[name] for name in (id_name, count_name) if environment.get(name)}
    for name, text in texts.items():
        if not text.isdecimal():
            raise PcmError(f"{name}={text} is no number: {EXPLICIT}")
    array = id_name == "SLURM_ARRAY_TASK_ID"
    if not texts or (not array and int(texts.get(count_name, 0)) == 1):
        return None
    if len(texts) == 1:
        (there,) = texts
        lacking = count_name if there == id_name else id_name
        raise PcmError(f"{there}={texts[there]} is set without {lacking}: {EXPLICIT}")
    index, count = int(texts[id_name]), int(texts[count_name])
    if array:
        index = _place(environment, index, count)
    return Shard(index, count, f"{id_name} and {count_name}")


def _place(environment: Mapping[str, str], task: int, count: int) -> int:
    """Return the place of a task in a Slurm array from 0 or 1.

    Raises:
        PcmError: the array is a choice of tasks, such as ``--array=3,5`` or ``--array=3``: how
            many shards there are is not known then.
    """
    lowest = environment.get("SLURM_ARRAY_TASK_MIN") or "0"
    whole = {"0": str(count - 1), "1": str(count)}
    highest = environment.get("SLURM_ARRAY_TASK_MAX") or whole.get(lowest)
    if count == 1 or lowest not in whole or highest != whole[lowest]:
        raise PcmError(
            f"SLURM_ARRAY_TASK_ID={task} is of an array of {count}, from {lowest} to {highest}: "
            "only arrays from 0 or 1 without gaps say how many shards there are; give "
            "shard=$SLURM_ARRAY_TASK_ID shards=N, or shard=0 shards=1 for the whole"
        )
    return task - int(lowest)


@dataclass(frozen=True)
class ShardFile:
    """What the file of a shard holds.

    Attributes:
        shard: which one.
        episodes: how many there are in all shards.
        identity: all that an episode depends on but its number.
        header: policy, task, solver, and how it was made, as :func:`.sheet.report` takes them.
        latency_ms: of single predictions there; None where they were not timed.
        records: of the episodes that have finished, in the order of their numbers.
        incomplete: what is missing of this shard; None when nothing is.
        path: where it was read.
    """

    shard: Shard
    episodes: int
    identity: Mapping[str, Any]
    header: Mapping[str, Any]
    latency_ms: Mapping[str, float] | None
    records: Sequence[Record]
    incomplete: str | None
    path: Path = Path()

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "format": FORMAT,
            "shard": self.shard.index,
            "shards": self.shard.count,
            "taken_from": self.shard.taken_from,
            **({} if self.incomplete is None else {"incomplete": self.incomplete}),
            "episodes": self.episodes,
            "identity": dict(self.identity),
            "header": dict(self.header),
            "latency_ms": self.latency_ms,
            "records": [record.to_json() for record in self.records],
        }


def read_shard(path: Path) -> ShardFile:
    """Read the file of a shard.

    Raises:
        PcmError: it cannot be read, or is none.
    """
    found = read_json(path)
    try:
        if found["format"] != FORMAT:
            raise ValueError(f"format is {found['format']}, not {FORMAT}")
        shard = Shard(found["shard"], found["shards"], found["taken_from"])
        records = [Record.of_json(record) for record in found["records"]]
        strangers = {record.index for record in records} - set(shard.numbers(found["episodes"]))
        if strangers:
            raise ValueError(f"episode {min(strangers)} is not of {shard}")
        return ShardFile(
            shard,
            found["episodes"],
            found["identity"],
            found["header"],
            found["latency_ms"],
            records,
            found.get("incomplete"),
            path,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        text = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        raise PcmError(
            f"{path} is no file of a shard ({text}): remove it and make the shard again"
        ) from error


def difference(first: Any, second: Any, name: str = "") -> str | None:
    """Return the first entry in which two nested mappings differ, with both values; or None."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in [*first, *(key for key in second if key not in first)]:
            inner = f"{name}.{key}" if name else str(key)
            found = difference(first.get(key), second.get(key), inner)
            if found is not None:
                return found
        return None
    return None if first == second else f"{name}={first}, not {second}"
