"""Shards of an evaluation: no episode lost or twice, and together what one process gives."""

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm_policy.cli.compose import compose
from pcm_policy.cli.eval import eval_main
from pcm_policy.cli.main import run_command
from pcm_policy.cli.merge import merge_main
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json
from pcm_policy.rollout.shards import Shard, shard_of
from pcm_policy.rollout.sheet import Sheet
from tests.rollout.odd_worlds import Odd
from tests.rollout.test_nothing_is_lost import CONTROLLED

TIMES_AND_MACHINE = ("command", "hardware", "machines", "latency_ms", "encode_ms")
ODD = "tests.rollout.odd_worlds:odd/{}-v0"


def words(policy: Path, output: Path, kind: str = "well", *more: str) -> list[str]:
    task = ["task=pusht", f"task.env_id='{ODD.format(kind)}'", "task.position_dims=null"]
    usual = ["episodes=24", "seed=90", "num_envs=3", "solve_batch=5", "latency_calls=0"]
    here = [f"policy={policy}", f"output_dir={output}", "device=cpu", "threads=1"]
    return [*task, *usual, *here, *more]


@cache
def composed(policy: Path, kind: str, *more: str) -> Any:
    return compose("eval", words(policy, Path("unused"), kind, *more))


def run(policy: Path, output: Path, *more: str, kind: str = "well", **own: int) -> dict[str, Any]:
    """Evaluate; ``own`` are settings that change nothing else, which are not composed anew."""
    return eval_main(replace(composed(policy, kind, *more), output_dir=str(output), **own))


def merged(output: Path, *more: str) -> dict[str, Any]:
    return merge_main(compose("eval merge", [str(output), *more]))


def bits(report: dict[str, Any]) -> str:
    """Return all of a report but times and machine, as it stands in the file."""
    return to_json({key: value for key, value in report.items() if key not in TIMES_AND_MACHINE})


@pytest.mark.parametrize("kind", ["well", "nan_observation"])
@pytest.mark.parametrize("more", [(), CONTROLLED], ids=["plain", "controlled"])
def test_shards_are_one_machine(
    more: tuple[str, ...], kind: str, folder: Path, tmp_path: Path
) -> None:
    one = run(folder, tmp_path / "one", *more, kind=kind)
    for count in (2, 7):
        output = tmp_path / str(count)
        for index in reversed(range(count)):
            own = {"shard": index, "shards": count, "num_envs": 1 + index}
            run(folder, output, *more, kind=kind, **own)
        found = merged(output)
        assert found == json.loads((output / "eval.json").read_text())
        assert bits(found) == bits(one)
        assert [m["shard"] for m in found["machines"]] == list(range(count))
        assert sum(m["episodes"] for m in found["machines"]) == 24


@given(episodes=st.integers(1, 10**6), data=st.data())
def test_a_split_is_whole(episodes: int, data: st.DataObject) -> None:
    """Every episode is in one shard, in order, and no shard has two more than another."""
    count = data.draw(st.integers(1, min(episodes, 500)))
    parts = [Shard(index, count).numbers(episodes) for index in range(count)]
    assert [part.start for part in parts] + [episodes] == [0] + [part.stop for part in parts]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert min(map(len, parts)) >= 1


def test_more_shards_than_episodes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PcmError, match="25 shards of 24 episodes: use at most shards=24"):
        run(folder, tmp_path, shard=0, shards=25)


