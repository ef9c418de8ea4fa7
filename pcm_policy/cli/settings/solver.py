"""The ``solver`` section: which settings a solve has, its step, its stop and its sampler say."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

from pcm_policy.errors import PcmError
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.settings import Options, Range, described, suggestion, value
from pcm_policy.solvers.registry import SAMPLER, Solver, read
from pcm_policy.solvers.step import STEPS, Known, Step
from pcm_policy.solvers.stops import Rounds, Settle, Tolerance

Settings = dict[str, tuple[Any, str]]


def known() -> Settings:
    """Return the settings of all solvers and samplers: what each takes, and what it is for.

    A name that steps use differently takes what any of them takes; its text has every use.
    """
    words = f"the solver: {', '.join(STEPS)}, or module:Name of yours"
    found: Settings = {"method": (str | None, words)}
    for kind in (Tolerance, Settle, Rounds, Solver):
        found = dict(_of(kind)) | found
    takes: dict[str, Any] = {}
    meant: dict[str, dict[str, str]] = {}  # by setting, then by text: the steps that say it
    for step in STEPS:
        for name, (kind, text) in _of(STEPS.find(step)):
            takes[name] = takes.get(name, kind) | kind
            uses = meant.setdefault(name, {})
            uses[text] = f"{uses[text]}, {step}" if text in uses else step
    for name, uses in meant.items():
        every = "; ".join(f"{who}: {text.rstrip('.')}" for text, who in uses.items())
        found[name] = (takes[name], every if len(uses) > 1 else next(iter(uses)))
    hints, texts = get_type_hints(SamplerConfig, include_extras=True), described(SamplerConfig)
    return found | {name: (hints[own] | None, texts.get(own, "")) for name, own in SAMPLER.items()}


def read_solver(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Check the settings of a solver that is named; the rest, the policy knows.

    Raises:
        PcmError: a setting that the solver does not have, or a value of the wrong type or range.
    """
    own = known()
    said = {key: one for key, one in given.items() if one is not None}
    if "method" in said:
        try:
            own |= dict(_of(STEPS.find(said["method"])))
        except PcmError as error:
            raise PcmError(f"{name}.method={said['method']}: {error}") from error
    for key, one in said.items():
        if key in own:
            said[key] = value(own[key][0], one, f"{name}.{key}")
        elif "method" not in said:
            hint = suggestion(f"{name}.{key}", [f"{name}.{k}" for k in own])
            raise PcmError(f"unknown setting {name}.{key}: {hint}")
    if "method" in said:
        read({k: one for k, one in said.items() if k not in SAMPLER}, Known(SamplerConfig(), 1))
    return said


def _of(kind: Any) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Yield the settings of a step, a stop or what a solver has beside them."""
    hints, texts = get_type_hints(kind), described(kind)
    for one in fields(kind):
        name = one.metadata.get("said") or one.name
        if name in ("step", "stop", "sampler"):
            continue
        takes = hints[one.name]
        if takes is Step:  # by name, or with settings of its own
            takes = str | dict[str, Any]
        elif "kind" in one.metadata:
            of: Any = one.metadata["kind"]
            number: Any = Annotated[of, Range(**one.metadata["bounds"])]
            takes = tuple[number, ...] if isinstance(one.default, tuple) else number
        yield name, (takes | None, texts.get(one.name, ""))


SolverSection = Annotated[Mapping[str, Any], Options(read_solver, known)]
