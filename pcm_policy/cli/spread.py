"""``pcm-eval launcher=ray``: a few episodes a task, in all processes of a Ray cluster.

Every task makes a shard and returns what its file would hold; the driver writes the files and
merges them. A driver that has died is started again by the same command, which runs the missing
shards alone.
"""

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pcm_policy.cli.cluster import absolute, check_same, connected, prepare, spread
from pcm_policy.cli.compose import plain
from pcm_policy.cli.entrants import entrant_of, identity_of
from pcm_policy.cli.evaluation import part, resumed
from pcm_policy.cli.merge import written
from pcm_policy.cli.settings.evaluate import EvalSettings
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import command_line
from pcm_policy.optional import require
from pcm_policy.rollout.entrants import Entrant
from pcm_policy.rollout.merging import merge, read_shards
from pcm_policy.rollout.shards import Shard

_LOADED: dict[str, Entrant] = {}


def spread_out(config: EvalSettings, entrant: Entrant) -> dict[str, Any]:
    """Run the missing episodes on a Ray cluster and merge all; returns what ``eval.json`` holds.

    Args:
        config: of the evaluation, with a task that has an environment.
        entrant: who is evaluated; the processes of the cluster load it for themselves.

    Raises:
        PcmError: there is no Ray, no cluster at the address, or a task failed more often than
            ``ray.retries``; the finished episodes are kept.
    """
    if config.video_episodes:
        raise PcmError(
            "video_episodes with launcher=ray: the films would stay on the machines; film those "
            "episodes without launcher=ray into another output_dir"
        )
    ray, output = require("ray", "launcher=ray", "ray"), Path(config.output_dir)
    identity = identity_of(config, entrant)
    shards = _units(config)
    left = [shard for shard in shards if not _there(shard.file(output), identity, config)]
    if left:
        with connected(ray, config.ray, config.threads or 1):
            _run(ray, config, identity, left)
    wanted = [shard.file(output) for shard in shards]
    return written(merge([one for one in read_shards(output) if one.path in wanted]), output)


def _units(config: EvalSettings) -> list[Shard]:
    count = -(-config.episodes // config.ray.episodes)
    return [Shard(index, count, "launcher=ray") for index in range(count)]


def _there(path: Path, identity: Mapping[str, Any], config: EvalSettings) -> bool:
    """Whether a shard need not be made: its file is whole."""
    if config.overwrite or not path.exists():
        return False
    return resumed(path, identity).incomplete is None


def _run(
    ray: Any, config: EvalSettings, identity: Mapping[str, Any], shards: Sequence[Shard]
) -> None:
    """Make shards in the cluster, and write each when it is there."""
    threads, output = config.threads or 1, Path(config.output_dir)
    given = replace(config, policy=absolute(config.policy), threads=threads)
    total = sum(len(shard.numbers(config.episodes)) for shard in shards)
    made = spread(ray, make_shard, given, iter(shards), config.ray, threads, str(output))
    with tqdm(total=total, desc="launcher=ray", unit="ep", disable=None) as bar:
        for shard, found in made:
            check_same(identity, found["identity"])
            found["header"]["policy"] = str(config.policy)
            found["header"]["about"]["command"] = command_line()
            write_text(shard.file(output), to_json(found))
            bar.update(len(found["records"]))


def make_shard(config: EvalSettings, shard: Shard) -> dict[str, Any]:
    """Make a shard in a process of the cluster; returns what its file holds."""
    prepare(config.plugins, config.threads)
    calls = config.latency_calls if shard.index == 0 else 0
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        own = replace(config, output_dir=scratch, latency_calls=calls)
        return part(own, _loaded(config), shard)


def _loaded(config: EvalSettings) -> Entrant:
    """Return who is evaluated, loaded once a process for all tasks of the same settings."""
    key = to_json(plain(config))
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = entrant_of(config, plain(config.task))
    return _LOADED[key]
