"""The fastest mode is chosen by measurement, once for a kind of solve on a machine."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pcm_policy import DiffusionPolicy, PcmError, RuntimeConfig
from pcm_policy.measure.conditions import conditions
from pcm_policy.registry import Registry
from pcm_policy.runtime import auto
from pcm_policy.runtime.auto import Auto, available, memory
from pcm_policy.runtime.inputs import Execute, Inputs
from pcm_policy.runtime.inputs import eager as run_eagerly
from pcm_policy.runtime.mode import Mode
from pcm_policy.solvers.registry import Solver
from tests.builders import OBS_DIM, small_policy

TIMES = {"eager": 3.0, "onnx": 2.0, "openvino": 1.0}


class Fake(Mode):
    """Solves eagerly, and remembers that it was asked."""

    def __init__(self, name: str, refuses: str = "") -> None:
        self.name, self.refuses, self.solves = name, refuses, 0
        self.own_threads = name != "eager"  # type: ignore[misc]

    def check(self, policy: DiffusionPolicy, config: RuntimeConfig) -> None:
        if self.refuses == "check":
            raise PcmError("not here")

    def execute(self, policy: DiffusionPolicy, config: RuntimeConfig) -> Execute:
        def solve(assemble: Any, given: Inputs, solver: Solver) -> Any:
            self.solves += 1
            if self.refuses == "solve":
                raise PcmError("cannot hold this solve")
            return run_eagerly(assemble, given, solver)

        return solve


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, one thread, and times that are known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    return tmp_path / "cache"


class Timed:
    """Stands for the timer: ``found`` are the times of the sides, in the order of ``TRIED``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *found: float) -> None:
        self.found, self.asked = found, 0
        monkeypatch.setattr(auto, "take_turns", self)

    def __call__(self, sides: Any, calls: int, **_: Any) -> list[list[float]]:
        self.asked += 1
        assert len(sides) == len(self.found)
        return [[ms] * calls for ms in self.found]


def modes(**refuses: str) -> Registry[Mode]:
    found: Registry[Mode] = Registry("runtime.mode", Mode)
    for name in (*TIMES, "graph"):
        found.add(name)(Fake(name, refuses.get(name, "check" if name == "graph" else "")))
    return found


def solved(policy: DiffusionPolicy, registry: Registry[Mode], rows: int = 1) -> RuntimeConfig:
    execute = Auto(registry).execute(policy, RuntimeConfig("auto"))
    obs = torch.zeros(rows, 2, OBS_DIM)
    noise = policy.draw_noise(rows, policy.config.sampler, torch.Generator().manual_seed(0))
    found = policy.solve(obs, None, noise, execute=execute)
    want = policy.solve(obs, None, noise, execute=run_eagerly)
    assert torch.equal(found.sample, want.sample)
    (chosen,) = execute.chosen  # type: ignore[attr-defined]
    return chosen


def test_the_fastest_is_chosen_and_remembered(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    policy, timer = small_policy(), Timed(monkeypatch, *TIMES.values())
    assert solved(policy, modes()).mode == "openvino"
    assert memory() == cache / "pcm_policy" / "auto.json"
    (kept,) = json.loads(memory().read_text()).values()
    assert kept["chosen"] == "openvino float32 threads=1"
    assert list(kept["p50_ms"].values()) == list(TIMES.values())
    registry = modes()
    assert solved(policy, registry).mode == "openvino"
    assert timer.asked == 1
    assert registry.find("onnx").solves == 0  # type: ignore[attr-defined]


def test_what_the_answer_depends_on_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, timer = small_policy(), Timed(monkeypatch, *TIMES.values())
    solved(policy, modes())
    changes = [
        lambda: next(policy.network.parameters()).data.add_(1.0),
        lambda: monkeypatch.setattr(auto, "versions", lambda: ["torch 99"]),
        lambda: monkeypatch.setattr(auto, "machine", lambda: ["another processor"]),
    ]
    for count, change in enumerate(changes, 2):
        change()
        solved(policy, modes())
        assert timer.asked == count
    solved(policy, modes(), rows=3)
    assert timer.asked == len(changes) + 2


@pytest.mark.parametrize("refusal", ["check", "solve"])
def test_what_cannot_run_is_left_out(monkeypatch: pytest.MonkeyPatch, refusal: str) -> None:
    policy = small_policy()
    Timed(monkeypatch, 3.0, 2.0)
    assert solved(policy, modes(openvino=refusal)).mode == "onnx"


def test_nothing_can_run() -> None:
    with pytest.raises(PcmError, match="nothing can execute this solve: cannot hold"):
        solved(small_policy(), modes(**dict.fromkeys(TIMES, "solve")))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "\0"])
def test_a_damaged_memory_is_measured_again(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    Timed(monkeypatch, *TIMES.values())
    memory().parent.mkdir(parents=True)
    memory().write_text(content)
    assert solved(small_policy(), modes()).mode == "openvino"
    assert any(isinstance(one, dict) for one in json.loads(memory().read_text()).values())


def test_a_cache_that_cannot_be_written_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    Timed(monkeypatch, *TIMES.values())
    cache.write_text("a file")
    assert solved(small_policy(), modes()).mode == "openvino"


def test_engines_are_tried_with_one_thread_and_with_torchs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    policy = small_policy()
    found = [(c.mode, c.threads) for c in available(policy, modes(), RuntimeConfig("auto"))]
    engines = [(name, count) for name in ("onnx", "openvino") for count in (4, 1)]
    assert found == [("eager", None), *engines]
    fixed = available(policy, modes(), RuntimeConfig("auto", threads=2))
    assert [c.threads for c in fixed] == [None, 2, 2]
    given = available(policy, modes(), RuntimeConfig("auto"), ["onnx"], [1, 2, 3])
    assert [c.threads for c in given] == [1, 2, 3]


def test_results_say_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy()
    policy.use(RuntimeConfig("auto"))
    assert conditions(policy)["runtime"]["engine"] == "none yet"
    monkeypatch.setattr(auto, "available", lambda *_: [RuntimeConfig("eager")])
    Timed(monkeypatch, 1.0)
    policy.use(RuntimeConfig("auto"))
    policy.solve(torch.zeros(1, 2, OBS_DIM))
    said = conditions(policy)["runtime"]
    assert said["mode"] == "auto"
    assert said["engine"] == f"torch {torch.__version__} (eager float32)"
