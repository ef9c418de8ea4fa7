#!/usr/bin/env bash
# OpenVINO computes a float32 model in bfloat16 where the processor has the instructions: a product of
# two matrices is off by percents, and nothing warns. INFERENCE_PRECISION_HINT=f32 is what helps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openvino==2026.4.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import pathlib
import sys

import numpy as np
import openvino as ov
from openvino import opset13 as ops

print("openvino", ov.__version__)
flags = pathlib.Path("/proc/cpuinfo").read_text().split()
if not {"avx512_bf16", "amx_bf16"} & set(flags):
    sys.exit("this processor has no bfloat16 instructions: nothing can be seen here")
rng = np.random.default_rng(0)
weight = rng.normal(size=(256, 256)).astype(np.float32)
x = rng.normal(size=(16, 256)).astype(np.float32)
given = ops.parameter([16, 256], np.float32, name="x")
product = ops.matmul(given, ops.constant(weight), transpose_a=False, transpose_b=False)
model = ov.Model([product], [given], "product")
exact = x.astype(np.float64) @ weight.astype(np.float64)
found = {}
for said, options in (("nothing said", {}), ("f32", {"INFERENCE_PRECISION_HINT": "f32"})):
    compiled = ov.Core().compile_model(model, "CPU", options)
    result = compiled([x])[0]
    found[said] = float(np.abs(result - exact).max() / np.abs(exact).std())
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    print(f"{said}: output {result.dtype}, precision {hint}, off by {found[said]:.1e} of its spread")
if not (found["nothing said"] > 1e-3 and found["f32"] < 1e-5):
    sys.exit("the behaviour has changed")
PY
