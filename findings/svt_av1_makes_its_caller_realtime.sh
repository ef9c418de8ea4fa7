#!/usr/bin/env bash
# PyAV 18.1.0 with its SVT-AV1: the thread that encodes its first frame as root is a realtime one from then on.
#
# libsvtav1, the encoder of LeRobot's videos, moves its caller to SCHED_FIFO with the highest priority, 99, when the
# process may (as root, in most containers), and leaves it there. Threads and processes that it starts later inherit this:
# a script that writes a video and then trains takes the processors from everything else on the machine. libx264 does not.
#
# Expected: the scheduling policy of the caller is the same before and after.
# Seen:     SCHED_OTHER before and after the stream is added, SCHED_FIFO 99 after the first frame, in a child too.
# What helps: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)) after the first frame; encoding goes on.
# Runs as root only, on Linux. Exits non-zero if that has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-cache-dir 'av==18.1.0' 'numpy==2.4.6'
cat > "$work/encode.py" <<'PY'
import os
import subprocess
import sys

import av
import numpy as np

CHILD = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)"
assert os.geteuid() == 0, "run this as root: other users may not be given this priority"


def now():
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


def scheduled(codec):
    before = now()
    with av.open(os.path.join(sys.argv[1], f"{codec}.mp4"), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv420p"
        opened = now()
        frame = av.VideoFrame.from_ndarray(np.zeros((96, 96, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True)
    found = before, opened, now(), tuple(map(int, child.stdout.split()))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    print(codec, "(policy, priority) before, with a stream, after a frame, of a child:", *found)
    return found


print("av", av.__version__, "SCHED_OTHER", os.SCHED_OTHER, "SCHED_FIFO", os.SCHED_FIFO)
usual, realtime = (os.SCHED_OTHER, 0), (os.SCHED_FIFO, 99)
assert scheduled("libx264") == (usual,) * 4
assert scheduled("libsvtav1") == (usual, usual, realtime, realtime)
PY
SVT_LOG=1 "$work/venv/bin/python" "$work/encode.py" "$work"
