"""The commands: each is a function of one resolved config, so that Python can call it as well."""

import json
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from omegaconf import DictConfig
from tqdm import tqdm

from pcm_policy.checkpoint import (
    fingerprint,
    held_out_observations,
    held_out_sights,
    resolve_data,
    round_to_half,
    save_policy,
    to_json,
    write_text,
)
from pcm_policy.commands import env_kwargs, pick_device, plain, run_command, typed, writable
from pcm_policy.datasets import doctor
from pcm_policy.errors import PcmError
from pcm_policy.exactness import exactness_report
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.report import card, table
from pcm_policy.runtime import RuntimeConfig
from pcm_policy.training.consistency import Consistency
from pcm_policy.training.data import DatasetConfig, Demonstrations, load_demonstrations
from pcm_policy.training.distillation import Distillation, with_head
from pcm_policy.training.loop import TrainConfig, fit


def train_main(config: DictConfig) -> Path:
    """Train a base policy; returns its folder."""
    from pcm_policy.training.cloning import Cloning
    from pcm_policy.training.data import continued_policy, new_policy, policy_config

    output, half = writable(config.output_dir), _half(config)
    training = typed(TrainConfig, config.train, "train")
    dataset = _dataset(config)
    settings = policy_config(plain(config.task), plain(config.network), plain(config.policy))
    data = load_demonstrations(dataset, settings)
    if config.init is None:
        policy = new_policy(settings, data, training.seed, config.policy.normalizer)
    else:
        policy = continued_policy(settings, DiffusionPolicy.from_pretrained(config.init))
    windows, held_out = data.windows(policy)
    objective = Cloning(policy, windows, held_out, training.batch, training.seed)
    accelerator = _accelerator(config)
    policy = objective.adopt(
        fit(objective, training, output, accelerator, resume=config.resume)
    ).eval()
    if half:
        round_to_half(policy.network)
    text = card(policy, data.describe(dataset), "pcm-train", training)
    return _save(policy, data, text, output, accelerator, data.sights(policy))


def distill_main(config: DictConfig) -> Path:
    """Distil a PCM head, or a consistency model; returns the policy's folder."""
    output, half = writable(config.output_dir), _half(config)
    training = typed(TrainConfig, config.train, "train")
    dataset = _dataset(config)
    base = DiffusionPolicy.from_pretrained(config.policy)
    data = load_demonstrations(dataset, base.config)
    seen, data = data, data.encoded(base.to(pick_device(config.device)))
    objective = _distillation(config, base, data, training)
    accelerator = _accelerator(config)
    start = time.monotonic()
    policy = objective.adopt(fit(objective, training, output, accelerator, resume=config.resume))
    if half:
        round_to_half(policy.head or policy.network)
    minutes = f"{(time.monotonic() - start) / 60:.1f} min on {accelerator.device}"
    made = {
        "distilled in": minutes + (", the part since it was resumed" if config.resume else ""),
        "base": f"weights `{fingerprint(base.network)}`",
    }
    measured = ""
    if accelerator.is_main_process:
        measured = exactness_report(policy.eval(), data.observations(policy), base)
    text = card(policy, data.describe(dataset), "pcm-distill", training, made, measured)
    return _save(policy, data, text, output, accelerator, seen.sights(policy))


def _distillation(
    config: DictConfig, base: DiffusionPolicy, data: Demonstrations, training: TrainConfig
) -> Distillation | Consistency:
    head, sampler, seed = plain(config.head), plain(config.sampler), training.seed
    windows, held_out = data.windows(base)
    if head["name"] == "consistency":
        try:
            return Consistency(
                base, sampler, windows, held_out, training.batch, seed, **head["options"]
            )
        except TypeError as error:
            raise PcmError(f"head=consistency: {error}") from error
    options = plain(config.distill)
    policy = with_head(base, head, sampler, seed, options.pop("rounds"))
    return Distillation(policy, windows, held_out, training.batch, seed, **options)


def eval_main(config: DictConfig) -> dict[str, Any]:
    """Roll a policy out; returns what ``eval.json`` holds."""
    from pcm_policy.bench import hardware, time_encoding, time_predictions
    from pcm_policy.cli_control import simulate_main, simulates
    from pcm_policy.robomimic_baseline import SCHEME
    from pcm_policy.rollout_policy import EpisodePolicy

    output = writable(config.output_dir)
    if str(config.policy).startswith(SCHEME):
        return _eval_baseline(config, output)
    policy = _load(config)
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
        "solver": {"label": solver.label, **asdict(solver)},
        "rounds": runner.mean_rounds,
        "nfe": runner.mean_nfe,
        "latency_ms": timed | {"batch": 1, "calls": config.latency_calls},
        "hardware": hardware(policy.device),
    }
    return _report(config, output, result, cut, made)


