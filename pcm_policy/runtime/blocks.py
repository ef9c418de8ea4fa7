"""A network alone in an inference engine, for solves of many rows that no recording fits."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.dispatch import Direct
from pcm_policy.runtime.engine import Engine
from pcm_policy.runtime.inputs import Execute
from pcm_policy.runtime.modes import MODES
from pcm_policy.runtime.precision import in_precision

if TYPE_CHECKING:
    from pcm_policy.policy.policy import DiffusionPolicy

ROWS = 128
"""States that the engine evaluates at once; the last block is filled up with zeros."""


class Blocks:
    """A network whose states are evaluated by an engine, in blocks of :data:`ROWS`.

    The loop around it runs as it is written: it skips states and rows that are final, which
    recordings of whole rounds do not.

    Args:
        policy: the policy, float32 on a CPU.
        config: of a runtime whose mode is an engine.

    Raises:
        PcmError: the engine is not installed, or cannot hold the network.
    """

    def __init__(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> None:
        engine = MODES.find(config.mode)
        assert isinstance(engine, Engine)
        engine.check(policy, config)
        self.network = in_precision(policy.network, config.precision)
        horizon, width = policy.config.chunk_shape
        times = torch.zeros(ROWS)
        seen = torch.zeros(ROWS, policy.config.network_cond_dim)
        with torch.inference_mode():
            encoded = self.network.encode(times, seen)  # type: ignore[operator]
        given = torch.zeros(ROWS, horizon, width), encoded
        record = engine.recorder(self.network, config)
        self._run = record(lambda values: (self.network.decode(*values),), given)  # type: ignore[operator]

    def encode(self, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(...)`` steps and ``(..., C)`` conditions, broadcast, to ``(..., E)``."""
        found: Tensor = self.network.encode(t, cond)  # type: ignore[operator]
        return found

    def decode(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Map ``(B, T, Da)`` chunks and ``(B, E)`` to ``(B, T, Da)``."""
        encoded = encoded.expand(len(x), -1)
        found = [
            self._run([_full(a), _full(b)])[0][: len(a)]
            for a, b in zip(torch.split(x, ROWS), torch.split(encoded, ROWS), strict=True)
        ]
        return torch.cat(found)

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(B, T, Da)``, ``(B,)`` and ``(B, C)`` to ``(B, T, Da)``."""
        return self.decode(x, self.encode(t, cond))


def _full(values: Tensor) -> Tensor:
    return pad(values, [0, 0] * (values.dim() - 1) + [0, ROWS - len(values)]).contiguous()


def in_blocks(policy: "DiffusionPolicy", config: RuntimeConfig) -> Execute:
    """Return what executes solves with the network alone in a config's engine."""
    return Direct(Blocks(policy, config))
