"""TensorProtos as constant payloads; nothing is allocated before it is checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, UnsupportedError
from lepton_ir.frontends.tensorflow.nodes import STRING, dtype_of, shape_of
from lepton_ir.tensors import DenseTensor, RawTensor, SplatTensor, Tensor

if TYPE_CHECKING:
    from lepton_ir.dtypes import DType

MAX_BITS = 8 << 62
"""Bits beyond which NumPy refuses a shape, even of an array without elements."""

MAX_SPREAD = 64 << 20
"""Elements that a list of values is filled up to; one value may stand for any number."""

_FIELDS: dict[DType, str] = {
    dtypes.F32: "float_val",
    dtypes.F64: "double_val",
    dtypes.I64: "int64_val",
    dtypes.BOOL: "bool_val",
    dtypes.U32: "uint32_val",
    dtypes.U64: "uint64_val",
    dtypes.C64: "scomplex_val",
    dtypes.C128: "dcomplex_val",
    dtypes.F16: "half_val",
    dtypes.BF16: "half_val",
}


def static_shape(message: Any, what: str, dtype: DType) -> tuple[int, ...]:
    """Return a shape whose sizes are all known and that a machine can hold.

    Raises:
        InvalidModelError: it is not so.
    """
    shape = shape_of(message)
    if shape is None or any(d is None for d in shape):
        raise InvalidModelError(f"{what} has no static shape", code="tf-tensor")
    sizes = tuple(d for d in shape if d is not None)
    if math.prod(d for d in sizes if d) * max(dtype.bits or 64, 8) > MAX_BITS:
        raise InvalidModelError(
            f"{what} has sizes that no memory holds: {list(sizes)!r:.60}", code="tf-tensor"
        )
    return sizes


def tensor_of(message: Any, what: str = "a tensor") -> Tensor:
    """Return the payload of a TensorProto.

    Raises:
        InvalidModelError: type, shape and data do not fit together.
        UnsupportedError: it holds handles.
    """
    code = message.dtype
    dtype = dtypes.STRING if code == STRING else dtype_of(code)
    if dtype is None:
        raise UnsupportedError(f"{what} holds handles, not numbers", code="tf-tensor")
    shape = static_shape(message.tensor_shape, what, dtype)
    size = math.prod(shape)
    if dtype is dtypes.STRING:
        return _strings(message, shape, size, what)
    content = message.tensor_content
    if content:
        return _raw(content, dtype, shape, what)
    if dtype.bits == 8 and dtype.is_float:
        values: Any = np.frombuffer(message.float8_val, np.uint8)
    else:
        values = getattr(message, _FIELDS.get(dtype, "int_val"))
    return _typed(values, dtype, shape, size, what)


def _raw(content: bytes, dtype: DType, shape: tuple[int, ...], what: str) -> Tensor:
    size = math.prod(shape)
    needed = size * dtype.numpy.itemsize  # TensorFlow has one element a byte even of 4-bit types
    if len(content) != needed:
        raise InvalidModelError(
            f"{what} holds {len(content)} bytes, {dtype}{list(shape)!r:.60} needs {needed}",
            code="tf-tensor",
        )
    if dtype.bits < 8:
        return DenseTensor(np.frombuffer(content, dtype.numpy).reshape(shape), dtype)
    if size > 1 and content == content[: dtype.numpy.itemsize] * size:
        one = np.frombuffer(content, dtype.numpy.newbyteorder("<"), 1)[0]
        return SplatTensor(one, dtype, shape)
    return RawTensor(content, dtype, shape)


def _typed(values: Any, dtype: DType, shape: tuple[int, ...], size: int, what: str) -> Tensor:
    """Return the tensor of a list of values, the last of which fills what is left."""
    count = len(values) // 2 if dtype.kind == "complex" else len(values)
    if count > size:
        raise InvalidModelError(
            f"{what} has {count} values, {dtype}{list(shape)!r:.60} has fewer elements",
            code="tf-tensor",
        )
    try:
        array = _converted(values, dtype)
    except (OverflowError, ValueError) as error:
        raise InvalidModelError(f"{what} has values beyond {dtype}", code="tf-tensor") from error
    if count <= 1:
        return SplatTensor(array[0] if count else np.zeros((), dtype.numpy)[()], dtype, shape)
    if count < size:
        if size > MAX_SPREAD:
            raise UnsupportedError(f"{what} repeats a value {size} times", code="tf-tensor")
        array = np.concatenate([array, np.broadcast_to(array[-1], (size - count,))])
    return DenseTensor(array.reshape(shape), dtype)


def _converted(values: Any, dtype: DType) -> np.ndarray[Any, Any]:
    if dtype.kind == "complex":
        parts = np.asarray(values, dtypes.F32.numpy if dtype is dtypes.C64 else np.float64)
        return parts.view(dtype.numpy)
    if dtype in (dtypes.F16, dtypes.BF16):
        return np.asarray(values, np.int64).astype(np.uint16).view(dtype.numpy)
    if dtype.bits == 8 and dtype.is_float:
        found: np.ndarray[Any, Any] = np.asarray(values, np.uint8).view(dtype.numpy)
        return found
    return np.asarray(values).astype(dtype.numpy)


def _strings(message: Any, shape: tuple[int, ...], size: int, what: str) -> Tensor:
    values = [bytes(s).decode("utf-8", "replace") for s in message.string_val]
    if len(values) > size or size > MAX_SPREAD:
        raise InvalidModelError(f"{what} has {len(values)} texts for {size}", code="tf-tensor")
    last = values[-1] if values else ""
    items = np.empty(size, object)
    items[:] = values + [last] * (size - len(values))
    return DenseTensor(items.reshape(shape), dtypes.STRING)
