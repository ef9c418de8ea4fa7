"""What executes a graph: ONNX Runtime or OpenVINO, each behind one function."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from pcm_policy.checks import one_of, whole
from pcm_policy.errors import PcmError
from pcm_policy.optional import require

Engine = Literal["onnxruntime", "openvino"]
Arrays = Sequence[NDArray[Any]]
Call = Callable[[Arrays], list[NDArray[Any]]]
"""Maps the inputs of a graph to its outputs, both in the graph's order; safe in threads."""
Open = Callable[[Path], Call]
MOST_THREADS = 1024


def opener(engine: str = "onnxruntime", threads: int = 1) -> Open:
    """Return what opens graphs with an engine.

    Args:
        engine: ``onnxruntime`` or ``openvino``.
        threads: CPU threads of every call.

    Raises:
        PcmError: another engine, or one that is not installed.
    """
    one_of("engine", engine, get_args(Engine))
    whole("threads", threads, 1, MOST_THREADS)
    return _onnxruntime(threads) if engine == "onnxruntime" else _openvino(threads)


def _onnxruntime(threads: int) -> Open:
    runtime = require("onnxruntime", "a robot's policy", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors

    def open_graph(path: Path) -> Call:
        try:
            session = runtime.InferenceSession(str(path), options)
        except Exception as error:  # whatever the engine raises
            raise _refused("ONNX Runtime", path, error) from error
        names = [one.name for one in session.get_inputs()]

        def call(given: Arrays) -> list[NDArray[Any]]:
            found: list[NDArray[Any]] = session.run(None, dict(zip(names, given, strict=True)))
            return found

        return call

    return open_graph


def _openvino(threads: int) -> Open:
    runtime = require("openvino", "engine=openvino", "openvino")
    core = runtime.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16, silently, on a CPU that has it
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # to the first cores, which other processes use as well
    }

    def open_graph(path: Path) -> Call:
        try:
            model = core.compile_model(core.read_model(str(path)), "CPU", settings)
        except Exception as error:  # whatever the engine raises
            raise _refused("OpenVINO", path, error) from error
        return calling(model)

    return open_graph


def calling(model: Any) -> Call:
    """Return what calls a compiled OpenVINO model of fixed shapes.

    Every thread has a request of its own. Inputs are copied into the request's tensors: to hand
    arrays over takes OpenVINO's Python package 0.1 ms and more (``findings/
    openvino_takes_longer_to_share_arrays_than_to_copy_them.sh``).
    """
    own = threading.local()

    def call(given: Arrays) -> list[NDArray[Any]]:
        if not hasattr(own, "request"):
            own.request = model.create_infer_request()
            own.inputs = [own.request.get_input_tensor(i) for i in range(len(model.inputs))]
            own.outputs = [own.request.get_output_tensor(i) for i in range(len(model.outputs))]
        for tensor, value in zip(own.inputs, given, strict=True):
            tensor.data[...] = value
        own.request.infer(share_outputs=True)
        return [tensor.data.copy() for tensor in own.outputs]

    return call


def _refused(engine: str, path: Path, error: Exception) -> PcmError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return PcmError(f"{engine} cannot open {path} ({reason}): export the policy again")
