"""Rounds and network evaluations until the chunk is the sequential sampler's, for every solver.

    python -m benchmarks.solvers.rounds [--policy POLICY] [--observations 256] [--output FILE]

Every held-out observation is solved alone, cold. Counted is the first round after which the largest
action error stays below 1e-3 (in normalised units), and the evaluations spent until then. Solvers
that skip what has settled do so with a tolerance of 1e-3 and the usual safety factor, as in use;
``picard full`` never skips. For RMSE after r rounds all observations are solved together.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import RESULTS
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.exactness import paired_noise
from pcm_policy.measure.tables import table
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.inputs import Inputs
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.coarse import Coarse
from pcm_policy.solvers.loop import rounds
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.stops import SAFETY, Rounds

ERROR, MOST, RMSE_ROUNDS = 1e-3, 40, 6
HEAD = ["solver", "sampler", "rounds until error < 1e-3", "most", "evaluations"]
HEAD += ["error/residual <= 4 (worst)", "RMSE after 1, 2, 3 ... rounds"]


def solvers_of(policy: DiffusionPolicy, sampler: SamplerConfig) -> dict[str, Solver]:
    """Return what is counted on one sampler, by name."""
    most = min(MOST, sampler.steps)
    found = {
        "paradigms": Solver.of("paradigms", sampler, rounds=most),
        "picard full": Solver.of("picard", sampler, rounds=most),
    }
    for name in ("picard", "coarse", "anderson", "newton", "subspace"):
        found[name] = Solver.of(name, sampler, tolerance=ERROR, rounds=most)  # type: ignore[arg-type]
    found["newton coarse"] = replace(found["newton"], step=Coarse(then=found["newton"].step))
    head = policy.config.head
    if head is not None and head.sampler == sampler:
        for r in (1, 2, 3):
            words = {"method": "pcm", "rounds": most, "shares": [1.0] * r}
            found[f"pcm {r} + base"] = policy.solver(words)
        words = {"method": "pcm", "rounds": most, "shares": [1.0], "then": "subspace"}
        found["pcm 1 + subspace"] = policy.solver(words)
        words = {"method": "adaptive", "rounds": most, "tolerance": ERROR}
        found["adaptive"] = policy.solver(words)
    return found


def count(
    policy: DiffusionPolicy, solver: Solver, obs: Tensor, noise: Noise, exact: Tensor
) -> tuple[int, int, float]:
    """Solve one observation; return rounds, evaluations, and the worst ratio of error to bound."""
    s, x = policy.assemble(Inputs(obs, noise), solver)
    errors, evaluated, residuals, pure = [], [], [], []
    for r, now, residual in rounds(s, x, solver.step, solver.stop):
        errors.append(float((now.X[-1] - exact).abs().max()))
        evaluated.append(r.nfe)
        residuals.append(float(residual))
        pure.append(r.exact > 0)
    late = max((i for i, e in enumerate(errors) if e >= ERROR), default=-1)
    needed = min(late + 1, len(errors) - 1)
    told = zip(errors, residuals, pure, strict=True)
    ratio = max((e / r for e, r, base in told if base and r > 1e-5), default=0.0)
    return needed + 1, sum(evaluated[: needed + 1]), ratio


def samplers_of(policy: DiffusionPolicy) -> list[SamplerConfig]:
    """Return the samplers whose rounds are counted: all steps, 32, 16, and the head's own."""
    own, every = policy.config.sampler, policy.config.schedule.train_steps
    found = [SamplerConfig("ddpm", every), SamplerConfig("ddim", 32), SamplerConfig("ddim", 16)]
    found += [own] if policy.config.head is None else [own, policy.config.head.sampler]
    return list(dict.fromkeys(found))


@torch.inference_mode()
def measure(policy: DiffusionPolicy, obs: Tensor, sampler: SamplerConfig) -> list[dict[str, Any]]:
    """Return a row for every solver of one sampler.

    Args:
        policy: the policy.
        obs: ``(n, To, Do)`` raw observations.
        sampler: whose chunk is wanted.
    """
    sequential = Solver.of("sequential", sampler)
    noise = paired_noise(policy, sequential, len(obs))
    exact = policy.solve(obs, sequential, noise).sample
    policy.calibrate(obs.flip(0)[:128], sampler, seed=1_000_000)
    found = []
    for name, solver in solvers_of(policy, sampler).items():
        counted = []
        for i in tqdm(range(len(obs)), desc=f"{name} {sampler.label}", disable=None):
            alone = obs[i : i + 1], noise.row(i), exact[i : i + 1]
            counted.append(count(policy, solver, *alone))
        rounds = torch.tensor([c[0] for c in counted], dtype=torch.float64)
        found.append(
            {
                "solver": name,
                "sampler": sampler.label,
                "rounds": float(rounds.mean()),
                "worst_rounds": int(rounds.max()),
                "evaluations": sum(c[1] for c in counted) / len(counted),
                "within_safety": sum(c[2] <= SAFETY for c in counted) / len(counted),
                "worst_ratio": max(c[2] for c in counted),
                "rmse_by_round": rmse_by_round(policy, solver, obs, exact, noise),
            }
        )
    return found


def rmse_by_round(
    policy: DiffusionPolicy, solver: Solver, obs: Tensor, exact: Tensor, noise: Noise
) -> list[float]:
    """Return the mean RMSE after 1, 2, 3 ... rounds, all observations solved together."""
    s, x = policy.assemble(Inputs(obs, noise), solver)
    walk = rounds(s, x, solver.step, Rounds(RMSE_ROUNDS))
    off = [x.X[-1] - exact for _, x, _ in walk]
    return [float(x.square().mean(dim=(1, 2)).sqrt().mean()) for x in off]


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht")
    parser.add_argument("--observations", type=int, default=256)
    parser.add_argument("--output", type=Path, default=RESULTS / "rounds.json")
    options = parser.parse_args()
    policy = DiffusionPolicy.from_pretrained(options.policy)
    obs = held_out_observations(options.policy)[: options.observations]
    rows = [row for sampler in samplers_of(policy) for row in measure(policy, obs, sampler)]
    report = {**conditions(policy), "error": ERROR, "observations": len(obs), "rows": rows}
    write_text(options.output, to_json(report))
    print(table(HEAD, list(map(cells, rows))))


def cells(row: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    return [
        row["solver"],
        row["sampler"],
        f"{row['rounds']:.2f}",
        str(row["worst_rounds"]),
        f"{row['evaluations']:.0f}",
        f"{row['within_safety']:.2f} ({row['worst_ratio']:.1f})",
        " ".join(f"{x:.3f}" for x in row["rmse_by_round"]),
    ]


if __name__ == "__main__":
    main()
