"""``pcm-eval``: roll a policy out in this process, as one shard of many, or on a cluster."""

import os
from typing import Any

from pcm_policy.cli.compose import plain, writable
from pcm_policy.cli.entrants import entrant_of
from pcm_policy.cli.evaluation import part, whole
from pcm_policy.cli.settings.evaluate import EvalSettings
from pcm_policy.cli.spread import spread_out
from pcm_policy.cli.tasks import placed
from pcm_policy.errors import PcmError
from pcm_policy.files import refuse_existing
from pcm_policy.rollout.shards import shard_of


def eval_main(config: EvalSettings) -> dict[str, Any]:
    """Roll a policy out; returns what ``eval.json`` holds, or the file of a shard."""
    spread = config.launcher == "ray"
    if spread and (config.shard, config.shards) != (None, None):
        raise PcmError("launcher=ray makes all shards: leave shard and shards out")
    shard = None if spread else shard_of(os.environ, config.shard, config.shards)
    output = writable(config.output_dir)
    if shard is None:
        refuse_existing(output / "eval.json", config.overwrite)
    config = placed(config)
    entrant = entrant_of(config, plain(config.task))
    if spread:
        return spread_out(config, entrant)
    return whole(config, entrant) if shard is None else part(config, entrant, shard)
