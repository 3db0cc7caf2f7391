"""Make a failing ONNX model smaller while it keeps failing."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, shape_inference

__all__ = ["reduce_model"]

Feeds = dict[str, np.ndarray]
Fails = Callable[[onnx.ModelProto, Feeds], bool]

_SECONDS = 60.0


def reduce_model(
    model: onnx.ModelProto, feeds: Feeds, fails: Fails, seconds: float = _SECONDS
) -> tuple[onnx.ModelProto, Feeds]:
    """Return a smaller model that still fails, and its feeds.

    First the earliest value that fails as the only output is sought, then values are computed
    beforehand and fed, as many and as late as the failure allows.

    Args:
        model: a failing model; not changed.
        feeds: the inputs it fails with.
        fails: whether a candidate fails in the same way.
        seconds: when to stop trying.
    """
    deadline = time.monotonic() + seconds
    declared = _declared(model)
    for name in _top_level_values(model):
        if time.monotonic() > deadline:
            break
        if name in declared:
            candidate = _only_output(model, declared[name])
            small = {key: feeds[key] for key in _input_names(candidate) if key in feeds}
            if fails(candidate, small):
                model, feeds = candidate, small
                break
    for name in reversed(_top_level_values(model)[:-1]):
        if time.monotonic() > deadline:
            break
        if name not in declared or name not in _top_level_values(model):
            continue
        cut = _fed_value(model, feeds, declared[name])
        if cut and fails(*cut):
            model, feeds = cut
    return model, feeds


def _declared(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    inferred = shape_inference.infer_shapes(model)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    return {value.name: value for value in values}


def _top_level_values(model: onnx.ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in node.output if name]


def _input_names(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.input}


def _only_output(model: onnx.ModelProto, output: onnx.ValueInfoProto) -> onnx.ModelProto:
    """Return the part of `model` that computes `output`."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.output[:]
    graph.output.append(output)
    needed = {output.name}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= _reads(node)
            kept.append(node)
    nodes = list(reversed(kept))
    initializers = [proto for proto in graph.initializer if proto.name in needed]
    inputs = [value for value in graph.input if value.name in needed]
    for field, values in (("node", nodes), ("initializer", initializers), ("input", inputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    return result


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node and its subgraphs read."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                names |= _reads(inner)
            names |= {value.name for value in attribute.g.output}
    return names


def _fed_value(
    model: onnx.ModelProto, feeds: Feeds, value: onnx.ValueInfoProto
) -> tuple[onnx.ModelProto, Feeds] | None:
    """Return `model` with `value` as an input instead of computed, or None if it cannot run."""
    from lepton_ir.tools.runners import run_model

    try:
        array = run_model("ort", _only_output(model, value), _feeds_for(model, feeds, value))[0]
    except Exception:
        return None
    if not isinstance(array, np.ndarray):
        return None
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        for index, name in enumerate(node.output):
            if name == value.name:
                node.output[index] = f"{name} (computed)"
    elem_type = value.type.tensor_type.elem_type
    result.graph.input.append(
        helper.make_tensor_value_info(value.name, elem_type, list(array.shape))
    )
    result = _only_output(result, result.graph.output[0])
    names = _input_names(result)
    joined = {**feeds, value.name: array}
    return result, {name: array for name, array in joined.items() if name in names}


def _feeds_for(model: onnx.ModelProto, feeds: Feeds, value: onnx.ValueInfoProto) -> Feeds:
    names = _input_names(_only_output(model, value))
    return {name: array for name, array in feeds.items() if name in names}
