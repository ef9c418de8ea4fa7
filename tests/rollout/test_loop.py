"""The loop in real time: rates, misses, bounded buffers. Bounds are wide: machines are busy."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pcm_policy.cli.compose import compose
from pcm_policy.cli.loop import loop_main
from pcm_policy.cli.main import run_command
from pcm_policy.control import Controller, ControlSettings, Plan, PlanRequest, PolicySpec
from pcm_policy.control.background import PlanThread
from pcm_policy.control.times import Times, growth, resident_mib
from pcm_policy.errors import PcmError
from pcm_policy.rollout.loop import run_loop
from pcm_policy.rollout.worlds import EnvWorld, RecordedWorld
from tests.control.parts import counting


def test_times_are_bounded_and_right() -> None:
    times = Times(100)
    for i in range(1000):
        times.add(1000.0 if i == 3 else float(i % 100))
    found = times.summary()
    assert found["count"] == 1000
    assert found["max"] == 1000.0  # long forgotten by the buffer
    assert len(times.kept) == 100
    assert found["p50"] == pytest.approx(49.5)
    assert Times(5).summary() == {"count": 0}


def test_growth() -> None:
    assert growth([100, 200, 300] + [300] * 30) == 0
    assert growth([float(i) for i in range(100)]) == pytest.approx(60)
    assert resident_mib() > 10


def test_thread_has_room_for_one(spec: PolicySpec) -> None:
    seen = []

    def solve(request: PlanRequest) -> Plan:
        seen.append(request.id)
        time.sleep(0.05)
        if request.id == 3:
            raise RuntimeError("broken")
        return counting(request)

    thread = PlanThread(solve)
    base = PlanRequest(0, 0, 0, 0.0, np.zeros((2, 1), np.float32), np.zeros((0, 1), np.float32))
    thread.submit(PlanRequest(**{**vars(base), "id": 1}))
    time.sleep(0.02)
    for i in (2, 3):
        thread.submit(PlanRequest(**{**vars(base), "id": i}))
    assert thread.busy
    first, second = thread.take(5.0), thread.take(5.0)
    assert first is not None
    assert second is not None
    assert seen == [1, 3]  # 2 was replaced before anybody started on it
    assert first.plan is not None
    assert first.latency_ms >= 45
    assert second.plan is None
    assert second.error == "RuntimeError: broken"
    assert thread.take() is None
    thread.close()


def loop(spec: PolicySpec, solve_s: float, settings: ControlSettings, seconds: float = 0.6):
    def solve(request: PlanRequest) -> Plan:
        time.sleep(solve_s)
        return counting(request)

    world = RecordedWorld(np.full((3, 1), 5, np.float32))
    return run_loop(Controller(spec, settings), solve, world, seconds)


def test_a_fast_solver_misses_nothing(spec: PolicySpec) -> None:
    result = loop(spec, 0.0, ControlSettings(control_hz=50.0))
    found = result.to_json()
    json.dumps(found)
    assert found["late_plans"] <= 2
    assert found["ticks"] + found["skipped_ticks"] == 30
    assert found["effective_hz"] == pytest.approx(50, rel=0.2)
    assert found["stages_ms"]["solve"]["count"] >= 7


def test_a_slow_solver_misses_and_says_so(spec: PolicySpec) -> None:
    result = loop(spec, 0.05, ControlSettings(control_hz=50.0))
    assert result.late_plans >= 6
    assert result.counts["hold"] >= 6
    late = loop(spec, 0.05, ControlSettings(mode="async", control_hz=50.0, delay_steps=4))
    assert late.late_plans <= 2  # the same solver is in time when it is asked in time


def test_command(tmp_path: Path) -> None:
    words = [f"output_dir={tmp_path}", "duration_s=1.2", "control_hz=20", "hog=1", "device=cpu"]
    words.append("policy=released/pusht_mlp")
    report = loop_main(compose("bench loop", [*words, "control=realtime", "solver.deadline_ms=30"]))
    assert json.loads((tmp_path / "loop.json").read_text()) == json.loads(json.dumps(report))
    assert {"deadline_misses", "effective_hz", "stages_ms", "memory_mib"} <= set(report)
    keys = {"p50", "p95", "p99", "p99.9", "max"}
    assert keys <= set(report["stages_ms"]["jitter"])
    assert keys <= set(report["stages_ms"]["solve"])
    assert (tmp_path / "loop.png").stat().st_size > 10_000
    left = subprocess.run(["pgrep", "-f", "sum.range.1000"], capture_output=True, text=True)
    assert left.stdout == ""


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("source=camera", "duration_s=0", "control.on_late=panic", "controll_hz=3"):
        with pytest.raises(SystemExit):
            run_command("bench loop", argv=[f"output_dir={tmp_path}", "device=cpu", word])
        lines = capsys.readouterr().err.splitlines()
        assert sum("pcm-bench loop: error:" in x for x in lines) == 1
    script = [str(Path(sys.executable).parent / "pcm-bench"), "loop", "duration_z=3"]
    found = subprocess.run(script, capture_output=True, text=True, check=False)
    assert "did you mean duration_s?" in found.stderr


class Falling:
    """A world that ends the loop after some ticks."""

    def __init__(self, error: BaseException, ticks: int) -> None:
        self.error, self.ticks = error, ticks

    def begin(self) -> tuple[int, None]:
        return 0, None

    def first(self) -> np.ndarray:
        return np.full(1, 5, np.float32)

    def frame(self) -> np.ndarray:
        self.ticks -= 1
        if self.ticks < 0:
            raise self.error
        return self.first()

    def send(self, action: object) -> bool:
        return False

    def scores(self) -> list[float]:
        return []

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("the arm\ncame off"), "ended by RuntimeError: the arm came off"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_was_timed_is_kept(spec: PolicySpec, error: BaseException, why: str) -> None:
    controller = Controller(spec, ControlSettings(control_hz=200.0))
    found = run_loop(controller, counting, Falling(error, 7), 60.0)
    assert found.ticks == 7
    assert found.to_json()["incomplete"] == why
    json.dumps(found.to_json())
    with pytest.raises(type(error)):  # nothing was timed
        run_loop(controller, counting, Falling(error, 0), 60.0)


WORDS = ["policy=released/pusht_mlp", "device=cpu", "duration_s=60", "control_hz=20"]


def test_command_writes_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, ticks = EnvWorld.send, [0]

    def stop(self: EnvWorld, action: object) -> bool:
        ticks[0] += 1
        if ticks[0] == 5:
            raise KeyboardInterrupt
        return real(self, action)

    monkeypatch.setattr(EnvWorld, "send", stop)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; 4 ticks are in .*loop\.json"):
        loop_main(compose("bench loop", [*WORDS, f"output_dir={tmp_path}"]))
    assert json.loads((tmp_path / "loop.json").read_text())["incomplete"] == "interrupted"
    with pytest.raises(PcmError, match="overwrite=true"):
        loop_main(compose("bench loop", [*WORDS, f"output_dir={tmp_path}"]))


def test_scores_may_be_negative() -> None:
    world = EnvWorld("tests.rollout.odd_worlds:odd/negative-v0", seed=100)
    world.begin()
    while not world.send(np.zeros(1, np.float32)):
        pass
    world.close()
    assert world.scores()[0] < -900
