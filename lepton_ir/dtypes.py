"""Element types: one interned object per type, NumPy's own type loaded only when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class DType:
    """An element type of a tensor; compared with ``is``.

    Attributes:
        name: the short name used in text, such as ``f32``.
        kind: one of ``float``, ``int``, ``uint``, ``bool``, ``complex``, ``string``.
        bits: bits of one element as stored in a file (4 for ``i4``), 0 for strings.
    """

    __slots__ = ("_numpy", "bits", "kind", "name", "numpy_name")

    def __init__(self, name: str, kind: str, bits: int, numpy_name: str) -> None:
        self.name = name
        self.kind = kind
        self.bits = bits
        self.numpy_name = numpy_name
        self._numpy: np.dtype[Any] | None = None

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return (dtype, (self.name,))

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype that holds one element per item (sub-byte types through ml_dtypes)."""
        if self._numpy is None:
            import numpy as np

            if hasattr(np, self.numpy_name):
                self._numpy = np.dtype(getattr(np, self.numpy_name))
            else:
                import ml_dtypes

                self._numpy = np.dtype(getattr(ml_dtypes, self.numpy_name))
        return self._numpy

    @property
    def is_float(self) -> bool:
        """Whether the type is a real floating-point type (any width)."""
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """Whether the type is a signed or unsigned integer type (not bool)."""
        return self.kind in ("int", "uint")

    def nbytes(self, count: int) -> int:
        """Bytes of ``count`` elements as stored in a file, sub-byte elements packed."""
        return (count * self.bits + 7) // 8


F64 = DType("f64", "float", 64, "float64")
F32 = DType("f32", "float", 32, "float32")
F16 = DType("f16", "float", 16, "float16")
BF16 = DType("bf16", "float", 16, "bfloat16")
F8E4M3FN = DType("f8e4m3fn", "float", 8, "float8_e4m3fn")
F8E4M3FNUZ = DType("f8e4m3fnuz", "float", 8, "float8_e4m3fnuz")
F8E5M2 = DType("f8e5m2", "float", 8, "float8_e5m2")
F8E5M2FNUZ = DType("f8e5m2fnuz", "float", 8, "float8_e5m2fnuz")
F8E8M0 = DType("f8e8m0", "float", 8, "float8_e8m0fnu")
F6E2M3 = DType("f6e2m3", "float", 6, "float6_e2m3fn")
F6E3M2 = DType("f6e3m2", "float", 6, "float6_e3m2fn")
F4E2M1 = DType("f4e2m1", "float", 4, "float4_e2m1fn")
I64 = DType("i64", "int", 64, "int64")
I32 = DType("i32", "int", 32, "int32")
I16 = DType("i16", "int", 16, "int16")
I8 = DType("i8", "int", 8, "int8")
I4 = DType("i4", "int", 4, "int4")
I2 = DType("i2", "int", 2, "int2")
U64 = DType("u64", "uint", 64, "uint64")
U32 = DType("u32", "uint", 32, "uint32")
U16 = DType("u16", "uint", 16, "uint16")
U8 = DType("u8", "uint", 8, "uint8")
U4 = DType("u4", "uint", 4, "uint4")
U2 = DType("u2", "uint", 2, "uint2")
BOOL = DType("bool", "bool", 8, "bool_")
C64 = DType("c64", "complex", 64, "complex64")
C128 = DType("c128", "complex", 128, "complex128")
STRING = DType("str", "string", 0, "object_")

ALL: tuple[DType, ...] = (
    *(F64, F32, F16, BF16, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0),
    *(F6E2M3, F6E3M2, F4E2M1, I64, I32, I16, I8, I4, I2, U64, U32, U16, U8, U4, U2),
    *(BOOL, C64, C128, STRING),
)
BY_NAME: dict[str, DType] = {d.name: d for d in ALL}
_BY_NUMPY: dict[Any, DType] = {}


def dtype(name: str) -> DType:
    """Return the element type called ``name``.

    Raises:
        ValueError: no such type.
    """
    try:
        return BY_NAME[name]
    except KeyError:
        raise ValueError(f"unknown element type {name!r}; known: {', '.join(BY_NAME)}") from None


def from_numpy(numpy_dtype: Any) -> DType:
    """Return the element type of a NumPy dtype (object and str arrays are strings).

    Raises:
        ValueError: NumPy types that tensors cannot hold, such as datetime64.
    """
    import numpy as np

    if not _BY_NUMPY:
        _BY_NUMPY.update({d.numpy: d for d in ALL})
    found = np.dtype(numpy_dtype)
    result = _BY_NUMPY.get(found) or _BY_NUMPY.get(found.newbyteorder("="))
    if result is None and found.kind in "US":
        return STRING
    if result is None:
        raise ValueError(f"no element type for NumPy dtype {found}")
    return result
