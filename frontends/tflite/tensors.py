"""Tensors of a TFLite file: their types, quantization, and constants that stay in the file."""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, shorten
from lepton_ir.formats.tflite.schema import enums
from lepton_ir.frontends.tflite.sparse import dense_tensor
from lepton_ir.tensors import DenseTensor, RawTensor, Tensor
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.dtypes import DType
    from lepton_ir.formats.tflite.node import Node

CODE = "tflite-tensor"

DTYPES: dict[str, DType] = {
    "FLOAT32": dtypes.F32,
    "FLOAT16": dtypes.F16,
    "FLOAT64": dtypes.F64,
    "BFLOAT16": dtypes.BF16,
    "FLOAT8_E4M3FN": dtypes.F8E4M3FN,
    "FLOAT8_E5M2": dtypes.F8E5M2,
    "INT64": dtypes.I64,
    "INT32": dtypes.I32,
    "INT16": dtypes.I16,
    "INT8": dtypes.I8,
    "INT4": dtypes.I4,
    "INT2": dtypes.I2,
    "UINT64": dtypes.U64,
    "UINT32": dtypes.U32,
    "UINT16": dtypes.U16,
    "UINT8": dtypes.U8,
    "UINT4": dtypes.U4,
    "BOOL": dtypes.BOOL,
    "STRING": dtypes.STRING,
    "COMPLEX64": dtypes.C64,
    "COMPLEX128": dtypes.C128,
}
"""Element types by TFLite's names; RESOURCE and VARIANT have none."""

_QUANTIZED = frozenset(
    (dtypes.I8, dtypes.U8, dtypes.I16, dtypes.U16, dtypes.I4, dtypes.U4, dtypes.I2)
)
"""Element types whose scale, where there is one, says which real numbers they stand for."""


@dataclass(frozen=True)
class Quantization:
    """Which real numbers integers stand for: ``scale * (q - zero_point)``.

    Attributes:
        scale: f32, one element or one for each index of ``axis``.
        zero_point: in the tensor's element type, as many elements as ``scale``.
        axis: the quantized dimension.
    """

    scale: np.ndarray[Any, Any]
    zero_point: np.ndarray[Any, Any]
    axis: int

    @property
    def per_axis(self) -> bool:
        """Whether there is more than one scale."""
        return self.scale.size > 1

    def same(self, other: Quantization | None) -> bool:
        """Return whether the other one is per tensor, like this one, with the same numbers."""
        if other is None or self.per_axis or other.per_axis:
            return False
        return bool(self.scale[0] == other.scale[0] and self.zero_point[0] == other.zero_point[0])


