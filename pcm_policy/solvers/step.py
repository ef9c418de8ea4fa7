"""A solver is a step: how the next states are proposed from the present ones."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from pcm_policy.errors import PcmError
from pcm_policy.registry import Registry
from pcm_policy.solvers.settings import check
from pcm_policy.solvers.system import Round, System


@dataclass(frozen=True)
class Step(ABC):
    """One solver: a frozen dataclass of plain numbers and, where it wraps others, of steps.

    So it hashes, compares and prints, and is its own config: its fields are the settings that
    ``solver.NAME=...`` may give. What it remembers from round to round travels beside it.

    Example:
        >>> from pcm_policy.solvers import Anderson, Coarse, Newton
        >>> Coarse(then=Anderson(inner=Newton())).then.memory
        2
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """``head``, ``jacobian``: what the policy must have for it."""
    limits: ClassVar[frozenset[str]] = frozenset({"rounds", "tolerance", "settle", "deadline_ms"})
    """What may end a solve by it."""

    def __post_init__(self) -> None:
        check(self)
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(f.default, Step) and not isinstance(value, Step):
                raise PcmError(f"solver.{f.name}={value!r}: name a solver")

    def ready(self, s: System, stop: Any) -> System:
        """Return the system with what all rounds share computed ahead.

        Raises:
            PcmError: this step cannot solve it, or not until this stop.
        """
        inner = next(wrapped(self), None)
        return s.encoded() if inner is None else inner.ready(s, stop)

    def init(self, s: System) -> Any:
        """Return the memory that the first round takes: None, or tensors, nested."""
        return None

    def early(self) -> int | None:
        """Return how many first rounds are unlike later ones; None, unless said, for all.

        A runtime records each of them, and the later ones, which must not depend on ``x.k`` and
        evaluate all states whatever ``x.lo``, once.
        """
        return None

    @abstractmethod
    def step(self, s: System, x: Any, memory: Any) -> tuple[Round, Any]:
        """Return a round from the iterate ``x``, and the memory for the next one.

        It reads nothing back from the device and makes no tensor from host data, so that a
        runtime can record it.
        """


STEPS: Registry[type[Step]] = Registry("solver")


def wrapped(step: Step) -> Iterator[Step]:
    """Yield the steps that a step wraps directly."""
    values = (getattr(step, f.name) for f in fields(step))
    return (value for value in values if isinstance(value, Step))


def needs(step: Step) -> frozenset[str]:
    """Return all that a step and those it wraps need of the policy."""
    return step.needs.union(*(needs(inner) for inner in wrapped(step)))


def after(rounds: int, step: Step) -> int | None:
    """Return the early rounds of a step that comes after some rounds of another kind."""
    later = step.early()
    return None if later is None else rounds + later
