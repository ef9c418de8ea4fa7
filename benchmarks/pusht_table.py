"""The README's table: every sampler and solver of one policy, in closed loop and per chunk.

    python benchmarks/pusht_table.py [POLICY] [OUTPUT.json]

writes the JSON and puts the table into the README.

DDIM's spacing is chosen for every number of steps on seeds that are not reported (from 200000);
all rows are then scored on 100 episodes from seed 100000 with paired noise. RMSE is taken over the
policy's 256 held-out observations (episodes that neither base nor head was trained on), against the
sequential chunk of the head's sampler, in normalised action units.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pcm_policy.bench import hardware, time_predictions
from pcm_policy.checkpoint import held_out_observations, to_json, write_text
from pcm_policy.evaluate import EvalResult, evaluate
from pcm_policy.noise import episode_noise
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.report import markdown, table
from pcm_policy.rollout_policy import EpisodePolicy
from pcm_policy.samplers import SamplerConfig
from pcm_policy.solve import SolverConfig

EPISODES, SEED, TUNING_SEED = 100, 100_000, 200_000
HEAD = ["solver", "spacing", "score [95 %]", "success [95 %]", "rounds", "RMSE", "p50 ms", "p99 ms"]


def score(policy: DiffusionPolicy, solver: SolverConfig, seed: int) -> EvalResult:
    """Run the episodes of one row."""
    return evaluate(
        EpisodePolicy(policy, solver),
        "pcm_policy/PushTKeypoints-v0",
        episodes=EPISODES,
        seed=seed,
        num_envs=50,
        solve_batch=50,
    )


def best_spacing(policy: DiffusionPolicy, steps: int) -> tuple[SamplerConfig, dict[str, float]]:
    """Choose DDIM's spacing on the tuning seeds."""
    tried = {}
    for spacing in ("leading", "linspace", "trailing"):
        sampler = replace(policy.config.sampler, name="ddim", steps=steps, spacing=spacing)
        tried[spacing] = score(policy, SolverConfig("sequential", sampler), TUNING_SEED).score
    best = max(tried, key=lambda name: tried[name])
    return replace(policy.config.sampler, name="ddim", steps=steps, spacing=best), tried


def main(name: str, output: Path) -> None:
    """Make the table."""
    policy = DiffusionPolicy.from_pretrained(name)
    assert policy.config.head is not None
    exact = policy.config.head.sampler
    train_steps = policy.config.schedule.train_steps
    solvers = [SolverConfig("sequential", SamplerConfig("ddpm", train_steps))]
    tuning: dict[str, Any] = {}
    for steps in (1, 2, 3, 4, 8, 16, 32):
        sampler, tuning[f"ddim-{steps}"] = best_spacing(policy, steps)
        solvers.append(SolverConfig("sequential", sampler))
    solvers += [SolverConfig("picard", exact, rounds=r) for r in (1, 2, 3, 4)]
    solvers += [policy.solver({"method": "pcm", "rounds": r}) for r in (1, 2, 3, 4)]
    obs = held_out_observations(name)
    timed = time_predictions(policy, solvers, obs.numpy(), 100)
    noise = episode_noise(range(len(obs)), [0] * len(obs), (16, 2))
    target = policy.solve(obs, SolverConfig("sequential", exact), noise).sample
    rows = []
    for solver, latency in zip(solvers, timed, strict=True):
        result = score(policy, solver, SEED)
        row: dict[str, Any] = {"solver": solver.label, "spacing": solver.sampler.spacing}
        row |= {k: v for k, v in result.to_json().items() if k != "episodes"}
        row["rounds"] = solver.rounds or solver.sampler.steps
        row["rmse"] = None
        if not policy.sampler(solver.sampler).stochastic:
            sample = policy.solve(obs, solver, noise).sample
            row["rmse"] = float((sample - target).square().mean(dim=(1, 2)).sqrt().mean())
        row["latency_ms"] = latency
        rows.append(row)
    report = {
        "command": f"python benchmarks/pusht_table.py {name}",
        "episodes": EPISODES,
        "seed": SEED,
        "tuning_seed": TUNING_SEED,
        "tuning_scores": tuning,
        "exact": f"{exact.name}-{exact.steps} {exact.spacing}",
        "hardware": hardware(torch.device("cpu")),
        "rows": rows,
    }
    write_text(output, to_json(report))
    cells = [_cells(row) for row in rows]
    print(table(HEAD, cells))
    machine = report["hardware"]
    text = (
        f"`{report['command']}`: Push-T, {EPISODES} episodes from seed {SEED}, paired seeds and "
        f"noise, on {machine['device']}, {machine['threads']} threads, float32, eager, batch 1; "
        f"RMSE to sequential {report['exact']} on held-out episodes, actions in [-1, 1]. DDIM's "
        f"spacing was chosen on other seeds.\n\n{markdown(HEAD, cells)}\n"
    )
    readme = Path(__file__).parents[1] / "README.md"
    before, rest = readme.read_text().split("<!-- measured:begin -->\n")
    after = rest.split("<!-- measured:end -->")[1]
    write_text(readme, f"{before}<!-- measured:begin -->\n{text}<!-- measured:end -->{after}")


def _cells(row: dict[str, Any]) -> list[str]:
    score_low, score_high = row["score"]["ci95"]
    low, high = row["success"]["ci95"]
    return [
        row["solver"],
        row["spacing"] if not row["solver"].startswith("ddpm") else "all steps",
        f"{row['score']['mean']:.3f} [{score_low:.2f}, {score_high:.2f}]",
        f"{row['success']['rate']:.2f} [{low:.2f}, {high:.2f}]",
        str(row["rounds"]),
        "" if row["rmse"] is None else f"{row['rmse']:.3f}",
        f"{row['latency_ms']['p50']:.2f}",
        f"{row['latency_ms']['p99']:.2f}",
    ]


if __name__ == "__main__":
    words = sys.argv[1:]
    main(
        words[0] if words else "released/pusht",
        Path(words[1] if len(words) > 1 else "benchmarks/results/pusht_table.json"),
    )
