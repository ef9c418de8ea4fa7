"""What ``/metrics`` shows: the server's health as Prometheus reads it, text format 0.0.4."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Samples = Sequence[tuple[Mapping[str, str], float]]
"""Labels and value of each."""


@dataclass(frozen=True)
class Family:
    """A metric.

    Attributes:
        name: without its prefix.
        kind: ``gauge`` or ``counter``.
        about: what it is.
        samples: its values.
    """

    name: str
    kind: str
    about: str
    samples: Samples


def metrics(health: Mapping[str, Any], solver: str, cost_ms: Mapping[int, float]) -> str:
    """Return the metrics of a server of one process.

    Args:
        health: what ``/healthz`` shows.
        solver: its label.
        cost_ms: milliseconds of a solve by batch size, as they were measured at the start.
    """
    return written(families(health, solver, cost_ms))


def families(health: Mapping[str, Any], solver: str, cost_ms: Mapping[int, float]) -> list[Family]:
    """Return the metrics of one process, as :func:`metrics` takes them."""
    drains = float(health["status"] == "draining")
    names = {"policy": health["policy"], "solver": solver}
    errors = [({"code": code}, count) for code, count in sorted(health["errors"].items())]
    costs = [({"batch": str(size)}, ms / 1e3) for size, ms in sorted(cost_ms.items())]
    found = [
        Family("info", "gauge", "What is served.", [(names, 1)]),
        Family("uptime_seconds", "gauge", "Time since the start.", [({}, health["uptime_s"])]),
        Family("draining", "gauge", "Whether new clients are refused until the end.",
               [({}, drains)]),
        Family("clients", "gauge", "Connections.", [({}, health["clients"])]),
        Family("plans_total", "counter", "Requests that were answered by a plan.",
               [({}, health["plans"])]),
        Family("errors_total", "counter", "Refusals and errors, by code.", errors),
        Family("solve_seconds", "gauge", "A solve, by batch size, measured at the start.", costs),
    ]  # fmt: skip
    if "frames" in health:
        frames = health["frames"]
        counts = [({"fate": fate}, frames[fate]) for fate in ("seen", "dropped", "late")]
        found.append(Family("frames_total", "counter", "Frames of cameras, by fate.", counts))
    return found


def labelled(found: Sequence[Family], **labels: str) -> list[Family]:
    """Return metrics whose samples have further labels."""
    return [
        replace(one, samples=[(labels | dict(own), value) for own, value in one.samples])
        for one in found
    ]


def merged(*parts: Sequence[Family]) -> list[Family]:
    """Return each metric once, with the samples of all parts."""
    found: dict[str, Family] = {}
    for family in (family for part in parts for family in part):
        there = found.get(family.name)
        samples = [*(there.samples if there else ()), *family.samples]
        found[family.name] = replace(family, samples=samples)
    return list(found.values())


def written(found: Sequence[Family]) -> str:
    """Return metrics as text."""
    return "".join(_text(family) for family in found)


def _text(family: Family) -> str:
    full = f"pcm_serve_{family.name}"
    lines = [f"# HELP {full} {family.about}", f"# TYPE {full} {family.kind}"]
    lines += [f"{full}{_labels(labels)} {value}" for labels, value in family.samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
