"""The ``latency`` section: how long solves take in a simulation."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pcm_policy.settings import (
    GIVE,
    Natural,
    NonNegative,
    Options,
    Positive,
    described,
    plain,
    read,
    value,
)

Kind = Literal["none", "fixed", "steps", "lognormal", "measured", "trace"]


@dataclass(frozen=True)
class NoLatency:
    """The simulator waits for the policy, and no time passes."""


@dataclass(frozen=True)
class Fixed:
    """Every solve takes the same time.

    Attributes:
        ms: fixed: milliseconds of every solve
    """

    ms: NonNegative


@dataclass(frozen=True)
class Steps:
    """Every solve takes so many control steps.

    Attributes:
        steps: steps: control steps that every solve takes
    """

    steps: Natural


@dataclass(frozen=True)
class Lognormal:
    """Drawn for every solve by seed and tick.

    Attributes:
        median_ms: lognormal: median
        p95_ms: lognormal: 95th percentile
    """

    median_ms: Positive
    p95_ms: Positive


@dataclass(frozen=True)
class Measured:
    """What every solve really takes on this machine.

    Attributes:
        factor: measured: of a slower or faster machine
        extra_ms: measured: of a network
    """

    factor: Positive = 1.0
    extra_ms: NonNegative = 0.0


@dataclass(frozen=True)
class Trace:
    """A recorded trace.

    Attributes:
        path: trace: a JSON list of milliseconds, or a file that pcm-eval latency=measured wrote
    """

    path: str


KINDS: dict[str, type] = {
    "none": NoLatency,
    "fixed": Fixed,
    "steps": Steps,
    "lognormal": Lognormal,
    "measured": Measured,
    "trace": Trace,
}


def known() -> dict[str, tuple[Any, str]]:
    """Return the settings of all kinds: what each takes, and what it is for."""
    found: dict[str, tuple[Any, str]] = {"kind": (Kind | None, "how long solves take")}
    for kind in KINDS.values():
        hints, texts = get_type_hints(kind, include_extras=True), described(kind)
        found |= {f.name: (hints[f.name] | None, texts[f.name]) for f in fields(kind)}
    return found


def read_latency(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Check a latency by its kind; the result has ``kind`` and the settings of that kind.

    Raises:
        PcmError: an unknown kind, a setting that it does not have, or a value out of range.
    """
    said = {key: one for key, one in given.items() if one is not None and one != GIVE}
    kind = value(Kind, said.pop("kind", "none"), f"{name}.kind")
    return {"kind": kind, **plain(read(KINDS[kind], said, name))}


LatencySection = Annotated[Mapping[str, Any], Options(read_latency, known)]
assert set(KINDS) == set(get_args(Kind))
