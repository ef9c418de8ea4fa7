"""Tests take a file that another one wrote for the very same program, and for no other."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tests.recordings import remembered


class Scaled(nn.Module):
    """A weight, a buffer, a number in the code, and one that is captured."""

    def __init__(self, weight: float, buffer: float, number: float, captured: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2,), weight))
        self.register_buffer("buffer", torch.full((2,), buffer))
        self.number, self.captured = number, torch.full((2,), captured)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.buffer * self.number + self.captured


def test_another_number_or_shape_anywhere_is_another_program(tmp_path: Path) -> None:
    written: list[ExportedProgram] = []

    def write(program: ExportedProgram, path: Path) -> None:
        written.append(program)
        path.write_text(str(len(written)))

    copy_or_write = remembered(write, tmp_path)
    cases = [((1.0, 2.0, 3.0, 4.0), torch.zeros(3, 2))]
    cases += [(tuple(9.0 if i == j else v for j, v in enumerate(cases[0][0])), cases[0][1])
              for i in range(4)]  # fmt: skip
    cases += [(cases[0][0], torch.zeros(1, 2)), (cases[0][0], torch.zeros(2))]
    for turn in range(2):
        for i, (numbers, x) in enumerate(cases):
            path = tmp_path / f"{turn}.onnx"
            copy_or_write(torch.export.export(Scaled(*numbers), (x,), strict=False), path)
            assert path.read_text() == str(i + 1)
    assert len(written) == len(cases)
