"""ONNX element types, types and attribute values as Python values, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import AttributeProto, TensorProto, TypeProto

from lepton_ir import dims, dtypes
from lepton_ir.diagnostics import MAX_NAME, InvalidModelError, shorten
from lepton_ir.dims import DimExpr
from lepton_ir.dtypes import DType
from lepton_ir.foreign import Foreign
from lepton_ir.ir import AttrRef
from lepton_ir.tensors import Tensor, packed_bytes
from lepton_ir.types import (
    UNKNOWN,
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    TensorType,
    Type,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMBERS: dict[str, DType] = {
    "FLOAT": dtypes.F32,
    "UINT8": dtypes.U8,
    "INT8": dtypes.I8,
    "UINT16": dtypes.U16,
    "INT16": dtypes.I16,
    "INT32": dtypes.I32,
    "INT64": dtypes.I64,
    "STRING": dtypes.STRING,
    "BOOL": dtypes.BOOL,
    "FLOAT16": dtypes.F16,
    "DOUBLE": dtypes.F64,
    "UINT32": dtypes.U32,
    "UINT64": dtypes.U64,
    "COMPLEX64": dtypes.C64,
    "COMPLEX128": dtypes.C128,
    "BFLOAT16": dtypes.BF16,
    "FLOAT8E4M3FN": dtypes.F8E4M3FN,
    "FLOAT8E4M3FNUZ": dtypes.F8E4M3FNUZ,
    "FLOAT8E5M2": dtypes.F8E5M2,
    "FLOAT8E5M2FNUZ": dtypes.F8E5M2FNUZ,
    "UINT4": dtypes.U4,
    "INT4": dtypes.I4,
    "FLOAT4E2M1": dtypes.F4E2M1,
    "FLOAT8E8M0": dtypes.F8E8M0,
    "UINT2": dtypes.U2,
    "INT2": dtypes.I2,
    "FLOAT6E2M3": dtypes.F6E2M3,
    "FLOAT6E3M2": dtypes.F6E3M2,
}
_VALUES = dict(TensorProto.DataType.items())
DTYPE_OF: dict[int, DType] = {_VALUES[n]: d for n, d in _NUMBERS.items() if n in _VALUES}
"""Number of TensorProto.DataType to element type."""

NUMBER_OF: dict[DType, int] = {d: n for n, d in DTYPE_OF.items()}

KIND_NAMES: dict[int, str] = {n: name.lower() for name, n in AttributeProto.AttributeType.items()}
KIND_NUMBERS: dict[str, int] = {name: n for n, name in KIND_NAMES.items()}

TYPE_NAMES: dict[DType, str] = {
    dtype: f"tensor({name.lower()})" for name, dtype in _NUMBERS.items()
}
"""Element type to the type string of the schemas."""

DTYPE_OF_TYPE: dict[str, DType] = {name: dtype for dtype, name in TYPE_NAMES.items()}


def as_text(value: str | bytes) -> str:
    """Return a string field; protobuf gives bytes for one that is not UTF-8."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


def shown(value: str | bytes, limit: int = MAX_NAME) -> str:
    """Return a name fit for a message."""
    return shorten(as_text(value), limit)


def name_of(value: str | bytes) -> str:
    """Return a name.

    Raises:
        InvalidModelError: it is not UTF-8.
    """
    if isinstance(value, str):
        return value
    raise InvalidModelError(f'the name "{shown(value)}" is not valid UTF-8', code="onnx-name")


def dtype_of(number: int, what: str) -> DType:
    """Return the element type with an ONNX number.

    Raises:
        InvalidModelError: not a type; ``what`` names the place.
    """
    found = DTYPE_OF.get(number)
    if found is None:
        raise InvalidModelError(f"{what} has element type {number}, which ONNX does not define")
    return found


MAX_DIM = (1 << 63) - 1
"""The largest size that a file can say."""

# -- types ---------------------------------------------------------------------------------------


def dim_of(proto: Any, index: int, what: str) -> dims.Dim | None:
    """Return a declared dim: an int, a symbol, or ``None`` when it has neither.

    Exporters write -1 for a size they do not know, against the specification.

    Raises:
        InvalidModelError: another negative size.
    """
    if proto.HasField("dim_value"):
        if proto.dim_value == -1:
            return None
        if proto.dim_value < 0:
            raise InvalidModelError(
                f"{what} declares size {proto.dim_value} in dim {index}",
                code="onnx-shape",
                hint="sizes are >= 0; leave the dim out, or name it, when it is not known",
            )
        return int(proto.dim_value)
    return dims.sym(proto.dim_param) if proto.dim_param else None


