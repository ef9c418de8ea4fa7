"""What goes wrong in one episode costs that episode; what had finished is in ``eval.json``."""

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest

from pcm_policy.cli.compose import compose
from pcm_policy.cli.eval import eval_main
from pcm_policy.errors import PcmError
from tests.rollout.odd_worlds import BAD_SEED, BAD_STEP, KINDS, STEPS

CONTROLLED = ("control=async", "latency=steps", "latency.steps=1")


def run(folder: Path, output: Path, kind: str, *more: str) -> dict[str, Any]:
    words = [
        "task=pusht",
        f"task.env_id='tests.rollout.odd_worlds:odd/{kind}-v0'",
        "task.position_dims=null",
        f"policy={folder}",
        f"output_dir={output}",
        "episodes=5",
        "seed=100",
        "num_envs=1",
        "solve_batch=2",
        "latency_calls=0",
        "device=cpu",
        "threads=1",
    ]
    return eval_main(compose("eval", [*words, *more]))


def read(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "eval.json").read_text())
    return found


@pytest.mark.parametrize("kind", ["nan_observation", "far_observation", "nan_reward"])
def test_an_odd_number_ends_one_episode(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    healthy = run(folder, tmp_path / "well", "well")["episodes"]
    report = run(folder, tmp_path / kind, kind)
    assert report == read(tmp_path / kind)
    assert "incomplete" not in report
    bad = report["episodes"].pop(2)
    assert report["episodes"] == healthy[:2] + healthy[3:]
    assert report["ended_early"] == 1
    assert BAD_STEP <= bad["steps"] <= BAD_STEP + 1  # a chunk of two is executed to its end
    assert bad["success"] is False
    assert bad["score"] is not None
    assert bad["fault"].startswith(f"step {bad['steps']}: ")
    said = capsys.readouterr().err
    assert f"1 of 5 episodes were ended early, the first at seed {BAD_SEED}, step" in said
    assert ("max_excess=1 " in said) == (kind == "far_observation")


def test_max_excess_can_be_raised(folder: Path, tmp_path: Path) -> None:
    report = run(folder, tmp_path / "far", "far_observation", "max_excess=1e9")
    assert "ended_early" not in report
    with pytest.raises(PcmError, match="max_excess"):
        run(folder, tmp_path / "bad", "well", "max_excess=-1")


def test_an_episode_without_a_reward_has_no_score(folder: Path, tmp_path: Path) -> None:
    """Its first observation is refused: counted as no success, and left out of the mean."""
    report = run(folder, tmp_path, "well", "seed=398", "episodes=8", "max_excess=0.005")
    faults = [e for e in report["episodes"] if "fault" in e]
    assert 0 < len(faults) < 8
    assert {(e["score"], e["success"]) for e in faults if e["steps"] == 0} == {(None, None)}
    scores = [e["score"] for e in report["episodes"] if e["score"] is not None]
    assert report["score"]["mean"] == pytest.approx(np.mean(scores))
    assert report["success"]["rate"] < 1


def test_all_episodes_ended_early_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PcmError, match="5 of 5 episodes were ended early, the first at seed 2000"):
        run(folder, tmp_path, "well", "seed=2000")
    report = read(tmp_path)
    assert report["ended_early"] == 5
    assert report["score"] is None


@pytest.mark.parametrize("kind", ["nan_observation", "far_observation"])
def test_a_controller_counts_bad_observations(kind: str, folder: Path, tmp_path: Path) -> None:
    report = run(folder, tmp_path, kind, *CONTROLLED)
    assert "ended_early" not in report
    assert report["counts"]["bad_observation"] == STEPS - BAD_STEP
    assert [e["steps"] for e in report["episodes"]] == [STEPS] * 5


