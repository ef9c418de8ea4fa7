"""``pcm-data``: look at, check, generate or convert demonstrations."""

from pathlib import Path

from omegaconf import DictConfig

from pcm_policy.cli.compose import env_kwargs, load_policy, plain
from pcm_policy.datasets.doctor import replay as doctor
from pcm_policy.errors import PcmError
from pcm_policy.policy.folder import resolve_data


def data_main(config: DictConfig) -> None:
    """Look at, check, generate or convert demonstrations."""
    if config.command == "generate":
        return generate_main(config)
    if config.path is None:
        raise PcmError(f"name the demonstrations: pcm-data {config.command} PATH")
    task, path = plain(config.task), resolve_data(config.path)
    if config.command == "info":
        print(doctor.summary(path))
    elif config.command == "validate":
        report = doctor.validate(
            path,
            obs=task["obs_fields"],
            action=task["action_field"],
            position=task["position_field"],
            filter_key=config.filter_key,
        )
        print(doctor.format_report(report))
        if not report.ok:
            raise SystemExit(1)
    elif config.command == "convert":
        from pcm_policy.datasets.convert import convert

        if config.target is None:
            raise PcmError("give the target: pcm-data convert SOURCE TARGET")
        pairs = [str(pair).partition(":")[::2] for pair in config.rename]
        found = convert(
            path,
            config.target,
            rename=dict(pairs),
            leave_out=list(config.leave_out),
            fps=config.fps,
            zarr_format=config.zarr_format,
            lerobot_version=config.lerobot_version,
            images=config.images if isinstance(config.images, str) else list(config.images),
        )
        print(found.describe())
    elif config.command == "absolute":
        from pcm_policy.envs.absolute import add_absolute_actions

        if config.target is None:
            raise PcmError("give the target: pcm-data absolute SOURCE.hdf5 TARGET.hdf5")
        count = add_absolute_actions(Path(path), Path(config.target))
        print(f"{config.target}: absolute_actions in {count} demonstrations")
    else:
        raise PcmError(
            f"pcm-data {config.command}: use info, validate, generate, convert or absolute"
        )


def generate_main(config: DictConfig) -> None:
    """Let the task's expert, or a policy, make demonstrations."""
    from pcm_policy.envs.workers import fitting_workers, side_by_side
    from pcm_policy.rollout.actors import Actor, ExpertActor, PolicyActor, World
    from pcm_policy.rollout.episode_policy import EpisodePolicy
    from pcm_policy.rollout.generate import generate

    task, place = plain(config.task), config.output or config.path
    if place is None:
        raise PcmError("name the file to write: pcm-data generate ... output=FILE.hdf5")
    kwargs = env_kwargs(task, demonstrate=config.policy is None)
    if config.max_steps is not None:
        kwargs["max_episode_steps"] = config.max_steps
    world = World(task["name"], task["env_id"], kwargs)
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
            settings={"policy": str(config.policy), "solver": solver.label},
        )
    made = generate(
        actor,
        world,
        Path(place),
        episodes=config.episodes,
        attempts=config.attempts,
        seed=config.seed,
        control_hz=task["control_hz"],
        failures=config.failures,
    )
    rate = f", success {made['success_rate']:.2f}" if "success_rate" in made else ""
    print(f"{place}: {made['selection']}{rate}")
