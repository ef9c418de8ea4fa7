"""How far a residual may be trusted: safety factors that were measured, with their coverage."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from pcm_policy.checks import number, one_of, text, whole
from pcm_policy.errors import PcmError
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.step import STEPS, Step
from pcm_policy.solvers.stops import SAFETY, Stop

PRECISIONS = ("float32", "bf16", "fp16")
SOLVES = ("all", "one")
LINEARISED = frozenset({"linearised"})
UNCALIBRATED = "uncalibrated"
"""What is said of certificates whose safety factor was not measured."""


@dataclass(frozen=True)
class Certificate:
    """A safety factor of one sampler and precision, and what it was measured on.

    Attributes:
        sampler: whose chunks are certified.
        precision: of the network.
        factor: the safety factor.
        coverage: share of new rows that keep what a certificate with this factor says, at least ...
        confidence: ... with this probability over the rows that it was measured on.
        rows: observations with noise that it was measured on.
        observations: how many different observations they were.
        solvers: names of the steps that solved them.
        tolerances: of these solves, in normalised action units.
        solves: ``all``: every row by every step to every tolerance, and one that fails in any of
            them counts; ``one``: every row by one step to one tolerance, in turn.
        false_at_usual: rows with a false certificate at the usual factor, :data:`SAFETY`.

    Raises:
        PcmError: a value of another type or out of range.
    """

    sampler: SamplerConfig
    precision: str
    factor: float
    coverage: float
    confidence: float
    rows: int
    observations: int
    solvers: tuple[str, ...]
    tolerances: tuple[float, ...]
    solves: str = "all"
    false_at_usual: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, SamplerConfig):
            raise PcmError("sampler: use a SamplerConfig")
        one_of("precision", self.precision, PRECISIONS)
        number("factor", self.factor, 1)
        number("coverage", self.coverage, above=0, below=1)
        number("confidence", self.confidence, above=0, below=1)
        whole("rows", self.rows, 1)
        whole("observations", self.observations, 1, self.rows)
        one_of("solves", self.solves, SOLVES)
        whole("false_at_usual", self.false_at_usual, 0, self.rows)
        named = tuple(text("solvers", one) for one in _listed("solvers", self.solvers))
        given = _listed("tolerances", self.tolerances)
        found = tuple(number("tolerances", one, above=0) for one in given)
        object.__setattr__(self, "solvers", named)
        object.__setattr__(self, "tolerances", found)

    @property
    def said(self) -> str:
        """Coverage and confidence in words, such as ``99.9 % at 95 % confidence``."""
        return f"{100 * self.coverage:.4g} % at {100 * self.confidence:.3g} % confidence"

    def measured(self, step: Step) -> bool:
        """Return whether it was measured with a step, around the steps that it usually wraps.

        Which head a policy has decides whether they are linearised.
        """
        usual = names(step) - LINEARISED == names(type(step)()) - LINEARISED
        return STEPS.name(type(step)) in self.solvers and usual

    def covers(self, step: Step, stop: Stop) -> bool:
        """Return whether it says something of a solve: its steps, its tolerance, its factor."""
        within = min(self.tolerances) <= stop.error <= max(self.tolerances)
        return self.measured(step) and within and stop.safety >= self.factor

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> "Certificate":
        """Rebuild from plain data.

        Raises:
            PcmError: a value that is missing, unknown, of another type or out of range.
        """
        found = _mapping(cls, values, "")
        sampler = _mapping(SamplerConfig, found["sampler"], "sampler.")
        if isinstance(sampler.get("timesteps"), list):
            sampler["timesteps"] = tuple(sampler["timesteps"])
        return cls(**found | {"sampler": SamplerConfig(**sampler)})


@dataclass(frozen=True)
class Certificates:
    """All that were measured of one policy.

    Attributes:
        weights: fingerprint of the policy that they belong to.
        entries: one a sampler, precision and choice of steps.

    Example:
        >>> Certificates("0123456789abcdef").find(SamplerConfig(), "float32")
        ()
    """

    weights: str
    entries: tuple[Certificate, ...] = ()

    def find(self, sampler: SamplerConfig, precision: str) -> tuple[Certificate, ...]:
        """Return those of a sampler and precision."""
        own = sampler, precision
        return tuple(e for e in self.entries if (e.sampler, e.precision) == own)

    def with_entry(self, entry: Certificate) -> "Certificates":
        """Return them with another one, in place of that of the same sampler, precision, steps."""
        own = entry.sampler, entry.precision, entry.solvers
        others = [e for e in self.entries if (e.sampler, e.precision, e.solvers) != own]
        return Certificates(self.weights, (*others, entry))

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"weights": self.weights, "entries": [e.to_json() for e in self.entries]}

    @classmethod
    def from_json(cls, values: Any) -> "Certificates":
        """Rebuild from plain data.

        Raises:
            PcmError: naming the entry that is missing, unknown, of another type or out of range.
        """
        found = _mapping(cls, values, "")
        entries = []
        for i, one in enumerate(_listed("entries", found.get("entries"))):
            try:
                entries.append(Certificate.from_json(one))
            except PcmError as error:
                raise PcmError(f"entries[{i}]: {error}") from error
        return cls(text("weights", found["weights"]), tuple(entries))


def names(step: Step) -> set[str]:
    """Return the names of a step and of those that it wraps."""
    return {STEPS.name(type(step))}.union(*(names(inner) for inner in step.wraps))


def usual_safety(step: Step, found: Sequence[Certificate]) -> float:
    """Return the safety factor of a solve whose settings name none.

    Args:
        step: of the solve. One with a residual of its own kind keeps its own factor.
        found: certificates of the solve's sampler and precision. Of those that were measured with
            the step, the largest factor counts; else they can only raise the usual one.
    """
    own = step.usual.safety
    if own != SAFETY:
        return own
    fitting = [one.factor for one in found if one.measured(step)]
    return max(fitting) if fitting else max([own, *(one.factor for one in found)])


def trust(step: Step, stop: Stop, found: Sequence[Certificate]) -> str:
    """Return what is known of a solve's certificates: their coverage, or ``uncalibrated``.

    Of several the one of the fewest steps counts: it says the most of these.
    """
    covering = [one for one in found if one.covers(step, stop)]
    best = min(covering, key=lambda one: (len(one.solvers), -one.coverage), default=None)
    return UNCALIBRATED if best is None else best.said


def _listed(name: str, values: Any) -> list[Any]:
    if not isinstance(values, tuple | list) or not values:
        raise PcmError(f"{name}={values!r}: use a list that is not empty")
    return list(values)


def _mapping(kind: Any, values: Any, where: str) -> dict[str, Any]:
    """Check that values name what a dataclass needs, and nothing that it has not."""
    if not isinstance(values, Mapping):
        raise PcmError(f"{where.rstrip('.') or 'it'} is not a dictionary")
    own = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    unknown = [name for name in values if name not in own]
    if unknown:
        raise PcmError(f"{where}{unknown[0]} is unknown: there are {', '.join(own)}")
    missing = [name for name, needed in own.items() if needed and name not in values]
    if missing:
        raise PcmError(f"{where}{missing[0]} is missing")
    return dict(values)
