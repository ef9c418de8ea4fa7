"""The ``solver`` section: which settings a solve has, its step, its stop and its sampler say."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.settings import Options, described
from pcm_policy.solvers.registry import SAMPLER, Solver, read
from pcm_policy.solvers.step import STEPS, Known, Step
from pcm_policy.solvers.stops import Rounds, Settle, Tolerance


def known() -> dict[str, tuple[Any, str]]:
    """Return the settings of all solvers and samplers: what each takes, and what it is for."""
    found: dict[str, tuple[Any, str]] = {"method": (str | None, "the solver, by name")}
    for kind in (Tolerance, Settle, Rounds, Solver, *(STEPS.find(name) for name in STEPS)):
        hints, texts = get_type_hints(kind), described(kind)
        for f in fields(kind):
            name = f.metadata.get("said") or f.name
            if name in ("step", "stop", "sampler"):
                continue
            takes = str if hints[f.name] is Step else hints[f.name]
            found.setdefault(name, (takes | None, texts.get(f.name, "")))
    hints, texts = get_type_hints(SamplerConfig, include_extras=True), described(SamplerConfig)
    return found | {name: (hints[own] | None, texts.get(own, "")) for name, own in SAMPLER.items()}


def read_solver(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Check the settings of a solver that is named; the rest, the policy knows.

    Raises:
        PcmError: a setting that the solver does not have, or a value of the wrong type or range.
    """
    said = {key: one for key, one in given.items() if one is not None}
    if "method" in said:
        own = {key: one for key, one in said.items() if key not in SAMPLER}
        read(own, Known(SamplerConfig(), 1))
    return said


SolverSection = Annotated[Mapping[str, Any], Options(read_solver, known)]
