"""``pcm-bench loop``: set up, warm up, run, write ``loop.json`` and its pictures."""

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pcm_policy.cli.compose import env_kwargs, load_policy, plain, writable
from pcm_policy.cli.settings.evaluate import LoopSettings
from pcm_policy.cli.tasks import placed
from pcm_policy.control.config import rest_command, robot_settings
from pcm_policy.control.controller import Controller
from pcm_policy.control.delay import DelayEstimator, to_steps
from pcm_policy.control.settings import ControlSettings
from pcm_policy.errors import PcmError
from pcm_policy.files import refuse_existing, to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.pictures import new_figure, save_figure
from pcm_policy.measure.rows import certificate, described
from pcm_policy.measure.tables import table
from pcm_policy.policy.held_out import held_out_observations, held_out_sights
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.loop import LoopResult, run_loop, why_ended
from pcm_policy.rollout.worlds import EnvWorld, RecordedWorld, World
from pcm_policy.runtime.timing import take_turns
from pcm_policy.serving.planner import Planner

CALLS = 10
"""Calls before the loop that warm up, and as many again that the first delay is taken from."""
HOG = """
import os, time
parent = os.getppid()
while os.getppid() == parent:
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        sum(range(1000))
"""


def loop_main(config: LoopSettings) -> dict[str, Any]:
    """Run the loop that a config describes; returns what ``loop.json`` holds."""
    config = placed(config, config.source == "env")
    output = writable(config.output_dir)
    refuse_existing(output / "loop.json", config.overwrite)
    policy = load_policy(config)
    planner = Planner(policy, policy.solver(plain(config.solver)))
    values = plain(config.control)
    if config.control_hz is not None:
        values["control_hz"] = config.control_hz
    task = plain(config.task)
    settings = robot_settings(values, task)
    world: World
    if config.source == "env":
        rest = rest_command(task, planner.spec.obs_fields)
        world = EnvWorld(task["env_id"], config.seed, rest, **env_kwargs(task))
    else:
        world = RecordedWorld([seen[-1] for seen in _recorded(policy, str(config.policy))])
    delay = warm_up(planner, settings, _beginnings(policy, world, str(config.policy)))
    controller = Controller(planner.spec, settings, config.seed, delay)
    with _hogs(config.hog):
        result = run_loop(
            controller,
            planner.plan,
            world,
            config.duration_s,
            see=planner.see,
            wait_share=config.wait_share,
            progress=_bar,
        )
    world.close()
    report = {
        "policy": str(config.policy),
        "solver": described(planner.solver) | certificate(planner.policy, planner.solver),
        "control": asdict(settings),
        "source": config.source,
        "hog": config.hog,
        "warmup_calls": 2 * CALLS,
        **result.to_json(),
        "delay_steps": delay.steps,
        "events": list(controller.record.events),
        **conditions(policy),
    }
    write_text(output / "loop.json", to_json(report))
    print(_summary(planner.solver.label, result))
    if result.ended is not None:
        text = f"{why_ended(result.ended)}; {result.ticks} ticks are in {output / 'loop.json'}"
        by_user = isinstance(result.ended, KeyboardInterrupt)
        raise (KeyboardInterrupt if by_user else PcmError)(text) from result.ended
    picture(result, planner.solver.label, output / "loop.png")
    print(output / "loop.json", output / "loop.png")
    return report


def _recorded(policy: DiffusionPolicy, path: str) -> list[Sequence[Any]]:
    """Return the policy's held-out observations, each a list of ``To`` as a world gives them.

    Raises:
        PcmError: it has none.
    """
    if policy.vision is None:
        return list(held_out_observations(path).numpy())
    found = held_out_sights(path)
    if not found:
        raise PcmError(f"{path} holds no observations with images: use source=env, or train again")
    steps = range(policy.config.obs_steps)
    return [[{name: v[step] for name, v in seen.items()} for step in steps] for seen in found]


def _beginnings(policy: DiffusionPolicy, world: World, path: str) -> list[Sequence[Any]]:
    """Return observations to warm up on: the policy's own, or the world's first, ``To`` each."""
    if policy.vision is None and policy.held_out is not None:
        return _recorded(policy, path)
    return [[world.first()] * policy.config.obs_steps]


