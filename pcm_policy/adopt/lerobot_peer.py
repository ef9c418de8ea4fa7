"""LeRobot beside us: the same weights in a process of its own, checked and timed there.

Its environment is one of its own (``benchmarks/lerobot/env.py`` makes one), so a child process runs
:mod:`pcm_policy.adopt.originals.serve_lerobot`. Both sides draw a call's noise from one seed, in
one order: the initial chunk, then one chunk a step.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pcm_policy.adopt.lerobot_sampling import draw_noise, renamed, unsupported
from pcm_policy.errors import PcmError
from pcm_policy.networks import NETWORKS
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.settings import options as checked
from pcm_policy.solvers.registry import Solver

EQUAL = 1e-4
"""Largest difference to our chunk, in normalised action units, at which LeRobot's row is shown."""


_ENVIRONMENT = "python -m benchmarks.lerobot.env FOLDER makes one"


class LeRobotPeer:
    """A child process with the same weights; closes with ``with``.

    Args:
        python: Python of LeRobot's environment.
        policy: our policy, a U-Net.
        sampler: what LeRobot's scheduler is set to.
        obs: ``(n, B, To, Do)`` raw observations; call ``k`` uses row ``k % n``.
        seeds: ``n`` seeds at which the chunks are compared.

    Attributes:
        name: LeRobot's version and diffusers'.
        chunks: ``(n, B, T, Da)`` LeRobot's normalised chunks at the seeds.
        off: ``(n, B, T, Da)`` their absolute differences to our sequential ones.

    Raises:
        PcmError: LeRobot cannot run the policy, there is no such Python, the child died, or its
            chunks differ from ours.
    """

    def __init__(
        self,
        python: str | None,
        policy: DiffusionPolicy,
        sampler: SamplerConfig,
        obs: Tensor,
        seeds: list[int],
    ) -> None:
        reason = unsupported(policy, sampler)
        if reason is not None:
            raise PcmError(reason)
        if python is None or not Path(python).is_file():
            raise PcmError(f"no Python of LeRobot's environment ({python}): {_ENVIRONMENT}")
        self._folder = tempfile.TemporaryDirectory(prefix="lerobot-")
        self.policy, self.sampler, self.obs, self.seeds = policy, sampler, obs, seeds
        self._write(Path(self._folder.name))
        child = Path(__file__).parent / "originals" / "serve_lerobot.py"
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self._child = subprocess.Popen(
            [python, str(child), self._folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"HF_HUB_OFFLINE": "1"},
        )
        try:
            line = self._line()
            while not line.startswith("ready "):  # LeRobot may print notes of its own
                line = self._line()
            self.name = line.removeprefix("ready ")
            self.chunks = load_file(Path(self._folder.name, "chunks.safetensors"))["chunks"]
            self.off = self._compare()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "LeRobotPeer":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._child.kill()
        self._folder.cleanup()

    @property
    def difference(self) -> float:
        """Largest difference to our chunks, in normalised action units."""
        return float(self.off.max())

    def time(self, seed: int) -> float:
        """Return the milliseconds of one call: normalised observations in, normalised chunk out.

        The noise is drawn inside, from the seed.
        """
        return float(self._ask(str(seed)))

    def memory(self) -> float | None:
        """Return the bytes that a call takes; None where they cannot be measured."""
        answer = self._ask("memory")
        return None if answer == "None" else float(answer)

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

    def _compare(self) -> Tensor:
        off = []
        for i, seed in enumerate(self.seeds):
            obs = self.obs[i]
            noise = draw_noise(self.policy, self.sampler, len(obs), seed)
            ours = self.policy.solve(obs, Solver.of("sequential", self.sampler), noise).sample
            off.append((ours.cpu() - self.chunks[i]).abs())
        worst = float(torch.stack(off).max())
        if not worst <= EQUAL:
            raise PcmError(f"LeRobot's chunk is {worst:.2e} away from ours, more than {EQUAL:g}")
        return torch.stack(off)

    def _write(self, folder: Path) -> None:
        config = self.policy.config
        options = checked(NETWORKS.find(config.network), config.network_options, "network_options")
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
                "down_dims": list(options["down_dims"]),
                "kernel_size": options["kernel_size"],
                "n_groups": options["n_groups"],
                "diffusion_step_embed_dim": options["step_embed_dim"],
                "use_film_scale_modulation": options["cond_predict_scale"],
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
