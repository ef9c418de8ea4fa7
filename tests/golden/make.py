"""Write golden policies: ``python tests/golden/make.py [NAME ...]`` from the repository root.

They guard the format and the numbers: a change of either shows in ``tests/test_golden.py``. Make
new ones only for an intended change, which then raises ``FORMAT_VERSION`` (with a migration, or
with a refusal in the changelog), and keep the old folder as the test of that.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.policy.config import HeadConfig
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.folder import save_policy
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.solvers.registry import Solver

HERE = Path(__file__).parent
DDIM = SamplerConfig("ddim", 8)
WINDOW = {
    "width": 16,
    "depth": 1,
    "cond_width": 8,
    "nodes": None,
    "newton": False,
    "guess_width": 0,
}
POLICIES: dict[str, dict[str, Any]] = {
    "mlp_window": {
        "network": "mlp",
        "network_options": {"width": 16, "depth": 1, "step_embed_dim": 8},
        "head": HeadConfig("window", WINDOW, DDIM, "", 2),
    },
    "unet1d": {
        "network": "unet1d",
        "network_options": {"down_dims": [8, 16], "kernel_size": 3, "step_embed_dim": 8},
        "schedule": NoiseSchedule("linear", 50, 1e-4, 0.02),
        "prediction": "sample",
        "clip": 1.5,
        "sampler": SamplerConfig("ddpm", 10, "leading"),
    },
    "transformer": {
        "network": "transformer",
        "network_options": {"n_layer": 2, "n_head": 2, "n_emb": 8, "n_cond_layers": 1},
        "sampler": SamplerConfig("ddim", 8, "leading"),
    },
}


def solvers(policy: DiffusionPolicy) -> dict[str, Solver]:
    """The solvers whose chunks are kept."""
    own = policy.config.sampler
    found = {"sequential": Solver.of("sequential", own)}
    found["picard"] = Solver.of("picard", own, rounds=3)
    if policy.config.head is not None:
        found["sequential"] = Solver.of("sequential", DDIM)
        found["pcm"] = Solver.of("pcm", DDIM, rounds=2)
    return found


def main() -> None:
    """Write the named policies of ``POLICIES``, or all, and what they compute."""
    for name, settings in POLICIES.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        torch.manual_seed(0)
        config = PolicyConfig(obs_dim=3, action_dim=2, horizon=8, action_steps=4, **settings)
        policy = DiffusionPolicy(config)
        for value in policy.parameters():  # new layers start at zero
            value.data += 0.1 * torch.randn_like(value)
        for normalizer in (policy.obs_normalizer, policy.action_normalizer):
            normalizer.scale.uniform_(0.5, 2.0)
            normalizer.shift.uniform_(-1.0, 1.0)
            normalizer.low.fill_(-2.0)
            normalizer.high.fill_(2.0)
        if config.head is not None:
            head = replace(config.head, base=fingerprint(policy.network))
            policy.config = replace(config, head=head)
        save_policy(policy, HERE / name)
        inputs = {"obs": 4 * torch.rand(3, 2, 3) - 2, "initial": torch.randn(3, 8, 2)}
        inputs["steps"] = torch.randn(10, 3, 8, 2)
        chunks = {}
        for label, solver in solvers(policy).items():
            stochastic = policy.sampler(solver.sampler).stochastic
            noise = Noise(inputs["initial"], inputs["steps"] if stochastic else None)
            chunks[label] = policy.solve(inputs["obs"], solver, noise).chunk
        save_file(inputs | chunks, HERE / name / "expected.safetensors")


if __name__ == "__main__":
    main()
