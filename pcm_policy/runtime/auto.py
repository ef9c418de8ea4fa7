"""The fastest way to execute, measured once for a kind of solve on a machine, and remembered.

What was measured is kept in a small file in the user's cache folder. Its key holds all that the
answer depends on: weights, solver, shapes of the inputs, precision, processor, threads and the
versions of this package and the engines. Where one of them changes, the solve is measured again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pcm_policy.errors import PcmError
from pcm_policy.files import read_json, to_json, write_text
from pcm_policy.registry import Registry
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.inputs import Assemble, Execute, Inputs
from pcm_policy.runtime.mode import Mode
from pcm_policy.runtime.timing import take_turns
from pcm_policy.runtime.turns import TURNS
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult

if TYPE_CHECKING:
    from pcm_policy.policy.policy import DiffusionPolicy

TRIED = ("eager", "onnx", "openvino", "graph")
"""Modes that are measured where they can run; ``compile`` takes minutes for a gain of percents."""
CALLS, SECONDS = 15, 3.0
"""Most timed calls of each mode, and about the time for all of them together."""


class Auto(Mode):
    """The fastest of other modes, for each kind of solve by itself.

    Args:
        modes: where the others are.
    """

    own_threads: ClassVar[bool] = True

    def __init__(self, modes: Registry[Mode]) -> None:
        self._modes = modes

    def execute(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> Execute:
        """Return what executes a policy's solves."""
        found = available(policy, self._modes, config)
        made = {one: self._modes.find(one.mode).execute(policy, one) for one in found}
        return Chosen(policy, made)

    def facts(self, config: RuntimeConfig, made: Execute | None) -> dict[str, Any]:
        """Return what was chosen so far, in place of the engine."""
        chosen = made.chosen if isinstance(made, Chosen) else []
        found = [f"{self._modes.find(one.mode).version()} ({said(one)})" for one in chosen]
        own = [one.threads for one in chosen if one.threads is not None]
        return (
            super().facts(config, made)
            | {"engine": ", ".join(found) or "none yet"}
            | ({"threads": max(own)} if own else {})
        )


class Chosen:
    """Executes every kind of solve in the way that is fastest for it.

    Args:
        policy: the policy.
        candidates: what executes its solves, by config.
    """

    def __init__(
        self, policy: "DiffusionPolicy", candidates: Mapping[RuntimeConfig, Execute]
    ) -> None:
        self._policy, self._candidates = policy, candidates
        self._weights = digest(policy)
        self._found: dict[Any, RuntimeConfig] = {}

    def __call__(self, assemble: Assemble, given: Inputs, solver: Solver) -> SolveResult:
        """Solve; the first solve of a kind is measured if it was never measured here."""
        kind = (solver, given.shape)
        if kind not in self._found:
            with TURNS.alone():  # others would be part of the times
                if kind not in self._found:
                    self._found[kind] = self._choose(assemble, given, solver)
        return self._candidates[self._found[kind]](assemble, given, solver)

    @property
    def chosen(self) -> list[RuntimeConfig]:
        """What was chosen so far, without repetitions."""
        return list(dict.fromkeys(self._found.values()))

    def _choose(self, assemble: Assemble, given: Inputs, solver: Solver) -> RuntimeConfig:
        names = {said(config): config for config in self._candidates}
        facts = [self._weights, repr(solver), repr(given.shape), *names, *versions(), *machine()]
        key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
        kept = remembered().get(key)
        if isinstance(kept, dict) and kept.get("chosen") in names:
            return names[kept["chosen"]]
        times = self._measured(assemble, given, solver)
        best = min(times, key=lambda config: times[config])
        spent = {said(config): round(ms, 4) for config, ms in times.items()}
        remember(key, {"solver": solver.label, "chosen": said(best), "p50_ms": spent})
        return best

    def _measured(
        self, assemble: Assemble, given: Inputs, solver: Solver
    ) -> dict[RuntimeConfig, float]:
        """Return the median milliseconds of every candidate that can hold the solve."""
        sides, failed = {}, []
        for config, execute in self._candidates.items():
            try:
                execute(assemble, given, solver)
            except PcmError as error:
                failed.append(str(error))
                continue

            def side(_: int, execute: Execute = execute) -> None:
                execute(assemble, given, solver)

            sides[config] = side
        if not sides:
            raise PcmError(f"runtime.mode=auto: nothing can execute this solve: {failed[0]}")
        device = given.obs.device
        times = take_turns(list(sides.values()), CALLS, device=device, seconds=SECONDS)
        return {c: float(np.median(t)) for c, t in zip(sides, times, strict=True)}


def available(
    policy: "DiffusionPolicy",
    modes: Registry[Mode],
    config: RuntimeConfig,
    tried: Sequence[str] = TRIED,
    threads: Sequence[int] = (),
) -> list[RuntimeConfig]:
    """Return what can run here, with the settings of ``config`` but its mode.

    Args:
        policy: on its device.
        modes: where the modes are.
        config: precision, and threads if one number is wanted.
        tried: the modes.
        threads: numbers of threads of each engine; none given: torch's number, and one.
    """
    usual = [config.threads] if config.threads else [torch.get_num_threads(), 1]
    found = []
    for name in tried:
        mode = modes.find(name)
        for count in dict.fromkeys(threads or usual) if mode.own_threads else [None]:
            one = replace(config, mode=name, threads=count)  # type: ignore[arg-type]
            with suppress(PcmError):  # it cannot run here
                mode.check(policy, one)
                found.append(one)
    return found


def said(config: RuntimeConfig) -> str:
    """Return a config as the words of its settings."""
    words = [config.mode, config.precision]
    return " ".join([*words, *([] if config.threads is None else [f"threads={config.threads}"])])


def digest(policy: "DiffusionPolicy") -> str:
    """Return a digest of all weights and statistics of a policy."""
    found = hashlib.sha256(repr(policy.config).encode())
    for name, value in sorted(policy.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def versions() -> list[str]:
    """Return this package and the engines, with their versions, as far as they are installed."""
    found = []
    for name in ("pcm_policy", "torch", "onnxruntime", "openvino"):
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return found


def machine() -> list[str]:
    """Return what tells machines apart: the processor with its instructions, and its cores."""
    lines: Iterable[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = {line for line in lines if line.startswith(("model name", "flags"))}
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no card"
    return [*sorted(found), str(os.cpu_count()), str(torch.get_num_threads()), card]


def memory() -> Path:
    """Return the file of what was measured: ``$XDG_CACHE_HOME/pcm_policy/auto.json``."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "pcm_policy" / "auto.json"


def remembered() -> dict[str, Any]:
    """Return what was measured; nothing where the file is missing or damaged."""
    with suppress(OSError, PcmError, json.JSONDecodeError):
        found = read_json(memory())
        if isinstance(found, dict):
            return found
    return {}


def remember(key: str, value: Mapping[str, Any]) -> None:
    """Add what was measured, atomically; where the folder cannot be written, nothing is kept."""
    path = memory()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, to_json(remembered() | {key: value}))
