"""What values of a recording look wrong: each check takes arrays and yields findings."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import place
from pcm_policy.datasets.findings import Finding, Values

_OUTLIER = 1.0  # distance outside the 0.1 to 99.9 percentile range, over the width of that range
_JUMP = 4.0  # a step over the 99th percentile of steps; human Push-T stays below 2.1
_REPEATS = 0.05  # share of steps on which nothing at all changes
_LAGS = range(-5, 11)  # steps
_FINEST = 1000  # steps of float32 that a column's range should hold at least
NEARLY = 1e-4  # a range below this is hardly any, whatever the unit


def ranges(name: str, values: Values, ends: NDArray[np.int64] | None) -> Iterator[Finding]:
    """Constant columns and far outliers."""
    constant = np.flatnonzero(np.ptp(values, axis=0) == 0)
    if constant.size:
        found = f"{name}: columns {_few(constant)} of {values.shape[1]} never change"
        yield Finding("warning", "constant", found, "leave them out: they cannot be normalised")
    # Whole order statistics, so that the one outlier of a short recording cannot widen the range.
    low = np.percentile(values, 0.1, axis=0, method="higher")
    high = np.percentile(values, 99.9, axis=0, method="lower")
    outside = np.maximum(values - high, low - values)
    rows, columns = np.nonzero(outside > np.where(high > low, _OUTLIER * (high - low), np.inf))
    if rows.size:
        worst = int(outside[rows, columns].argmax())
        row, column = rows[worst], columns[worst]
        found = f"{name}: {rows.size} values lie far outside the range of the others, farthest "
        found += f"{values[row, column]:g} in column {column} at {place(row, ends)}, where 99.8% "
        found += f"lie in {low[column]:g} to {high[column]:g}"
        yield Finding("warning", "range", found, "repair or drop them: they squeeze min-max ranges")


def precision(name: str, values: Values) -> Iterator[Finding]:
    """Columns whose changes float32 can hardly hold, and columns that hardly change.

    Policies compute in float32: of positions of 5.4 million it keeps halves.
    """
    if not len(values):
        return
    span = np.ptp(values, axis=0)
    step = np.spacing(np.abs(values).max(axis=0).astype(np.float32)).astype(np.float64)
    coarse = np.flatnonzero((span > 0) & (span < _FINEST * step))
    if coarse.size:
        column = coarse[(span[coarse] / step[coarse]).argmin()]
        found = f"{name}: float32 leaves fewer than {_FINEST} steps of the range of columns "
        found += f"{_few(coarse)}: {span[column] / step[column]:.0f} of column {column}, whose "
        found += f"values are near {values[:, column].mean():g}"
        yield Finding("warning", "precision", found, "subtract an origin before it is written")
    nearly = np.flatnonzero((span > 0) & (span < NEARLY) & (span >= _FINEST * step))
    if nearly.size:
        column = nearly[span[nearly].argmin()]
        found = f"{name}: columns {_few(nearly)} hardly change, column {column} by "
        found += f"{span[column]:.2g}"
        fix = "leave them out if that is noise; use a smaller unit if it is the signal"
        yield Finding("warning", "constant", found, fix)


def short_episodes(ends: NDArray[np.int64], min_steps: int) -> Iterator[Finding]:
    """Episodes that give no window of ``min_steps`` steps, or are far shorter than the others."""
    lengths = np.diff(ends, prepend=0)
    none = np.flatnonzero(lengths < min_steps)
    if none.size:
        found = f"{none.size} of {len(lengths)} episodes have fewer than {min_steps} steps and "
        found += f"give no window: {_few(none)}"
        fix = "drop them if they are false starts, or train with a shorter horizon"
        yield Finding("error" if none.size == len(lengths) else "warning", "short", found, fix)
    median = float(np.median(lengths))
    short = np.flatnonzero((lengths < median / 10) & (lengths >= min_steps))
    if short.size:
        found = f"{short.size} of {len(lengths)} episodes have under a tenth of the median "
        found += f"{median:g} steps: {_few(short)}"
        yield Finding("warning", "short", found, "drop them if they are false starts")


def _within(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that have a successor in their episode."""
    return np.setdiff1d(np.arange(ends[-1]), ends - 1)


def repeats(signals: list[Values], ends: NDArray[np.int64]) -> Iterator[Finding]:
    """Steps on which no signal changes, when there are many."""
    rows = _within(ends)
    if not signals or not rows.size:
        return
    same = np.logical_and.reduce([(x[rows + 1] == x[rows]).all(axis=1) for x in signals])
    if same.mean() > _REPEATS:
        found = f"{same.mean():.0%} of steps repeat the one before in every array, first at "
        found += place(int(rows[same][0]) + 1, ends)
        fix = "drop idle or doubled frames, or check the recording rate"
        yield Finding("warning", "repeats", found, fix)


def jumps(name: str, values: Values, ends: NDArray[np.int64]) -> Iterator[Finding]:
    """Steps many times the usual one; columns count by their range, so units do not matter."""
    rows = _within(ends)
    span = np.ptp(values, axis=0)
    if not rows.size or not span.any():
        return
    change = (values[rows + 1] - values[rows]) / np.where(span > 0, span, 1)
    step = np.sqrt((change**2).sum(axis=1))
    usual = float(np.percentile(step, 99, method="lower"))
    far = np.flatnonzero(step > _JUMP * usual) if usual else np.empty(0, dtype=np.int64)
    if far.size:
        worst = far[step[far].argmax()]
        found = f"{name}: {far.size} jumps within episodes, the largest before "
        found += f"{place(int(rows[worst]) + 1, ends)}: {step[worst] / usual:.0f} times the 99th "
        found += f"percentile of steps, most of it in column {np.abs(change[worst]).argmax()}"
        fix = "if an episode ends there, add its end; if an angle wraps, use its sine and cosine"
        yield Finding("warning", "jumps", found, fix)


def alignment(
    action: Values, position: Values, name: str, ends: NDArray[np.int64]
) -> Iterator[Finding]:
    """Find the lag at which positions match actions best: absolute targets come first."""
    if action.shape != position.shape:
        found = f"{name} has {position.shape[1]} columns, the action {action.shape[1]}"
        yield Finding("error", "alignment", found, "name the columns that the action sets")
        return
    episode = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    error: dict[int, float] = {}
    for lag in _LAGS:
        rows = np.arange(max(0, -lag), min(len(action), len(action) - lag))
        rows = rows[episode[rows] == episode[rows + lag]]
        if rows.size:
            error[lag] = float(((action[rows] - position[rows + lag]) ** 2).sum(axis=1).mean())
    spread = float(position.var(axis=0).sum())
    if not error or not spread:
        return
    best = min(error, key=error.__getitem__)
    if error[best] > spread / 2:
        found = f"the action matches {name} at no lag of {_LAGS.start} to {_LAGS.stop - 1} steps"
        fix = "check units and columns; give no position if the action is no absolute target"
        yield Finding("warning", "alignment", found, fix)
    elif best > 0:
        yield Finding("note", "alignment", f"{name} follows the action at a lag of {best}", "")
    else:
        found = f"the action matches {name} at a lag of {best}: it is recorded late, or is the "
        found += "position itself"
        fix = f"shift the actions {1 - best} or more steps earlier within each episode"
        yield Finding("error" if best < 0 else "warning", "alignment", found, fix)


def _few(numbers: NDArray[np.int64]) -> str:
    """Write the first five numbers of a list."""
    return ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "")
