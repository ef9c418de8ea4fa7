"""What an evaluation's settings ask for: who acts, in which episodes, and what these depend on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pcm_policy.cli.compose import env_kwargs, load_policy, plain
from pcm_policy.cli.settings.evaluate import EvalSettings
from pcm_policy.control.config import latency_model, rest_command, robot_settings
from pcm_policy.control.delay import FixedLatency
from pcm_policy.envs.workers import side_by_side
from pcm_policy.errors import PcmError
from pcm_policy.measure.conditions import commit, versions
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.controlled import ControlAgent
from pcm_policy.rollout.entrants import (
    BaselineEntrant,
    ControlledEntrant,
    Entrant,
    PolicyEntrant,
    needs_controller,
)
from pcm_policy.rollout.robomimic_policy import SCHEME, RobomimicPolicy
from pcm_policy.rollout.trials import Trials
from pcm_policy.serving.planner import Planner

TIMEOUT_S = 300.0
"""How long an environment in a process of its own may take for a reset or a chunk."""
NO_EPISODE = (
    "policy", "output_dir", "num_envs", "mode", "video_episodes", "latency_calls", "timeout_s",
    "overwrite", "shard", "shards", "threads", "device", "launcher", "ray",
)  # fmt: skip
"""Settings that change no episode, or are known better: the policy by its digest."""
ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}


def entrant_of(config: EvalSettings, task: dict[str, Any]) -> Entrant:
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


def trials_of(
    config: EvalSettings,
    task: dict[str, Any],
    entrant: Entrant,
    chosen: Sequence[int] | None = None,
) -> Trials:
    """Return the episodes that are run: those of the numbers ``chosen``, or all."""
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
        env_kwargs(task, isinstance(entrant, BaselineEntrant)),
        chosen,
    )


def identity_of(config: EvalSettings, entrant: Entrant) -> dict[str, Any]:
    """Return all that an episode depends on but its number, as JSON holds it.

    Raises:
        PcmError: the settings leave something to the machine or to the other episodes.
    """
    mode = config.runtime.mode
    if mode == "auto":
        raise PcmError("runtime.mode=auto may choose another mode on another machine: name one")
    entrant.check_rows()
    settings = {key: value for key, value in plain(config).items() if key not in NO_EPISODE}
    settings["runtime"] = {k: v for k, v in settings["runtime"].items() if k != "threads"}
    engine = [ENGINES[mode]] if mode in ENGINES else []
    return {
        "policy": entrant.identity(),
        "device": entrant.device,
        "versions": versions(*engine) | {"commit": commit()},
        "settings": settings,
    }


def _policy(config: EvalSettings) -> DiffusionPolicy:
    policy = load_policy(config)
    if config.max_excess is not None:
        policy.config = replace(policy.config, max_excess=config.max_excess)
    return policy
