"""The protobuf messages of TensorFlow's files, as a table, in a descriptor pool of their own.

Only the fields that are read are here; the others of a file are skipped. The pool is private, so
that nothing clashes with the messages of an imported TensorFlow.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from lepton_ir.diagnostics import InvalidModelError, shorten

_PACKAGE = "lepton_tf"

# Message: field number kind; ``*`` repeats, ``{key value}`` maps, ``|`` marks members of a oneof.
_MESSAGES = """
SavedModel: saved_model_schema_version 1 int64; meta_graphs 2 *MetaGraphDef
MetaGraphDef: meta_info_def 1 MetaInfoDef; graph_def 2 GraphDef; saver_def 3 SaverDef; \
    signature_def 5 {string SignatureDef}; object_graph_def 7 SavedObjectGraph
MetaInfoDef: tags 4 *string; tensorflow_version 5 string
SaverDef: filename_tensor_name 1 string; restore_op_name 3 string
SignatureDef: inputs 1 {string TensorInfo}; outputs 2 {string TensorInfo}; method_name 3 string
TensorInfo: name 1 string; dtype 2 DataType; tensor_shape 3 TensorShapeProto; \
    coo_sparse 4 Skipped; composite_tensor 5 Skipped
Skipped:
GraphDef: node 1 *NodeDef; library 2 FunctionDefLibrary; versions 4 VersionDef
VersionDef: producer 1 int32; min_consumer 2 int32
NodeDef: name 1 string; op 2 string; input 3 *string; device 4 string; attr 5 {string AttrValue}
AttrValue: |list 1 ListValue; |s 2 bytes; |i 3 int64; |f 4 float; |b 5 bool; |type 6 DataType; \
    |shape 7 TensorShapeProto; |tensor 8 TensorProto; |placeholder 9 string; |func 10 NameAttrList
ListValue: s 2 *bytes; i 3 *int64; f 4 *float; b 5 *bool; type 6 *DataType; \
    shape 7 *TensorShapeProto; tensor 8 *TensorProto; func 9 *NameAttrList
NameAttrList: name 1 string; attr 2 {string AttrValue}
TensorShapeProto: dim 2 *Dim; unknown_rank 3 bool
Dim: size 1 int64; name 2 string
TensorProto: dtype 1 DataType; tensor_shape 2 TensorShapeProto; version_number 3 int32; \
    tensor_content 4 bytes; float_val 5 *float; double_val 6 *double; int_val 7 *int32; \
    string_val 8 *bytes; scomplex_val 9 *float; int64_val 10 *int64; bool_val 11 *bool; \
    dcomplex_val 12 *double; half_val 13 *int32; uint32_val 16 *uint32; uint64_val 17 *uint64; \
    float8_val 18 bytes
FunctionDefLibrary: function 1 *FunctionDef
FunctionDef: signature 1 OpDef; node_def 3 *NodeDef; ret 4 {string string}; \
    attr 5 {string AttrValue}; arg_attr 7 {uint32 ArgAttrs}
ArgAttrs: attr 1 {string AttrValue}
OpDef: name 1 string; input_arg 2 *ArgDef; output_arg 3 *ArgDef
ArgDef: name 1 string; type 3 DataType; type_attr 4 string; number_attr 5 string; \
    type_list_attr 6 string
SavedObjectGraph: nodes 1 *SavedObject; concrete_functions 2 {string SavedConcreteFunction}
SavedConcreteFunction: bound_inputs 2 *int32
SavedObject: children 1 *ObjectReference; |user_object 4 Skipped; |asset 5 Skipped; \
    |function 6 SavedFunction; |variable 7 SavedVariable; |bare_concrete_function 8 BareFunction; \
    |constant 9 SavedConstant; |resource 10 Skipped; |captured_tensor 12 Skipped
