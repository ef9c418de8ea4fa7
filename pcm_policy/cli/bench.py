"""``pcm-bench`` and ``pcm-bench tune``: time the solvers of a policy, and choose one."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pcm_policy.cli.compose import compose, env_kwargs, load_policy, plain, writable
from pcm_policy.cli.settings.measure import BenchSettings, TuneSettings
from pcm_policy.cli.tasks import placed
from pcm_policy.files import refuse_existing, to_json, write_text
from pcm_policy.measure import tune
from pcm_policy.measure.bench import Bench, run_bench
from pcm_policy.measure.bench_tables import bench_table
from pcm_policy.measure.candidates import searched_samplers
from pcm_policy.measure.pictures import bench_picture
from pcm_policy.measure.statistics import paired_difference_interval
from pcm_policy.measure.tables import table
from pcm_policy.policy.held_out import held_out_observations, held_out_sights
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.episode_policy import EpisodePolicy
from pcm_policy.rollout.evaluate import evaluate
from pcm_policy.runtime.auto import TRIED, available
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.runtime.modes import MODES
from pcm_policy.runtime.precision import TYPES, require
from pcm_policy.solvers.registry import Solver


def bench_main(config: BenchSettings) -> Bench:
    """Time all solvers; write ``bench.json``, then draw it, then print it."""
    output = writable(config.output_dir)
    refuse_existing(output / "bench.json", config.overwrite)
    policy = load_policy(config)
    require(config.error, TYPES[config.runtime.precision] or policy.dtype, "error")
    bench = run_bench(
        policy,
        held_out_observations(config.policy),
        sights=held_out_sights(config.policy),
        observations_used=config.observations,
        calls=config.calls,
        error=config.error,
        seed=config.seed,
        progress=lambda items, what: tqdm(items, desc=what, disable=None),
        methods=config.methods,
        lerobot=config.lerobot,
    )
    report = {"policy": str(config.policy), **bench.to_json()}
    write_text(output / "bench.json", to_json(report))
    print(bench_table(bench))
    bench_picture(bench, output / "bench.png")
    print(output / "bench.json", output / "bench.png")
    return bench


def tune_main(config: TuneSettings) -> dict[str, Any]:
    """Choose a solver and a runtime for a target; returns what ``tune.json`` holds."""
    output = writable(config.output_dir)
    refuse_existing(output / "tune.json", config.overwrite)
    config = placed(config, config.score_within is not None)
    policy = load_policy(config)
    target = config.target
    runtimes = _runtimes(policy, config)
    held = held_out_observations(config.policy)
    rows = torch.linspace(0, len(held) - 1, min(config.observations, len(held))).long()
    others = torch.ones(len(held), dtype=torch.bool).index_fill(0, rows, False)
    spare = held[others][: len(rows)] if others.any() else held

    def progress(items: Sequence[Any], what: str) -> Iterable[Any]:
        bar: Iterable[Any] = tqdm(items, desc=what, disable=None)
        return bar

    samplers = searched_samplers(policy, list(config.search), spare, 1, progress)
    candidates = tune.measure(
        policy,
        held[rows],
        runtimes,
        target,
        samplers=samplers,
        methods=config.methods,
        calls=config.calls,
        progress=progress,
    )

    def scores(solver: Solver) -> list[float]:
        result = evaluate(
            EpisodePolicy(policy, solver),
            str(config.task.env_id),
            episodes=config.episodes,
            seed=config.seed,
            n_obs_steps=policy.config.obs_steps,
            **env_kwargs(config.task),
        )
        return result.scores

    reference = scores(candidates[0].solver) if config.score_within is not None else []

    def closeness(solver: Solver) -> tuple[float, float, float]:
        found = scores(solver)
        low, high = paired_difference_interval(found, reference)
        return float(np.mean(found) - np.mean(reference)), low, high

    best, why, candidates = target.choose(candidates, closeness)
    report = tune.report(policy, candidates, best, why, target) | {"policy": str(config.policy)}
    write_text(output / "tune.json", to_json(report))
    for group in ("solver", "runtime"):
        (output / group).mkdir(exist_ok=True)
        text = "".join(f"{k}: {json.dumps(v)}\n" for k, v in report[group].items())
        write_text(output / group / "tuned.yaml", f"# pcm-bench tune: {why}\n{text}")
    print(_candidates(report))
    print(f"chosen: {best.label} ({why})")
    print(evaluation_line(config, output))
    return report


def _runtimes(policy: DiffusionPolicy, config: TuneSettings) -> list[RuntimeConfig]:
    """Return what is tried.

    Raises:
        PcmError: a mode was named that cannot run here.
    """
    found = []
    for precision in config.precisions:
        one = RuntimeConfig(precision=precision)
        tried = TRIED if config.modes is None else config.modes
        ready = available(policy, MODES, one, tried, config.engine_threads)
        for name in config.modes or ():
            if all(other.mode != name for other in ready):
                Runtime(policy, RuntimeConfig(name, precision))  # which says why
        found += ready
    return found


def _candidates(report: Mapping[str, Any]) -> str:
    """Return the table of what was measured."""
    rows = [
        [
            row["solver"],
            f"{row['rounds']:.0f}",
            f"{row['nfe']:.0f}",
            f"{row['rmse']:.4f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p95_ms']:.2f}",
        ]
        for row in report["candidates"]
    ]
    return table(["candidate", "rounds", "NFE", "RMSE", "p50 ms", "p95 ms"], rows)


def evaluation_line(config: TuneSettings, output: Path) -> str:
    """Return the command that evaluates the tuned solver on the same policy and task."""
    task = plain(config.task)
    words = ["pcm-eval", "--config-dir", str(output), f"policy={config.policy}"]
    named = [f"task={task['name']}"] if task["name"] else []
    words += named
    usual = plain(compose("eval", [*named, "output_dir=x"]).task)
    words += [f"task.{key}={json.dumps(value)}" for key, value in _changed(task, usual)]
    words += ["solver=tuned", "runtime=tuned", f"output_dir={output / 'eval'}"]
    return shlex.join(words)


def _changed(given: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of everything that is not as usual."""
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(usual.get(key), dict):
            yield from ((f"{key}.{inner}", v) for inner, v in _changed(value, usual[key]))
        elif value != usual.get(key):
            yield key, value
