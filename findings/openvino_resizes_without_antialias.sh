#!/usr/bin/env bash
# OpenVINO reads an ONNX Resize that asks for smoothing (mode=linear, antialias=1) and makes an image
# smaller without it: pixels are off by tens of percents, and nothing warns. ONNX Runtime gives what
# ONNX's own reference gives. Two products of matrices are read alike by both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/resize.onnx" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino as ov
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

OLD, NEW = [1, 3, 40, 52], [1, 3, 17, 20]
print("onnx", onnx.__version__, "openvino", ov.__version__)
node = helper.make_node(
    "Resize", ["x", "", "", "size"], ["y"], mode="linear", antialias=1,
    coordinate_transformation_mode="half_pixel", exclude_outside=1,
)
given = helper.make_tensor_value_info("x", TensorProto.FLOAT, OLD)
made = helper.make_tensor_value_info("y", TensorProto.FLOAT, NEW)
size = helper.make_tensor("size", TensorProto.INT64, [4], NEW)
graph = helper.make_graph([node], "resize", [given], [made], [size])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
onnx.checker.check_model(model)
onnx.save(model, sys.argv[1])


def share(old, new):
    """Return (new, old): a triangle around every new pixel, as wide as the pixel."""
    centre = (np.arange(new) + 0.5) * old / new
    away = np.abs(np.arange(old) + 0.5 - centre[:, None])
    weight = np.clip(1 - away / max(old / new, 1), 0, None)
    return weight / weight.sum(1, keepdims=True)


x = np.random.default_rng(0).random(OLD, dtype=np.float32)
want = share(OLD[2], NEW[2]) @ x @ share(OLD[3], NEW[3]).T
core = ov.Core()
hint = {"INFERENCE_PRECISION_HINT": "f32"}
found = {
    "onnx, its reference": ReferenceEvaluator(model).run(None, {"x": x})[0],
    "onnxruntime": onnxruntime.InferenceSession(sys.argv[1]).run(None, {"x": x})[0],
    "openvino": core.compile_model(core.read_model(sys.argv[1]), "CPU", hint)([x])[0],
}
off = {name: float(np.abs(value - want).max()) for name, value in found.items()}
for name, value in off.items():
    print(f"{name}: off by {value:.1e}")
if not (off["onnxruntime"] < 1e-5 and off["openvino"] > 1e-2):
    sys.exit("the behaviour has changed")
PY
