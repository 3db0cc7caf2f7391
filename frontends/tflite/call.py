"""One operator while it is read: what its row may ask and build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import Location
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.schema import enums, options
from lepton_ir.infer import const_tensor, content_of
from lepton_ir.tensors import DenseTensor, LazyTensor, SplatTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.builder import Builder
    from lepton_ir.dims import Dim
    from lepton_ir.dtypes import DType
    from lepton_ir.frontends.tflite.graph import GraphReader
    from lepton_ir.frontends.tflite.tensors import Quantization, TensorInfo
    from lepton_ir.ir import Value

Array = np.ndarray[Any, Any]

MAX_INTS = 1 << 16
"""Bytes of a constant operand (axes, shapes, paddings) that is read as numbers."""

ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")


STORAGE = "tflite/storage"
"""Rule of casts of constants that the file keeps in 16 bits."""

STORED_BYTES = 512
"""Bytes from which on constants stay in 16 bits."""

HYBRID = "tflite.hybrid"
"""Metadata of what dequantizes weights: how a kernel quantizes the floats that it multiplies."""


class KeepOpaque(Exception):
    """This operator says something that the IR cannot: it is carried through as it is."""


class Call:
    """One operator, its operands by position.

    Attributes:
        reader: of the subgraph.
        name: of the builtin operator.
        op: the table in the file.
        options: its option table, one of defaults where the file has none.
        b: builds operations in the place of the operator.
        inputs: information on the operands, ``None`` for absent ones.
        outputs: information on the results, ``None`` for absent ones.
    """

    def __init__(self, reader: GraphReader, name: str, op: Node, b: Builder) -> None:
        self.reader = reader
        self.name = name
        self.op = op
        self.b = b
        table = options().get(name)
        given = op.builtin_options or op.builtin_options_2
        self.options: Any = given or (Node(table) if table else None)
        self.inputs = reader.infos(op.inputs)
        self.outputs = reader.infos(op.outputs)

    # -- operands ----------------------------------------------------------------------------------

    def has(self, index: int) -> bool:
        """Whether operand ``index`` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def info(self, index: int) -> TensorInfo:
        """Return information on an operand that must be there."""
        if not self.has(index):
            self.opaque(f"operand {index} is missing")
        found = self.inputs[index]
        assert found is not None
        return found

    def result(self, index: int = 0) -> TensorInfo:
        """Return information on a result that must be there."""
        found = self.outputs[index] if index < len(self.outputs) else None
        if found is None:
            self.opaque(f"result {index} is missing")
        return found

    def raw(self, index: int) -> Value:
        """Return an operand as the file stores it: quantized tensors as integers."""
        return self.reader.raw(self.info(index).index, self.b)

    def real(self, index: int) -> Value:
        """Return an operand as the numbers that it stands for."""
        return self.reader.real(self.info(index).index, self.b)

    def reals(self) -> list[Value]:
        """Return all operands as the numbers that they stand for."""
        return [self.real(i) for i in range(len(self.inputs))]

    def const(self, index: int) -> Array | None:
        """Return the contents of a small constant operand as the file stores them."""
        if not self.has(index):
            return None
        tensor = const_tensor(self.raw(index))
        return None if tensor is None or tensor.nbytes > MAX_INTS else tensor.numpy()

    def ints(self, index: int) -> tuple[int, ...] | None:
        """Return the elements of a small constant operand, ``None`` when it is not constant."""
        array = self.const(index)
        if array is None or array.dtype.kind not in "iu":
            return None
        return tuple(int(v) for v in array.reshape(-1))

    def need_ints(self, index: int, what: str) -> tuple[int, ...]:
        """Return the elements of an operand that must be a constant."""
        found = self.ints(index)
        if found is None:
            self.opaque(f"{what} is not constant")
        return found

    def content(self, index: int) -> tuple[Dim | None, ...] | None:
        """Return the elements of a small integer operand as dims, where inference knows them."""
        return content_of(self.raw(index)) if self.has(index) else None

    def index(self, index: int) -> Value:
        """Return an integer operand as i64."""
        value = self.raw(index)
        known = self.const(index)
        if known is not None and known.dtype.kind in "iu":
            return value if known.dtype == np.int64 else self.b.const(known.astype(np.int64))
        return value if value.dtype is dtypes.I64 else self.b.cast(value, to=dtypes.I64)

    def vector(self, index: int) -> Value:
        """Return an integer operand as a vector of i64."""
        value = self.index(index)
        return self.b.reshape(value, [-1]) if value.rank != 1 else value

    def rank(self, index: int) -> int:
        """Return the rank of an operand."""
        rank = self.raw(index).rank
        if rank is None:
            self.opaque(f"the rank of operand {index} is not known")
        return rank

    def dim(self, index: int, axis: int) -> Dim | None:
        """Return a dim of an operand: what is proven, else what the file states."""
        shape = self.raw(index).shape
        if shape is not None and -len(shape) <= axis < len(shape) and shape[axis] is not None:
            return shape[axis]
        stated = self.info(index).shape
        return stated[axis] if -len(stated) <= axis < len(stated) else None

    def permuted(self, index: int, order: Sequence[int]) -> Value:
        """Return an operand with its axes in another order; constants change in place.

        A constant is copied when it is first read; what stands between it and the operator (a
        cast from f16, or its scale) follows.
        """
        info = self.info(index)
        if self.rank(index) != len(order):
            self.opaque(f"operand {index} has rank {self.rank(index)}, not {len(order)}")
        value = self.raw(index)
        maker = value.op
        if maker is not None and maker.name == "cast" and const_tensor(maker.operands[0]):
            inner = const_tensor(maker.operands[0])
            assert inner is not None
            made: Value = stored(self.b, self.b.const(_transposed(inner, order)))
            return made
        tensor = const_tensor(value)
        if tensor is None:
            turned: Value = self.b.transpose(self.real(index), perm=order)
            return turned
        moved = self.b.const(_transposed(tensor, order))
        if info.quantization is None:
            return moved
        at = order.index(info.quantization.axis) if info.quantization.per_axis else 0
        return self.dequantize(moved, info.quantization, at)

    def weights(self, index: int, order: Sequence[int] | None = None) -> Value:
        """Return the weights of a layer, with their axes in another order.

        Kernels that multiply floats with integers quantize the floats first. The IR has no such
        product: it multiplies the numbers that the integers stand for, and what dequantizes them
        says which kernel it was, so that it can be written again.
        """
        value = self.real(index) if order is None else self.permuted(index, order)
        x, maker = self.inputs[0], value.op
        floats = x is not None and x.quantization is None and x.dtype is dtypes.F32
        if floats and maker is not None and maker.name == "dequantize_linear":
            exact = self.has(index) and self.info(index).quantization is None
            if not exact and const_tensor(maker.operands[0]) is not None:
                lopsided = bool(getattr(self.options, "asymmetric_quantize_inputs", False))
                how = "asymmetric" if lopsided else "symmetric"
                maker.meta = {**(maker.meta or {}), "metadata": {HYBRID: how}}
        return value

    # -- building ----------------------------------------------------------------------------------

    def dequantize(self, value: Value, params: Quantization, axis: int | None = None) -> Value:
        """Return the numbers that integers stand for."""
        return dequantized(self.b, value, params, axis)

    def scalar(self, number: float, like: Value) -> Value:
        """Return a constant of rank 0 in the element type of ``like``."""
        return self.b.const(np.asarray(number), like.dtype or dtypes.F32)

    def zeros(self, shape: Sequence[int], dtype: DType, value: float = 0) -> Value:
        """Return a constant filled with one value, which takes no memory."""
        return self.b.const(SplatTensor(value, dtype, tuple(shape)))

    def activate(self, value: Value) -> Value:
        """Return the value behind the activation that the options name."""
        made: Value
        number = int(self.options.fused_activation_function)
        name = enums()["ActivationFunctionType"].name_of(number)
        if name == "RELU":
            made = self.b.relu(value)
            return made
        if name in ("RELU6", "RELU_N1_TO_1"):
            low, high = (0, 6) if name == "RELU6" else (-1, 1)
            made = self.b.clip(value, self.scalar(low, value), self.scalar(high, value))
            return made
        if name == "TANH":
            made = self.b.tanh(value)
            return made
        if name != "NONE":
            self.opaque(f"activation {name or number} has no kernel")
        return value

    def cast(self, value: Value, dtype: DType | None) -> Value:
        """Return the value in an element type."""
        if dtype is None or value.dtype is dtype:
            return value
        made: Value = self.b.cast(value, to=dtype)
        return made

    def opaque(self, reason: str) -> NoReturn:
        """Leave the operator as it is.

        Raises:
            KeepOpaque: always.
        """
        raise KeepOpaque(reason)


