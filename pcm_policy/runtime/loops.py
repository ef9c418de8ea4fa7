"""Scans of an ONNX model as loops: OpenVINO reads the one and not the other.

A scan takes a slice of its inputs in every turn; a loop counts its turns, and the slice is
gathered. ONNX Runtime runs both alike, and packs only those weights of a body ahead that are in the
body itself.
"""

from collections import defaultdict
from typing import Any


def scans_as_loops(model: Any) -> None:
    """Replace, in place, every Scan of an ``onnx.ModelProto`` by a Loop that does the same.

    It must scan forwards along the first axis, as ``torch.onnx`` writes it.
    """
    nodes = model.graph.node
    for place, node in enumerate(nodes):
        if node.op_type == "Scan":
            made = _loop(node, f"{node.name or 'scan'}_{place}")
            del nodes[place]
            for new in reversed(made):
                nodes.insert(place, new)
            scans_as_loops(model)
            return
    _move_weights(model.graph)


def _move_weights(graph: Any) -> None:
    """Move weights that one body alone reads into it."""
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(graph)
        for body in (a.g for a in node.attribute if a.HasField("g")):
            for name in {name for inner in body.node for name in inner.input}:
                readers[name].append(body)
    for place in reversed(range(len(graph.initializer))):
        weight = graph.initializer[place]
        if len(readers[weight.name]) == 1 and readers[weight.name][0] is not graph:
            readers[weight.name][0].initializer.append(weight)
            del graph.initializer[place]


def _loop(node: Any, name: str) -> list[Any]:
    """Return the nodes that stand for a Scan: the number of its turns, and the Loop."""
    from onnx import TensorProto, helper

    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    body, count = given["body"], given["num_scan_inputs"]
    states, scanned = list(node.input)[:-count], list(node.input)[-count:]
    mine = list(body.input)
    turn, go, on, turns = (f"{name}_{word}" for word in ("turn", "go", "on", "turns"))
    slices = [
        helper.make_node("Gather", [whole, turn], [one.name], axis=0)
        for whole, one in zip(scanned, mine[-count:], strict=True)
    ]
    inner = helper.make_graph(
        [*slices, helper.make_node("Identity", [go], [on]), *body.node],
        f"{name}_body",
        [
            helper.make_tensor_value_info(turn, TensorProto.INT64, []),
            helper.make_tensor_value_info(go, TensorProto.BOOL, []),
            *mine[:-count],
        ],
        [helper.make_tensor_value_info(on, TensorProto.BOOL, []), *body.output],
        initializer=body.initializer,
        value_info=body.value_info,
    )
    return [
        helper.make_node("Shape", [scanned[0]], [turns], start=0, end=1),
        helper.make_node("Loop", [turns, "", *states], list(node.output), name=name, body=inner),
    ]
