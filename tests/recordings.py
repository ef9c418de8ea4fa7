"""The same program is written as ONNX once: many tests record the same solve, for two engines too.

Writing is a pure function of a program, and takes seconds.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from pcm_policy.files import write_file

Write = Callable[[ExportedProgram, Path], None]


def digest(program: ExportedProgram) -> bytes:
    """Return what differs between any two programs: code, shapes, signature, and every number."""
    found = hashlib.sha256(str(program.graph_signature).encode())
    for name, module in program.graph_module.named_modules():
        if isinstance(module, GraphModule):
            inputs = [(n.name, n.meta.get("val")) for n in module.graph.nodes if not n.args]
            found.update(f"{name}: {module.code} {inputs}".encode())
            held = dict(module.named_parameters()) | dict(module.named_buffers()) | vars(module)
            _add(found, held)
    _add(found, {**program.state_dict, **program.constants})
    return found.digest()


def _add(found: "hashlib._Hash", values: dict[str, object]) -> None:
    for name, value in sorted(values.items(), key=lambda one: one[0]):
        for leaf in tree_leaves(value):
            if isinstance(leaf, torch.Tensor):
                raw = leaf.detach().cpu().contiguous()
                found.update(f"{name} {raw.dtype} {tuple(raw.shape)}".encode())
                found.update(raw.flatten().view(torch.uint8).numpy().tobytes())


def remembered(write: Write, folder: Path) -> Write:
    """Return what writes as ``write`` does, and copies the file of a program that it has met."""

    def copy_or_write(program: ExportedProgram, path: Path) -> None:
        kept = folder / digest(program).hex()
        if not kept.exists():
            write(program, path)
            text = path.read_bytes()
            write_file(kept, lambda to: to.write_bytes(text))  # another process may read it
        else:
            path.write_bytes(kept.read_bytes())

    return copy_or_write
