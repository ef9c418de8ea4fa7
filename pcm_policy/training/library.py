"""Distillation of heads for any network with a sampler: images, latents, anything.

The objective and the loop are those of policies; only what is taught is another object.
"""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.heads.base import Head
from pcm_policy.sampling.denoise import Denoiser, Prefix
from pcm_policy.sampling.library import Conditional, Guided, Plain, Sampling
from pcm_policy.sampling.noise import Noise
from pcm_policy.training.batches import Windows
from pcm_policy.training.config import TrainConfig
from pcm_policy.training.distillation import Distillation
from pcm_policy.training.loop import fit

OURS: dict[str, Any] = {"own": 1.0, "weight": "root", "end_weight": 1.0}
PAPER: dict[str, Any] = {"own": 0.0, "weight": "variance", "end_weight": 0.0}
"""So et al. 2025: recorded trajectories alone, weighted by ``1 / sqrt(Var(k))``; docs/pcm.md."""


class Model(nn.Module):
    """A network, its sampler and a head, in the place of a policy.

    Args:
        network: of :class:`~pcm_policy.sampling.library.Plain` or another of its kind.
        sampling: which sampler the head is for.
        shape: of a sample, without the batch.
        head: untrained.
        rounds: iterates that the head is trained on.
    """

    def __init__(
        self,
        network: Plain | Conditional | Guided,
        sampling: Sampling,
        shape: tuple[int, ...],
        head: Head,
        rounds: int,
    ) -> None:
        super().__init__()
        self.network, self.head, self.sampling = network, head, sampling
        own = SimpleNamespace(sampler=sampling, rounds=rounds)
        self.config = SimpleNamespace(chunk_shape=shape, action_dim=shape[-1], head=own)
        self._like: Tensor
        self.register_buffer("_like", torch.zeros(1), persistent=False)

    def join(self, obs: Tensor, prefix: Prefix | None) -> Tensor:
        """Return the conditions as they are: nothing is known of a sample beforehand."""
        return obs

    def denoiser(self, cond: Tensor, sampler: Sampling, prefix: Prefix | None = None) -> Denoiser:
        """Return the base's ``D`` for conditions ``(B, ...)``."""
        noise = Noise(self._like.expand(len(cond), 1))
        given = None if isinstance(self.network, Plain) else cond
        return sampler.denoiser(self.network, noise, given)


def distil(
    model: Model,
    conds: Tensor,
    config: TrainConfig,
    output: Path,
    *,
    held_out: Tensor | None = None,
    accelerator: Accelerator | None = None,
    resume: bool = False,
    **recipe: Any,
) -> Head:
    """Train a model's head towards the base's fixed points, and return it in eval mode.

    Args:
        model: with an untrained head, which starts from the base's weights where it is of its kind.
        conds: ``(n, ...)`` conditions of the training samples; of a network without one ``(n, 0)``.
        config: how long, how fast.
        output: folder of ``metrics.jsonl`` and ``checkpoints/``.
        held_out: conditions of the samples whose error is logged.
        accelerator: device, precision and processes; None for the CPU.
        resume: go on from the newest checkpoint in ``output``.
        recipe: keywords of :class:`~pcm_policy.training.distillation.Distillation`, such as
            ``**PAPER`` or ``**OURS``, ``pool`` and ``reuse``.

    Raises:
        PcmError: known or warm first actions, which a sample does not have, or a wrong setting.
    """
    wrong = [name for name in ("warm", "prefix") if recipe.get(name)]
    if wrong:
        raise PcmError(f"{wrong[0]}={recipe[wrong[0]]}: samples have no first actions: use 0")
    output.mkdir(parents=True, exist_ok=True)
    model.head.start_from(model.network)
    train = _windows(model, conds)
    rest = _windows(model, conds[:0] if held_out is None else held_out)
    batch, seed = config.batch, config.seed
    options = recipe | {"warm": 0.0, "prefix": 0.0}
    objective = Distillation(model, train, rest, batch, seed, **options)
    average = fit(objective, config, output, accelerator or Accelerator(cpu=True), resume=resume)
    head = objective.adopt(average).head
    return copy.deepcopy(head).eval().requires_grad_(False)


def _windows(model: Model, conds: Tensor) -> Windows:
    """Return conditions as an objective takes them, beside samples that are not looked at."""
    return Windows(conds, torch.zeros(len(conds), *model.config.chunk_shape))
