"""The ``solver`` section: which of its settings a solve has depends on the method."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

from pcm_policy.errors import PcmError
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.settings import Options, described, suggestion, value
from pcm_policy.solvers.before.solve import SolverConfig


def known() -> dict[str, tuple[Any, str]]:
    """Return every setting of a solver and of its sampler: what it takes, and what it is for."""
    found: dict[str, tuple[Any, str]] = {}
    for kind in (SolverConfig, SamplerConfig):
        hints, texts = get_type_hints(kind, include_extras=True), described(kind)
        found |= {f.name: (hints[f.name] | None, texts.get(f.name, "")) for f in fields(kind)}
    name, text = found.pop("name")
    return found | {"sampler": (name, text)}


def read_solver(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Check a solver's settings; what is null is left to the policy.

    Raises:
        PcmError: an unknown setting, or a value of another type.
    """
    all_known, found = known(), {}
    for key, one in given.items():
        if key not in all_known:
            hint = suggestion(f"{name}.{key}", [f"{name}.{k}" for k in all_known])
            raise PcmError(f"unknown setting {name}.{key}: {hint}")
        if one is not None:
            found[key] = value(all_known[key][0], one, f"{name}.{key}")
    return found


SolverSection = Annotated[Mapping[str, Any], Options(read_solver, known)]
