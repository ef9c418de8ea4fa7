#!/usr/bin/env bash
# torch's antialiased resize of an image to a width of one pixel mixes up the pixels.
#
# Expected: interpolate(x, (5, 1), mode="bilinear", antialias=True) is the resize to (5, W) followed by
#           that to (5, 1), as it is for every other width: each axis is resized alone.
# Seen:     off by 0.5 for normal pixels, on a CPU, in float32 and float64. To (5, 2) both are the same.
# Exits non-zero if that has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'torch==2.13.0' 'numpy<3'
"$work/venv/bin/python" - <<'PY'
import sys

import torch
from torch.nn.functional import interpolate

print("torch", torch.__version__)
x = torch.randn(2, 3, 13, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def resize(image, height, width):
    """Return the image in another size."""
    return interpolate(image, (height, width), mode="bilinear", antialias=True)


off = {}
for width in (1, 2, 7):
    twice = resize(resize(x, 5, 20), 5, width)
    off[width] = float((resize(x, 5, width) - twice).abs().max())
    print(f"13 x 20 to 5 x {width}: at once and axis by axis differ by {off[width]:.1e}")
if not (off[1] > 1e-2 and max(off[2], off[7]) < 1e-12):
    sys.exit("the behaviour has changed")
PY
