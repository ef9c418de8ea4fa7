"""Two evaluations side by side, episode by episode: the same seeds have the same episodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.errors import PcmError
from pcm_policy.files import read_json
from pcm_policy.measure.statistics import paired_difference_interval

NAMED = ("policy", "weights", "solver", "control", "latency", "runtime", "commit")
"""What may differ between the two and is named where it does."""
Report = Mapping[str, Any]


def read_evaluation(path: Path) -> Report:
    """Return what an ``eval.json`` holds.

    Args:
        path: the file, or the folder that it is in.

    Raises:
        PcmError: there is none, or it is not one.
    """
    file = path / "eval.json" if path.is_dir() else path
    if not file.is_file():
        raise PcmError(f"{file}: no such file: name the output_dir of a pcm-eval, or its eval.json")
    found = read_json(file)
    try:
        outcomes(found)
        str(found["task"]), found["solver"]["label"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise PcmError(
            f"{file}: {error!r}: this is no eval.json of pcm-eval, which has task, solver and "
            "episodes with seed, score and success"
        ) from error
    return found  # type: ignore[no-any-return]


def outcomes(report: Report) -> dict[int, tuple[float, float]]:
    """Return score and success (0 or 1) of every episode, by its seed.

    Raises:
        KeyError: an entry is missing.
        TypeError: an entry is of another kind.
        ValueError: a seed stands there twice.
    """
    found = {
        int(one["seed"]): (float(one["score"]), float(one["success"])) for one in report["episodes"]
    }
    if len(found) != len(report["episodes"]):
        raise ValueError("a seed is there twice")
    return found


def compare(first: Report, second: Report) -> dict[str, Any]:
    """Return how the second evaluation differs from the first, over the seeds of both.

    Args:
        first: what an ``eval.json`` holds.
        second: the same of another one.

    Returns:
        ``pairs``; ``left_out``, how many seeds only one of the two has; ``differ``, what else
        differs; ``score`` and ``success``, each with both means, the mean of second - first and
        its paired 95 % interval; ``better``, ``worse`` and ``equal``, which count episodes by
        their scores.

    Raises:
        PcmError: they are of two tasks, or have no seed in common.
    """
    if first["task"] != second["task"]:
        raise PcmError(
            f"one is of task {first['task']}, the other of {second['task']}: their scores are of "
            "two scales"
        )
    one, other = outcomes(first), outcomes(second)
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        raise PcmError(
            f"no seed is in both (one begins at {min(one, default=None)}, the other at "
            f"{min(other, default=None)}): run both with the same seed"
        )
    a, b = (np.array([found[seed] for seed in seeds]) for found in (one, other))
    return {
        "pairs": len(seeds),
        "left_out": len(one.keys() ^ other.keys()),
        "differ": [key for key in NAMED if first.get(key) != second.get(key)],
        "score": _difference(a[:, 0], b[:, 0]),
        "success": _difference(a[:, 1], b[:, 1]),
        "better": int((b[:, 0] > a[:, 0]).sum()),
        "worse": int((b[:, 0] < a[:, 0]).sum()),
        "equal": int((b[:, 0] == a[:, 0]).sum()),
    }


def _difference(a: Any, b: Any) -> dict[str, Any]:
    return {
        "first": float(a.mean()),
        "second": float(b.mean()),
        "difference": float((b - a).mean()),
        "ci95": list(paired_difference_interval(b, a)),
    }
