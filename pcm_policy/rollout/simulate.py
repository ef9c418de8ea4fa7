"""Closed loop in a simulator that keeps moving while the policy thinks.

A plan that is requested at tick ``t`` and takes ``L`` milliseconds is there at tick
``t + ceil(L / period)`` (asynchronous) or, as a synchronous robot may wait within the tick as well,
one tick earlier. An environment step is one control step, whatever ``control_hz`` says: a higher
rate is a faster world.

Episode i has seed ``seed + i``, latencies that are a function of seed and tick, and row
``i % solve_batch`` of solves of exactly ``solve_batch`` rows, so its result is bitwise the same for
every number of environments and processes. As nothing flows from the world to the solver while a
solve runs, solves are put off until a plan is due and then done for many episodes at once.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pcm_policy.control.config import Rest
from pcm_policy.control.delay import LatencyModel
from pcm_policy.control.settings import ControlSettings
from pcm_policy.envs.vector import ActionChunks, Env, make_vector
from pcm_policy.errors import PcmError
from pcm_policy.rollout.controlled import Episode, Runner, Watch
from pcm_policy.rollout.evaluate import EpisodeOutcome, EvalResult
from pcm_policy.rollout.seams import SeamMetrics, seam_metrics
from pcm_policy.serving.planner import Planner


@dataclass(frozen=True)
class SimulationResult:
    """What happened.

    Attributes:
        result: outcomes in the order of their seeds.
        counts: of all controllers together: ticks, requests, plans, misses, fallbacks.
        seams: how smooth the commands were.
        latencies_ms: of all plans, episode by episode; at most the first 100 000.
        rounds: mean rounds of a solve.
        commands: one array ``(steps, Da)`` an episode.
    """

    result: EvalResult
    counts: dict[str, int]
    seams: SeamMetrics
    latencies_ms: tuple[float, ...]
    rounds: float
    commands: tuple[NDArray[np.float32], ...]

    @property
    def miss_rate(self) -> float:
        """Share of the ticks in which a plan was due and not there."""
        return self.counts.get("misses", 0) / max(self.counts.get("ticks", 0), 1)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return self.result.to_json() | {
            "counts": self.counts,
            "miss_rate": self.miss_rate,
            "seams": self.seams.to_json(),
            "rounds": self.rounds,
        }


def simulate(
    planner: Planner,
    env_id: str,
    latency: LatencyModel,
    settings: ControlSettings | None = None,
    *,
    episodes: int,
    seed: int,
    num_envs: int = 32,
    mode: Literal["sync", "async"] = "sync",
    solve_batch: int = 32,
    max_steps: int | None = None,
    rest: Rest | None = None,
    initial_delay_steps: int | None = None,
    wrap: Callable[[Env], Env] | None = None,
    watch: Watch | None = None,
    progress: bool = True,
    **env_kwargs: Any,
) -> SimulationResult:
    """Run episodes under latency.

    Args:
        planner: policy and solver.
        env_id: a gymnasium id.
        latency: how long solves take.
        settings: how every controller works.
        episodes: number of episodes, at least 1.
        seed: of the first one; the others count on from it.
        num_envs: environments side by side.
        mode: ``sync`` (this process) or ``async`` (one process an environment).
        solve_batch: rows of every solve; measured latencies are always of one row.
        max_steps: longest episode; None takes the environment's own limit.
        rest: what the robot does until its first plan; None lets time stand still until then.
        initial_delay_steps: the controllers' first delay estimate; None asks the latency model.
        wrap: applied to every environment, as a disturbance.
        watch: sees every request and its plan.
        progress: show a bar, if the terminal is interactive.
        **env_kwargs: for ``gymnasium.make``.

    Raises:
        PcmError: an argument is out of range.
    """
    settings = settings or ControlSettings()
    if min(episodes, num_envs, solve_batch) < 1 or seed < 0:
        raise PcmError("episodes, num_envs and solve_batch are at least 1, seed 0")
    if max_steps is not None:
        env_kwargs["max_episode_steps"] = max_steps
    runner = Runner(planner, latency, settings, seed, solve_batch, rest, initial_delay_steps)
    runner.watch = watch

    def chunks(env: Env) -> Env:
        return ActionChunks(env if wrap is None else wrap(env))

    # a local function cannot be sent to another process
    wrapper = ActionChunks if wrap is None else chunks
    if wrap is not None and mode == "async":
        raise PcmError("simulate: wrap needs mode='sync'")
    envs = make_vector(env_id, min(num_envs, episodes), mode, wrap=wrapper, **env_kwargs)
    with (
        closing(envs),
        tqdm(total=episodes, desc="simulate", unit="ep", disable=None if progress else True) as bar,
    ):
        done = runner.run(envs, episodes, bar)
    return _result(done, settings.control_hz or planner.spec.control_hz)


def _result(done: Sequence[Episode], control_hz: float) -> SimulationResult:
    outcomes, counts = [], Counter[str]()
    for episode in done:
        steps = len(episode.commands)
        controller = episode.controller
        outcomes.append(EpisodeOutcome(controller.seed, episode.score, episode.success, steps))
        counts.update(controller.record.counts)
    commands = tuple(np.array(e.commands) for e in done)
    parts = [
        (c, np.array(e.seams), [gap for _, gap in e.controller.gaps])
        for c, e in zip(commands, done, strict=True)
    ]
    return SimulationResult(
        result=EvalResult(tuple(outcomes)),
        counts=dict(counts),
        seams=seam_metrics(parts, control_hz),
        latencies_ms=tuple(x for e in done for x in e.latencies)[:100_000],
        rounds=float(np.mean([r for e in done for r in e.rounds])),
        commands=commands,
    )
