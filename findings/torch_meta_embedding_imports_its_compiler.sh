#!/usr/bin/env bash
# Making an nn.Embedding (or any normal_ or exponential_) on torch's meta device imports its compiler.
#
# Expected: random numbers for a tensor without memory are nothing, as uniform_ (nn.Linear) shows.
# Seen:     normal_ imports torch._dynamo and sympy, some 800 modules: more than a second of CPU time and
#           more than 50 MB, in a process that wants to load weights without filling them first.
# Exits non-zero if that has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'torch==2.13.0' 'numpy<3'
cat > "$work/count.py" <<'PY'
import sys
import time
from pathlib import Path

import torch


def resident():
    """Return this process's memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def cost(make):
    """Return modules that a call imports, its megabytes and its seconds of CPU time."""
    before, memory, start = set(sys.modules), resident(), time.process_time()
    make()
    return set(sys.modules) - before, resident() - memory, time.process_time() - start


print("torch", torch.__version__)
linear, *_ = cost(lambda: torch.nn.Linear(2, 2, device="meta"))
embedding, memory, seconds = cost(lambda: torch.nn.Embedding(2, 2, device="meta"))
print(f"nn.Linear on meta imports {len(linear)} modules")
print(f"nn.Embedding on meta imports {len(embedding)} modules: {memory:.0f} MB, {seconds:.1f} s")
still = not linear and {"torch._dynamo", "sympy"} <= embedding and memory > 50
raise SystemExit(not still)
PY
cd "$work"
OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= "$work/venv/bin/python" count.py
