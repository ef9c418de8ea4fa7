"""CUDA graphs: a solve is captured once, and a replay launches nothing from Python.

A fixed-round solve is one graph, from raw observations to the chunk. With a tolerance or a
deadline, the first rounds are one graph and each further base round is a replay of another; the
host looks at the bound, or the clock, in between.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.dispatch import Programs
from pcm_policy.runtime.inputs import Execute
from pcm_policy.runtime.mode import Mode
from pcm_policy.runtime.precision import in_precision
from pcm_policy.runtime.recorded import Function

if TYPE_CHECKING:
    from pcm_policy.policy.policy import DiffusionPolicy

WARMUP = 3


class Graph(Mode):
    """Replays on a CUDA device."""

    def check(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> None:
        """Refuse other devices."""
        super().check(policy, config)
        if policy.device.type != "cuda":
            raise PcmError(
                "runtime.mode=graph needs a CUDA device: use mode=eager, mode=onnx or mode=openvino"
            )

    def execute(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> Execute:
        """Return what executes a policy's solves, one at a time: a graph keeps its inputs."""
        network = in_precision(policy.network, config.precision)
        return Programs(network, captured, alone=True)


def captured(function: Function, given: Sequence[Tensor]) -> Function:
    """Capture a function as a graph, for tensors of the shapes of these."""
    static = [value.clone() for value in given]
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUP):
            function(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = function(static)

    def replay(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for mine, theirs in zip(static, values, strict=True):
            mine.copy_(theirs, non_blocking=True)
        graph.replay()
        return tuple(value.clone() for value in outputs)  # the caller's own

    return replay