class TensorInfo:
    """One tensor of a subgraph.

    Attributes:
        index: its number in the subgraph.
        name: unique among the tensors of the subgraph.
        dtype: element type; ``None`` for resources and variants.
        shape: static dims, ``None`` where the file's signature says -1.
        quantization: ``None`` for plain numbers.
        is_variable: whether the runtime keeps its contents from one run to the next.
        node: the table in the file.
    """

    __slots__ = (
        "_buffer",
        "_payloads",
        "dtype",
        "index",
        "is_variable",
        "name",
        "node",
        "quantization",
        "shape",
    )

    def __init__(
        self,
        index: int,
        name: str,
        node: Node,
        buffer: memoryview | None,
        payloads: dict[Any, Tensor],
    ) -> None:
        self.index = index
        self.name = name
        self.node = node
        kind = enums()["TensorType"].name_of(node.type) or ""
        self.dtype = DTYPES.get(kind)
        self.shape = _shape(node)
        self.is_variable = bool(node.is_variable)
        self._buffer = buffer
        self._payloads = payloads
        self.quantization = self._quantized()

    @property
    def rank(self) -> int:
        """Number of dims that the file states."""
        return len(self.shape)

    @property
    def is_constant(self) -> bool:
        """Whether the file holds its contents (a tensor of no elements counts only with them)."""
        return bool(self._buffer)

    @property
    def type(self) -> TensorType:
        """The type that the file states."""
        return TensorType(self.dtype, self.shape)

    def _fail(self, message: str) -> NoReturn:
        where = f'tensor {self.index} "{shorten(self.name)}"'
        raise InvalidModelError(message, code=CODE, where=where)

    def _quantized(self) -> Quantization | None:
        params = self.node.quantization
        if params is None or params.scale is None or not len(params.scale):
            return None
        if self.dtype not in _QUANTIZED:
            return None
        scale = np.asarray(params.scale, np.float32)
        zero = np.zeros(scale.size, np.int64)
        if params.zero_point is not None and len(params.zero_point):
            zero = np.broadcast_to(np.asarray(params.zero_point, np.int64), scale.shape)
        if not np.all(np.isfinite(scale)) or np.any(scale < 0):
            self._fail("a scale of its quantization is negative or no number")
        if not np.any(scale):
            return None
        bits = self.dtype.bits
        low = 0 if self.dtype.kind == "uint" else -(1 << (bits - 1))
        if np.any(zero < low) or np.any(zero >= low + (1 << bits)):
            self._fail(f"a zero point of its quantization is no {self.dtype}")
        zero = zero.astype(np.int16 if bits < 16 else np.int32).astype(self.dtype.numpy)
        return Quantization(scale, zero, int(params.quantized_dimension))

    def payload(self) -> Tensor:
        """Return the constant's contents, as a view of the file where the file holds them so.

        Raises:
            InvalidModelError: the contents do not fit the type.
        """
        sparse = id(self.node) if self.node.sparsity is not None else None
        key = (self.node.buffer, self.dtype, self.shape, sparse)
        found = self._payloads.get(key)
        if found is None:
            found = self._payloads[key] = self._read()
        return found

    def _read(self) -> Tensor:
        data, dtype = self._buffer, self.dtype
        assert data is not None
        shape = tuple(int(d) for d in self.node.shape) if self.node.shape is not None else ()
        if dtype is None:
            self._fail("a constant of no element type")
        if dtype is dtypes.STRING:
            return self._strings(data, shape)
        if self.node.sparsity is not None:
            try:
                return dense_tensor(self.node.sparsity, data, dtype, shape)
            except ValueError as error:
                self._fail(str(error))
        if min(shape, default=0) < 0 or dtype.nbytes(math.prod(shape)) != len(data):
            self._fail(f"{len(data)} bytes for {dtype} of shape {list(shape)}")
        return RawTensor(data, dtype, shape)

    def _strings(self, data: memoryview, shape: tuple[int, ...]) -> Tensor:
        """Read a count, the offsets of as many texts and one more, and the texts."""
        count = struct.unpack_from("<i", data)[0] if len(data) >= 4 else -1
        if not 0 <= count <= len(data) // 4 - 2 or count != math.prod(shape):
            self._fail(f"texts of {len(data)} bytes do not fit the shape {list(shape)}")
        ends = struct.unpack_from(f"<{count + 1}i", data, 4)
        if any(a > b for a, b in itertools.pairwise(ends)) or ends[-1] > len(data):
            self._fail("the texts lie outside of their buffer")
        if ends[0] < 4 * (count + 2):
            self._fail("the texts lie outside of their buffer")
        texts = np.empty(count, object)
        for i in range(count):
            texts[i] = bytes(data[ends[i] : ends[i + 1]]).decode("utf-8", "surrogateescape")
        return DenseTensor(texts.reshape(shape), dtypes.STRING)


def _shape(node: Node) -> tuple[int | None, ...]:
    static = () if node.shape is None else tuple(int(d) for d in node.shape)
    signature = node.shape_signature
    wanted = static if signature is None or not len(signature) else tuple(map(int, signature))
    return tuple(None if d < 0 else d for d in wanted)


def unique_names(nodes: Sequence[Node]) -> list[str]:
    """Return a name for each tensor: its own, numbered where another one has it already."""
    taken: set[str] = set()
    found = []
    for index, node in enumerate(nodes):
        base = node.name or f"tensor_{index}"
        name, k = base, 0
        while name in taken:
            k += 1
            name = f"{base}_{index}" if k == 1 else f"{base}_{index}_{k}"
        taken.add(name)
        found.append(name)
    return found
