"""Rows of a study in all processes of a Ray cluster.

A task is a row: its episodes are solved side by side, so that it is the same bits as in one
process. The driver writes the files of rows, and the same command goes on from those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.study.rows import described_row, row_file, run_row
from pcm_policy.cli.cluster import check_same, connected, prepare, spread
from pcm_policy.cli.settings.evaluate import RaySettings
from pcm_policy.files import to_json, write_text
from pcm_policy.optional import require
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver

_LOADED: dict[tuple[str, ...], list[DiffusionPolicy]] = {}


@dataclass(frozen=True, eq=False)
class Setting:
    """What every row needs; it is sent to each machine once.

    Attributes:
        policies: folders of the policy, and of its consistency model if there is one.
        observations: ``(n, To, Do)`` that the policy is calibrated on.
        sampler: the sampler that it is calibrated for.
        episodes: of a row.
        seed: of the first one.
        threads: of a task.
    """

    policies: tuple[str, ...]
    observations: Tensor
    sampler: SamplerConfig
    episodes: int
    seed: int
    threads: int


@dataclass(frozen=True)
class Task:
    """A row to be played.

    Attributes:
        name: of the row.
        model: place of its policy among those of the setting.
        solver: how it is solved.
    """

    name: str
    model: int
    solver: Solver

    def __str__(self) -> str:
        return f"row {self.name}"


def play_rows(
    setting: Setting,
    models: Sequence[DiffusionPolicy],
    tasks: Sequence[Task],
    kept: Path,
    address: str,
) -> None:
    """Play the rows that have no file yet, in a Ray cluster.

    Args:
        setting: what the processes of the cluster load.
        models: the same policies here, which name the files.
        tasks: the rows.
        kept: folder of the files.
        address: of the cluster; ``local`` for a Ray in the cores of this machine.

    Raises:
        PcmError: no cluster, or a row failed; those that were played are kept.
    """
    ray, settings = require("ray", "--ray", "ray"), RaySettings(address=_address(address))
    wanted = {
        task: described_row(models[task.model], task.solver, setting.episodes, setting.seed)
        for task in tasks
    }
    missing = [task for task in tasks if not row_file(kept, wanted[task]).exists()]
    if not missing:
        return
    with connected(ray, settings, setting.threads):
        played = spread(ray, play_row, setting, iter(missing), settings, setting.threads, str(kept))
        for task, found in played:
            check_same(wanted[task], found["what"])
            write_text(row_file(kept, wanted[task]), to_json(wanted[task] | found["outcome"]))
            print(f"{task} was played", flush=True)


def play_row(setting: Setting, task: Task) -> dict[str, Any]:
    """Play a row in a process of the cluster; returns what it is, and its outcome."""
    prepare((), setting.threads)
    policy = _loaded(setting)[task.model]
    what = described_row(policy, task.solver, setting.episodes, setting.seed)
    return {"what": what, "outcome": run_row(policy, task.solver, setting.episodes, setting.seed)}


def _loaded(setting: Setting) -> list[DiffusionPolicy]:
    """Return the policies, loaded once a process; the first one is calibrated."""
    if setting.policies not in _LOADED:
        _LOADED.clear()
        found = [DiffusionPolicy.from_pretrained(path) for path in setting.policies]
        found[0].calibrate(torch.as_tensor(setting.observations), setting.sampler)
        _LOADED[setting.policies] = found
    return _LOADED[setting.policies]


def _address(given: str) -> str | None:
    return None if given == "local" else given
