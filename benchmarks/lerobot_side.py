"""LeRobot as one side of the comparison: weights renamed, a child process, an equality check.

``PCM_LEROBOT_PYTHON`` names the Python of an environment made by ``benchmarks/lerobot_env.py``.
"""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import torch
from compare_sides import Side, Solved, draw_noise
from safetensors.torch import load_file, save_file
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.samplers import SamplerConfig
from pcm_policy.solve import SolverConfig

EQUAL = 1e-4
"""Largest difference to our chunk, in normalised action units, at which LeRobot's row is shown."""


def python() -> str | None:
    """Return the Python of LeRobot's environment, or None where there is none."""
    return os.environ.get("PCM_LEROBOT_PYTHON")


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of our U-Net the names that LeRobot's has for them."""
    pairs = (
        (r"\.blocks\.0\.block\.", ".conv1.block."),
        (r"\.blocks\.1\.block\.", ".conv2.block."),
        (r"^(down|up)_modules\.(\d+)\.2\.conv\.", r"\1_modules.\2.2."),
    )
    result = {}
    for name, value in weights.items():
        for ours, theirs in pairs:
            name = re.sub(ours, theirs, name)
        result[name] = value.detach().cpu().contiguous()
    return result


def unsupported(policy: DiffusionPolicy, sampler: SamplerConfig) -> str | None:
    """Return why LeRobot cannot run this policy and sampler, or None if it can."""
    config = policy.config
    if config.network != "unet1d":
        return f"LeRobot has no {config.network} network"
    if config.obs_dim < 2:
        return "LeRobot wants a state and an environment state"
    if config.clip is None or policy.dtype != torch.float32:
        return "LeRobot's side is float32 with clipping"
    if sampler.spacing != "leading" or sampler.offset or not sampler.final_alpha_one:
        return f"LeRobot leaves diffusers' spacing at leading, not {sampler.spacing}"
    if sampler.name == "ddim" and (sampler.rederive_epsilon or sampler.eta):
        return "LeRobot's DDIM keeps the network's noise after clipping, and eta is 0"
    return None


class LeRobot:
    """A child process with the same weights; closes with ``with``.

    Args:
        policy: our policy, a U-Net.
        sampler: what LeRobot's scheduler is set to.
        obs: ``(n, B, To, Do)`` raw observations; call ``k`` uses row ``k % n``.
        seeds: ``n`` seeds at which the chunks are compared.

    Raises:
        PcmError: the child died, or its chunks differ from ours.
    """

    def __init__(
        self, policy: DiffusionPolicy, sampler: SamplerConfig, obs: Tensor, seeds: list[int]
    ) -> None:
        reason = unsupported(policy, sampler)
        if reason is not None:
            raise PcmError(reason)
        name = python()
        if name is None:
            raise PcmError("PCM_LEROBOT_PYTHON is not set: see benchmarks/lerobot_env.py")
        self._folder = tempfile.TemporaryDirectory(prefix="lerobot-")
        self.policy, self.sampler, self.obs, self.seeds = policy, sampler, obs, seeds
        self._write(Path(self._folder.name))
        child = Path(__file__).with_name("lerobot_child.py")
        if not Path(name).exists():
            raise PcmError(
                f"PCM_LEROBOT_PYTHON={name}: make the environment with benchmarks/lerobot_env.py "
                "and let the variable name its Python"
            )
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self._child = subprocess.Popen(
            [name, str(child), self._folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"HF_HUB_OFFLINE": "1"},
        )
        try:
            while self._line() != "ready":  # LeRobot may print notes of its own
                pass
            self.difference = self._compare()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "LeRobot":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._child.kill()
        self._folder.cleanup()

    def side(self) -> Side:
        """Return the row: one call in the child, timed there.

        Its chunks are those that were compared, one a seed in ``seeds``; the child keeps the chunks
        of other seeds to itself, and the row's sample then is that of ``seed % n``.
        """
        steps = self.sampler.steps

        def run(obs: Tensor, seed: int) -> Solved:
            ms = float(self._ask(str(seed)))
            return Solved(self._chunks[seed % len(self._chunks)], steps, steps, ms)

        def memory() -> float | None:
            answer = self._ask("memory")
            return None if answer == "None" else float(answer)

        label = f"{self.sampler.name}-{steps}"
        return Side("lerobot", "sequential", label, self.sampler, run, memory=memory)

    def _ask(self, word: str) -> str:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{word}\n")
        self._child.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise PcmError(f"LeRobot's process ended with status {self._child.wait()}: see above")
        return line.strip()

    def _compare(self) -> float:
        self._chunks = load_file(Path(self._folder.name, "chunks.safetensors"))["chunks"]
        worst = 0.0
        for i, seed in enumerate(self.seeds):
            obs = self.obs[i]
            noise = draw_noise(self.policy, self.sampler, len(obs), seed)
            ours = self.policy.solve(obs, SolverConfig("sequential", self.sampler), noise).sample
            worst = max(worst, float((ours.cpu() - self._chunks[i]).abs().max()))
        if not worst <= EQUAL:
            raise PcmError(f"LeRobot's chunk is {worst:.2e} away from ours, more than {EQUAL:g}")
        return worst

    def _write(self, folder: Path) -> None:
        config, options = self.policy.config, self.policy.config.network_options
        half = min(2, config.obs_dim - 1)  # the split does not matter: LeRobot joins both again
        job = {
            "threads": torch.get_num_threads(),
            "tf32": torch.backends.cudnn.allow_tf32,
            "device": str(self.policy.device),
            "seeds": self.seeds,
            "dims": {"state": half, "env": config.obs_dim - half, "action": config.action_dim},
            "config": {
                "n_obs_steps": config.obs_steps,
                "horizon": config.horizon,
                "n_action_steps": config.action_steps,
                "down_dims": list(options.get("down_dims", (256, 512, 1024))),
                "kernel_size": options.get("kernel_size", 5),
                "n_groups": options.get("n_groups", 8),
                "diffusion_step_embed_dim": options.get("step_embed_dim", 256),
                "use_film_scale_modulation": options.get("cond_predict_scale", True),
                "noise_scheduler_type": self.sampler.name.upper(),
                "num_train_timesteps": config.schedule.train_steps,
                "beta_schedule": config.schedule.name,
                "beta_start": config.schedule.beta_start,
                "beta_end": config.schedule.beta_end,
                "prediction_type": config.prediction,
                "clip_sample_range": config.clip,
                "num_inference_steps": self.sampler.steps,
            },
        }
        (folder / "job.json").write_text(json.dumps(job))
        save_file(renamed(self.policy.network.state_dict()), folder / "weights.safetensors")
        seen = self.policy.obs_normalizer.normalize(self.obs).cpu()
        initial = [
            draw_noise(self.policy, self.sampler, self.obs.shape[1], seed).initial.cpu()
            for seed in self.seeds
        ]
        inputs = {
            "observation.state": seen[..., :half].contiguous(),
            "observation.environment_state": seen[..., half:].contiguous(),
            "initial": torch.stack(initial),
        }
        save_file(inputs, folder / "inputs.safetensors")
