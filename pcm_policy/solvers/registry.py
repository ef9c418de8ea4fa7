"""What ``solver=...`` means: :func:`read` alone reads it, :func:`flat` alone writes it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

from pcm_policy.checks import LARGEST
from pcm_policy.errors import PcmError
from pcm_policy.sampling.samplers import SamplerConfig, chosen_sampler
from pcm_policy.solvers.deadline import Deadline, synchronize
from pcm_policy.solvers.loop import solve
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.settings import Settings, setting
from pcm_policy.solvers.step import STEPS, Known, Step, needs
from pcm_policy.solvers.stops import Rounds, Settle, Stop, Tolerance
from pcm_policy.solvers.system import Iterate, System

ENDS: dict[str, tuple[type[Stop], str]] = {
    "tolerance": (Tolerance, "error"),
    "settle": (Settle, "level"),
    "rounds": (Rounds, "rounds"),
}
"""Settings that end a solve, with their stop and its field; the first one given decides."""
SAMPLER = {"sampler": "name"} | {f.name: f.name for f in fields(SamplerConfig) if f.name != "name"}


@dataclass(frozen=True)
class Solver(Settings):
    """Which chunk is wanted, how its rounds are made, and when they end.

    Attributes:
        step: how each round is made.
        stop: when they end.
        sampler: the sampler whose chunk is wanted. None stands for the policy's own sampler, or for
            its head's if the step uses the head.
        deadline_ms: the solve ends when another round would exceed this many milliseconds; the
            result is the best chunk so far.

    Example:
        >>> from pcm_policy.solvers import PCM, Tolerance
        >>> Solver(PCM(), Tolerance(error=1e-3), SamplerConfig("ddim", 16)).label
        'pcm tol 0.001 (ddim-16)'
    """

    step: Step
    stop: Stop = Rounds()
    sampler: SamplerConfig = None  # type: ignore[assignment]
    deadline_ms: float | None = setting(None, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("step", Step), ("stop", Rounds)):
            if not isinstance(getattr(self, name), kind):
                raise PcmError(f"solver.{name}={getattr(self, name)!r}: give a {kind.__name__}")

    @classmethod
    def of(cls, method: str, sampler: SamplerConfig | None = None, **settings: Any) -> "Solver":
        """Build a solver of a sampler from a step's name and settings, as :func:`read` takes them.

        A head is used in every fixed round, unless ``shares`` says otherwise.
        """
        own = SamplerConfig() if sampler is None else sampler
        known = Known(own, own.steps, head_sampler=own, head_rounds=LARGEST)
        found = read({"method": method, **settings}, known)
        return cls(found.step, found.stop, sampler and found.sampler, found.deadline_ms)  # type: ignore[arg-type]

    @property
    def method(self) -> str:
        """Name of the outermost step."""
        return STEPS.name(type(self.step))

    @property
    def tolerance(self) -> float | None:
        """The certified error that it ends at, if it does."""
        return self.stop.error if isinstance(self.stop, Tolerance) else None

    @cached_property
    def uses_head(self) -> bool:
        """Whether a PCM head is needed."""
        return "head" in needs(self.step)

    @property
    def label(self) -> str:
        """Short name for tables, such as ``pcm 2 (ddim-16)``."""
        sampler = "" if self.sampler is None else self.sampler.label
        how = self.step.label(self.stop)
        how += "" if self.deadline_ms is None else f" {self.deadline_ms:g} ms"
        return f"{how} ({sampler})" if self.step.limits else sampler

    def __call__(self, s: System, x: Iterate) -> SolveResult:
        """Solve a system from its first iterate, eagerly."""
        if self.deadline_ms is None:
            return solve(s, x, self.step, self.stop)
        late = Deadline(self.deadline_ms, partial(synchronize, s.F.device))
        return solve(s, x, self.step, self.stop, late)


def read(values: Mapping[str, Any], known: Known) -> Solver:
    """Build a solver from flat settings, as the command line gives them.

    ``method`` names the step. Beside it stand the settings of the step, of the steps that it wraps,
    of the stop and of the sampler (``sampler`` names it). A setting that is None or absent takes
    the policy's value, else the default of the dataclass.

    Args:
        values: the settings.
        known: what the policy knows.

    Raises:
        PcmError: a setting that the solver does not have, or a wrong value.
    """
    said = {k: v for k, v in values.items() if v is not None}
    kind = STEPS.find(said.pop("method", known.method))
    stop = _stop(kind, said)
    deadline = said.pop("deadline_ms", None) if "deadline_ms" in kind.limits else None
    chosen = {own: said.pop(name) for name, own in SAMPLER.items() if name in said}
    beside = [*kind.limits, *({"safety"} if kind.limits else ()), *SAMPLER]
    step = _made(kind, said, f"solver={STEPS.name(kind)}", beside).fitted(known, stop, said)
    sampler = known.head_sampler if "head" in needs(step) else None
    wanted = chosen_sampler(sampler or known.sampler, chosen, known.train_steps)
    return Solver(step, stop, wanted, deadline)


def flat(solver: Solver) -> dict[str, Any]:
    """Return the mapping that :func:`read` reads, as plain data for JSON and YAML."""
    found, stop = _plain(solver.step), solver.stop
    if solver.step.limits:
        ends = {k: getattr(stop, own) for k, (kind, own) in ENDS.items() if isinstance(stop, kind)}
        found |= ends | {"safety": stop.safety, "deadline_ms": solver.deadline_ms}
    if solver.sampler is not None:
        found |= {name: getattr(solver.sampler, own) for name, own in SAMPLER.items()}
    return {k: _plain(v) for k, v in found.items() if v is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Step):
        own = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        return {"method": STEPS.name(type(value))} | own
    return list(value) if isinstance(value, tuple) else value


def _stop(kind: type[Step], said: dict[str, Any]) -> Stop:
    """Take what ends a solve out of the settings; by default what is usual for the step."""
    ends = [name for name in ENDS if name in said and name in kind.limits]
    if "tolerance" in ends and "settle" in ends:
        raise PcmError("solver.tolerance and solver.settle: a solve ends by one of them")
    given = {ENDS[name][1]: said.pop(name) for name in ends}
    if kind.limits:
        given["safety"] = said.pop("safety", kind.usual.safety)
    if ends:
        return ENDS[ends[0]][0](**given)
    return Tolerance(**given) if "deadline_ms" in said else replace(kind.usual, **given)


def _made(kind: type[Step], said: Mapping[str, Any], who: str, beside: Iterable[str] = ()) -> Step:
    """Return a step with settings.

    Args:
        kind: the step.
        said: the settings.
        who: what to call the step in messages.
        beside: settings that are not the step's, for messages.
    """
    try:
        step = kind()
    except TypeError as error:
        raise PcmError(f"{who}: {error}; every setting of a solver needs a default") from error
    left = dict(said)
    step = _with(step, left)
    if left:
        has = ", ".join([*dict.fromkeys(_settings(step)), *beside])
        raise PcmError(f"{who} has no setting {next(iter(left))}: it has {has}")
    return step


def _with(step: Step, said: dict[str, Any]) -> Step:
    """Return a step with the settings that it, or else a step inside, has; they leave ``said``."""
    own = {f.name: said.pop(f.name, getattr(step, f.name)) for f in fields(step)}
    for name, value in own.items():
        if isinstance(getattr(step, name), Step):
            own[name] = _with(_named(value, f"solver.{name}"), said)
    return replace(step, **own)


def _named(value: Any, who: str) -> Step:
    """Return a step that is given by its name, or with settings of its own as a mapping."""
    if isinstance(value, Step):
        return value
    given = dict(value) if isinstance(value, Mapping) else {"method": value}
    return _made(STEPS.find(given.pop("method", None)), given, who)


def _settings(step: Step) -> list[str]:
    """Name the settings of a step and of those that it wraps."""
    names = [f.name for f in fields(step)]
    return names + [name for inner in step.wraps for name in _settings(inner)]
