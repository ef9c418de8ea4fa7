"""LeRobot 0.6.1's policies, trained briefly, beside their chunks solved from outside; runs there.

python run_parallel.py FOLDER SMALL -> one line of JSON for each kind of policy

SMALL is ``benchmarks/lerobot``, whose ``small.py`` makes the policies.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(sys.argv[2])

import small
import torch

from pcm_policy.adopt.parallel import parallel
from pcm_policy.errors import PcmError

SOLVERS: dict[str, dict[str, Any]] = {
    "sequential": {"method": "sequential"},
    "picard": {"method": "picard", "tolerance": 1e-4},
    "anderson": {"method": "anderson", "tolerance": 1e-4},
    "newton": {"method": "newton", "tolerance": 1e-4},
}
DITS: dict[str, dict[str, Any]] = {
    "ddpm": {},
    "ddim": {"noise_scheduler_type": "DDIM", "num_inference_steps": 20},
    "flow": {"objective": "flow_matching", "num_integration_steps": 50},
}


class Case:
    """A policy, its observations and its noise."""

    def __init__(self, kind: str, policy: Any) -> None:
        self.policy, self.dit = policy, kind not in small.KINDS[:3]
        self.frames = 2 if self.dit else None
        self.holder = policy.objective if self.dit else policy.model
        self.first = 1 if self.dit else 0

    def chunk(self, batch: int, seed: int = 0) -> torch.Tensor:
        """Return the policy's chunk; the seed names observations and noise."""
        seen = small.observed(batch, seed, self.frames)
        torch.manual_seed(seed)
        if not self.dit:
            noise = torch.randn(batch, small.T, 8)
            return self.policy.predict_action_chunk(seen, noise=noise)
        with torch.no_grad():
            policy = self.policy
            encoded = policy.observation_encoder.encode(policy._prepare_batch(seen))
            return policy.objective.conditional_sample(policy.noise_predictor, batch, encoded)

    def actions(self, batch: int = 2) -> torch.Tensor:
        """Return 20 actions through LeRobot's own queues: two chunks and part of a third."""
        self.policy.reset()
        torch.manual_seed(0)
        found = []
        for step in range(20):
            seen = small.observed(batch, step)
            found.append(self.policy.select_action(seen))
        return torch.stack(found)

    def solved(self, solver: dict[str, Any], batch: int, known: Any = None) -> Any:
        """Return the chunk from outside, and the solve."""
        with parallel(self.policy, solver) as rounds:
            rounds.known = known
            found = self.chunk(batch)
        return found, rounds.last


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference."""
    return float((a - b).abs().max())


def compared(case: Case) -> dict[str, Any]:
    """Return how far chunks from outside are from the policy's own."""
    found: dict[str, Any] = {}
    for name, solver in SOLVERS.items():
        for batch in (1, 3):
            own = case.chunk(batch)
            ours, solve = case.solved(solver, batch)
            certified = bool(solve.certified.all())
            found[f"{name} {batch}"] = far(ours, own), solve.rounds, certified
    rows = case.chunk(3)
    found["rows differ"] = far(rows[:1], rows[1:])
    own = case.actions()
    with parallel(case.policy, SOLVERS["picard"]):
        found["actions"] = far(case.actions(), own)
    return found


def kept(case: Case) -> dict[str, Any]:
    """Return whether known actions stay, and whether the policy is as before."""
    before = {k: v.clone() for k, v in case.policy.state_dict().items()}
    own, names = case.chunk(1), set(vars(case.holder))
    known = torch.linspace(-0.5, 0.5, 4 * small.A).view(1, 4, small.A)
    found = {}
    for name in ("sequential", "picard"):
        ours, _ = case.solved(SOLVERS[name], 1, known)
        found[f"known {name}"] = torch.equal(ours[:, case.first : case.first + 4], known)
    if not case.dit:
        found["guided refused"] = refused(case)
    found["as before"] = set(vars(case.holder)) == names
    found["bit-equal"] = torch.equal(case.chunk(1), own) and all(
        torch.equal(v, before[k]) for k, v in case.policy.state_dict().items()
    )
    return found


def refused(case: Case) -> bool:
    """Whether guided real-time chunking, switched on inside the block, is refused."""
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    config = case.policy.config
    with parallel(case.policy, SOLVERS["picard"]):
        case.chunk(1)
        config.rtc_config = RTCConfig(enabled=True)
        case.policy.init_rtc_processor()
        try:
            case.chunk(1)
        except PcmError as error:
            return "real-time chunking" in str(error)
        finally:
            config.rtc_config = None
            case.policy.init_rtc_processor()
            case.holder.rtc_processor = None
    return False


def main(folder: Path) -> None:
    """Make, train and compare every kind."""
    torch.set_num_threads(1)
    kinds = [(kind, {}) for kind in small.KINDS[:3]]
    kinds += [(f"multi_task_dit {name}", settings) for name, settings in DITS.items()]
    for name, settings in kinds:
        kind = name.split()[0]
        policy = small.make(kind, folder / name.replace(" ", "_"), **settings)
        case = Case(kind, small.train(policy, 20, 2 if kind == "multi_task_dit" else None))
        print(json.dumps({"kind": name} | compared(case) | kept(case)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
