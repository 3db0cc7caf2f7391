"""Sequences and optionals: lists of values, and values that may be missing."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.infer import InferContext
from lepton_ir.opdef import Bool, DTypeAttr, Int, TypeAttr, op
from lepton_ir.types import UNKNOWN, OptionalType, SequenceType, TensorType, Type, join

_SCALAR_I64 = TensorType(dtypes.I64, ())
_SCALAR_BOOL = TensorType(dtypes.BOOL, ())


def _element(type_: Type) -> Type:
    return type_.elem if isinstance(type_, SequenceType) else UNKNOWN


def _position(position: Any, length: int, upper: int) -> int:
    index = int(np.reshape(position, ()))
    if not -length <= index <= upper:
        raise ValueError(f"position {index} is outside a sequence of {length}")
    return index + length if index < 0 else index


def _infer_construct(ctx: InferContext) -> Type:
    types = ctx.types("inputs")
    elem = types[0]
    for t in types[1:]:
        elem = join(elem, t)
    return SequenceType(elem)


@op("sequence_construct(inputs*)", infer=_infer_construct)
def sequence_construct(*inputs: Any) -> list[Any]:
    """A sequence of the operands (ONNX SequenceConstruct-11)."""
    return list(inputs)


def _infer_empty(ctx: InferContext) -> Type:
    return SequenceType(TensorType(ctx.attrs["dtype"] or dtypes.F32, None))


@op("sequence_empty()", infer=_infer_empty)
def sequence_empty(*, dtype: DTypeAttr | None = None) -> list[Any]:
    """An empty sequence of tensors, f32 unless said otherwise (ONNX SequenceEmpty-11)."""
    return []


@op("sequence_at(input_sequence, position)", infer=lambda c: _element(c.type("input_sequence")))
def sequence_at(input_sequence: Any, position: Any) -> Any:
    """The element at a position, negative from the end (ONNX SequenceAt-11)."""
    length = len(input_sequence)
    return input_sequence[_position(position, length, length - 1)]


def _infer_insert(ctx: InferContext) -> Type:
    return SequenceType(join(_element(ctx.type("input_sequence")), ctx.type("tensor")))


@op("sequence_insert(input_sequence, tensor, position?)", infer=_infer_insert)
def sequence_insert(input_sequence: Any, tensor: Any, position: Any = None) -> list[Any]:
    """The sequence with one element more, at the end by default (ONNX SequenceInsert-11)."""
    items = list(input_sequence)
    at = len(items) if position is None else _position(position, len(items), len(items))
    items.insert(at, tensor)
    return items


@op("sequence_erase(input_sequence, position?)", infer=lambda c: c.type("input_sequence"))
def sequence_erase(input_sequence: Any, position: Any = None) -> list[Any]:
    """The sequence without one element, the last by default (ONNX SequenceErase-11)."""
    items = list(input_sequence)
    if not items:
        raise ValueError("cannot erase from an empty sequence")
    del items[
        len(items) - 1 if position is None else _position(position, len(items), len(items) - 1)
    ]
    return items


@op("sequence_length(input_sequence)", infer=lambda c: _SCALAR_I64)
def sequence_length(input_sequence: Any) -> Any:
    """The number of elements (ONNX SequenceLength-11)."""
    return np.asarray(len(input_sequence), np.int64)


def _infer_concat(ctx: InferContext) -> Type:
    elem = _element(ctx.type("input_sequence"))
    if not isinstance(elem, TensorType):
        return TensorType(None, None)
    if elem.shape is None:
        return TensorType(elem.dtype, None)
    rank = len(elem.shape) + (1 if ctx.attrs["new_axis"] else 0)
    axis = ctx.attrs["axis"]
    if not -rank <= axis < rank:
        ctx.fail("C1", f"axis {axis} is outside rank {rank}")
    axis %= rank
    shape = list(elem.shape)
    if ctx.attrs["new_axis"]:
        shape.insert(axis, None)
    else:
        shape[axis] = None
    return TensorType(elem.dtype, shape)


@op("concat_from_sequence(input_sequence)", infer=_infer_concat)
def concat_from_sequence(input_sequence: Any, *, axis: Int, new_axis: Bool = False) -> Any:
    """Concatenate the elements, along a new axis if asked (ONNX ConcatFromSequence-11).

    C1  axis lies inside the rank of the result
    """
    if not input_sequence:
        raise ValueError("cannot concatenate an empty sequence")
    return (np.stack if new_axis else np.concatenate)(input_sequence, axis=axis)


def _infer_split(ctx: InferContext) -> Type:
    t = ctx.type("x")
    if not isinstance(t, TensorType) or t.shape is None:
        return SequenceType(TensorType(t.dtype if isinstance(t, TensorType) else None, None))
    rank, axis = len(t.shape), ctx.attrs["axis"]
    if not -rank <= axis < rank:
        ctx.fail("C1", f"axis {axis} is outside rank {rank}")
    axis %= rank
    shape = list(t.shape)
    if ctx.has("split"):
        shape[axis] = None
    elif ctx.attrs["keepdims"]:
        shape[axis] = 1
    else:
        del shape[axis]
    return SequenceType(t.with_shape(shape))


@op("split_to_sequence(x, split?)", infer=_infer_split)
def split_to_sequence(x: Any, split: Any = None, *, axis: Int = 0, keepdims: Bool = True) -> Any:
    """Split a tensor into a sequence along one axis (ONNX SplitToSequence-24).

    A scalar ``split`` gives the size of each part (the last may be smaller), a vector the sizes.
    Without it parts have size 1, and the axis is dropped unless ``keepdims``.

    C1  axis lies inside the rank of x
    """
    length = x.shape[axis]
    if split is None:
        parts = [np.take(x, i, axis=axis) for i in range(length)]
        return [np.expand_dims(p, axis) for p in parts] if keepdims else parts
    if np.ndim(split) == 0:
        size = int(split)
        if size <= 0:
            raise ValueError(f"parts of size {size}")
        bounds = list(range(size, length, size))
    else:
        sizes = [int(s) for s in split]
        if sum(sizes) != length or any(s < 0 for s in sizes):
            raise ValueError(f"parts {sizes} do not add up to {length}")
        bounds = np.cumsum(sizes)[:-1].tolist()
    return list(np.split(x, bounds, axis=axis))


def _infer_optional(ctx: InferContext) -> Type:
    declared = ctx.attrs["type"]
    if ctx.has("input"):
        return OptionalType(ctx.type("input"))
    return OptionalType(declared) if isinstance(declared, Type) else UNKNOWN


@op("optional(input?)", infer=_infer_optional)
def optional(input: Any = None, *, type: TypeAttr | None = None) -> Any:
    """Wrap a value as an optional; none without an operand (ONNX Optional-15)."""
    return input


@op("optional_has_element(input?)", infer=lambda c: _SCALAR_BOOL)
def optional_has_element(input: Any = None) -> Any:
    """Whether an optional holds a value; true for a plain value (ONNX OptionalHasElement-18)."""
    return np.asarray(input is not None)


def _infer_get(ctx: InferContext) -> Type:
    t = ctx.type("input")
    return t.elem if isinstance(t, OptionalType) else t


@op("optional_get_element(input)", infer=_infer_get)
def optional_get_element(input: Any) -> Any:
    """The value an optional holds (ONNX OptionalGetElement-18)."""
    if input is None:
        raise ValueError("the optional is empty")
    return input
