"""Shards become the result that one machine would have written."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.rollout.records import Record
from pcm_policy.rollout.shards import FOLDER, Shard, ShardFile, difference, read_shard
from pcm_policy.rollout.sheet import report

MACHINE = ("command", "hardware")
"""Entries of ``about`` that differ where machines do, and change no episode."""


@dataclass(frozen=True)
class Merged:
    """Several shards together.

    Attributes:
        files: of the shards, in the order of their episodes.
        records: one an episode, in the order of their numbers.
        missing: shards whose episodes are not all there, with how many each lacks.
    """

    files: Sequence[ShardFile]
    records: Sequence[Record]
    missing: Mapping[Shard, int]

    @property
    def incomplete(self) -> str | None:
        """What is missing, in words; None when nothing is."""
        if not self.missing:
            return None
        numbers = [shard.index for shard in self.missing]
        count = next(iter(self.missing)).count
        listed = ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")
        shards = f"shard {listed}" if len(numbers) == 1 else f"shards {listed}"
        total = self.files[0].episodes
        return f"{shards} of {count}: {total - len(self.records)} of {total} episodes are missing"

    def report(self, command: str) -> dict[str, Any]:
        """Return what ``eval.json`` holds; its times are those of the first shard that took any.

        Args:
            command: that merges.
        """
        first = self.files[0]
        timed = next((one.latency_ms for one in self.files if one.latency_ms is not None), None)
        about = {**first.header["about"], "command": command, "machines": self._machines()}
        return report({**first.header, "about": about}, self.records, timed, self.incomplete)

    def _machines(self) -> list[dict[str, Any]]:
        return [
            {
                "shard": one.shard.index,
                "shards": one.shard.count,
                "episodes": len(one.records),
                "latency_ms": one.latency_ms,
                **{key: one.header["about"].get(key) for key in MACHINE},
            }
            for one in self.files
        ]


def read_shards(output: Path) -> list[ShardFile]:
    """Read all shards of an evaluation, in the order of their episodes.

    Raises:
        PcmError: there are none, or one is damaged.
    """
    paths = sorted((output / FOLDER).glob("[0-9]*-of-*.json"))
    if not paths:
        raise PcmError(f"{output / FOLDER} holds no shards: name the output_dir of the shards")
    files = [read_shard(path) for path in paths]
    return sorted(files, key=lambda one: (one.shard.index / one.shard.count, one.shard.count))


def merge(files: Sequence[ShardFile]) -> Merged:
    """Put shards together, of one split or of several.

    Args:
        files: at least one.

    Raises:
        PcmError: they are of different policies, versions or settings, an episode differs in two
            of them, or no episode has finished.
    """
    first, records, where = files[0], dict[int, Record](), dict[int, Path]()
    for one in files:
        found = difference(_sameness(first), _sameness(one))
        if found is not None:
            raise PcmError(
                f"{first.path} has {found} as {one.path} has: one merge takes one policy, "
                "version and settings; use another output_dir for each"
            )
        for record in one.records:
            known = records.setdefault(record.index, record)
            if known.outcome != record.outcome:
                raise PcmError(
                    f"episode of seed {record.outcome.seed} went differently in "
                    f"{where[record.index]} and {one.path}: remove the one that is not to be "
                    "trusted"
                )
            where.setdefault(record.index, one.path)
    if not records:
        raise PcmError(f"no episode has finished in {first.path.parent}: wait for the shards")
    ordered = [records[index] for index in sorted(records)]
    return Merged(files, ordered, _missing(files, set(records)))


def _sameness(one: ShardFile) -> dict[str, Any]:
    """Return what has to be the same in every shard."""
    about = {key: value for key, value in one.header["about"].items() if key not in MACHINE}
    if about.get("runtime"):
        about["runtime"] = {k: v for k, v in about["runtime"].items() if k != "threads"}
    identity = {"episodes": one.episodes, **one.identity}
    return identity | {"task": one.header["task"], "solver": one.header["solver"]} | about


def _missing(files: Sequence[ShardFile], there: set[int]) -> dict[Shard, int]:
    """Return the shards that are to be made, of the split that most files belong to."""
    episodes = files[0].episodes
    counts = Counter(one.shard.count for one in files)
    count = max(counts, key=lambda each: (counts[each], -each))
    lacking = {}
    for index in range(count):
        shard = Shard(index, count)
        number = len(set(shard.numbers(episodes)) - there)
        if number:
            lacking[shard] = number
    return lacking
