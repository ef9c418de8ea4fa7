"""A recording is compared with eager execution where the chunk is, and more widely before it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.engine import Engine
from pcm_policy.runtime.onnx import Onnx
from pcm_policy.runtime.recorded import Function

CHUNK, STATES = (2, 4, 3), (6, 2, 4, 3)


class Off(Onnx):
    """ONNX Runtime with something added to its first output."""

    def __init__(self, added: Tensor) -> None:
        self.added = added

    def open(self, path: Path, config: RuntimeConfig) -> Function:
        """Open the file as ONNX Runtime does."""
        run = super().open(path, config)
        return lambda values: tuple(one + self.added for one in run(values))


def recorded(engine: Engine, shape: Sequence[int]) -> Function:
    pytest.importorskip("onnxruntime")
    record = engine.recorder(nn.Identity(), RuntimeConfig("onnx"))
    return record(lambda values: (2 * values[0],), [torch.ones(*shape)])


@pytest.mark.parametrize(
    ("shape", "place", "off", "accepted"),
    [
        (CHUNK, 0, 5e-5, True),
        (CHUNK, 0, 2e-4, False),
        (CHUNK, 0, float("nan"), False),
        (STATES, -1, 5e-5, True),
        (STATES, -1, 2e-4, False),
        (STATES, 1, 2e-4, True),
        (STATES, 1, 2e-2, False),
        (STATES, 1, float("nan"), False),
    ],
)
def test_what_is_compared(shape: tuple[int, ...], place: int, off: float, accepted: bool) -> None:
    added = torch.zeros(*shape)
    added[place, 0] = off
    if accepted:
        run = recorded(Off(added), shape)
        assert torch.equal(run([torch.ones(*shape)])[0], 2 + added)
    else:
        with pytest.raises(PcmError, match="differs from eager execution by"):
            recorded(Off(added), shape)
