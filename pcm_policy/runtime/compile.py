"""torch.compile on the network alone."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.dispatch import Direct
from pcm_policy.runtime.inputs import Execute
from pcm_policy.runtime.mode import Mode
from pcm_policy.runtime.precision import in_precision

if TYPE_CHECKING:
    from pcm_policy.policy.policy import DiffusionPolicy


class Compile(Mode):
    """The loop as it is written, over a compiled network."""

    def execute(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> Execute:
        """Return what executes a policy's solves, one at a time: the compiler has no threads."""
        network = in_precision(policy.network, config.precision)
        return Direct(CompiledNetwork(network), alone=True)


class CompiledNetwork(nn.Module):
    """A network whose calls, and the part of them that every round repeats, are compiled."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.encode = network, network.encode
        self._call = torch.compile(network, dynamic=False)
        self.decode = torch.compile(network.decode, dynamic=False)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(B, T, Da)``, ``(B,)`` and ``(B, C)`` to ``(B, T, Da)``."""
        output: Tensor = self._call(x, t, cond)  # type: ignore[no-untyped-call]
        return output
