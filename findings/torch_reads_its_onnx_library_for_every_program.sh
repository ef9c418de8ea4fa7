#!/usr/bin/env bash
# torch.onnx.export(dynamo=True) parses the source code of its operator library anew for every call.
#
# Expected: the 550 functions of onnxscript's torchlib, which do not change while a process runs,
#           are read by the first export and kept for the next one.
# Seen:     about 600 calls of ast.parse in the first export of a linear layer and about 500 in each
#           later one, 0.7 of its 1.2 s; 2 in a later one if the list of functions that
#           onnxscript returns to torch is kept.
# Exits non-zero if that has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'torch==2.13.0' 'onnx==1.23.2' 'onnxscript==0.7.2' 'numpy<3'
cat > "$work/count.py" <<'PY'
import ast
import functools
import importlib
import time
import warnings
from importlib.metadata import version

import torch

calls = [0]
parse = ast.parse


def counted(*args, **kwargs):
    calls[0] += 1
    return parse(*args, **kwargs)


def export(width):
    """Return the calls of ast.parse in an export, and its seconds."""
    calls[0], start = 0, time.process_time()
    torch.onnx.export(torch.nn.Linear(3, width), (torch.zeros(1, 3),), dynamo=True, verbose=False)
    return calls[0], time.process_time() - start


ast.parse = counted
warnings.simplefilter("ignore")
print("torch", torch.__version__, "onnxscript", version("onnxscript"))
first, second, third = (export(width) for width in (2, 3, 4))
library = importlib.import_module("torch.onnx._internal._lazy_import").onnxscript_apis
library.get_torchlib_ops = functools.cache(library.get_torchlib_ops)
export(5)
kept = export(6)
for name, (count, seconds) in zip(("first", "second", "third", "kept"), (first, second, third, kept)):
    print(f"{name}: ast.parse is called {count} times, {seconds:.2f} s of CPU time")
changed = not (second[0] > 400 and third[0] > 400 and kept[0] < 20)
raise SystemExit(changed)
PY
cd "$work"
OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= "$work/venv/bin/python" count.py
