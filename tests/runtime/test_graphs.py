"""ONNX files: what torch reads for one is kept for the next."""

import ast
from pathlib import Path

import pytest
import torch

from pcm_policy.runtime.graphs import write_onnx


def test_torch_reads_its_operators_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_onnx(torch.nn.Linear(3, 2), [torch.zeros(1, 3)], tmp_path / "first.onnx")
    parse, read = ast.parse, []

    def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
        read.append(args)
        return parse(*args, **kwargs)

    monkeypatch.setattr(ast, "parse", counted)
    write_onnx(torch.nn.Linear(3, 4), [torch.zeros(1, 3)], tmp_path / "second.onnx")
    assert (tmp_path / "second.onnx").exists()
    assert len(read) < 20  # about 500 in torch 2.13 by itself