def stored(b: Builder, value: Value) -> Value:
    """Return the numbers of f32 of a constant that the file keeps in 16 bits, where it stays.

    Small ones (slopes, biases) become constants of f32, which other rules know.
    """
    given = b.loc
    tensor = const_tensor(value)
    if tensor is None or tensor.nbytes >= STORED_BYTES:
        b.loc = Location("", (given,), STORAGE)
    made: Value = b.cast(value, to=dtypes.F32)
    b.loc = given
    return made


def _transposed(tensor: Tensor, order: Sequence[int]) -> Tensor:
    splat = tensor.splat_value()
    shape = tuple(tensor.shape[i] for i in order)
    if splat is not None:
        return SplatTensor(splat, tensor.dtype, shape)
    return LazyTensor(
        lambda: np.ascontiguousarray(tensor.numpy().transpose(order)), tensor.dtype, shape
    )


def dequantized(b: Builder, value: Value, params: Quantization, axis: int | None = None) -> Value:
    """Return the numbers that the integers of ``value`` stand for."""
    scale, zero = parameters(b, params)
    at = params.axis if axis is None else axis
    how = {"axis": at} if params.per_axis else {}
    made: Value = b.dequantize_linear(value, scale, zero, **how)
    return made


def quantized(b: Builder, value: Value, params: Quantization) -> Value:
    """Return the integers that stand for ``value``."""
    scale, zero = parameters(b, params)
    how = {"axis": params.axis} if params.per_axis else {}
    made: Value = b.quantize_linear(value, scale, zero, **how)
    return made


def parameters(b: Builder, params: Quantization) -> tuple[Value, Value]:
    """Return scale and zero point as constants: of rank 0 per tensor, else vectors."""
    scale, zero = params.scale, params.zero_point
    if not params.per_axis:
        scale, zero = scale.reshape(()), zero.reshape(())
    dtype = dtypes.from_numpy(zero.dtype)
    return b.const(DenseTensor(scale)), b.const(DenseTensor(zero, dtype))
