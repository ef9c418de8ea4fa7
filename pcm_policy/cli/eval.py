"""``pcm-eval``: roll a policy out, and what came of it as a table and a file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from pcm_policy.cli.compose import env_kwargs, load_policy, plain, writable
from pcm_policy.cli.control import simulate_main, simulates
from pcm_policy.envs.workers import side_by_side
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.bench import time_encoding, time_predictions
from pcm_policy.measure.conditions import conditions, hardware, made_by
from pcm_policy.measure.evaluations import evaluation, evaluations
from pcm_policy.measure.rows import described
from pcm_policy.measure.tables import table
from pcm_policy.measure.timing import time_call
from pcm_policy.rollout.episode_policy import EpisodePolicy
from pcm_policy.rollout.evaluate import EvaluationCut, evaluate
from pcm_policy.rollout.robomimic_policy import SCHEME, RobomimicPolicy


def eval_main(config: DictConfig) -> dict[str, Any]:
    """Roll a policy out; returns what ``eval.json`` holds."""
    output = writable(config.output_dir)
    if str(config.policy).startswith(SCHEME):
        return _eval_baseline(config, output)
    policy = load_policy(config)
    solver = policy.solver(plain(config.solver))
    if simulates(config):
        return simulate_main(config, policy, solver, output)
    runner = EpisodePolicy(policy, solver)
    result, cut = _roll_out(config, output, runner, policy.config.obs_steps)
    frames = runner.observations()
    timed = time_predictions(policy, [solver], frames, config.latency_calls)[0]
    if policy.vision is not None:
        timed["encode"] = time_encoding(policy, frames, config.latency_calls)["p50"]
    made = {
        "solver": described(solver),
        "rounds": runner.mean_rounds,
        "nfe": runner.mean_nfe,
        "latency_ms": timed | {"batch": 1, "calls": config.latency_calls},
        **conditions(policy),
    }
    return _report(config, output, result, cut, made)


def _eval_baseline(config: DictConfig, output: Path) -> dict[str, Any]:
    """Roll out a policy that robomimic trained; it acts as the demonstrations of its file do."""
    runner = RobomimicPolicy(str(config.policy).removeprefix(SCHEME))
    result, cut = _roll_out(config, output, runner, 1, demonstrate=True)
    frames, row = runner.observations(), np.zeros(1, np.int64)
    batched = [{key: values[None] for key, values in frame.items()} for frame in frames]
    timed = time_call(
        lambda call: runner(batched[call % len(batched)], row, row), config.latency_calls
    )
    made = {
        "solver": {"label": runner.label},
        "rounds": 1.0,
        "nfe": 1.0,
        "latency_ms": timed | {"batch": 1, "calls": config.latency_calls},
        **made_by(),
        "hardware": hardware(torch.device("cpu")),
    }
    return _report(config, output, result, cut, made)


def _roll_out(
    config: DictConfig, output: Path, runner: Any, obs_steps: int, demonstrate: bool = False
) -> tuple[Any, PcmError | None]:
    """Evaluate; where an environment failed, what had finished and the error."""
    task = plain(config.task)
    try:
        result = evaluate(
            runner,
            task["env_id"],
            episodes=config.episodes,
            seed=config.seed,
            n_obs_steps=obs_steps,
            num_envs=side_by_side(config.num_envs, config.mode),
            mode=config.mode,
            solve_batch=config.solve_batch,
            max_steps=config.max_steps,
            video_episodes=list(config.video_episodes),
            video_dir=output / "videos",
            **env_kwargs(task, demonstrate),
        )
    except EvaluationCut as error:
        if not error.result.episodes:
            raise
        return error.result, error
    return result, None


def _report(
    config: DictConfig, output: Path, result: Any, cut: PcmError | None, made: dict[str, Any]
) -> dict[str, Any]:
    """Write ``eval.json`` and print its line of the table."""
    report = evaluation(
        str(config.policy),
        plain(config.task)["name"],
        made.pop("solver"),
        result.to_json(),
        made,
        None if cut is None else str(cut),
    )
    write_text(output / "eval.json", to_json(report))
    print(table(*evaluations([report])))
    if cut is not None:
        raise PcmError(f"{cut} and are in {output / 'eval.json'}") from cut
    print(output / "eval.json")
    return report
