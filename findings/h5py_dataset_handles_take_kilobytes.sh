#!/usr/bin/env bash
# An h5py dataset that is held, and not read, takes some 10 kB of memory: a list of the arrays of a
# recording with thousands of demonstrations takes hundreds of megabytes. Keeping shape and dtype and
# opening each again takes next to nothing more; HDF5's own cache of metadata is limited for both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q h5py==3.16.0 numpy==2.4.6
cat > "$folder/measure.py" <<'PY'
import sys

import h5py
import numpy as np

path, kept = sys.argv[1:]
GROUPS, EACH = 1000, 10
if kept == "written":
    with h5py.File(path, "w") as file:
        for i in range(GROUPS):
            for j in range(EACH):
                file[f"data/demo_{i}/array_{j}"] = np.zeros((4, 3), np.float32)
    sys.exit()


def resident() -> int:
    """Resident memory in kB."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


file = h5py.File(path, "r")
limits = file.id.get_mdc_config()
limits.set_initial_size = True
limits.initial_size = limits.min_size = limits.max_size = 1 << 20
file.id.set_mdc_config(limits)
before, held = resident(), []
for group in file["data"].values():
    for array in group.values():
        held.append(array if kept == "handles" else (array.shape, array.dtype))
print((resident() - before) / len(held))
PY
run() { "$folder/venv/bin/python" "$folder/measure.py" "$folder/file.hdf5" "$1"; }
run written
handles=$(run handles) facts=$(run facts)
echo "h5py 3.16.0: $handles kB for each dataset held, $facts kB for its shape and dtype"
"$folder/venv/bin/python" - "$handles" "$facts" <<'PY'
import sys

handles, facts = map(float, sys.argv[1:])
if not (handles > 4 and facts < handles / 3):
    sys.exit("the behaviour has changed")
PY
