"""A solver is a step: how the next states are proposed from the present ones."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

from pcm_policy.errors import PcmError
from pcm_policy.registry import Registry
from pcm_policy.sampling.affine import AffineSampler
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.settings import Settings
from pcm_policy.solvers.stops import Stop, Tolerance
from pcm_policy.solvers.system import Iterate, Round, System


@dataclass(frozen=True)
class Known:
    """What a policy fills in for settings that are not given.

    Attributes:
        sampler: the policy's sampler.
        train_steps: training timesteps of its noise schedule.
        method: the policy's usual solver.
        head_sampler: the sampler that its head was trained for, if there is one.
        head_rounds: rounds that the head was trained for.
        head_jacobian: whether the head keeps the base's Jacobian.
    """

    sampler: SamplerConfig
    train_steps: int
    method: str = "sequential"
    head_sampler: SamplerConfig | None = None
    head_rounds: int = 2
    head_jacobian: bool = False


@dataclass(frozen=True)
class Step(Settings, ABC):
    """One solver: a frozen dataclass whose fields are numbers and the steps that it wraps.

    A step can be hashed, compared and printed. It is its own config: its fields are the settings
    ``solver.NAME=...``. The loop carries its memory from round to round.

    Example:
        >>> from pcm_policy.solvers import Anderson, Coarse, Newton
        >>> Coarse(then=Anderson(inner=Newton())).then.memory
        2
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the policy must have for this step: ``head``, ``jacobian``."""
    limits: ClassVar[tuple[str, ...]] = ("rounds", "tolerance", "settle", "deadline_ms")
    """Settings that may end a solve with this step."""
    usual: ClassVar[Stop] = Tolerance()
    """The stop when the settings name none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(f.default, Step) and not isinstance(value, Step):
                raise PcmError(f"solver.{f.name}={value!r}: name a solver")

    @cached_property
    def wraps(self) -> tuple["Step", ...]:
        """The steps that it wraps directly."""
        values = (getattr(self, f.name) for f in fields(self))
        return tuple(value for value in values if isinstance(value, Step))

    def fitted(self, known: Known, stop: Stop, said: Collection[str]) -> "Step":
        """Return the step with defaults that fit the policy.

        Args:
            known: what the policy knows.
            stop: when the solve ends.
            said: the settings that were given; these are not changed.
        """
        return self

    def label(self, stop: Stop | None = None) -> str:
        """Return a short name: what differs from the defaults, and the stop."""
        name, details = STEPS.name(type(self)), self.details(stop)
        if stop is None:
            return name + details
        rounds = "" if stop.rounds is None else f" {stop.rounds}"
        return name + rounds + details + stop.words.format(stop)

    def details(self, stop: Stop | None) -> str:
        """Return the settings that differ from the defaults, for the label."""
        found = ""
        for f in fields(self):
            value = getattr(self, f.name)
            if value == f.default:
                continue
            values = value if isinstance(value, tuple) else (value,)
            words = [v.label() if isinstance(v, Step) else f"{v:g}" for v in values]
            found += f" {f.name} {','.join(words)}"
        return found

    def check(self, sampler: AffineSampler) -> None:
        """Say whether this step, and those that it wraps, can solve for a sampler.

        Raises:
            PcmError: it cannot.
        """
        for inner in self.wraps:
            inner.check(sampler)

    def ready(self, s: System, stop: Stop) -> System:
        """Return the system after computing once what all rounds share.

        Raises:
            PcmError: this step cannot solve the system, or not with this stop.
        """
        return self.wraps[0].ready(s, stop) if self.wraps else s.encoded()

    def init(self, s: System) -> Any:
        """Return the memory that the first round takes: tensors, nested; by default the inner's."""
        return self.wraps[0].init(s) if self.wraps else None

    def early(self) -> int | None:
        """Return how many first rounds differ from the later ones; None if all may differ.

        A runtime records each of these rounds, and one more that stands for all later ones. Later
        rounds must not depend on ``x.k`` and must evaluate all states whatever ``x.lo`` is.
        """
        return None

    @abstractmethod
    def step(self, s: System, x: Iterate, memory: Any) -> tuple[Round, Any]:
        """Return a round from the iterate ``x``, and the memory for the next one.

        It reads nothing back from the device and makes no tensor from host data, so that a
        runtime can record it.
        """


STEPS: Registry[type[Step]] = Registry("solver", Step)


def needs(step: Step) -> frozenset[str]:
    """Return all that a step and those it wraps need of the policy."""
    return step.needs.union(*(needs(inner) for inner in step.wraps))


def after(rounds: int, step: Step) -> int | None:
    """Return the early rounds of a step that comes after some rounds of another kind."""
    later = step.early()
    return None if later is None else rounds + later