def warm_up(
    planner: Planner, settings: ControlSettings, beginnings: Sequence[Sequence[Any]]
) -> DelayEstimator:
    """Make the first calls, which nobody counts, and estimate the delay from the last of them.

    Args:
        planner: policy and solver.
        settings: of the controller.
        beginnings: observations as a world gives them, ``To`` in each; used in turn.
    """
    memory: Any = None
    probe = Controller(planner.spec, settings)

    def call(i: int) -> None:
        nonlocal memory
        probe.reset(0)
        for observation in beginnings[i % len(beginnings)]:
            probe.observe(observation)
        request = probe.request()
        if request is None:
            raise PcmError(f"the first observation cannot be used: {probe.record.events[-1][2]}")
        memory = planner.plan(replace(request, tick=i, memory=memory)).memory

    (spent,) = take_turns([call], CALLS, warmup=CALLS)
    period_ms = settings.period_ms(planner.spec)
    return DelayEstimator(period_ms, to_steps(max(spent), period_ms), warmup=0)


@contextmanager
def _hogs(count: int) -> Iterator[None]:
    """Keep ``count`` processes busy; they end with this one, whatever happens to it."""
    hogs = [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def _bar(ticks: Iterable[int], total: int) -> Iterable[int]:
    bar: Iterable[int] = tqdm(
        ticks, total=total, desc="loop", unit="tick", disable=None, mininterval=1.0
    )
    return bar


def _summary(label: str, result: LoopResult) -> str:
    rows = []
    for name, times in result.times.items():
        found = times.summary()
        if found["count"]:
            keys = ("p50", "p95", "p99", "p99.9", "max")
            rows.append([name, *(f"{found[key]:.3f}" for key in keys)])
    return "\n".join(
        [
            table(["stage, ms", "p50", "p95", "p99", "p99.9", "max"], rows),
            f"{label}: {result.ticks} ticks, {result.effective_hz:.3f} of {result.control_hz:g} Hz,"
            f" {result.late_plans + result.overruns} deadline misses ({result.late_plans} late "
            f"plans, {result.overruns} overruns), {result.skipped} skipped ticks",
        ]
    )


def picture(result: LoopResult, label: str, path: Path) -> None:
    """Draw histograms of solve time and jitter, and the last seconds as a timeline."""
    figure = new_figure(12, 6)
    axes = figure.subplot_mosaic([["solve", "jitter"], ["time", "time"]])
    for name, title in (
        ("solve", "request to plan [ms]"),
        ("jitter", "start of a tick, late [ms]"),
    ):
        kept = result.times[name].kept
        if len(kept):
            axes[name].hist(np.maximum(kept, 1e-4), bins=80, log=True)
        axes[name].set_xlabel(title)
        axes[name].set_ylabel("count")
    axes["solve"].axvline(1e3 / result.control_hz, color="tab:red", lw=1, label="control period")
    axes["solve"].legend()
    shown = result.sent[-min(60, len(result.sent)) :]
    begin = shown[0][0]
    colours = {"plan": "tab:green", "continue": "tab:orange", "slow": "gold", "hold": "tab:red"}
    for target, sent, how in shown:
        axes["time"].plot([target, sent], [1, 1], color="0.7", lw=6, solid_capstyle="butt")
        axes["time"].plot(sent, 1, "|", ms=18, color=colours.get(how, "black"))
    for first, last in result.spans:
        if last >= begin:
            axes["time"].plot([first, last], [0, 0], color="tab:blue", lw=10, solid_capstyle="butt")
    axes["time"].set_yticks([0, 1], ["solve", "command"])
    axes["time"].set_ylim(-0.6, 1.6)
    axes["time"].set_xlim(left=begin)
    axes["time"].set_xlabel("time [s]; green: from the plan, other colours: a fallback")
    misses = result.late_plans + result.overruns
    figure.suptitle(f"{label} at {result.control_hz:g} Hz: {misses} misses in {result.ticks} ticks")
    save_figure(figure, path, dpi=100)
