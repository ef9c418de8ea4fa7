#!/usr/bin/env bash
# PyAV 18.1.0: frame.to_ndarray(format="rgb24") takes about three times as long as the same conversion by a converter that is kept.
#
# A frame that is converted without one makes its own VideoReformatter, and with it a scaler of FFmpeg with a thread for
# every processor, for each frame of a video. For frames of 96 x 96, as robots record them, this takes several times as
# long as decoding. The usual loop, `for frame in container.decode(video=0): frame.to_ndarray(format="rgb24")`, does so.
#
# Expected: converting small frames takes about as long one by one as with a converter that is kept for all of them.
# Seen:     about three times as long on a machine of two processors; the arrays are equal.
# What helps: av.video.reformatter.VideoReformatter() once, then reformatter.reformat(frame, format="rgb24").to_ndarray().
# Exits non-zero if that has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-cache-dir 'av==18.1.0' 'numpy==2.4.6'
cat > "$work/convert.py" <<'PY'
import sys
import time

import av
import numpy as np

path = sys.argv[1] + "/film.mp4"
rng = np.random.default_rng(0)
with av.open(path, "w") as container:
    stream = container.add_stream("libx264", rate=30)
    stream.width = stream.height = 96
    stream.pix_fmt = "yuv420p"
    for start in range(1000):
        image = np.add.outer(np.arange(96), np.arange(96) + start)[..., None] * [1, 2, 3]
        frame = av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")
        for packet in stream.encode(frame):
            container.mux(packet)
    for packet in stream.encode(None):
        container.mux(packet)


def decoded(convert):
    begin = time.perf_counter()
    with av.open(path) as container:
        found = [convert(frame) for frame in container.decode(video=0)]
    return time.perf_counter() - begin, found


kept = av.video.reformatter.VideoReformatter()
ways = {
    "decoding alone": lambda frame: None,
    "a converter that is kept": lambda frame: kept.reformat(frame, format="rgb24").to_ndarray(),
    "frame.to_ndarray(format=...)": lambda frame: frame.to_ndarray(format="rgb24"),
}
best, frames = {}, {}
for turn in range(3):  # the ways take turns
    for name, convert in ways.items():
        seconds, frames[name] = decoded(convert)
        best[name] = min(seconds, best.get(name, seconds))
print("av", av.__version__, "numpy", np.__version__)
for name, seconds in best.items():
    print(f"{name}: {1000 / seconds:.0f} frames a second")
alone, one, each = best.values()
print(f"converting takes {(each - alone) / (one - alone):.1f} times as long")
assert all(map(np.array_equal, *list(frames.values())[1:]))
assert each - alone > 2 * (one - alone)
PY
"$work/venv/bin/python" "$work/convert.py" "$work"
