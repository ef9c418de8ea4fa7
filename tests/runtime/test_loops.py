"""A scan that was made a loop computes the same."""

from typing import Any

import numpy as np
import pytest

from pcm_policy.runtime.loops import scans_as_loops

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def scanning(states: int, scanned: int, turns: int) -> Any:
    """A model with two scans: every state adds up the slices, and every turn's sum is kept."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    info = helper.make_tensor_value_info
    nodes = []
    for place in range(2):
        s = [f"s{place}{i}" for i in range(states)]
        x = [f"x{place}{i}" for i in range(scanned)]
        out = [f"o{place}{i}" for i in range(states)]
        sums = [
            helper.make_node("Sum", [one, *x, "weight"], [name])
            for one, name in zip(s, out, strict=True)
        ]
        kept = helper.make_node("Sum", out, [f"kept{place}"])
        body = helper.make_graph(
            [*sums, kept],
            "body",
            [info(name, kind, [2]) for name in (*s, *x)],
            [info(name, kind, [2]) for name in (*out, f"kept{place}")],
        )
        given = [f"S{i}" if place == 0 else f"T0{i}" for i in range(states)]
        outputs = [*(f"T{place}{i}" for i in range(states)), f"K{place}"]
        given += [f"X{i}" for i in range(scanned)]
        name = "" if place else "scan"
        nodes.append(
            helper.make_node("Scan", given, outputs, name, body=body, num_scan_inputs=scanned)
        )
    inputs = [info(f"S{i}", kind, [2]) for i in range(states)]
    inputs += [info(f"X{i}", kind, [turns, 2]) for i in range(scanned)]
    outputs = [info(f"T1{i}", kind, [2]) for i in range(states)]
    outputs += [info(f"K{i}", kind, [turns, 2]) for i in range(2)]
    weight = helper.make_tensor("weight", kind, [2], [0.5, -2.0])
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("turns", [1, 5])
@pytest.mark.parametrize("scanned", [1, 2])
@pytest.mark.parametrize("states", [1, 3])
def test_a_loop_is_the_scan(states: int, scanned: int, turns: int) -> None:
    model, rows = scanning(states, scanned, turns), np.random.default_rng(0)
    shapes = [(f"S{i}", (2,)) for i in range(states)]
    shapes += [(f"X{i}", (turns, 2)) for i in range(scanned)]
    given = {name: rows.normal(size=shape).astype(np.float32) for name, shape in shapes}
    results = []
    for change in (lambda _: None, scans_as_loops):
        change(model)
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        results.append(session.run(None, given))
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Scan"), kinds.count("Loop")) == (0, 2)
    for found, want in zip(*results, strict=True):
        np.testing.assert_array_equal(found, want)