def test_a_shard_of_which_every_episode_was_ended_early(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others may be well, so that it is no error of this shard; of all together it is one."""
    run(folder, tmp_path, "episodes=13", kind="nan_observation", shard=12, shards=13)
    assert "1 of 1 episodes were ended early, the first at seed 102" in capsys.readouterr().err
    with pytest.raises(PcmError, match="1 of 1 episodes were ended early"):
        merged(tmp_path, "partial=true")
    for index in range(12):
        run(folder, tmp_path, "episodes=13", kind="nan_observation", shard=index, shards=13)
    assert merged(tmp_path, "overwrite=true")["ended_early"] == 1


ARRAY = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "7"}
JOB = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
FROM_ONE = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "7"}


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, (None, None), None),
        ({}, (2, 5), (2, 5)),
        ({}, (0, 1), None),
        (ARRAY, (2, 5), (2, 5)),
        (JOB, (None, None), None),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (None, None), (1, 2)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (None, None), None),
        (ARRAY | JOB, (None, None), (3, 7)),
        (ARRAY | FROM_ONE, (None, None), (2, 7)),
        (JOB | {"SLURM_NTASKS": "4"}, (None, None), (0, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "RANK": "1", "WORLD_SIZE": "2"}, (None, None),
         (1, 2)),
    ],
)  # fmt: skip
def test_which_shard(environment: dict[str, str], given: Any, expected: Any) -> None:
    found = shard_of(environment, *given)
    assert (found and (found.index, found.count)) == expected


@pytest.mark.parametrize(
    ("environment", "given", "message"),
    [
        ({}, (1, None), "shard is given without shards"),
        ({}, (None, 5), "shards is given without shard:"),
        ({}, (5, 5), "shard 5 of 5: shards are numbered 0 to 4"),
        ({"RANK": "1"}, (None, None), "RANK=1 is set without WORLD_SIZE"),
        ({"SLURM_NTASKS": "4"}, (None, None), "SLURM_NTASKS=4 is set without SLURM_PROCID"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, (None, None), "RANK=x is no number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, (None, None), "RANK and WORLD_SIZE: shard 2 of 2"),
        (ARRAY | {"RANK": "1", "WORLD_SIZE": "2"}, (None, None), "say shard 1 of 2, SLURM_ARRAY"),
        (ARRAY | {"SLURM_ARRAY_TASK_MIN": "3"}, (None, None), "only arrays from 0 or 1"),
        (ARRAY | {"SLURM_ARRAY_TASK_MAX": "12"}, (None, None), "only arrays from 0 or 1"),
        (ARRAY | {"SLURM_ARRAY_TASK_COUNT": "1"}, (None, None), "only arrays from 0 or 1"),
    ],
)
def test_what_is_ambiguous_is_refused(
    environment: dict[str, str], given: Any, message: str
) -> None:
    with pytest.raises(PcmError, match=message) as caught:
        shard_of(environment, *given)
    assert "shard=" in str(caught.value)


def test_the_variables_of_a_job_and_a_missing_shard(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What Slurm sets makes two shards of three; merge says which command makes the third."""
    typed = words(folder, tmp_path)
    monkeypatch.setattr("sys.orig_argv", ["python", "bin/pcm-eval", *typed])
    monkeypatch.setattr("sys.argv", ["bin/pcm-eval", *typed])
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    for index in (0, 2):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
        run(folder, tmp_path)
    said = capsys.readouterr().out
    names = "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT"
    assert f"shard 2 of 3, from {names}: episodes 16 to 23 of 24" in said
    with pytest.raises(PcmError, match="shard 1 of 3: 8 of 24 episodes are missing"):
        merged(tmp_path)
    assert not (tmp_path / "eval.json").exists()
    (command,) = capsys.readouterr().out.splitlines()
    assert shlex.split(command) == ["pcm-eval", *typed, "shard=1", "shards=3"]
    partly = merged(tmp_path, "partial=true")
    assert partly["incomplete"] == "shard 1 of 3: 8 of 24 episodes are missing"
    assert len(partly["episodes"]) == 16
    eval_main(compose("eval", shlex.split(command)[1:]))
    with pytest.raises(PcmError, match="overwrite=true"):
        merged(tmp_path)
    assert "incomplete" not in merged(tmp_path, "overwrite=true")


@pytest.mark.parametrize("more", [(), CONTROLLED], ids=["plain", "controlled"])
def test_a_shard_that_was_cut_goes_on(
    more: tuple[str, ...],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What had finished is not run again, no other shard's file is touched, nothing is lost."""
    common = ("seed=95", "num_envs=1", *more)
    run(folder, tmp_path, *common, kind="raises", shard=1, shards=2)
    other = Shard(1, 2).file(tmp_path)
    before = other.read_bytes()
    message = "came off; 7 of 12 episodes had finished and are in .*shards/00000-of-00002.json"
    with pytest.raises(PcmError, match=message):
        run(folder, tmp_path, *common, kind="raises", shard=0, shards=2)
    cut = json.loads(Shard(0, 2).file(tmp_path).read_text())
    assert [record["index"] for record in cut["records"]] == list(range(7))
    with pytest.raises(PcmError, match="shard 0 of 2: 5 of 24 episodes are missing"):
        merged(tmp_path)
    monkeypatch.setattr(Odd, "_go_wrong", lambda _: None)
    one, ran = run(folder, tmp_path / "one", *common, kind="raises"), list[int]()
    finished = Sheet.finished
    monkeypatch.setattr(Sheet, "finished", lambda s, r: (ran.append(r.index), finished(s, r))[1])
    for _ in range(2):
        run(folder, tmp_path, *common, kind="raises", shard=0, shards=2)
    assert ran == [*range(7, 12)]
    assert "episodes 0 to 11 of 24, 7 are there" in (said := capsys.readouterr().out)
    assert "is complete" in said
    assert other.read_bytes() == before
    assert bits(merged(tmp_path)) == bits(one)
    run(folder, tmp_path, *common, kind="raises", shard=0, shards=2, overwrite=True)
    assert ran == [*range(7, 12), *range(12)]


@pytest.fixture(scope="module")
def halves(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("halves")
    for index in (0, 1):
        run(folder, output, shard=index, shards=2)
    return output


def _edit(file: Path, path: str, value: Any) -> None:
    content = json.loads(file.read_text())
    *above, last = path.split(".")
    inner = content
    for key in above:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[last] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("identity.policy", "other", "policy=.* as .*: one merge takes one policy"),
        ("identity.versions.torch", "0.1", r"versions.torch=.*, not 0.1 as"),
        ("identity.versions.commit", "abc", r"versions.commit=.*, not abc as"),
        ("identity.settings.seed", 7, "settings.seed=90, not 7"),
        ("identity.settings.task.control_hz", 7, "settings.task.control_hz=10.0, not 7"),
        ("header.about.runtime.precision", "bf16", "runtime.precision=float32, not bf16"),
        ("header.about.weights.network", "x", "weights.network=.*, not x"),
        ("records.0.index", 3, "episode 3 is not of shard 1 of 2"),
        ("format", "2", "no file of a shard"),
        ("shard", 2, "no file of a shard"),
        ("records", [{"index": 12}], "no file of a shard .KeyError: 'seed'"),
    ],
)
def test_what_is_not_one_evaluation_is_refused(
    path: str, value: Any, message: str, halves: Path, tmp_path: Path
) -> None:
    shutil.copytree(halves, tmp_path, dirs_exist_ok=True)
    file = Shard(1, 2).file(tmp_path)
    _edit(file, path, value)
    with pytest.raises(PcmError, match=message) as caught:
        merged(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "eval.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7"])
