"""Where a head's few nodes should be: what the base says of the chunk at each node of a round.

    python -m benchmarks.solvers.placed ROLLOUTS [--policy released/pusht] [--windows 2500]

Every window of ROLLOUTS, a file of ``pcm-data generate`` or of demonstrations, is solved by the
head's sampler. The base is then called once at every node, at the states that the head's first
guess gives, as in the first round. For a choice of nodes, the chunk is predicted from the guess and
the predictions there by one linear map, fitted to four fifths of the windows by ridge regression,
and the RMSE is that of the others, in normalised units. A head is no linear map and does better;
the order of the choices is what counts. The best pairs are searched among all, the best triples
among those that contain one of the twenty best pairs.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import RESULTS
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.tables import table
from pcm_policy.policy.places import resolve_data
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.noise import generator_noise
from pcm_policy.solvers.coarse import coarse_nodes
from pcm_policy.solvers.loop import rounds, start
from pcm_policy.solvers.pcm import PCM
from pcm_policy.solvers.sequential import sequential
from pcm_policy.solvers.stops import Rounds
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.reading import load_demonstrations

RIDGE, BEST, AT_ONCE = 1e-3, 20, 500
EVEN = (2, 3, 6)
HEAD = ["predicted from", "nodes", "training times", "RMSE", "median", "p95"]
Seen = Mapping[str, Tensor]
"""``guess``, ``exact``, ``round`` ``(n, d)`` and ``base`` ``(N, n, d)``: chunks in one row each."""


@torch.inference_mode()
def looked(policy: DiffusionPolicy, seen: Tensor, seed: int) -> Seen:
    """Return the first guess, the sampler's chunk, one round's, and what the base says at nodes.

    Args:
        policy: with a head that has a first guess.
        seen: ``(n, To * Do)`` normalised observations.
        seed: of the noise.

    Raises:
        PcmError: the head has no first guess.
    """
    head, config = policy.head, policy.config.head
    if head is None or config is None or not head.starts:
        raise PcmError("placed: give a policy whose head has a first guess")
    draw = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in ("guess", "exact", "round", "base")}
    for some in torch.split(seen, AT_ONCE):
        denoise = policy.denoiser(policy.join(some, None), config.sampler)
        count = denoise.sampler.steps
        noise = generator_noise(draw, len(some), policy.config.chunk_shape, count)
        parts["exact"].append(sequential(denoise, noise).sample.flatten(1))
        s, x = start(denoise, noise, head=head)
        guess = head.guesses(s)
        assert guess is not None
        parts["guess"].append(guess[-1].flatten(1))
        told = [denoise(x.X[k : k + 1], slice(k, k + 1)).flatten(2) for k in range(count)]
        parts["base"].append(torch.cat(told))
        for _, made, _ in rounds(s, x, PCM((1.0,)), Rounds(1)):
            parts["round"].append(made.X[-1].flatten(1))
    return {name: torch.cat(part, dim=1 if name == "base" else 0) for name, part in parts.items()}


def errors(found: Seen, nodes: Sequence[int]) -> Tensor:
    """Return the RMSE of the last fifth of the rows, predicted from some nodes by a linear map.

    Rows are scaled by how far the base moves the guess, as a head scales its correction.

    Args:
        found: of :func:`looked`.
        nodes: whose predictions are used.
    """
    guess, exact = found["guess"].double(), found["exact"].double()
    moved = found["base"][list(nodes)].double() - guess
    scale = moved.square().mean(dim=(0, 2)).sqrt()[:, None] + 1e-3
    given = torch.cat([*(moved / scale), torch.ones_like(scale)], dim=1)
    wanted, known = (exact - guess) / scale, len(guess) * 4 // 5
    gram = given[:known].T @ given[:known]
    gram += RIDGE * known * torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.solve(gram, given[:known].T @ wanted[:known])
    return rmse(guess + scale * (given @ weights), exact)[known:]


def rmse(chunk: Tensor, exact: Tensor) -> Tensor:
    """Return the RMSE of every row."""
    return (chunk - exact).square().mean(dim=1).sqrt()


def searched(found: Seen) -> list[tuple[int, ...]]:
    """Return the best node, pair and three nodes."""
    steps = range(len(found["base"]))
    cost = lambda nodes: float(errors(found, nodes).mean())  # noqa: E731
    pairs = sorted(combinations(steps, 2), key=cost)
    threes = {tuple(sorted({*pair, k})) for pair in pairs[:BEST] for k in steps if k not in pair}
    return [min(((k,) for k in steps), key=cost), pairs[0], min(sorted(threes), key=cost)]


def measured(found: Seen, times: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of the table.

    Args:
        found: of :func:`looked`.
        times: training times of the nodes.
    """
    steps, held = len(found["base"]), len(found["guess"]) * 4 // 5
    rows = []

    def add(name: str, nodes: Sequence[int], off: Tensor) -> None:
        row = {"name": name, "nodes": list(nodes), "times": [times[k] for k in nodes]}
        spread = {"median": float(off.median()), "p95": float(off.quantile(0.95))}
        rows.append(row | {"rmse": float(off.mean())} | spread)

    add("the first guess alone", (), rmse(found["guess"], found["exact"])[held:])
    for count in EVEN:
        even = coarse_nodes(min(count, steps), 0, steps, torch.device("cpu")).tolist()
        add("evenly spread", even, errors(found, even))
    for best in searched(found):
        add("best", best, errors(found, best))
    add("one round of the head", (), rmse(found["round"], found["exact"])[held:])
    return rows


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a line of the table."""
    places = [", ".join(map(str, row[name])) or "-" for name in ("nodes", "times")]
    return [row["name"], *places, *(f"{row[name]:.4f}" for name in ("rmse", "median", "p95"))]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rollouts")
    parser.add_argument("--policy", default="released/pusht")
    parser.add_argument("--windows", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0, help="of windows and noise")
    parser.add_argument("--output", type=Path, default=RESULTS / "placed", help="folder")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    policy = DiffusionPolicy.from_pretrained(options.policy)
    chosen = DatasetConfig(path=resolve_data(options.rollouts), val_fraction=0.0)
    train, _ = load_demonstrations(chosen, policy.config).windows(policy)
    draw = torch.Generator().manual_seed(options.seed)
    rows = torch.randperm(len(train.seen), generator=draw)[: options.windows]
    found = looked(policy, train.seen[rows], options.seed)
    assert policy.config.head is not None
    times = policy.sampler(policy.config.head.sampler).timesteps.tolist()
    report = conditions(policy) | {"windows": len(rows), "rows": measured(found, times)}
    write_text(options.output / f"{Path(options.policy).name}.json", to_json(report))
    print(table(HEAD, [cells(row) for row in report["rows"]]))


if __name__ == "__main__":
    main()
