#!/usr/bin/env bash
# accelerate launch --num_processes 2 starts ONE process on a machine without a GPU, and says nothing.
#
# Expected: two processes (gloo), as `torchrun --nproc_per_node 2` starts on the same machine; or an
#           error, or a line that says one process is started.
# Seen:     a world size of 1 with `--num_processes 2`, with and without `--cpu` and with every flag
#           given that the launcher's own note asks for; exit code 0. The note names the defaults of
#           --num_machines, --mixed_precision and --dynamo_backend, and nothing of the processes.
# Exits non-zero if that has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'accelerate==1.15.0' 'torch==2.13.0' 'numpy<3'
cat > "$work/world.py" <<'PY'
import os
from pathlib import Path

from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
Path(os.environ["OUT"], str(os.getpid())).write_text(str(accelerator.num_processes))
PY
cd "$work"
export CUDA_VISIBLE_DEVICES= HF_HOME="$work/hf" OMP_NUM_THREADS=1
"$work/venv/bin/python" -c 'import accelerate, torch; print("accelerate", accelerate.__version__, "torch", torch.__version__)'
status=0
count() { # expected world size and number of processes, then the command
  local expected=$1; shift
  export OUT; OUT=$(mktemp -d -p "$work")
  "$@" 2>"$work/err"
  local seen; seen="world size $(head -qn1 "$OUT"/* | fold -w1 | sort -u), $(ls "$OUT" | wc -l) process(es)"
  echo "$* -> $seen (stderr: $(wc -l < "$work/err") lines)"
  [ "$seen" = "$expected" ] || status=1
}
export PATH="$work/venv/bin:$PATH"
count 'world size 1, 1 process(es)' accelerate launch --cpu --num_processes 2 world.py
count 'world size 1, 1 process(es)' accelerate launch --num_processes 2 world.py
count 'world size 1, 1 process(es)' accelerate launch --cpu --num_processes 2 --num_machines 1 --dynamo_backend no --mixed_precision no world.py
count 'world size 2, 2 process(es)' torchrun --nproc_per_node 2 world.py
exit $status
