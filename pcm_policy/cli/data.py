"""``pcm-data``: look at, check, generate or convert demonstrations."""

import os
from pathlib import Path
from typing import Any

from pcm_policy.cli.settings.data import (
    AbsoluteSettings,
    ConvertSettings,
    GenerateSettings,
    InfoSettings,
    ManifestSettings,
    ValidateSettings,
    VerifySettings,
)
from pcm_policy.cli.tasks import placed
from pcm_policy.datasets.doctor import report as doctor
from pcm_policy.datasets.formats.registry import load_formats
from pcm_policy.errors import PcmError, printable_lines
from pcm_policy.policy.places import resolve_data


def info_main(config: InfoSettings) -> None:
    """Say what demonstrations hold."""
    load_formats(config.formats)
    say(doctor.summary(resolve_data(config.path)))


def validate_main(config: ValidateSettings) -> None:
    """Check demonstrations, in the fields of a task if one is named; exit code 1 for errors."""
    load_formats(config.formats)
    task = config.task
    named = task.name is not None or task.action_field != "action"
    padded = task.obs_steps - 1 + task.action_steps - 1
    report = doctor.validate(
        resolve_data(config.path),
        obs=list(task.obs_fields or ()),
        action=task.action_field if named else None,
        position=task.position_field,
        filter_key=config.filter_key,
        min_steps=max(1, task.horizon - padded),
    )
    say(doctor.format_report(report))
    if not report.ok:
        raise SystemExit(1)


def convert_main(config: ConvertSettings) -> None:
    """Convert demonstrations into another format."""
    from pcm_policy.datasets.convert import convert
    from pcm_policy.datasets.convert_parts import convert_parts

    load_formats(config.formats)
    pairs = [pair.partition(":")[::2] for pair in config.rename]
    options: dict[str, Any] = {
        "rename": dict(pairs),
        "leave_out": list(config.leave_out),
        "fps": config.fps,
        "zarr_format": config.zarr_format,
        "lerobot_version": config.lerobot_version,
        "lerobot_video": config.lerobot_video,
        "images": config.images if isinstance(config.images, str) else list(config.images),
    }
    source = resolve_data(config.path)
    if "*" in config.target:
        where = Path(source), Path(config.target)
        convert_parts(*where, config.processes, options, config.formats, say)
        return
    if config.processes > 1:
        raise PcmError(
            f"processes={config.processes}: they convert the parts of a folder, each into a part "
            "of another: give target=DIR/*.zarr"
        )
    say(convert(source, config.target, **options).describe())


def manifest_main(config: ManifestSettings) -> None:
    """Make the entries of a folder the parts of one data set, with checksums."""
    from pcm_policy.datasets.formats.manifest import write_manifest

    load_formats(config.formats)
    parts = write_manifest(Path(config.path), overwrite=config.overwrite)
    for part in parts:
        say(part.describe())
    say(f"{config.path}: {len(parts)} parts, {sum(part.episodes for part in parts)} episodes")


def verify_main(config: VerifySettings) -> None:
    """Compare a data set with the checksums of its manifest; exit code 1 where they differ."""
    from pcm_policy.datasets.formats.manifest import verify

    faults = verify(Path(config.path))
    for fault in faults:
        say(fault)
    if faults:
        raise SystemExit(1)
    say(f"{config.path}: every file is as its manifest says")


def absolute_main(config: AbsoluteSettings) -> None:
    """Add absolute actions to a robosuite file of delta actions."""
    from pcm_policy.envs.absolute import add_absolute_actions

    count = add_absolute_actions(Path(resolve_data(config.path)), Path(config.target))
    say(f"{config.target}: absolute_actions in {count} demonstrations")


def generate_main(config: GenerateSettings) -> None:
    """Let the task's expert, or a policy, make demonstrations, or a shard's share of them."""
    from pcm_policy.cli.generating import RayActor, actor_of, world_of
    from pcm_policy.rollout.generate import generate, generate_part
    from pcm_policy.rollout.shards import shard_of

    config = placed(config)
    task, place = config.task, config.output or config.path
    if task.control_hz is None:
        raise PcmError("give task.control_hz=...: the rate that is written into the file")
    assert place is not None  # the settings see to it
    spread = config.launcher == "ray"
    shard = None if spread else shard_of(os.environ, config.shard, config.shards)
    world = world_of(config)
    actor = actor_of(config, world)
    wanted: dict[str, Any] = {
        "episodes": config.episodes,
        "attempts": config.attempts,
        "seed": config.seed,
        "control_hz": task.control_hz,
        "failures": config.failures,
    }
    if shard is not None:
        kept = generate_part(actor, world, Path(place), shard, **wanted)
        say(f"{shard}, from {shard.taken_from}: {kept}; without shard and shards: {place}")
        return
    made = generate(RayActor(config, actor) if spread else actor, world, Path(place), **wanted)
    rate = f", success {made['success_rate']:.2f}" if "success_rate" in made else ""
    say(f"{place}: {made['selection']}{rate}")


def say(text: str) -> None:
    """Print what names from somebody's files are part of, their control codes escaped."""
    print(printable_lines(text))
