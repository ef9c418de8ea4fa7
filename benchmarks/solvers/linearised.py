"""How many rounds a better Jacobian would save: the whole one, parts of it, one from secants.

    python -m benchmarks.solvers.linearised [--policy released/pusht_mlp] [--observations 64]

A round evaluates ``D`` at all nodes and solves the system that is linearised there: ``P = D(X) +
J (X' - X)`` with ``X' = F + M P``. Rows differ in ``J``, one matrix for every node and row of the
batch; nothing is extrapolated. This is no solver: the whole Jacobian takes as many network calls
as a chunk has numbers, and the system is solved by a loop over the nodes. It says what is left to
gain for quasi-Newton rounds. Counted is the first round after which the largest action error stays
below 1e-3, in normalised units.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import RESULTS
from benchmarks.solvers.rounds import ERROR
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.exactness import paired_noise
from pcm_policy.measure.tables import table
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.inputs import Inputs
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.jacobian import DAMPING
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.system import Iterate, System

FILE = RESULTS / "linearised.json"
SAMPLERS = (SamplerConfig("ddpm", 100), SamplerConfig("ddim", 32))
MOST = 20
HEAD = ["Jacobian", "network calls a round", "sampler", "rounds until error < 1e-3", "most"]

Linearise = Callable[[System, Tensor, Tensor], Tensor]
"""From a system, states ``(N, B, d)`` and ``D`` of them to the Jacobians ``(N, B, d, d)``."""


def whole(s: System, X: Tensor, D: Tensor) -> Tensor:
    """Return the Jacobian at the iterate, one backward pass for every number of a chunk."""
    count, batch, width = X.shape
    with torch.enable_grad():
        at = X.clone().requires_grad_(True)
        out = s.denoise(at.view(count, batch, *s.F.shape[2:]), slice(0, count)).flatten(2)
        rows = [
            torch.autograd.grad(out[..., k].sum(), at, retain_graph=k < width - 1)[0]
            for k in range(width)
        ]
    return torch.stack(rows, dim=2)


def part(mask: Callable[[System], Tensor]) -> Linearise:
    """Return some entries of the Jacobian at the iterate: those of a ``(d, d)`` mask."""
    return lambda s, X, D: whole(s, X, D) * mask(s)


def diagonal(s: System) -> Tensor:
    """Return the entries that belong to one number of the chunk."""
    return torch.eye(s.F[0, 0].numel())


def blocks(s: System) -> Tensor:
    """Return the entries that belong to one time of the chunk."""
    horizon, width = s.F.shape[2:]
    return torch.kron(torch.eye(horizon), torch.ones(width, width))


def mean(s: System, X: Tensor, D: Tensor) -> Tensor:
    """Return the mean diagonal Jacobian, damped, which ``solver=newton`` has."""
    assert s.jacobian is not None
    found = torch.diag_embed(s.jacobian.diagonal.flatten(1))
    return found[:, None].expand(-1, X.shape[1], -1, -1)


@dataclass
class Secants:
    """The mean's diagonal and what is left of the moves so far, by least squares at each node.

    Nodes nearby count as well, by their distance in ``log(alpha / sigma)``.

    Attributes:
        near: standard deviation of that distance.
        ridge: share of the moves' mean square that is added to the normal equations.
    """

    near: float = 0.3
    ridge: float = 0.1
    last: tuple[Tensor, Tensor] | None = field(default=None, init=False)
    sums: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    def __call__(self, s: System, X: Tensor, D: Tensor) -> Tensor:
        """Take up the newest move and return the Jacobians."""
        J, sampler = mean(s, X, D), s.denoise.sampler
        if self.last is not None:
            size = (X - self.last[0]).norm(dim=2, keepdim=True).clamp(min=1e-12)
            move, change = (X - self.last[0]) / size, (D - self.last[1]) / size
            left = change - (J @ move[..., None])[..., 0]
            right, gram = (torch.einsum("nbi,nbj->nbij", v, move) for v in (left, move))
            if self.sums is not None:
                right, gram = right + self.sums[0], gram + self.sums[1]
            self.sums = right, gram
        self.last = X, D
        if self.sums is None:
            return J
        level = (sampler.alpha / sampler.sigma).log().clamp(-10, 10)[: len(X)]
        weight = (-0.5 * ((level[:, None] - level) / self.near) ** 2).exp()
        weight = weight / weight.sum(dim=1, keepdim=True)
        right, gram = ((weight @ v.flatten(1)).view_as(v) for v in self.sums)
        scale = gram.diagonal(dim1=2, dim2=3).mean(dim=2)[..., None, None] + 1e-10
        return J + torch.linalg.solve(gram + self.ridge * scale * diagonal(s), right, left=False)


def damped(linearise: Linearise) -> Linearise:
    """Return that share of the Jacobian which quasi-Newton rounds use of theirs."""
    return lambda s, X, D: DAMPING * linearise(s, X, D)


ROWS: Mapping[str, tuple[Callable[[], Linearise], bool]] = {
    "none (Picard)": (lambda: lambda s, X, D: 0 * mean(s, X, D), False),
    "mean, diagonal (as `newton`, not mixed)": (lambda: mean, False),
    "that and secants": (Secants, False),
    "at the iterate, diagonal": (lambda: part(diagonal), True),
    "at the iterate, one time of the chunk": (lambda: part(blocks), True),
    "at the iterate, whole, damped": (lambda: damped(whole), True),
    "at the iterate, whole": (lambda: whole, True),
}
"""What makes the Jacobians of a solve, and whether it takes them by backward passes."""


def linear(s: System, D: Tensor, J: Tensor, X: Tensor) -> Tensor:
    """Solve the linearised system node by node; return states ``(N + 1, B, d)``."""
    M, F, P = s.denoise.sampler.M, s.F.flatten(2), torch.zeros_like(D)
    for j in range(len(P)):
        state = F[j] + (M[j] @ P.flatten(1)).view_as(F[j])
        P[j] = D[j] + (J[j] @ (state - X[j])[..., None])[..., 0]
    return F + (M @ P.flatten(1)).view_as(F)


def errors(s: System, x: Iterate, exact: Tensor, linearise: Linearise) -> Tensor:
    """Return the largest action error of every row after every round, ``(rounds, B)``.

    The last round is the first one after which all errors are a hundredth of what is asked for.
    """
    X, found = x.X.flatten(2), []
    for _ in range(MOST):
        states = X[:-1]
        D = s.denoise(states.view_as(s.F[:-1]), slice(0, s.steps)).flatten(2)
        X = linear(s, D, linearise(s, states, D), states)
        found.append((X[-1] - exact.flatten(1)).abs().amax(dim=1))
        if bool((found[-1] < ERROR / 100).all()):
            break
    return torch.stack(found)


def rounds_needed(found: Tensor) -> Tensor:
    """Return the first round of every row after which errors ``(rounds, B)`` stay small."""
    round_of = torch.arange(1, len(found) + 1)[:, None]
    return torch.where((found >= ERROR) | found.isnan(), round_of, 0).amax(dim=0) + 1


@torch.no_grad()
def measure(policy: DiffusionPolicy, obs: Tensor, at_once: int = 16) -> list[dict[str, Any]]:
    """Return a row for every Jacobian and sampler; solves ``at_once`` observations together."""
    found = []
    for sampler in SAMPLERS:
        sequential = Solver.of("sequential", sampler)
        noise = paired_noise(policy, sequential, len(obs))
        exact = policy.solve(obs, sequential, noise).sample
        policy.calibrate(obs.flip(0)[:128], sampler, seed=1_000_000)
        solver = Solver.of("newton", sampler)
        for name, (make, passes) in ROWS.items():
            counted = []
            for rows in tqdm(torch.arange(len(obs)).split(at_once), desc=name, disable=None):
                s, x = policy.assemble(Inputs(obs[rows], noise.pick(rows)), solver)
                counted.append(rounds_needed(errors(s.encoded(), x, exact[rows], make())))
            needed = torch.cat(counted).double()
            calls = 1 + passes * int(exact[0].numel())
            about = {"jacobian": name, "sampler": sampler.label, "calls": calls}
            found.append(about | {"rounds": float(needed.mean()), "most": int(needed.max())})
    return found


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a line of the table."""
    most = str(row["most"]) if row["most"] <= MOST else f"> {MOST}"
    return [row["jacobian"], str(row["calls"]), row["sampler"], f"{row['rounds']:.2f}", most]


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht_mlp")
    parser.add_argument("--observations", type=int, default=64)
    parser.add_argument("--output", type=Path, default=FILE)
    options = parser.parse_args()
    policy = DiffusionPolicy.from_pretrained(options.policy)
    kept = held_out_observations(options.policy)
    obs = kept[torch.linspace(0, len(kept) - 1, min(options.observations, len(kept))).long()]
    rows = measure(policy, obs)
    report = {**conditions(policy), "error": ERROR, "observations": len(obs), "rows": rows}
    write_text(options.output, to_json(report))
    print(table(HEAD, list(map(cells, rows))))


if __name__ == "__main__":
    main()
