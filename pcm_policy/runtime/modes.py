"""The ways to execute solves, by the name that ``runtime.mode`` gives them."""

from pcm_policy.registry import Registry
from pcm_policy.runtime.auto import Auto
from pcm_policy.runtime.compile import Compile
from pcm_policy.runtime.eager import Eager
from pcm_policy.runtime.graph import Graph
from pcm_policy.runtime.mode import Mode
from pcm_policy.runtime.onnx import Onnx
from pcm_policy.runtime.openvino import OpenVino

MODES: Registry[Mode] = Registry("runtime.mode", Mode)
MODES.add("auto")(Auto(MODES))
MODES.add("eager")(Eager())
MODES.add("compile")(Compile())
MODES.add("graph")(Graph())
MODES.add("onnx")(Onnx())
MODES.add("openvino")(OpenVino())
