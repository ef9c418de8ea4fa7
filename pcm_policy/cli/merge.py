"""``pcm-eval merge``: the shards of an evaluation become its ``eval.json``."""

import shlex
from pathlib import Path
from typing import Any

from pcm_policy.cli.settings.evaluate import MergeSettings
from pcm_policy.errors import PcmError
from pcm_policy.files import refuse_existing, to_json, write_text
from pcm_policy.measure.conditions import command_line
from pcm_policy.measure.evaluations import evaluations
from pcm_policy.measure.tables import table
from pcm_policy.rollout.merging import Merged, merge, read_shards
from pcm_policy.rollout.records import check_ended
from pcm_policy.rollout.shards import Shard

OWN = ("shard=", "shards=", "overwrite=", "launcher=", "ray.")


def merge_main(config: MergeSettings) -> dict[str, Any]:
    """Merge the shards in a folder; returns what ``eval.json`` holds.

    Raises:
        PcmError: shards are missing, or are not of one evaluation.
    """
    output = Path(config.path)
    merged = merge(read_shards(output))
    refuse_existing(output / "eval.json", config.overwrite, "overwrite=true")
    for shard in merged.missing:
        print(command_of(merged, shard))
    if merged.incomplete is not None and not config.partial:
        raise PcmError(
            f"{merged.incomplete}: make them by the commands above, or give partial=true"
        )
    return written(merged, output)


def written(merged: Merged, output: Path) -> dict[str, Any]:
    """Write ``eval.json``, print its table; returns what it holds."""
    report = merged.report(command_line())
    write_text(output / "eval.json", to_json(report))
    print(table(*evaluations([report])))
    print(output / "eval.json")
    check_ended(merged.records)
    return report


def command_of(merged: Merged, shard: Shard) -> str:
    """Return the command that makes a shard: another one's, as it was typed there."""
    typed = shlex.split(merged.files[0].header["about"]["command"])
    words = [word for word in typed if not word.startswith(OWN)]
    return shlex.join([*words, f"shard={shard.index}", f"shards={shard.count}"])