def type_of(proto: TypeProto, what: str) -> Type:
    """Return the type that a TypeProto declares, ``UNKNOWN`` for opaque and empty ones.

    Raises:
        InvalidModelError: an unknown element type or a negative size; ``what`` names the value.
    """
    wrappers: list[Callable[[Any], Type]] = []
    while True:
        which = proto.WhichOneof("value")
        if which == "sequence_type":
            wrappers.append(SequenceType)
            proto = proto.sequence_type.elem_type
        elif which == "optional_type":
            wrappers.append(OptionalType)
            proto = proto.optional_type.elem_type
        elif which == "map_type":
            key = dtype_of(proto.map_type.key_type, what)
            wrappers.append(lambda value, key=key: MapType(key, value))  # type: ignore[misc]
            proto = proto.map_type.value_type
        else:
            break
    found: Type = UNKNOWN
    if which in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(proto, which)
        dtype = dtype_of(tensor.elem_type, what) if tensor.elem_type else None
        shape = None
        if tensor.HasField("shape"):
            shape = tuple(dim_of(d, i, what) for i, d in enumerate(tensor.shape.dim))
        found = TensorType(dtype, shape)
        if which == "sparse_tensor_type":
            found = SparseType(found)
    for wrap in reversed(wrappers):
        found = wrap(found)
    return found


def write_type(type_: Type, proto: TypeProto, names: Callable[[DimExpr], str | None]) -> bool:
    """Fill a TypeProto; return False (and leave it unusable) when the type cannot be said.

    ``names`` gives the ``dim_param`` of a symbolic dim, ``None`` to leave it out.
    """
    while True:
        if isinstance(type_, SequenceType):
            proto, type_ = proto.sequence_type.elem_type, type_.elem
        elif isinstance(type_, OptionalType):
            proto, type_ = proto.optional_type.elem_type, type_.elem
        elif isinstance(type_, MapType):
            proto.map_type.key_type = NUMBER_OF[type_.key]
            proto, type_ = proto.map_type.value_type, type_.value
        else:
            break
    sparse = isinstance(type_, SparseType)
    dense = type_.dense if isinstance(type_, SparseType) else type_
    if not isinstance(dense, TensorType) or dense.dtype is None:
        return False
    tensor = proto.sparse_tensor_type if sparse else proto.tensor_type
    tensor.elem_type = NUMBER_OF[dense.dtype]
    if dense.shape is not None:
        tensor.shape.SetInParent()
        for dim in dense.shape:
            entry = tensor.shape.dim.add()
            if isinstance(dim, int):
                if dim <= MAX_DIM:
                    entry.dim_value = dim
            elif dim is not None:
                name = names(dim)
                if name:
                    entry.dim_param = name
    return True


def symbol_name(dim: DimExpr) -> str | None:
    """Return the name when ``dim`` is a single symbol."""
    if len(dim.terms) != 1:
        return None
    mono, coefficient = dim.terms[0]
    if coefficient != 1 or len(mono) != 1 or mono[0].kind != "sym":
        return None
    return str(mono[0].name)


# -- attributes ----------------------------------------------------------------------------------

FOREIGN_ATTRIBUTE = "onnx.AttributeProto"


