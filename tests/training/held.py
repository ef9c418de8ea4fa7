"""Says, in every process of torchrun, how many numbers it holds with ``fsdp=true``."""

import json

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from pcm_policy.training.config import TrainConfig
from pcm_policy.training.fsdp import FullySharded
from pcm_policy.training.sharing import Team
from tests.training.test_accumulation import cloning


def held(tensors: list[torch.Tensor]) -> int:
    return sum((t.to_local() if isinstance(t, DTensor) else t).numel() for t in tensors)


accelerator = Accelerator(cpu=True)
team = Team(accelerator.process_index, accelerator.num_processes, accelerator.gather)
objective, _ = cloning(0)
weights = FullySharded(objective, TrainConfig(batch=24), accelerator, team)
weights.loss(0, 0).backward()
weights.optimizer.step()
own = list(weights.raw.parameters())
moments = [v for s in weights.plain_optimizer.state.values() for v in s.values() if v.ndim]
found = {
    "all": sum(p.numel() for p in objective.module.parameters()),
    "weights": held(own),
    "gradients": held([p.grad for p in own if p.grad is not None]),
    "moments": held(moments),
    "average": held(list(weights.ema.module.parameters())),
}
print("held", json.dumps(found), flush=True)
