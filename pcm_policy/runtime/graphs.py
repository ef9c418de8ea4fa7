"""Modules as ONNX files, in the form that inference engines run fast and all of them read."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib import import_module
from inspect import signature
from io import StringIO
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pcm_policy.errors import PcmError
from pcm_policy.optional import require
from pcm_policy.runtime.loops import scans_as_loops
from pcm_policy.runtime.lowered import lowered

DEDUPLICATION = "onnx_ir.passes.common.initializer_deduplication"
"""A logger that warns of every weight that is an output too; nothing is wrong with these."""


@contextmanager
def errors_alone(logger: str) -> Iterator[None]:
    """Let one logger say errors and nothing less."""
    said, level = logging.getLogger(logger), logging.getLogger(logger).level
    said.setLevel(logging.ERROR)
    try:
        yield
    finally:
        said.setLevel(level)


@cache
def read_operators_once() -> None:
    """Let torch keep its library of ONNX operators, where it has one in the place of torch 2.13.

    It reads the source code of 550 functions for every program, which takes a fifth of the time:
    findings/torch_reads_its_onnx_library_for_every_program.sh.
    """
    try:
        module = import_module("torch.onnx._internal._lazy_import").onnxscript_apis
        read = module.get_torchlib_ops
    except (ImportError, AttributeError):
        return
    module.get_torchlib_ops = cache(read)


def tidy(model: Any) -> None:
    """Fold the constants of a model, give equal ones one place, and drop what is said of its nodes.

    torch notes the lines of source code that a node comes from, with the folders of this machine.

    Engines look for patterns themselves when they load it. torch's own tidying looks for 60 of them
    at every node, which takes half of the time that a U-Net's program is written in, and solves
    are no faster for it.
    """
    folds, passes = import_module("onnxscript.optimizer"), import_module("onnx_ir.passes.common")
    folds.inline(model)
    folds.fold_constants(model, onnx_shape_inference=True)
    folds.remove_unused_nodes(model)
    for one in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.ClearMetadataAndDocStringPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        one(model)


def require_exporter() -> Any:
    """Return the module ``onnx``.

    Raises:
        PcmError: it, or what torch's exporter takes, is not installed; or torch is too old, such as
            2.4.0.
    """
    require("onnxscript", "torch's export to ONNX", "export")
    if "optimize" not in signature(torch.onnx.export).parameters:
        raise PcmError(
            f"torch {torch.__version__} writes no exported programs as ONNX: install a newer one, "
            "such as that of constraints.txt; runtime.mode=eager needs none"
        )
    return require("onnx", "torch's export to ONNX", "export")


def write_onnx(module: nn.Module, given: Sequence[Tensor], path: Path) -> None:
    """Write a module, for inputs of the shapes of these.

    Raises:
        PcmError: ONNX is not installed.
    """
    with torch.no_grad(), catch_warnings():  # what a solve keeps was made in inference mode
        simplefilter("ignore")
        program = torch.export.export(module, tuple(given), strict=False)
        write_program(program, path)


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write an exported program as ONNX.

    It is :func:`~pcm_policy.runtime.lowered.lowered`, and its loops are ones that every engine
    reads.

    Raises:
        PcmError: ONNX is not installed.
    """
    onnx = require_exporter()
    read_operators_once()
    quiet = errors_alone(DEDUPLICATION)
    with torch.no_grad(), catch_warnings(), redirect_stdout(StringIO()), quiet:
        simplefilter("ignore")
        written = torch.onnx.export(lowered(program), dynamo=True, verbose=False, optimize=False)
        assert written is not None
        tidy(written.model)
        model = written.model_proto
    scans_as_loops(model)
    onnx.save(model, str(path))
