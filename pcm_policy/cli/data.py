"""``pcm-data``: look at, check, generate or convert demonstrations."""

from pathlib import Path

from pcm_policy.cli.compose import env_kwargs, load_policy, plain
from pcm_policy.cli.settings.data import (
    AbsoluteSettings,
    ConvertSettings,
    GenerateSettings,
    InfoSettings,
    ValidateSettings,
)
from pcm_policy.cli.tasks import placed
from pcm_policy.datasets.doctor import report as doctor
from pcm_policy.datasets.formats.registry import load_formats
from pcm_policy.errors import PcmError, printable_lines
from pcm_policy.policy.folder import resolve_data


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

    load_formats(config.formats)
    pairs = [pair.partition(":")[::2] for pair in config.rename]
    found = convert(
        resolve_data(config.path),
        config.target,
        rename=dict(pairs),
        leave_out=list(config.leave_out),
        fps=config.fps,
        zarr_format=config.zarr_format,
        lerobot_version=config.lerobot_version,
        images=config.images if isinstance(config.images, str) else list(config.images),
    )
    say(found.describe())


def absolute_main(config: AbsoluteSettings) -> None:
    """Add absolute actions to a robosuite file of delta actions."""
    from pcm_policy.envs.absolute import add_absolute_actions

    count = add_absolute_actions(Path(resolve_data(config.path)), Path(config.target))
    say(f"{config.target}: absolute_actions in {count} demonstrations")


def generate_main(config: GenerateSettings) -> None:
    """Let the task's expert, or a policy, make demonstrations."""
    from pcm_policy.envs.workers import fitting_workers, side_by_side
    from pcm_policy.rollout.actors import Actor, ExpertActor, PolicyActor, World
    from pcm_policy.rollout.episode_policy import EpisodePolicy
    from pcm_policy.rollout.generate import generate

    config = placed(config)
    task, place = config.task, config.output or config.path
    if task.control_hz is None:
        raise PcmError("give task.control_hz=...: the rate that is written into the file")
    assert place is not None  # the settings see to it
    assert task.env_id is not None
    kwargs = env_kwargs(task, demonstrate=config.policy is None)
    if config.max_steps is not None:
        kwargs["max_episode_steps"] = config.max_steps
    world = World(task.name or task.env_id, task.env_id, kwargs)
    actor: Actor
    if config.policy is None:
        actor = ExpertActor(world, config.workers or fitting_workers())
    else:
        policy = load_policy(config)
        solver = policy.solver(plain(config.solver))
        actor = PolicyActor(
            world,
            EpisodePolicy(policy, solver),
            seed=config.seed,
            obs_steps=policy.config.obs_steps,
            num_envs=side_by_side(config.num_envs, config.mode),
            mode=config.mode,
            solve_batch=config.solve_batch,
            settings={"policy": config.policy, "solver": solver.label},
        )
    made = generate(
        actor,
        world,
        Path(place),
        episodes=config.episodes,
        attempts=config.attempts,
        seed=config.seed,
        control_hz=task.control_hz,
        failures=config.failures,
    )
    rate = f", success {made['success_rate']:.2f}" if "success_rate" in made else ""
    say(f"{place}: {made['selection']}{rate}")


def say(text: str) -> None:
    """Print what names from somebody's files are part of, their control codes escaped."""
    print(printable_lines(text))