def _eval_baseline(config: DictConfig, output: Path) -> dict[str, Any]:
    """Roll out a policy that robomimic trained; it acts as the demonstrations of its file do."""
    from pcm_policy.bench import hardware, time_calls
    from pcm_policy.robomimic_baseline import SCHEME, RobomimicPolicy

    runner = RobomimicPolicy(str(config.policy).removeprefix(SCHEME))
    result, cut = _roll_out(config, output, runner, 1, demonstrate=True)
    frames, row = runner.observations(), np.zeros(1, np.int64)
    batched = [{key: values[None] for key, values in frame.items()} for frame in frames]
    timed = time_calls(
        lambda call: runner(batched[call % len(batched)], row, row), config.latency_calls
    )
    made = {
        "solver": {"label": runner.label},
        "rounds": 1.0,
        "nfe": 1.0,
        "latency_ms": timed | {"batch": 1, "calls": config.latency_calls},
        "hardware": hardware(torch.device("cpu")),
    }
    return _report(config, output, result, cut, made)


def _roll_out(
    config: DictConfig, output: Path, runner: Any, obs_steps: int, demonstrate: bool = False
) -> tuple[Any, PcmError | None]:
    """Evaluate; where an environment failed, what had finished and the error."""
    from pcm_policy.envs.workers import side_by_side
    from pcm_policy.evaluate import EvaluationCut, evaluate

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
    outcome = result.to_json()
    episodes = outcome.pop("episodes")
    score, success, timed = outcome["score"], outcome["success"], made["latency_ms"]
    report = {
        "policy": str(config.policy),
        "task": plain(config.task)["name"],
        "solver": made.pop("solver"),
        **({"incomplete": str(cut)} if cut else {}),
        **outcome,
        **made,
        "episodes": episodes,
    }
    write_text(output / "eval.json", to_json(report))
    rows = [
        [
            report["solver"]["label"],
            "{:.3f} [{:.3f}, {:.3f}]".format(score["mean"], *score["ci95"]),
            "{:.2f} [{:.2f}, {:.2f}]".format(success["rate"], *success["ci95"]),
            f"{made['rounds']:.1f}",
            f"{made['nfe']:.1f}",
            f"{timed['p50']:.2f} / {timed['p99']:.2f}",
        ]
    ]
    head = ["solver", "score [95 %]", "success [95 %]", "rounds", "NFE", "p50 / p99 ms"]
    print(table(head, rows))
    if cut is not None:
        raise PcmError(f"{cut} and are in {output / 'eval.json'}") from cut
    print(output / "eval.json")
    return report


def bench_main(config: DictConfig) -> dict[str, Any]:
    """Time all solvers; returns what ``bench.json`` holds."""
    from pcm_policy.bench import run_bench
    from pcm_policy.report import bench_picture, bench_table

    output = writable(config.output_dir)
    policy = _load(config)
    report = run_bench(
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
    report["policy"] = str(config.policy)
    write_text(output / "bench.json", to_json(report))
    bench_picture(report, output / "bench.png")
    print(bench_table(report))
    print(output / "bench.json", output / "bench.png")
    return report


def tune_main(config: DictConfig) -> dict[str, Any]:
    """Choose a solver and a runtime for a target; returns what ``tune.json`` holds."""
    from pcm_policy import tune
    from pcm_policy.evaluate import evaluate
    from pcm_policy.rollout_policy import EpisodePolicy
    from pcm_policy.solve import SolverConfig
    from pcm_policy.statistics import paired_difference_interval

    output = writable(config.output_dir)
    policy = _load(config)
    target = tune.Target(config.deadline_ms, config.error, config.score_within)
    runtimes = [RuntimeConfig(m, p) for m in config.modes for p in config.precisions]
    held = held_out_observations(config.policy)
    rows = torch.linspace(0, len(held) - 1, min(config.observations, len(held))).long()
    others = torch.ones(len(held), dtype=torch.bool).index_fill(0, rows, False)
    spare = held[others][: len(rows)] if others.any() else held

    def progress(items: Sequence[Any], what: str) -> Iterable[Any]:
        bar: Iterable[Any] = tqdm(items, desc=what, disable=None)
        return bar

    samplers = tune.searched_samplers(policy, list(config.search), spare, 1, progress)
    candidates = tune.measure(
        policy,
        held[rows],
        runtimes,
        samplers=samplers,
        calls=config.calls,
        progress=progress,
    )

    def scores(solver: SolverConfig) -> list[float]:
        result = evaluate(
            EpisodePolicy(policy, solver),
            plain(config.task)["env_id"],
            episodes=config.episodes,
            seed=config.seed,
            n_obs_steps=policy.config.obs_steps,
            **env_kwargs(plain(config.task)),
        )
        return [episode.score for episode in result.episodes]

    reference = scores(candidates[0].solver) if target.score_within is not None else []

    def closeness(solver: SolverConfig) -> tuple[float, float, float]:
        found = scores(solver)
        low, high = paired_difference_interval(found, reference)
        return float(np.mean(found) - np.mean(reference)), low, high

    best, why, candidates = tune.choose(candidates, target, closeness)
    report = tune.report(policy, candidates, best, why, target) | {"policy": str(config.policy)}
    write_text(output / "tune.json", to_json(report))
    for group in ("solver", "runtime"):
        (output / group).mkdir(exist_ok=True)
        text = "".join(f"{k}: {json.dumps(v)}\n" for k, v in report[group].items())
        defaults = "defaults: [_base, _self_]\n" if group == "solver" else ""
        write_text(output / group / "tuned.yaml", f"# pcm-bench tune: {why}\n{defaults}{text}")
    head = ["candidate", "rounds", "NFE", "RMSE", "p50 ms", "p95 ms"]
    print(
        table(
            head,
            [
                [
                    row["solver"],
                    f"{row['rounds']:.0f}",
                    f"{row['nfe']:.0f}",
                    f"{row['rmse']:.4f}",
                    f"{row['p50_ms']:.2f}",
                    f"{row['p95_ms']:.2f}",
                ]
                for row in report["candidates"]
            ],
        )
    )
    print(f"chosen: {best.label} ({why})")
    print(f"pcm-eval --config-dir {output} solver=tuned runtime=tuned output_dir=...")
    return report


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
    from pcm_policy.demonstrate import Actor, ExpertActor, PolicyActor, World
    from pcm_policy.envs.workers import fitting_workers, side_by_side
    from pcm_policy.generate import generate
    from pcm_policy.rollout_policy import EpisodePolicy

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
        policy = _load(config)
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
    )
    print(f"{place}: {made['selection']}, success {made['success_rate']:.2f}")


