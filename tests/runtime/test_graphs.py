"""ONNX files: what torch reads for one is kept for the next, what is folded, and old versions."""

import ast
from pathlib import Path

import pytest
import torch

from pcm_policy.errors import PcmError
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


def test_a_torch_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_2_4(model, args, f=None, *, dynamo=False):  # type: ignore[no-untyped-def]
        raise AssertionError("it was asked all the same")

    monkeypatch.setattr(torch.onnx, "export", of_2_4)
    with pytest.raises(PcmError, match=r"torch \S+ writes no exported programs as ONNX"):
        write_onnx(torch.nn.Linear(3, 2), [torch.zeros(1, 3)], tmp_path / "first.onnx")


class Sums(torch.nn.Module):
    """Adds a constant that is computed, twice the same, and looks at a shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = torch.arange(3, dtype=torch.float32) * 2.0
        again = torch.arange(3, dtype=torch.float32) * 2.0
        return (x + table) * again / x.shape[0]


def test_constants_are_folded_and_nothing_changes(tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    x = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.0, -4.0]])
    write_onnx(Sums(), [x], tmp_path / "sums.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "sums.onnx").graph.node]
    assert not {"Range", "Cast", "CastLike", "Shape"} & set(kinds), kinds
    assert b".py" not in (tmp_path / "sums.onnx").read_bytes()  # lines of this machine's files
    session = runtime.InferenceSession(tmp_path / "sums.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), Sums()(x), rtol=0, atol=1e-6)
