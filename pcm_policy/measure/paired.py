"""Two evaluations side by side, episode by episode: the same seeds have the same episodes."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.errors import PcmError
from pcm_policy.files import read_json
from pcm_policy.measure.evaluations import Report
from pcm_policy.measure.statistics import paired_difference_interval

NAMED = ("policy", "weights", "solver", "control", "latency", "runtime", "commit")
"""What may differ between the two and is named where it does."""


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
    """Return score and success (0 or 1) of every episode, by its seed; NaN for what it lacks.

    As in ``eval.json``'s own means, an episode that ended before its first reward has no score and
    is no success, and none has a success where the environment never reports one.

    Raises:
        KeyError: an entry is missing.
        TypeError: an entry is of another kind.
        ValueError: a seed stands there twice.
    """
    episodes, nan = report["episodes"], float("nan")
    scores = [nan if one["score"] is None else float(one["score"]) for one in episodes]
    missing = nan if all(one["success"] is None for one in episodes) else 0.0
    won = [missing if one["success"] is None else float(one["success"]) for one in episodes]
    seeds = [int(one["seed"]) for one in episodes]
    found = dict(zip(seeds, zip(scores, won, strict=True), strict=True))
    if len(found) != len(episodes):
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
        its paired 95 % interval over the ``pairs`` that have it on both sides, None if none has;
        ``better``, ``worse`` and ``equal``, which count episodes by their scores.

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


def _difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> dict[str, Any] | None:
    known = np.isfinite(a) & np.isfinite(b)
    if not known.any():
        return None
    a, b = a[known], b[known]
    return {
        "pairs": len(a),
        "first": float(a.mean()),
        "second": float(b.mean()),
        "difference": float((b - a).mean()),
        "ci95": list(paired_difference_interval(b, a)),
    }
