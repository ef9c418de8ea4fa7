"""A default is decided once: in a class. A YAML file holds what differs from it, and nothing else.

Tasks are data, and say everything about a task.
"""

import inspect
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pcm_policy.cli.settings.latency import KINDS
from pcm_policy.control.settings import ControlSettings
from pcm_policy.heads import HEADS
from pcm_policy.networks import NETWORKS
from pcm_policy.registry import Registry
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.settings import plain
from pcm_policy.solvers.registry import SAMPLER
from pcm_policy.solvers.step import STEPS
from pcm_policy.training.consistency import Consistency

CONFIGS = Path(__file__).parents[2] / "configs"
DATA = {"task"}
"""Groups whose files are data, not settings that differ from defaults."""
OVERRULES = {
    "solver/consistency.yaml": {"sampler"},
    "solver/ddim.yaml": {"sampler"},
    "solver/dpmpp.yaml": {"sampler"},
    "solver/flow.yaml": {"sampler"},
    "solver/ddpm.yaml": {"sampler"},
    "control/async.yaml": {"mode"},
    "control/prefix.yaml": {"mode", "prefix", "prefix_past"},
    "control/realtime.yaml": {"warm_start"},
}
"""What a file is there to say: it is named after it."""
CHOICES = {"name", "kind", "method", "defaults"}
"""What a file chooses; its other settings belong to that."""


def of_class(kind: type) -> dict[str, Any]:
    """The defaults of a dataclass."""
    return {one.name: plain(one.default) for one in fields(kind) if one.default is not MISSING}


def of_call(kind: Any) -> dict[str, Any]:
    """The defaults of a constructor."""
    own = inspect.signature(kind).parameters.values()
    return {one.name: plain(one.default) for one in own if one.default is not one.empty}


def part(registry: Registry[Any], name: str) -> Any:
    return Consistency if name == "consistency" else registry.find(name)


def compared(group: str, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file says beside its choice, and the defaults of the same settings."""
    said = {k: v for k, v in values.items() if k not in CHOICES}
    if group in ("head", "network"):
        kind = part(HEADS if group == "head" else NETWORKS, values["name"])
        return said.pop("options", {}) | said, of_call(kind)
    if group == "solver":
        sampler = dict.fromkeys(SAMPLER)  # null: as the policy says
        step = STEPS.find(values["method"]) if "method" in values else SamplerConfig
        return said, sampler | of_class(step)
    kinds = {"control": ControlSettings, "runtime": RuntimeConfig}
    kind = KINDS[values["kind"]] if group == "latency" else kinds[group]
    return said, of_class(kind)


FILES = [f.relative_to(CONFIGS).as_posix() for f in sorted(CONFIGS.glob("*/*.yaml"))]


@pytest.mark.parametrize("name", [f for f in FILES if f.partition("/")[0] not in DATA])
def test_a_file_neither_repeats_nor_contradicts_a_class(name: str) -> None:
    values: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / name), resolve=False) or {}
    said, known = compared(name.partition("/")[0], values)
    for key, value in said.items():
        if isinstance(value, str) and value.startswith("${"):
            continue  # taken over from another setting
        assert key in known, f"{name}: {key} is no setting of what it chooses"
        assert value != known[key], f"{name} repeats the default {key}: {value}"
        assert key in OVERRULES.get(name, set()), f"{name}: {key}: {value} is decided in its class"


def test_what_files_may_say_is_said() -> None:
    for name, keys in OVERRULES.items():
        assert keys <= set(OmegaConf.load(CONFIGS / name)), name


def test_a_copied_default_is_found() -> None:
    said, known = compared("head", {"name": "lora", "options": {"rank": 8}})
    assert said["rank"] == known["rank"]
