"""The weights of a run in shares, one a process (FSDP2), for networks too large for one card.

Every process keeps its share of the weights, their gradients, the optimiser's moments and the
average. The weights are whole while a step is computed. Checkpoints are those of whole weights.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pcm_policy.training.replicas import Replicas
from pcm_policy.training.state import Checkpoint, Tensors


class FullySharded(Replicas):
    """Weights of which every process has a share.

    The objective's own module stays whole and as it is: objectives that use the module beside
    their loss, as distillation does, cannot be trained so.
    """

    def own(self, module: nn.Module) -> nn.Module:
        """Return a copy of the module."""
        return copy.deepcopy(module)

    def spread(self) -> None:
        """Leave every process its share."""
        mesh = init_device_mesh(self.accelerator.device.type, (self.accelerator.num_processes,))
        fully_shard(self.loss, mesh=mesh)
        fully_shard(self.ema.module, mesh=mesh)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Leave gradients here until the last part of a step."""
        assert isinstance(self.loss, FSDPModule)
        self.loss.set_requires_gradient_sync(last)
        return nullcontext()

    def clip(self, largest: float) -> Tensor:
        """Clip the gradient to a norm, and return the norm that it had."""
        return _whole(super().clip(largest))

    def parts(self) -> dict[str, Tensors]:
        """Return whole tensors on the CPU; all processes are here."""
        return {
            name: {k: _whole(v.detach()).cpu() for k, v in tensors.items()}
            for name, tensors in super().parts().items()
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take this process's share of what was saved; PcmError where it does not fit."""
        checkpoint.restore(self.raw, self.ema, self.plain_optimizer, _share)

    def average(self) -> nn.Module:
        """Return a whole module with the averaged weights, in eval mode; all processes are here."""
        found = copy.deepcopy(self.objective.module).to(self.accelerator.device)
        own = self.ema.module.state_dict()
        found.load_state_dict({k: _whole(v.detach()) for k, v in own.items()})
        return found.eval()


def _whole(value: Tensor) -> Tensor:
    found: Tensor = value.full_tensor() if isinstance(value, DTensor) else value
    return found


def _share(value: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