def train() -> None:
    """Entry point of ``pcm-train``."""
    run_command("train", train_main)


def distill() -> None:
    """Entry point of ``pcm-distill``."""
    run_command("distill", distill_main)


def evaluate() -> None:
    """Entry point of ``pcm-eval``."""
    run_command("eval", eval_main)


def bench() -> None:
    """Entry point of ``pcm-bench``, ``pcm-bench loop`` and ``pcm-bench tune``."""
    if sys.argv[1:2] == ["loop"]:
        from pcm_policy.cli_control import loop

        return loop(sys.argv[2:])
    if sys.argv[1:2] == ["tune"]:
        return run_command("tune", tune_main, sys.argv[2:], title="bench tune")
    run_command("bench", bench_main)


def data() -> None:
    """Entry point of ``pcm-data``: ``pcm-data COMMAND PATH [TARGET] [key=value ...]``."""
    words = sys.argv[1:]
    named: list[str] = []
    for key in ("command", "path", "target"):
        if words and "=" not in words[0] and not words[0].startswith("-"):
            value = words.pop(0).replace("\\", "\\\\").replace("'", "\\'")
            named.append(f"{key}='{value}'")
    run_command("data", data_main, named + words)


def info() -> None:
    """Entry point of ``pcm-info``: versions, device, what is installed."""
    rows = [["python", platform.python_version()], ["platform", platform.platform()]]
    for name in ("pcm_policy", "torch", "numpy", "accelerate", "safetensors", "zarr", "hydra-core"):
        rows.append([name, metadata.version(name)])
    for name, extra in (
        ("gymnasium", ""),
        ("gym-pusht", "pusht"),
        ("metaworld", "metaworld"),
        ("robomimic", "robomimic"),
        ("robosuite", "robomimic"),
        ("h5py", "convert"),
        ("diffusers", "test"),
    ):
        try:
            rows.append([name, metadata.version(name)])
        except metadata.PackageNotFoundError:
            rows.append([name, f"not installed: pip install 'pcm_policy[{extra}]'"])
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    rows += [["CPU threads", str(torch.get_num_threads())], ["CUDA device", cuda]]
    released = Path(__file__).parent / "released"
    rows.append(["released", ", ".join(f"released/{p.name}" for p in sorted(released.glob("*/")))])
    print(table(["what", "version"], rows))


def _accelerator(config: DictConfig) -> Accelerator:
    device = pick_device(config.device)
    return Accelerator(cpu=device.type == "cpu", mixed_precision=str(config.precision))


def _half(config: DictConfig) -> bool:
    if config.weights not in ("float32", "float16"):
        raise PcmError(f"weights={config.weights}: use float32 or float16")
    return bool(config.weights == "float16")


def _dataset(config: DictConfig) -> DatasetConfig:
    dataset = typed(DatasetConfig, config.dataset, "dataset")
    more = [resolve_data(path) for path in dataset.more]
    cache = str(Path(config.output_dir, "frames"))
    return replace(dataset, path=resolve_data(dataset.path), more=more, cache=cache)


def _save(
    policy: DiffusionPolicy,
    data: Demonstrations,
    text: str,
    output: Path,
    accelerator: Accelerator,
    sights: dict[str, torch.Tensor],
) -> Path:
    folder = output / "policy"
    if accelerator.is_main_process:
        held_out = data.observations(policy)
        save_policy(policy, folder, card=text, observations=held_out, sights=sights)
        print(folder)
    return folder


def _load(config: DictConfig) -> DiffusionPolicy:
    policy = DiffusionPolicy.from_pretrained(config.policy, pick_device(config.device))
    if "runtime" in config:
        policy.use(typed(RuntimeConfig, config.runtime, "runtime"))
    return policy


COMMANDS = {"train": train, "distill": distill, "eval": evaluate, "bench": bench, "data": data}

if __name__ == "__main__":
    # `accelerate launch -m pcm_policy.cli train ...`
    COMMANDS[sys.argv.pop(1)]()
