"""What is kept of a finished episode, and what several of them say together.

A record is a function of its episode alone and survives JSON unchanged. Everything that
``eval.json`` says of episodes is computed from records in the order of their numbers, so that it is
the same bits whether they were made by one process or gathered from many machines.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.rollout.episodes import Run
from pcm_policy.rollout.flight import ControlOutcome, Flight
from pcm_policy.rollout.outcomes import EpisodeOutcome, outcomes

NOT_CONTROLLED: dict[str, Any] = {
    "encode_ms": None,
    "counts": None,
    "miss_rate": None,
    "seams": None,
    "latencies_ms": None,
}


@dataclass(frozen=True)
class Record:
    """One finished episode.

    Attributes:
        index: number of the episode, from 0.
        outcome: how it went.
        solves: number of its plans.
        rounds: of all its plans together.
        nfe: network evaluations of all its plans together; None where they are not known.
        flight: what its controller did; None without one.
    """

    index: int
    outcome: EpisodeOutcome
    solves: int
    rounds: float
    nfe: float | None
    flight: Flight | None = None

    @classmethod
    def of(cls, run: Run, flight: Flight | None = None) -> "Record":
        """Return the record of an episode that is over."""
        rounds = sum(each for each, _ in run.solves)
        known = [nfe for _, nfe in run.solves if nfe is not None]
        nfe = sum(known) if len(known) == len(run.solves) else None
        return cls(run.index, outcomes([run])[0], len(run.solves), rounds, nfe, flight)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        work = {"solves": self.solves, "rounds": self.rounds, "nfe": self.nfe}
        flight = {} if self.flight is None else {"flight": self.flight.to_json()}
        return {"index": self.index, **self.outcome.to_json(), **work, **flight}

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> "Record":
        """Return what :meth:`to_json` wrote down.

        Raises:
            KeyError: an entry is missing.
            TypeError: an entry is of another kind.
        """
        outcome = EpisodeOutcome(
            found["seed"], found["score"], found["success"], found["steps"], found.get("fault")
        )
        work = (found["solves"], found["rounds"], found["nfe"])
        flight = found.get("flight")
        flown = None if flight is None else Flight.of_json(flight)
        return cls(found["index"], outcome, *work, flown)


def say_ended(records: Sequence[Record]) -> None:
    """Say which episodes were ended early."""
    if text := _ended(records):
        print(text, file=sys.stderr)


def check_ended(records: Sequence[Record]) -> None:
    """Say which episodes were ended early.

    Raises:
        PcmError: all of them were.
    """
    if all(record.outcome.fault is not None for record in records):
        raise PcmError(_ended(records))
    say_ended(records)


def _ended(records: Sequence[Record]) -> str:
    ended = [record.outcome for record in records if record.outcome.fault is not None]
    if not ended:
        return ""
    where = f"seed {ended[0].seed}, {ended[0].fault}"
    return f"{len(ended)} of {len(records)} episodes were ended early, the first at {where}"


def work_of(records: Sequence[Record]) -> dict[str, Any]:
    """Return what episodes took and what their controllers did, as ``eval.json`` holds it.

    Args:
        records: at least one, in the order of their numbers.
    """
    flights = [record.flight for record in records if record.flight is not None]
    if flights:
        outcome = ControlOutcome.of(flights)
        found = {"rounds": outcome.rounds, "nfe": None, **outcome.to_json()}
        return found | {"latencies_ms": list(outcome.latencies_ms)}
    solves = sum(record.solves for record in records)
    rounds = sum(record.rounds for record in records)
    nfes = [record.nfe for record in records if record.nfe is not None]
    known = solves and len(nfes) == len(records)
    return {
        "rounds": rounds / solves if solves else None,
        "nfe": sum(nfes) / solves if known else None,
    } | NOT_CONTROLLED
