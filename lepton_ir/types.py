"""Types of values: interned, so that equal types are the same object.

A shape is a tuple of dims (``int``, a symbolic :class:`~lepton_ir.dims.DimExpr`, or ``None`` for an
unknown size), or ``None`` when even the rank is unknown. A tensor's dtype may be ``None``
(unknown). ``UNKNOWN`` is the type of a value of which nothing is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dims
from lepton_ir.dims import Dim, DimExpr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_ir.dtypes import DType

Shape = tuple["Dim | None", ...]


class TypeMismatchError(ValueError):
    """Two types that must describe the same value contradict each other."""


class Type:
    """Base of all value types; instances are interned and compared with ``is``."""

    __slots__ = ("_text",)
    _text: str

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        from lepton_ir.type_text import parse_type

        return (parse_type, (self._text,))


def dim_text(dim: Dim | None) -> str:
    """Return the text of one dim: ``4``, ``N``, ``(H+1)//2`` or ``?``."""
    return "?" if dim is None else str(dim)


class TensorType(Type):
    """A dense tensor: element type, shape, and the physical encoding a backend may have set.

    Args:
        dtype: element type, or ``None`` when unknown.
        shape: dims, or ``None`` when the rank is unknown. Known dims are >= 0.
        encoding: physical layout set by a backend after legalization, ``None`` for plain row-major.

    Raises:
        ValueError: a dim is a negative integer.
    """

    __slots__ = ("dtype", "encoding", "shape")
    _table: dict[tuple[Any, ...], TensorType] = {}  # noqa: RUF012 (the intern table)
    dtype: DType | None
    shape: Shape | None
    encoding: str | None

    def __new__(
        cls, dtype: DType | None, shape: Iterable[Dim | None] | None, encoding: str | None = None
    ) -> TensorType:
        if shape is not None:
            shape = tuple(shape)
        key = (dtype, shape, encoding)
        self = cls._table.get(key)
        if self is None:
            if shape is not None:
                for d in shape:
                    if d.__class__ is int and d < 0:
                        raise ValueError(f"negative dim {d} in a shape")
                shape = tuple(d if d is None or isinstance(d, DimExpr) else int(d) for d in shape)
            self = object.__new__(cls)
            self.dtype, self.shape, self.encoding = dtype, shape, encoding
            inner = "*" if shape is None else ",".join(map(dim_text, shape))
            suffix = "" if encoding is None else f"@{quote(encoding)}"
            self._text = f"{dtype.name if dtype else '?'}[{inner}]{suffix}"
            cls._table[key] = self
        return self

    @property
    def rank(self) -> int | None:
        """Number of dims, or ``None`` when unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dim is a known integer."""
        return self.shape is not None and all(d.__class__ is int for d in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape when every dim is a known integer, else ``None``."""
        if self.shape is None:
            return None
        return self.shape if self.is_static else None  # type: ignore[return-value]

    def num_elements(self) -> Dim | None:
        """Number of elements, symbolic when dims are, ``None`` when a dim is unknown."""
        if self.shape is None or any(d is None for d in self.shape):
            return None
        try:
            return dims.product(self.shape)  # type: ignore[arg-type]
        except dims.DimTooComplex:
            return None

    def with_shape(self, shape: Iterable[Dim | None] | None) -> TensorType:
        """Return the same type with another shape."""
        return TensorType(self.dtype, shape, self.encoding)

    def with_dtype(self, dtype: DType | None) -> TensorType:
        """Return the same type with another element type."""
        return TensorType(dtype, self.shape, self.encoding)


class UnknownType(Type):
    """The type of a value of which nothing is known; the single instance is ``UNKNOWN``."""

    __slots__ = ()

    def __init__(self) -> None:
        self._text = "?"


UNKNOWN = UnknownType()


class _Wrapped(Type):
    """A type around one element type: sequence, optional, state."""

    __slots__ = ("elem",)
    keyword = ""
    _table: dict[tuple[type, Type], _Wrapped] = {}  # noqa: RUF012 (the intern table)
    elem: Type

    def __new__(cls, elem: Type) -> _Wrapped:
        key = (cls, elem)
        self = cls._table.get(key)
        if self is None:
            self = object.__new__(cls)
            self.elem = elem
            self._text = f"{cls.keyword}<{elem}>"
            cls._table[key] = self
        return self


class SequenceType(_Wrapped):
    """A list of values of one type."""

    __slots__ = ()
    keyword = "seq"


class OptionalType(_Wrapped):
    """A value of the element type, or none."""

    __slots__ = ()
    keyword = "opt"


class StateType(_Wrapped):
    """A mutable variable holding a value of the element type."""

    __slots__ = ()
    keyword = "state"


class MapType(Type):
    """A map from scalar keys to values of one type."""

    __slots__ = ("key", "value")
    _table: dict[tuple[Any, ...], MapType] = {}  # noqa: RUF012 (the intern table)
    key: DType
    value: Type

    def __new__(cls, key: DType, value: Type) -> MapType:
        self = cls._table.get((key, value))
        if self is None:
            self = object.__new__(cls)
            self.key, self.value = key, value
            self._text = f"map<{key.name},{value}>"
            cls._table[(key, value)] = self
        return self


class SparseType(Type):
    """A sparse (COO) tensor with the dense type's dtype and shape."""

    __slots__ = ("dense",)
    _table: dict[TensorType, SparseType] = {}  # noqa: RUF012 (the intern table)
    dense: TensorType

    def __new__(cls, dense: TensorType) -> SparseType:
        self = cls._table.get(dense)
        if self is None:
            self = object.__new__(cls)
            self.dense = dense
            self._text = f"sparse<{dense}>"
            cls._table[dense] = self
        return self


def quote(text: str) -> str:
    """Return ``text`` as a double-quoted literal of the text form (JSON escapes)."""
    import json

    return json.dumps(text, ensure_ascii=False)


def tensor(dtype: DType | None, *shape: Dim | None) -> TensorType:
    """Shorthand: ``tensor(F32, 1, 3, sym("H"))``."""
    return TensorType(dtype, shape)


def _meet_dim(a: Dim | None, b: Dim | None) -> Dim | None:
    if a is b or b is None:
        return a
    if a is None:
        return b
    if dims.prove_eq(a, b) is False:
        raise TypeMismatchError(f"dim {a} contradicts dim {b}")
    return b if isinstance(b, int) else a


def meet(a: Type, b: Type) -> Type:
    """Return the type of a value that is known to be of both types.

    Raises:
        TypeMismatchError: the two contradict each other provably.
    """
    if a is b or b is UNKNOWN:
        return a
    if a is UNKNOWN:
        return b
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        if a.dtype is not b.dtype and a.dtype is not None and b.dtype is not None:
            raise TypeMismatchError(f"{a} contradicts {b}")
        shape = a.shape if a.shape is not None else b.shape
        if a.shape is not None and b.shape is not None:
            if len(a.shape) != len(b.shape):
                raise TypeMismatchError(f"{a} contradicts {b}")
            shape = tuple(map(_meet_dim, a.shape, b.shape))
        return TensorType(a.dtype or b.dtype, shape, a.encoding or b.encoding)
    if isinstance(a, _Wrapped) and a.__class__ is b.__class__:
        return a.__class__(meet(a.elem, b.elem))
    if isinstance(a, SparseType) and isinstance(b, SparseType):
        dense = meet(a.dense, b.dense)
        assert isinstance(dense, TensorType)
        return SparseType(dense)
    if isinstance(a, MapType) and isinstance(b, MapType) and a.key is b.key:
        return MapType(a.key, meet(a.value, b.value))
    raise TypeMismatchError(f"{a} contradicts {b}")


def _join_dim(a: Dim | None, b: Dim | None) -> Dim | None:
    if a is b or a is None or b is None:
        return a if a is b else None
    return a if dims.prove_eq(a, b) is True else None


def join(a: Type, b: Type) -> Type:
    """Return the most specific type that describes values of either type."""
    if a is b:
        return a
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        shape: Shape | None = None
        if a.shape is not None and b.shape is not None and len(a.shape) == len(b.shape):
            shape = tuple(map(_join_dim, a.shape, b.shape))
        dtype = a.dtype if a.dtype is b.dtype else None
        return TensorType(dtype, shape, a.encoding if a.encoding == b.encoding else None)
    if isinstance(a, _Wrapped) and a.__class__ is b.__class__:
        return a.__class__(join(a.elem, b.elem))
    if isinstance(a, MapType) and isinstance(b, MapType) and a.key is b.key:
        return MapType(a.key, join(a.value, b.value))
    return UNKNOWN
