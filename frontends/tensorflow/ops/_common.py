"""What rows of several families need: numbers of operands, TensorFlow's paddings and layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.infer import const_array, content_of
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.dtypes import DType
    from lepton_ir.frontends.tensorflow.lowering import TfBuilder
    from lepton_ir.frontends.tensorflow.nodes import Node

INT_MAX = (1 << 63) - 1


def dtype_of(x: Value) -> DType:
    """Return the element type; every value of a graph has one."""
    if x.dtype is None:
        raise UnsupportedError("the element type is unknown", code="tf-dtype")
    return x.dtype


def numbers(value: Value, what: str) -> list[int]:
    """Return the elements of an operand that must be known.

    Raises:
        UnsupportedError: they are computed by the graph.
    """
    array = const_array(value)
    if array is not None:
        return [int(i) for i in array.reshape(-1)]
    content = content_of(value)
    if content is None or not all(isinstance(c, int) for c in content):
        raise UnsupportedError(f"{what} is computed by the graph", code="tf-constant")
    return [int(c) for c in content if isinstance(c, int)]


def number(value: Value, what: str) -> int:
    """Return the one element of an operand that must be known."""
    found = numbers(value, what)
    if len(found) != 1:
        raise UnsupportedError(f"{what} has {len(found)} elements", code="tf-constant")
    return found[0]


def floats(value: Value, what: str) -> np.ndarray[Any, Any]:
    """Return the elements of an operand of floats that must be known."""
    array = const_array(value)
    if array is None:
        raise UnsupportedError(f"{what} is computed by the graph", code="tf-constant")
    return np.asarray(array)


def wide(b: TfBuilder, value: Value) -> Value:
    """Return sizes or places as i64, which the IR wants."""
    return b.cast_to(value, dtypes.I64)


def vector(b: TfBuilder, value: Value) -> Value:
    """Return a scalar or vector of places as an i64 vector."""
    found: Value = wide(b, value)
    return b.reshape(found, b.ints([1])) if value.rank == 0 else found


def scalar(b: TfBuilder, value: Value) -> Value:
    """Return one element as a scalar."""
    if value.rank == 0:
        return value
    result: Value = b.reshape(value, b.ints([]))
    return result


def is_nhwc(node: Node) -> bool:
    """Whether channels are the last axis of an operator's images."""
    return not str(node.attr("data_format", "NHWC")).startswith("NC")


def spatial(node: Node, name: str, count: int, default: int = 1) -> list[int]:
    """Return the spatial entries of an attribute with one number an axis of the images."""
    given = node.attr(name) or [default] * (count + 2)
    given = [int(g) for g in given]
    if len(given) != count + 2:
        raise UnsupportedError(f"{name} has {len(given)} numbers", code="tf-attribute")
    last = is_nhwc(node)
    rest = [given[0], given[-1] if last else given[1]]
    if rest != [1, 1]:
        raise UnsupportedError(f"{name} over batch or channels", code="tf-attribute")
    return given[1:-1] if last else given[2:]


def padding(
    b: TfBuilder,
    node: Node,
    x: Value,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> dict[str, Any]:
    """Return TensorFlow's padding as attributes of a convolution or a pool."""
    how = str(node.attr("padding", "VALID"))
    count = len(kernel)
    last = is_nhwc(node)
    if how == "EXPLICIT":
        pads = [int(p) for p in node.attr("explicit_paddings") or []]
        pairs = [pads[2 * i : 2 * i + 2] for i in range(len(pads) // 2)]
        pairs = pairs[1:-1] if last else pairs[2:]
        return {"pads": [p[0] for p in pairs] + [p[1] for p in pairs]}
    if how != "SAME":
        return {}
    sizes = b.sizes_of(x)
    sizes = sizes[1:-1] if last else sizes[2:]
    if not all(isinstance(s, int) for s in sizes):
        return {"auto_pad": "SAME_UPPER"}
    before, after = [0] * count, [0] * count
    for i, size in enumerate(sizes):
        assert isinstance(size, int)
        out = -(-size // strides[i])
        total = max((out - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - size, 0)
        before[i], after[i] = total // 2, total - total // 2
    return {"pads": [*before, *after]}


def permuted(b: TfBuilder, x: Value, order: Sequence[int]) -> Value:
    """Return ``x`` with its axes in another order; itself when that is the same."""
    if list(order) == list(range(len(order))):
        return x
    result: Value = b.transpose(x, perm=list(order))
    return result


def joined(b: TfBuilder, *parts: Value) -> Value:
    """Return vectors one after the other."""
    result: Value = parts[0] if len(parts) == 1 else b.concat(*parts, axis=0)
    return result
