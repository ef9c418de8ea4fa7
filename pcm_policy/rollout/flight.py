"""What controllers did in the episodes of a latency-aware evaluation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pcm_policy.measure.statistics import percentiles
from pcm_policy.rollout.seams import SeamMetrics, SeamSums, seam_metrics

KEPT_LATENCIES = 100_000


@dataclass(frozen=True)
class Flight:
    """What the controller of one episode did.

    Attributes:
        counts: ticks, requests, plans, misses, fallbacks.
        seams: how smooth the commands were.
        latencies_ms: of its plans.
        rounds: of its solves.
        encodes_ms: how long encoding each frame took; empty without cameras.
    """

    counts: dict[str, int]
    seams: SeamSums
    latencies_ms: Sequence[float]
    rounds: Sequence[int]
    encodes_ms: Sequence[float] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> "Flight":
        """Return what :meth:`to_json` wrote down."""
        return cls(**found | {"seams": SeamSums(**found["seams"])})


@dataclass(frozen=True)
class ControlOutcome:
    """What the controllers of some episodes did.

    Attributes:
        counts: of all together: ticks, requests, plans, misses, fallbacks.
        seams: how smooth the commands were.
        latencies_ms: of all plans, episode by episode; at most the first 100 000.
        rounds: mean rounds of a solve; None if there was none.
        encode_ms: percentiles of the time that encoding one frame took; None without cameras.
    """

    counts: dict[str, int]
    seams: SeamMetrics
    latencies_ms: tuple[float, ...]
    rounds: float | None
    encode_ms: dict[str, float] | None = None

    @classmethod
    def of(cls, flights: Sequence[Flight]) -> "ControlOutcome":
        """Summarise episodes: the same for the same ones in this order, wherever each was flown."""
        counts, rounds = Counter[str](), [r for each in flights for r in each.rounds]
        encodes = [ms for each in flights for ms in each.encodes_ms]
        for each in flights:
            counts.update(each.counts)
        return cls(
            counts=dict(counts),
            seams=seam_metrics([each.seams for each in flights]),
            latencies_ms=tuple(ms for f in flights for ms in f.latencies_ms)[:KEPT_LATENCIES],
            rounds=float(np.mean(rounds)) if rounds else None,
            encode_ms=percentiles(encodes) if encodes else None,
        )

    @property
    def miss_rate(self) -> float:
        """Share of the ticks in which a plan was due and not there."""
        return self.counts.get("misses", 0) / max(self.counts.get("ticks", 0), 1)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "rounds": self.rounds,
            "encode_ms": self.encode_ms,
            "counts": self.counts,
            "miss_rate": self.miss_rate,
            "seams": self.seams.to_json(),
        }
