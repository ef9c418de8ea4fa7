"""What the tuner is asked for, and which candidate that chooses."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pcm_policy.errors import PcmError
from pcm_policy.measure.candidates import Candidate
from pcm_policy.solvers.registry import Solver

Closeness = Callable[[Solver], tuple[float, float, float]]
"""Paired difference of a solver's score to the reference's: mean, lower and upper end."""
Choice = tuple[Candidate, str, list[Candidate]]
"""The choice, a sentence that explains it, and the candidates with what was found out."""
SLACK = 3.0
"""No runtime makes a solver more than so many times faster than the first runtime does."""


@dataclass(frozen=True)
class Target(ABC):
    """What is asked for: a number, in the units of the setting that gives it."""

    name: ClassVar[str]
    """The setting."""
    wanted: float

    def rank(self, candidate: Candidate) -> float:
        """Return a key: candidates that may win are tried in this order in a further runtime."""
        return candidate.times_ms["p50"]

    @abstractmethod
    def hopeful(self, candidate: Candidate, known: Sequence[Candidate]) -> bool:
        """Whether a candidate, ``SLACK`` times faster, may be chosen before those that are known.

        Args:
            candidate: as measured in the first runtime.
            known: in all runtimes, this one too.
        """

    @abstractmethod
    def choose(self, candidates: Sequence[Candidate], closeness: Closeness | None = None) -> Choice:
        """Pick a candidate.

        Args:
            candidates: as measured.
            closeness: scores a solver in closed loop.

        Raises:
            PcmError: no candidate reaches the target.
        """


class Deadline(Target):
    """The smallest error among those whose p95 is within so many milliseconds."""

    name = "deadline_ms"

    def rank(self, candidate: Candidate) -> float:
        """Return the error: the first that keeps the deadline ends the search."""
        return candidate.rmse

    def hopeful(self, candidate: Candidate, known: Sequence[Candidate]) -> bool:
        """Whether it may keep the deadline with a smaller error."""
        reached = min((k.rmse for k in self._fit(known)), default=float("inf"))
        soon = candidate.times_ms["p50"] <= SLACK * self.wanted
        return soon and candidate.rmse < reached

    def _fit(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        return [c for c in candidates if c.times_ms["p95"] <= self.wanted]

    def choose(self, candidates: Sequence[Candidate], closeness: Closeness | None = None) -> Choice:
        """Pick the smallest error, of equal ones the fastest."""
        fit = self._fit(candidates)
        if not fit:
            fastest = min(candidates, key=lambda c: c.times_ms["p50"])
            raise PcmError(
                f"nothing keeps deadline_ms={self.wanted:g}: the fastest, {fastest.label}, takes "
                f"{fastest.times_ms['p95']:.2f} ms (p95) on this device"
            )
        best = min(fit, key=lambda c: (c.rmse, c.times_ms["p50"]))
        why = f"the smallest error of the {len(fit)} candidates with p95 within {self.wanted:g} ms"
        return best, why, list(candidates)


class Error(Target):
    """The fastest whose mean RMSE to the sequential chunk is at most this, in normalised units."""

    name = "error"

    def hopeful(self, candidate: Candidate, known: Sequence[Candidate]) -> bool:
        """Whether it is close enough and may be the fastest."""
        fastest = min((k.times_ms["p50"] for k in self._fit(known)), default=float("inf"))
        return candidate.rmse <= self.wanted and candidate.times_ms["p50"] < SLACK * fastest

    def _fit(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        return [c for c in candidates if c.rmse <= self.wanted]

    def choose(self, candidates: Sequence[Candidate], closeness: Closeness | None = None) -> Choice:
        """Pick the fastest; the reference itself has error zero."""
        fit = self._fit(candidates)
        best = min(fit, key=lambda c: c.times_ms["p50"])
        why = f"the fastest of the {len(fit)} candidates with mean RMSE within {self.wanted:g}"
        return best, why, list(candidates)


class ScoreWithin(Target):
    """The fastest whose closed-loop score equals the reference's.

    The paired 95 % interval of the difference lies within plus or minus this.
    """

    name = "score_within"

    def hopeful(self, candidate: Candidate, known: Sequence[Candidate]) -> bool:
        """Whether none that is no less accurate is faster."""
        p50 = candidate.times_ms["p50"]
        return not any(k.rmse <= candidate.rmse and SLACK * k.times_ms["p50"] < p50 for k in known)

    def choose(self, candidates: Sequence[Candidate], closeness: Closeness | None = None) -> Choice:
        """Score the candidates from the fastest on, until one is equal."""
        assert closeness is not None
        looked: dict[Solver, tuple[float, float, float]] = {}
        for candidate in sorted(candidates, key=lambda c: c.times_ms["p50"]):
            if candidate.solver not in looked:
                looked[candidate.solver] = closeness(candidate.solver)
            mean, low, high = looked[candidate.solver]
            if -self.wanted <= low and high <= self.wanted:
                known = [replace(c, score_difference=looked.get(c.solver)) for c in candidates]
                why = (
                    f"the fastest whose score equals the reference's: difference {mean:+.3f} "
                    f"[{low:+.3f}, {high:+.3f}], within {self.wanted:g}; {len(looked) - 1} "
                    "faster ones are not shown to be equal"
                )
                return replace(candidate, score_difference=looked[candidate.solver]), why, known
        raise PcmError(
            f"no candidate's score is shown to be within {self.wanted:g} of the reference's: "
            "use more episodes"
        )


TARGETS = (Deadline, Error, ScoreWithin)


def target_of(**given: float | None) -> Target:
    """Return the target of the one setting that is given.

    Raises:
        PcmError: none is, several are, or the number is not above zero.
    """
    found = {name: value for name, value in given.items() if value is not None}
    if len(found) != 1 or next(iter(found.values())) <= 0:
        known = ", ".join(kind.name for kind in TARGETS)
        raise PcmError(f"give exactly one of {known}, above zero")
    ((name, value),) = found.items()
    return next(kind(value) for kind in TARGETS if kind.name == name)