@pytest.mark.parametrize("more", [(), CONTROLLED], ids=["plain", "controlled"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raises", "environment 0, episode of seed 102, raised RuntimeError: the arm came off"),
        ("raises_at_reset", "raised RuntimeError: no scene"),
        ("interrupts", "interrupted"),
    ],
)
def test_what_had_finished_is_kept(
    kind: str, message: str, more: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    healthy = run(folder, tmp_path / "well", "well", *more)["episodes"]
    error: type[BaseException] = KeyboardInterrupt if kind == "interrupts" else PcmError
    with pytest.raises(error, match=message) as caught:
        run(folder, tmp_path / "cut", kind, *more)
    report = read(tmp_path / "cut")
    assert report["incomplete"].endswith("2 of 5 episodes had finished")
    assert report["episodes"] == healthy[:2]
    assert str(caught.value) == f"{report['incomplete']} and are in {tmp_path / 'cut/eval.json'}"
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"), [("dies", r"died \(exit code 3\)"), ("hangs", "within 2 s")]
)
def test_a_process_that_dies_or_hangs_ends_the_run_only(
    kind: str, message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(PcmError, match=f"environment 0, episode of seed 102, .*{message}"):
        run(folder, tmp_path, kind, "mode=async", "timeout_s=2")
    assert [e["seed"] for e in read(tmp_path)["episodes"]] == [100, 101]
    assert multiprocessing.active_children() == []


def test_an_environment_that_raises_when_closed_costs_nothing(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = run(folder, tmp_path, "close_raises")
    assert len(report["episodes"]) == 5
    assert "incomplete" not in read(tmp_path)
    assert "the motor stays on" in caplog.text


def test_time_outs_need_processes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PcmError, match="use mode=async"):
        run(folder, tmp_path, "well", "timeout_s=2")
    with pytest.raises(PcmError, match="timeout_s"):
        run(folder, tmp_path, "well", "mode=async", "timeout_s=0")


@pytest.mark.parametrize(
    ("kind", "success"),
    [
        ("well", [True] * 5),
        ("success_key", [True] * 5),
        ("falls", [False] * 5),
        ("no_success", [None] * 5),
    ],
)
def test_success_is_what_the_environment_says(
    kind: str, success: list[Any], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ((), CONTROLLED):
        report = run(folder, tmp_path / str(len(more)), kind, *more)
        assert [e["success"] for e in report["episodes"]] == success
        rate = None if success[0] is None else float(success[0])
        assert (report["success"] or {"rate": None})["rate"] == rate
        said = "the environment reports none (neither is_success nor success)"
        assert (said in capsys.readouterr().out) == (rate is None)


def test_scores_may_be_negative(folder: Path, tmp_path: Path) -> None:
    for more in ((), CONTROLLED):
        report = run(folder, tmp_path / str(len(more)), "negative", *more)
        assert report["score"]["mean"] < -990


@pytest.mark.parametrize("more", [(), CONTROLLED], ids=["plain", "controlled"])
def test_films_come_last(
    more: tuple[str, ...], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = ("video_episodes=[0,3]", *more)
    report = run(folder, tmp_path / "good", "well", *films)
    assert "incomplete" not in report
    names = sorted(path.name for path in (tmp_path / "good/videos").iterdir())
    assert names == ["episode_100.mp4", "episode_103.mp4"]
    with imageio.get_reader(tmp_path / "good/videos/episode_103.mp4") as film:
        assert film.count_frames() == report["episodes"][3]["steps"] + 1
        assert film.get_meta_data()["fps"] == 5
    with pytest.raises(PcmError, match="does not repeat"):
        run(folder, tmp_path / "bad", "exact_rewards_differ", *films)
    kept = read(tmp_path / "bad")
    assert kept["incomplete"] == "films were not made yet"
    assert len(kept["episodes"]) == 5

    real, calls = imageio.get_writer, []

    def full_disk(path: Path, **options: Any) -> Any:
        calls.append(path)
        if len(calls) == 3:  # the first one is the trial frame
            raise OSError(28, "No space left on device")
        return real(path, **options)

    monkeypatch.setattr(imageio, "get_writer", full_disk)
    with pytest.raises(PcmError, match=r"films were not made: OSError.*No space left"):
        run(folder, tmp_path / "full", "well", *films)
    assert len(read(tmp_path / "full")["episodes"]) == 5


@pytest.mark.parametrize(
    ("kind", "message"), [("picture_raises", "no display"), ("no_picture", "no picture")]
)
def test_what_cannot_be_filmed_is_said_before_the_first_episode(
    kind: str, message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(PcmError, match=f"cannot film.*{message}"):
        run(folder, tmp_path, kind, "video_episodes=[0]")
    assert not (tmp_path / "eval.json").exists()
    with pytest.raises(PcmError, match=r"video_episodes=\[5\]"):
        run(folder, tmp_path, "well", "video_episodes=[5]")


def test_films_of_an_environment_without_a_rate_have_the_tasks(
    folder: Path, tmp_path: Path
) -> None:
    run(folder, tmp_path, "no_rate", "video_episodes=[1]")
    with imageio.get_reader(tmp_path / "videos/episode_101.mp4") as film:
        assert film.get_meta_data()["fps"] == 10


def test_results_are_not_replaced(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, "well")
    before = (tmp_path / "eval.json").read_text()
    for more in ((), CONTROLLED):
        with pytest.raises(PcmError, match="overwrite=true"):
            run(folder, tmp_path, "well", *more)
        assert (tmp_path / "eval.json").read_text() == before
    assert run(folder, tmp_path, "well", "overwrite=true", *CONTROLLED)["control"] is not None


@pytest.mark.parametrize("calls", [-1, 1.5])
def test_latency_calls_are_checked_before_any_episode(
    calls: float, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(PcmError, match="latency_calls"):
        run(folder, tmp_path, "dies", f"latency_calls={calls}")
    assert list(tmp_path.iterdir()) == []


def test_predictions_are_timed_with_a_controller_too(folder: Path, tmp_path: Path) -> None:
    for more in ((), CONTROLLED):
        report = run(folder, tmp_path / str(len(more)), "well", "latency_calls=2", *more)
        assert report["latency_ms"]["calls"] == 2
        untimed = run(folder, tmp_path / f"{len(more)}_untimed", "well", *more)
        assert untimed["latency_ms"] is None
        assert set(untimed) == set(report)


def test_one_layout(folder: Path, tmp_path: Path) -> None:
    plain = run(folder, tmp_path / "plain", "well")
    controlled = run(folder, tmp_path / "controlled", "well", *CONTROLLED)
    assert list(plain) == list(controlled)


def test_an_environment_without_an_end_is_refused(folder: Path, tmp_path: Path) -> None:
    for more in ((), CONTROLLED):
        with pytest.raises(PcmError, match="no limit of its own: give max_steps"):
            run(folder, tmp_path, "endless", *more)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("no_such_module:odd/well-v0", "no_such_module"),
        ("tests.rollout.odd_worlds:odd/nothing-v0", "nothing"),
        ("tests.rollout.broken_world:odd/well-v0", "importing tests.rollout.broken_world"),
    ],
)
def test_modules_that_register_nothing_are_named(
    env_id: str, message: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Path(__file__).with_name("broken_world.py")
    broken.write_text("raise RuntimeError('not today')\n")
    try:
        with pytest.raises(PcmError, match=message):
            run(folder, tmp_path, "well", f"task.env_id='{env_id}'")
    finally:
        broken.unlink()


SCRIPT = """
import os, sys, threading, time
from pathlib import Path
from tests.rollout.test_nothing_is_lost import run
if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), "hangs", "mode=async", "num_envs=2")
"""


@pytest.mark.slow
def test_a_kill_leaves_a_file_and_no_process(folder: Path, tmp_path: Path) -> None:
    """``kill -9`` while an environment hangs: its process ends too, and episodes are there."""
    import os
    import signal
    import time

    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(tmp_path)])
    deadline = time.monotonic() + 120
    while not (tmp_path / "eval.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.2)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    report = read(tmp_path)
    assert "episodes had finished" in report["incomplete"]
    assert report["episodes"]


def test_every_kind_of_world_is_tried() -> None:
    text = Path(__file__).read_text()
    assert [kind for kind in KINDS if f'"{kind}"' not in text] == []