SavedFunction: concrete_functions 1 *string
BareFunction: concrete_function_name 1 string
SavedVariable: dtype 1 DataType; shape 2 TensorShapeProto; name 6 string
SavedConstant: operation 1 string
ObjectReference: node_id 1 int32; local_name 2 string
TrackableObjectGraph: nodes 1 *TrackableObject
TrackableObject: children 1 *ObjectReference; attributes 2 *SerializedTensor
SerializedTensor: name 1 string; full_name 2 string; checkpoint_key 3 string
BundleHeaderProto: num_shards 1 int32; endianness 2 int32; version 3 VersionDef
BundleEntryProto: dtype 1 DataType; shape 2 TensorShapeProto; shard_id 3 int32; offset 4 int64; \
    size 5 int64; crc32c 6 fixed32; slices 7 *TensorSliceProto
TensorSliceProto: extent 1 *Extent
Extent: start 1 int64; length 2 int64
"""

_TYPE_NAMES = (
    "INVALID FLOAT DOUBLE INT32 UINT8 INT16 INT8 STRING COMPLEX64 INT64 BOOL QINT8 QUINT8 QINT32 "
    "BFLOAT16 QINT16 QUINT16 UINT16 COMPLEX128 HALF RESOURCE VARIANT UINT32 UINT64 FLOAT8_E5M2 "
    "FLOAT8_E4M3FN FLOAT8_E4M3FNUZ FLOAT8_E4M3B11FNUZ FLOAT8_E5M2FNUZ INT4 UINT4 INT2 UINT2"
)
_TYPES = _TYPE_NAMES.split()
"""Names of ``DataType``, by code; 100 more is a reference to such a tensor."""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in (
        *("double", "float", "int64", "int32", "uint32", "uint64", "bool", "string", "bytes"),
        "fixed32",
    )
}


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number)
    repeated = kind.startswith("*")
    kind = kind.removeprefix("*")
    field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = _Field.TYPE_ENUM if kind == "DataType" else _Field.TYPE_MESSAGE
    field.type_name = f".{_PACKAGE}.{kind}"


def _add_map(message: Any, name: str, number: int, kinds: str) -> None:
    entry = message.nested_type.add(name=name.title().replace("_", "") + "Entry")
    entry.options.map_entry = True
    for place, (part, kind) in enumerate(zip(("key", "value"), kinds.split(), strict=True), 1):
        _add_field(entry, part, place, kind)
    _add_field(message, name, number, f"*{message.name}.{entry.name}")


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3"
    )
    types = file.enum_type.add(name="DataType")
    for code, name in enumerate(_TYPES):
        types.value.add(name=f"DT_{name}", number=code)
        if code:
            types.value.add(name=f"DT_{name}_REF", number=code + 100)
    for line in _MESSAGES.strip().splitlines():
        head, _, rest = line.partition(":")
        message = file.message_type.add(name=head)
        for text in filter(None, map(str.strip, rest.split(";"))):
            name, number, kind = text.split(" ", 2)
            if kind.startswith("{"):
                _add_map(message, name, int(number), kind.strip("{}"))
                continue
            _add_field(message, name.removeprefix("|"), int(number), kind)
            if name.startswith("|"):
                if not message.oneof_decl:
                    message.oneof_decl.add(name="value" if head == "AttrValue" else "kind")
                message.field[-1].oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


@functools.cache
def message_class(name: str) -> Any:
    """Return the class of a message of the table."""
    found = _pool().FindMessageTypeByName(f"{_PACKAGE}.{name}")
    return message_factory.GetMessageClass(found)


def parse(name: str, data: bytes, what: str) -> Any:
    """Return a message.

    Args:
        name: of the message.
        data: its bytes.
        what: names the bytes in messages.

    Raises:
        InvalidModelError: they are no such message.
    """
    message = message_class(name)()
    try:
        message.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise InvalidModelError(
            f"{what} is no {name}: truncated, damaged or another protobuf message", code="tf-parse"
        ) from error
    return message


def parse_text(name: str, text: str, what: str) -> Any:
    """Return a message of protobuf's text form.

    Raises:
        InvalidModelError: it is no such message.
    """
    message = message_class(name)()
    try:
        text_format.Parse(text, message, allow_unknown_field=True)
    except (text_format.ParseError, RecursionError, ValueError) as error:
        raise InvalidModelError(
            f"{what} is no {name}: {shorten(str(error))}", code="tf-parse"
        ) from error
    return message
