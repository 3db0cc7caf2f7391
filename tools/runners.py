"""Runners of ONNX models for the measuring tools: onnxruntime and onnx's reference evaluator.

Values are NumPy arrays (sub-byte, bfloat16 and float8 through ml_dtypes, strings as object arrays),
lists for sequences, dictionaries for maps and None for an empty optional.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["RUNNERS", "Feeds", "Value", "compare_values", "normalize", "run_model"]

Value = Any
"""A tensor, sequence, map or optional, as described in the module's docstring."""

Feeds = Mapping[str, Value]

_EXOTIC = frozenset(
    getattr(onnx.TensorProto, name)
    for name in (
        "BFLOAT16",
        "FLOAT8E4M3FN",
        "FLOAT8E4M3FNUZ",
        "FLOAT8E5M2",
        "FLOAT8E5M2FNUZ",
        "FLOAT8E8M0",
        "FLOAT4E2M1",
        "INT4",
        "UINT4",
        "INT2",
        "UINT2",
    )
    if hasattr(onnx.TensorProto, name)
)


def normalize(value: Value) -> Value:
    """Turn the protos and NumPy scalars found in test data into plain values."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return [normalize(item) for item in numpy_helper.to_list(value)]
    if isinstance(value, onnx.OptionalProto):
        return normalize(numpy_helper.to_optional(value))
    if isinstance(value, list | tuple):
        return [normalize(item) for item in value]
    if value is None or isinstance(value, dict):
        return value
    return np.asarray(value)


def _elem_types(values: Sequence[onnx.ValueInfoProto]) -> set[int]:
    return {value.type.tensor_type.elem_type for value in values}


def _run_onnxruntime(model: onnx.ModelProto, feeds: Feeds, *, optimize: bool) -> list[Value]:
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    types = _elem_types([*model.graph.input, *model.graph.output])
    if not types & _EXOTIC:
        return [normalize(value) for value in session.run(None, dict(feeds))]
    elem_type = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    wrapped = {name: _to_ort(value, elem_type[name]) for name, value in feeds.items()}
    return [_from_ort(value) for value in session.run_with_ort_values(None, wrapped)]


def _to_ort(value: np.ndarray, elem_type: int) -> Any:
    from onnxruntime import OrtValue

    if elem_type not in _EXOTIC:
        return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
    size = helper.tensor_dtype_to_np_dtype(elem_type).itemsize
    raw = np.ascontiguousarray(value).view(np.uint16 if size == 2 else np.uint8)
    return OrtValue.ortvalue_from_numpy_with_onnx_type(raw, elem_type)


def _from_ort(value: Any) -> np.ndarray:
    elem_type = value.element_type()
    if elem_type not in _EXOTIC:
        return np.asarray(value.numpy())
    shape = tuple(value.shape())
    proto = onnx.TensorProto(data_type=elem_type, dims=shape)
    proto.raw_data = (
        ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
        if math.prod(shape)
        else b""
    )
    return np.asarray(numpy_helper.to_array(proto))


def _run_reference(model: onnx.ModelProto, feeds: Feeds) -> list[Value]:
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        return [normalize(value) for value in ReferenceEvaluator(model).run(None, dict(feeds))]


RUNNERS: dict[str, Callable[[onnx.ModelProto, Feeds], list[Value]]] = {
    "ort": lambda model, feeds: _run_onnxruntime(model, feeds, optimize=False),
    "ort-opt": lambda model, feeds: _run_onnxruntime(model, feeds, optimize=True),
    "ref": _run_reference,
}
"""Runners by name: onnxruntime without and with graph optimizations, onnx's evaluator."""


def run_model(runner: str, model: onnx.ModelProto, feeds: Feeds) -> list[Value]:
    """Run `model` through the named runner; any exception is the runner's own."""
    return RUNNERS[runner](model, feeds)


def compare_values(
    expected: Value, actual: Value, rtol: float, atol: float, where: str = "output"
) -> str | None:
    """Return None when the values agree, else one line saying where and how they differ.

    Shapes, dtypes, integers, booleans and strings must be equal; NaN equals NaN. bfloat16 is
    compared within two units in the last place, as onnx's own test runner does.
    """
    if isinstance(expected, list):
        if not isinstance(actual, list | tuple) or len(actual) != len(expected):
            return f"{where}: expected a sequence of {len(expected)}"
        found = (
            compare_values(e, a, rtol, atol, f"{where}[{i}]")
            for i, (e, a) in enumerate(zip(expected, actual, strict=True))
        )
        return next((reason for reason in found if reason), None)
    if expected is None or isinstance(expected, dict):
        return None if expected == actual else f"{where}: expected {expected!r}, got {actual!r}"
    if not isinstance(actual, np.ndarray):
        return f"{where}: expected a tensor, got {type(actual).__name__}"
    if expected.shape != actual.shape:
        return f"{where}: expected shape {expected.shape}, got {actual.shape}"
    if _kind(expected) == _kind(actual) == "string":
        same = expected.astype(str).tolist() == actual.astype(str).tolist()
        return None if same else f"{where}: strings differ"
    if expected.dtype != actual.dtype:
        return f"{where}: expected dtype {expected.dtype}, got {actual.dtype}"
    return _compare_numbers(expected, actual, rtol, atol, where)


def _kind(array: np.ndarray) -> str:
    return "string" if array.dtype.kind in "OUST" else "number"


def _compare_numbers(
    expected: np.ndarray, actual: np.ndarray, rtol: float, atol: float, where: str
) -> str | None:
    if expected.dtype.kind in "iub":
        wrong = expected != actual
    else:
        if expected.dtype.name == "bfloat16":
            rtol = max(rtol, 2.0**-6)
        wide = np.complex128 if expected.dtype.kind == "c" else np.float64
        expected, actual = expected.astype(wide), actual.astype(wide)
        with np.errstate(all="ignore"):
            wrong = ~np.isclose(actual, expected, rtol=rtol, atol=atol, equal_nan=True)
    count = int(np.count_nonzero(wrong))
    if not count:
        return None
    at = tuple(int(index[0]) for index in np.nonzero(np.atleast_1d(wrong)))
    pair = np.atleast_1d(expected)[at], np.atleast_1d(actual)[at]
    return f"{where}: {count} of {wrong.size} differ, first {pair[0]} != {pair[1]} at {at}"
