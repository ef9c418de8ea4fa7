"""Episodes of an evaluation in this process: all of them, or a shard; table, file and films."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcm_policy.cli.compose import plain
from pcm_policy.cli.entrants import identity_of, trials_of
from pcm_policy.cli.settings.evaluate import EvalSettings
from pcm_policy.errors import PcmError
from pcm_policy.measure.evaluations import evaluations
from pcm_policy.measure.tables import table
from pcm_policy.rollout.entrants import Entrant
from pcm_policy.rollout.episodes import Interrupted
from pcm_policy.rollout.records import Record, check_ended, say_ended
from pcm_policy.rollout.repeats import Films
from pcm_policy.rollout.shards import Shard, ShardFile, difference, read_shard
from pcm_policy.rollout.sheet import Sheet, report

Judge = Callable[[Sequence[Record]], None]


def whole(config: EvalSettings, entrant: Entrant) -> dict[str, Any]:
    """Run all episodes; returns what ``eval.json`` holds."""

    def layout(records: Sequence[Record], *rest: Any) -> dict[str, Any]:
        return report(_header(config, entrant), records, *rest)

    path = Path(config.output_dir) / "eval.json"
    sheet = Sheet(path, config.episodes, entrant.record, layout)
    return _run(config, entrant, sheet, range(config.episodes), check_ended)


def part(config: EvalSettings, entrant: Entrant, shard: Shard) -> dict[str, Any]:
    """Make a shard, or what its file lacks; returns what that holds.

    Raises:
        PcmError: the file is of another evaluation.
    """
    numbers, path = shard.numbers(config.episodes), shard.file(Path(config.output_dir))
    identity = identity_of(config, entrant)
    there = resumed(path, identity) if path.exists() and not config.overwrite else None
    records = [] if there is None else [one for one in there.records if _kept(config, one)]
    about = f"{shard}, from {shard.taken_from}: episodes {numbers[0]} to {numbers[-1]}"
    print(f"{about} of {config.episodes}" + (f", {len(records)} are there" if records else ""))
    done = {record.index for record in records}
    left = [number for number in numbers if number not in done]
    if there is not None and there.incomplete is None and not left:
        print(f"{path} is complete")
        return there.to_json()

    def layout(records: Sequence[Record], latency_ms: Any, why: str | None) -> dict[str, Any]:
        total, header = config.episodes, _header(config, entrant)
        return ShardFile(shard, total, identity, header, latency_ms, records, why).to_json()

    sheet = Sheet(path, len(numbers), entrant.record, layout, records)
    return _run(config, entrant, sheet, left, say_ended)  # the others may be well


def resumed(path: Path, identity: Mapping[str, Any]) -> ShardFile:
    """Return what a shard's file holds.

    Raises:
        PcmError: it is damaged, or of another evaluation.
    """
    there = read_shard(path)
    found = difference(there.identity, identity)
    if found is not None:
        raise PcmError(f"{path} was begun with {found}: give another output_dir, or overwrite=true")
    return there


def _kept(config: EvalSettings, record: Record) -> bool:
    """Whether an episode is not run again: its film, if it is to have one, is there."""
    film = Films.path(Path(config.output_dir) / "videos", record.outcome.seed)
    return record.index not in config.video_episodes or film.exists()


def _run(
    config: EvalSettings, entrant: Entrant, sheet: Sheet, numbers: Sequence[int], judge: Judge
) -> dict[str, Any]:
    """Run some episodes into a file; then times, and films; returns what the file holds."""
    task, calls = plain(config.task), config.latency_calls
    trials = trials_of(config, task, entrant, numbers)
    filmed = [number for number in config.video_episodes if number in numbers]
    films = Films(trials, filmed, Path(config.output_dir) / "videos", task["control_hz"])
    films.check()
    try:
        runs = trials.run(entrant.agent, finished=sheet.finished) if numbers else []
    except Interrupted as error:
        raise _cut(config, entrant, sheet, error) from error
    sheet.write(None, "times and films were not made yet")
    timed = entrant.timed(calls) if calls and entrant.observations() else None
    timed = timed and timed | {"batch": 1, "calls": calls}
    found = sheet.write(timed, "films were not made yet" if films.numbers else None)
    _say(config, entrant, sheet, timed, judge)
    if films.numbers:
        films.make(runs)
        found = sheet.write(timed)
    print(sheet.path)
    return found


def _header(config: EvalSettings, entrant: Entrant) -> dict[str, Any]:
    return {
        "policy": str(config.policy),
        "task": config.task.name,
        "solver": entrant.solver_used(),
        "about": entrant.about(),
    }


def _cut(config: EvalSettings, entrant: Entrant, sheet: Sheet, error: Interrupted) -> BaseException:
    """Write what had finished; returns what ends the command."""
    text = str(error)
    if sheet.records:
        sheet.write(None, text)
        print(table(*evaluations([report(_header(config, entrant), sheet.records, None)])))
        text = f"{text} and are in {sheet.path}"
    return KeyboardInterrupt(text) if error.by_user else PcmError(text)


def _say(config: EvalSettings, entrant: Entrant, sheet: Sheet, timed: Any, judge: Judge) -> None:
    """Print the table; say that success is not known, and which episodes were ended early."""
    found = report(_header(config, entrant), sheet.records, timed)
    print(table(*evaluations([found])))
    if found["success"] is None and any(one.outcome.fault is None for one in sheet.records):
        print("success: the environment reports none (neither is_success nor success)")
    judge(sheet.records)