def text_or_bytes(raw: bytes) -> str | bytes:
    """Return a string attribute as text, as the bytes themselves when they are not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def decode_attribute(
    proto: AttributeProto, kind: int, tensor: Callable[[TensorProto], Tensor], keep: bool
) -> Any:
    """Return the value of an attribute that is not a graph.

    Lists become tuples. With ``keep``, what would not be written back the same (empty lists,
    whose kind shows in no element, and kinds the IR has no value for) becomes :class:`Foreign`.

    Raises:
        InvalidModelError: a kind that ONNX does not define.
    """
    if proto.ref_attr_name:
        return AttrRef(proto.ref_attr_name, KIND_NAMES.get(kind, "undefined"))
    if kind == AttributeProto.INT:
        return proto.i
    if kind == AttributeProto.INTS:
        value: Any = tuple(proto.ints)
        return value if value or not keep else Foreign(FOREIGN_ATTRIBUTE, _wire(proto))
    if kind == AttributeProto.FLOAT:
        return proto.f
    if kind == AttributeProto.STRING:
        return text_or_bytes(proto.s)
    if kind == AttributeProto.TENSOR:
        return tensor(proto.t)
    if kind == AttributeProto.FLOATS:
        value = tuple(proto.floats)
        return value if value or not keep else Foreign(FOREIGN_ATTRIBUTE, _wire(proto))
    if kind == AttributeProto.STRINGS:
        value = tuple(map(text_or_bytes, proto.strings))
        return value if value or not keep else Foreign(FOREIGN_ATTRIBUTE, _wire(proto))
    if kind == AttributeProto.TYPE_PROTO and not keep:
        return type_of(proto.tp, f'attribute "{shown(proto.name)}"')
    if kind not in KIND_NAMES or kind == 0:
        raise InvalidModelError(
            f'attribute "{shown(proto.name)}" has no value of a known kind', code="onnx-attribute"
        )
    return Foreign(FOREIGN_ATTRIBUTE, _wire(proto))


def _wire(proto: Any) -> bytes:
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def encode_attribute(name: str, value: Any, proto: AttributeProto) -> None:
    """Fill an AttributeProto from a Python value (the reverse of :func:`decode_attribute`).

    Raises:
        TypeError: not an attribute value.
    """
    if isinstance(value, Foreign):
        proto.ParseFromString(value.data)
        proto.name = name
        return
    proto.name = name
    if isinstance(value, AttrRef):
        proto.ref_attr_name = value.name
        proto.type = KIND_NUMBERS[value.kind]  # type: ignore[assignment]
    elif isinstance(value, (bool, int)):
        proto.type, proto.i = AttributeProto.INT, int(value)
    elif isinstance(value, float):
        proto.type, proto.f = AttributeProto.FLOAT, value
    elif isinstance(value, (str, bytes)):
        proto.type = AttributeProto.STRING
        proto.s = value.encode() if isinstance(value, str) else value
    elif isinstance(value, DType):
        proto.type, proto.i = AttributeProto.INT, NUMBER_OF[value]
    elif isinstance(value, Tensor):
        proto.type = AttributeProto.TENSOR
        fill_tensor(value, proto.t)
    elif isinstance(value, Type):
        proto.type = AttributeProto.TYPE_PROTO
        write_type(value, proto.tp, symbol_name)
    elif isinstance(value, tuple):
        _encode_list(value, proto)
    else:
        raise TypeError(f"no ONNX attribute can hold {value!r:.60}")


def _encode_list(value: tuple[Any, ...], proto: AttributeProto) -> None:
    if all(isinstance(v, int) for v in value):
        proto.type = AttributeProto.INTS
        proto.ints.extend(int(v) for v in value)
    elif all(isinstance(v, (int, float)) for v in value):
        proto.type = AttributeProto.FLOATS
        proto.floats.extend(float(v) for v in value)
    elif all(isinstance(v, (str, bytes)) for v in value):
        proto.type = AttributeProto.STRINGS
        proto.strings.extend(v.encode() if isinstance(v, str) else v for v in value)
    else:
        raise TypeError(f"no ONNX attribute can hold {value!r:.60}")


def encode_typed(name: str, value: Any, kind: int, proto: AttributeProto) -> None:
    """Fill an AttributeProto of a known kind: an empty or integral list of floats keeps it."""
    if isinstance(value, AttrRef):
        encode_attribute(name, value, proto)
    elif kind == AttributeProto.FLOATS:
        proto.name, proto.type = name, AttributeProto.FLOATS
        proto.floats.extend(float(v) for v in value)
    elif kind == AttributeProto.FLOAT:
        proto.name, proto.type, proto.f = name, AttributeProto.FLOAT, float(value)
    elif kind == AttributeProto.STRINGS:
        proto.name, proto.type = name, AttributeProto.STRINGS
        proto.strings.extend(v.encode() if isinstance(v, str) else v for v in value)
    else:
        encode_attribute(name, value, proto)


def fill_tensor(tensor: Tensor, proto: TensorProto, name: str = "") -> None:
    """Fill a TensorProto with a payload in memory."""
    fill_tensor_header(tensor, proto, name)
    if tensor.dtype is dtypes.STRING:
        items = tensor.numpy().reshape(-1).tolist()
        proto.string_data.extend(i if isinstance(i, bytes) else str(i).encode() for i in items)
    else:
        data = packed_bytes(tensor.numpy(), tensor.dtype)
        proto.raw_data = data if isinstance(data, bytes) else data.tobytes()


def fill_tensor_header(tensor: Tensor, proto: TensorProto, name: str) -> None:
    """Fill in the type, dims and name."""
    proto.data_type = NUMBER_OF[tensor.dtype]
    proto.dims.extend(tensor.shape)
    if name:
        proto.name = name
