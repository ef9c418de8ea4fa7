"""The commands of the controller: evaluation under latency, the timed loop, the server."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pcm_policy.cli.compose import env_kwargs, plain, run_command
from pcm_policy.control.config import latency_model, rest_command, robot_settings
from pcm_policy.control.delay import FixedLatency
from pcm_policy.control.settings import ControlSettings
from pcm_policy.envs.workers import side_by_side
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.evaluations import evaluation, evaluations
from pcm_policy.measure.rows import described
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.simulate import simulate
from pcm_policy.serving.planner import Planner
from pcm_policy.solvers.before.solve import SolverConfig


def simulates(config: DictConfig) -> bool:
    """Whether an evaluation needs the controller: latency, or a setting that is not the default."""
    settings = ControlSettings.from_dict(plain(config.control))
    return bool(config.latency.kind != "none") or settings != ControlSettings()


def simulate_main(
    config: DictConfig, policy: DiffusionPolicy, solver: SolverConfig, output: Path
) -> dict[str, Any]:
    """Roll a policy out in a simulator that keeps moving; returns what ``eval.json`` holds."""
    task = plain(config.task)
    settings = robot_settings(plain(config.control), task)
    planner = Planner(policy, solver)
    period_ms = settings.period_ms(planner.spec)
    model = latency_model(plain(config.latency), period_ms) or FixedLatency(0.0)
    found = simulate(
        planner,
        task["env_id"],
        model,
        settings,
        episodes=config.episodes,
        seed=config.seed,
        num_envs=side_by_side(config.num_envs, config.mode),
        mode=config.mode,
        solve_batch=config.solve_batch,
        max_steps=config.max_steps,
        rest=rest_command(task, planner.spec.obs_fields),
        **env_kwargs(task),
    )
    made = {
        "control": asdict(settings) | {"period_ms": period_ms},
        "latency": plain(config.latency),
        "latencies_ms": list(found.latencies_ms),
        **conditions(policy),
    }
    report = evaluation(str(config.policy), task["name"], described(solver), found.to_json(), made)
    write_text(output / "eval.json", to_json(report))
    print(table(*evaluations([report])))
    print(output / "eval.json")
    return report


def loop_main(config: DictConfig) -> dict[str, Any]:
    """Run the loop in real time; returns what ``loop.json`` holds."""
    from pcm_policy.cli import loop as loop_command

    return loop_command.run(config)


def serve_main(config: DictConfig) -> None:
    """Serve a policy until interrupted."""
    from pcm_policy.cli.serve import run

    run(config)


def loop(argv: Sequence[str]) -> None:
    """Entry point of ``pcm-bench loop``."""
    sys.argv[1:] = argv  # hydra reads it for --help
    run_command("loop", loop_main, argv, title="bench loop")


def serve() -> None:
    """Entry point of ``pcm-serve``."""
    run_command("serve", serve_main)
