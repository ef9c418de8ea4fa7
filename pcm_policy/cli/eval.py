"""``pcm-eval``: roll a policy out, and what came of it as a table, a file and films."""

import sys
from dataclasses import replace
from typing import Any

from pcm_policy.cli.compose import env_kwargs, load_policy, plain, writable
from pcm_policy.cli.settings.evaluate import EvalSettings
from pcm_policy.cli.tasks import placed
from pcm_policy.control.config import latency_model, rest_command, robot_settings
from pcm_policy.control.delay import FixedLatency
from pcm_policy.envs.workers import side_by_side
from pcm_policy.errors import PcmError
from pcm_policy.files import refuse_existing
from pcm_policy.measure.evaluations import evaluations
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.controlled import ControlAgent
from pcm_policy.rollout.entrants import (
    BaselineEntrant,
    ControlledEntrant,
    Entrant,
    PolicyEntrant,
    needs_controller,
)
from pcm_policy.rollout.episodes import Interrupted, Run
from pcm_policy.rollout.repeats import Films
from pcm_policy.rollout.robomimic_policy import SCHEME, RobomimicPolicy
from pcm_policy.rollout.sheet import Sheet
from pcm_policy.rollout.trials import Trials
from pcm_policy.serving.planner import Planner

TIMEOUT_S = 300.0
"""How long an environment in a process of its own may take for a reset or a chunk."""


def eval_main(config: EvalSettings) -> dict[str, Any]:
    """Roll a policy out; returns what ``eval.json`` holds."""
    output = writable(config.output_dir)
    refuse_existing(output / "eval.json", config.overwrite)
    config = placed(config)
    task, calls = plain(config.task), config.latency_calls
    entrant = _entrant(config, task)
    trials = _trials(config, task, isinstance(entrant, BaselineEntrant))
    films = Films(trials, list(config.video_episodes), output / "videos", task["control_hz"])
    films.check()
    sheet = Sheet(
        output / "eval.json",
        str(config.policy),
        task["name"],
        entrant,
        trials.episodes,
        config.overwrite,
    )
    try:
        runs = trials.run(entrant.agent, finished=sheet.finished)
    except Interrupted as error:
        raise _cut(sheet, error) from error
    sheet.write(runs, None, "times and films were not made yet")
    timed = entrant.timed(calls) if calls and entrant.observations() else None
    timed = timed and timed | {"batch": 1, "calls": calls}
    report = sheet.write(runs, timed, "films were not made yet" if films.numbers else None)
    print(table(*evaluations([report])))
    _say(runs, report)
    if films.numbers:
        films.make(runs)
        report = sheet.write(runs, timed)
    print(sheet.path)
    return report


def _entrant(config: EvalSettings, task: dict[str, Any]) -> Entrant:
    """Return who is evaluated: a robomimic baseline, a policy, or a policy with a controller."""
    latency = plain(config.latency)
    controlled = needs_controller(config.control, latency["kind"])
    if str(config.policy).startswith(SCHEME):
        if controlled:
            raise PcmError("latency= and control= take a policy of this package, not robomimic's")
        path = str(config.policy).removeprefix(SCHEME)
        return BaselineEntrant(RobomimicPolicy(path), config.solve_batch)
    policy = _policy(config)
    solver = policy.solver(plain(config.solver))
    if not controlled:
        return PolicyEntrant(policy, solver, config.solve_batch)
    planner = Planner(policy, solver)
    settings = robot_settings(plain(config.control), task)
    model = latency_model(latency, settings.period_ms(planner.spec)) or FixedLatency(0.0)
    agent = ControlAgent(
        planner,
        model,
        settings,
        solve_batch=config.solve_batch,
        rest=rest_command(task, planner.spec.obs_fields),
    )
    return ControlledEntrant(agent, latency)


def _policy(config: EvalSettings) -> DiffusionPolicy:
    policy = load_policy(config)
    if config.max_excess is not None:
        policy.config = replace(policy.config, max_excess=config.max_excess)
    return policy


def _trials(config: EvalSettings, task: dict[str, Any], demonstrate: bool) -> Trials:
    timeout = config.timeout_s
    if timeout is None and config.mode == "async":
        timeout = TIMEOUT_S
    return Trials(
        task["env_id"],
        config.episodes,
        config.seed,
        side_by_side(config.num_envs, config.mode),
        config.mode,
        config.max_steps,
        timeout,
        env_kwargs(task, demonstrate),
    )


def _cut(sheet: Sheet, error: Interrupted) -> BaseException:
    """Write what had finished; returns what ends the command."""
    text = str(error)
    if error.runs:
        report = sheet.write(error.runs, None, text)
        print(table(*evaluations([report])))
        text = f"{text} and are in {sheet.path}"
    return KeyboardInterrupt(text) if error.by_user else PcmError(text)


def _say(runs: list[Run], report: dict[str, Any]) -> None:
    """Say which episodes were ended early, and that nothing is known of success.

    Raises:
        PcmError: all of them were.
    """
    ended = [run for run in runs if run.fault is not None]
    if report["success"] is None:
        print("success: the environment reports none (neither is_success nor success)")
    if not ended:
        return
    where = f"seed {ended[0].seed}, {ended[0].fault}"
    text = f"{len(ended)} of {len(runs)} episodes were ended early, the first at {where}"
    if len(ended) == len(runs):
        raise PcmError(text)
    print(text, file=sys.stderr)
