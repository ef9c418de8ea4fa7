"""How many certificates are false, on rows that calibrated nothing.

    python -m benchmarks.solvers.certificates [POLICY ...] [--rows 512] [--ddpm-rows 128]

Every row is solved by every step to 1e-2 and 1e-3 with the safety factor that ``policy.solver``
gives, and compared with the sequential chunk of the same noise. One half of the observations comes
with the policy, the other is from ``released/pusht_demos``, which a policy made in closed loop.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import RESULTS
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.certify import TOLERANCES, plan_for, solver_of
from pcm_policy.measure.conditions import conditions, made_by
from pcm_policy.measure.exactness import paired_noise
from pcm_policy.measure.tables import table
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.places import resolve_data
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.stops import SAFETY
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.reading import load_demonstrations

POLICIES = ["released/pusht_mlp"]
DEMONSTRATIONS = "released/pusht_demos"
BATCH, SEED = 128, 30_000_000
HEAD = ["policy", "sampler", "solver", "tolerance", "safety", "rows", "false", "worst", "stated"]


def observations(name: str, policy: DiffusionPolicy, rows: int) -> Tensor:
    """Return ``(rows, To, Do)`` raw observations, of both kinds in turn."""
    dataset = DatasetConfig(resolve_data(DEMONSTRATIONS), val_fraction=0.0, symmetry=None)
    acted = load_demonstrations(dataset, policy.config).observations(policy, rows)
    own = held_out_observations(name)
    at = torch.arange(rows)
    return torch.where((at % 2 == 0)[:, None, None], own[at % len(own)], acted[at % len(acted)])


@torch.inference_mode()
def measure(
    name: str, policy: DiffusionPolicy, sampler: SamplerConfig, rows: int
) -> list[dict[str, Any]]:
    """Return a row for every step and tolerance of one sampler."""
    obs, sequential = observations(name, policy, rows), solver_of(policy, "sequential", sampler)
    steps = plan_for(policy, sampler, torch.float32).solvers
    solvers = [
        solver_of(policy, method, sampler, tolerance=error)
        for method in steps
        for error in TOLERANCES
    ]
    off: dict[Any, list[Tensor]] = {solver: [] for solver in solvers}
    for start in tqdm(range(0, rows, BATCH), desc=f"{name} {sampler.label}", disable=None):
        some = obs[start : start + BATCH]
        noise = paired_noise(policy, sequential, len(some), SEED + start)
        exact = policy.solve(some, sequential, noise).sample
        for solver in solvers:
            found = policy.solve(some, solver, noise)
            error = (found.sample - exact).abs().amax(dim=(1, 2))
            off[solver].append(error[found.certified])
    return [_row(name, policy, solver, torch.cat(errors)) for solver, errors in off.items()]


def _row(name: str, policy: DiffusionPolicy, solver: Any, errors: Tensor) -> dict[str, Any]:
    return {
        "policy": name,
        "sampler": solver.sampler.label,
        "solver": solver.method,
        "tolerance": solver.tolerance,
        "safety": solver.stop.safety,
        "certified": len(errors),
        "false": int((errors > solver.tolerance).sum()),
        "worst_error_by_tolerance": float(errors.max()) / solver.tolerance,
        "stated": policy.trust(solver),
    }


def main(argv: list[str] | None = None) -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("policies", nargs="*", default=POLICIES)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--ddpm-rows", type=int, default=128)
    parser.add_argument("--output", type=Path, default=RESULTS / "certificates.json")
    options = parser.parse_args(argv)
    rows, reports = [], {}
    for name in options.policies:
        policy = DiffusionPolicy.from_pretrained(name)
        all_steps = SamplerConfig("ddpm", policy.config.schedule.train_steps)
        rows += measure(name, policy, policy.config.sampler, options.rows)
        rows += measure(name, policy, SamplerConfig("ddim", 32), options.rows)
        rows += measure(name, policy, all_steps, options.ddpm_rows)
        reports[name] = conditions(policy)
        write_text(options.output, to_json(_report(options, reports, rows)))
    print(table(HEAD, list(map(cells, rows))))


def _report(
    options: argparse.Namespace, reports: dict[str, Any], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    counts = {"rows_of_samplers": options.rows, "rows_of_ddpm": options.ddpm_rows}
    return {**made_by(), **counts, "usual_safety": SAFETY, "policies": reports, "rows": rows}


def cells(row: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    return [
        row["policy"],
        row["sampler"],
        row["solver"],
        f"{row['tolerance']:g}",
        f"{row['safety']:g}",
        str(row["certified"]),
        str(row["false"]),
        f"{row['worst_error_by_tolerance']:.2f}",
        row["stated"],
    ]


if __name__ == "__main__":
    main()