def test_a_damaged_shard_is_named(text: str, halves: Path, tmp_path: Path, folder: Path) -> None:
    shutil.copytree(halves, tmp_path, dirs_exist_ok=True)
    file = Shard(1, 2).file(tmp_path)
    file.write_text(text)
    with pytest.raises(PcmError, match=r"00001-of-00002\.json"):
        merged(tmp_path)
    with pytest.raises(PcmError, match=r"00001-of-00002\.json"):
        run(folder, tmp_path, shard=1, shards=2)


def test_splits_may_be_mixed_but_must_agree(halves: Path, tmp_path: Path, folder: Path) -> None:
    shutil.copytree(halves, tmp_path, dirs_exist_ok=True)
    run(folder, tmp_path, shard=1, shards=3)
    found = merged(tmp_path)
    assert [episode["seed"] for episode in found["episodes"]] == list(range(90, 114))
    assert [(m["shard"], m["shards"]) for m in found["machines"]] == [(0, 2), (1, 3), (1, 2)]
    _edit(Shard(1, 3).file(tmp_path), "records.2.score", 0.123)
    with pytest.raises(PcmError, match=r"episode of seed 100 went differently in .*of-00002"):
        merged(tmp_path, "overwrite=true")


def test_a_shard_of_other_settings_is_kept(halves: Path, tmp_path: Path, folder: Path) -> None:
    shutil.copytree(halves, tmp_path, dirs_exist_ok=True)
    file = Shard(1, 2).file(tmp_path)
    before = file.read_bytes()
    with pytest.raises(PcmError, match=r"begun with settings.seed=90, not 91.*overwrite=true"):
        run(folder, tmp_path, "seed=91", shard=1, shards=2)
    assert file.read_bytes() == before
    run(folder, tmp_path, shard=1, shards=2, num_envs=2)  # which changes no episode
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("solver=picard", "solver.tolerance=0.01"), "end one by one.*solve_batch=1"),
        (("runtime.mode=auto",), "runtime.mode=auto may choose another mode"),
    ],
)
def test_what_depends_on_the_machine_is_refused(
    more: tuple[str, ...], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(PcmError, match=message):
        run(folder, tmp_path, *more, shard=0, shards=2)


def test_rows_that_end_one_by_one(folder: Path, tmp_path: Path) -> None:
    """Alone in their solves, so that work is known and companions do not matter."""
    solver = ("solver=picard", "solver.tolerance=0.01", "solve_batch=1", "episodes=6")
    one = run(folder, tmp_path / "one", *solver, num_envs=4)
    for index in range(3):
        run(folder, tmp_path, *solver, shard=index, shards=3)
    assert bits(merged(tmp_path)) == bits(one)
    assert one["nfe"] > one["rounds"] > 0


def test_films_are_made_by_the_shard_that_has_the_episode(folder: Path, tmp_path: Path) -> None:
    films = ("video_episodes=[0,13]", "episodes=16")
    for index in (0, 1):
        run(folder, tmp_path, *films, shard=index, shards=2)
    names = ["episode_103.mp4", "episode_90.mp4"]
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == names
    (tmp_path / "videos/episode_103.mp4").unlink()
    run(folder, tmp_path, *films, shard=1, shards=2)
    assert (tmp_path / "videos/episode_103.mp4").exists()


def test_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(PcmError, match="holds no shards: name the output_dir"):
        merged(tmp_path)


def test_the_slurm_script_of_the_page(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/scale.md's lines, with the variables that Slurm sets, on a small task."""
    page = (Path(__file__).parents[2] / "docs/scale.md").read_text()
    script = page.split("```bash\n#!/bin/bash\n")[1].split("```")[0]
    (last,) = re.findall(r"^#SBATCH --array=0-(\d+)$", script, re.M)
    (line,) = re.findall(r"^pcm-eval (.*)$", script, re.M)
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    count = int(last) + 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", str(count))
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", last)
    small = [*words(folder, Path("result"))[:3], "latency_calls=0", "device=cpu", "seed=90"]
    typed = [word for word in shlex.split(line) if not word.startswith("policy=")]
    for index in range(count):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
        run_command("eval", None, [*typed, *small, f"policy={folder}"])
        names = "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT"
        assert f"shard {index} of {count}, from {names}" in capsys.readouterr().out
    run_command("eval merge", None, ["result"])
    assert "incomplete" not in json.loads(Path("result/eval.json").read_text())
