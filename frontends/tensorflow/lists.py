"""Lists of tensors and TensorArrays as dense buffers, one row an element.

Elements of a list have one shape. A list that was only reserved has no buffer until the shape of
an element is known: from the file, or from the first element that is written. Elements that were
never written are zeros, as TensorFlow stacks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.dims import same_dim
from lepton_ir.frontends.sized import Sym
from lepton_ir.frontends.tensorflow.graph import Handle, described
from lepton_ir.frontends.tensorflow.lowering import TfBuilder
from lepton_ir.frontends.tensorflow.table import tf_structure
from lepton_ir.infer import const_array, content_of
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.dtypes import DType
    from lepton_ir.frontends.tensorflow.graph import GraphReader, Scope, Slot
    from lepton_ir.frontends.tensorflow.nodes import Node

GROWS = "resize_if_index_out_of_bounds"
"""Attribute of nodes that write: the list becomes longer where it has to."""

Shape = tuple[int | None, ...] | None


@dataclass(frozen=True)
class TensorList:
    """A list of tensors.

    Attributes:
        value: its elements, along axis 0; ``None`` until the shape of one is known.
        size: the number of elements, an i64 of rank 0; for lists without ``value``.
        dtype: of elements.
        shape: what the file says of their shape.
        grows: writing behind its end makes it longer.
    """

    value: Value | None
    size: Value | None
    dtype: DType
    shape: Shape
    grows: bool = False

    def of(self, value: Value) -> TensorList:
        """Return the list with other elements."""
        return TensorList(value, None, self.dtype, self.shape, self.grows)


def rebuilt(value: Value, like: Slot) -> Slot:
    """Return a slot like another one, of a value that is what :func:`flat` returned of it."""
    return like.of(value) if isinstance(like, TensorList) else value


def flat(b: TfBuilder, slot: Slot, other: Slot = None) -> Value:
    """Return a value, or the buffer of a list; ``other`` is a list with elements of its shape."""
    if isinstance(slot, Value):
        return slot
    assert isinstance(slot, TensorList)
    shape = other.value.shape if isinstance(other, TensorList) and other.value else None
    return dense(b, slot, None if shape is None else list(shape[1:]))


def dense(b: TfBuilder, items: TensorList, sizes: Sequence[Any] | None = None) -> Value:
    """Return the buffer of a list, of zeros where it has none.

    Args:
        b: where it is built.
        items: the list.
        sizes: of an element, where the file does not say them.

    Raises:
        UnsupportedError: the shape of an element is not known.
    """
    if items.value is not None:
        return items.value
    known: list[Any] = [None] * len(sizes or ()) if items.shape is None else list(items.shape)
    if sizes is not None and len(sizes) == len(known):
        known = [s if k is None else k for k, s in zip(known, sizes, strict=True)]
    vague = items.shape is None and sizes is None
    if vague or not all(isinstance(k, (int, Sym)) for k in known):
        raise UnsupportedError("the shape of a list's elements is not known", code="tf-list")
    assert items.size is not None
    zero = b.full((), 0, items.dtype)
    found: Value = b.expand(zero, b.ints([_number(items.size), *known]))
    return found


def _number(size: Value) -> int | Sym:
    known = const_array(size)
    return Sym(size) if known is None else int(known.reshape(-1)[0])


def row_index(b: TfBuilder, index: Value) -> Value:
    """Return an index as an i64 of rank 0; that of a loop as it is."""
    op = index.op
    if op is not None and op.name == "cast" and op.operands[0] is not None:
        source = op.operands[0]
        if source.dtype is dtypes.I64 and source.rank == 0:
            return source
    return b.cast_to(index if index.rank == 0 else b.resized(index, []), dtypes.I64)


def _list(slot: Slot) -> TensorList:
    if not isinstance(slot, TensorList):
        raise UnsupportedError(f"{described(slot)} is no list", code="tf-list")
    return slot


def stored(
    b: TfBuilder, items: TensorList, index: Value, item: Value, grows: bool = False
) -> TensorList:
    """Return the list with one element written; one that grows gets zeros up to there."""
    buffer = dense(b, items, b.sizes_of(item))
    number = row_index(b, index)
    if grows:
        end = b.add(number, b.full((), 1, dtypes.I64))
        missing = b.max(b.sub(end, _length(b, items)), b.full((), 0, dtypes.I64))
        zeros = b.expand(b.full((), 0, items.dtype), b.ints([Sym(missing), *b.sizes_of(item)]))
        buffer = b.concat(buffer, zeros, axis=0)
    place = b.resized(number, [1, 1])
    return items.of(b.scatter_nd(buffer, place, b.unsqueeze(item, b.ints([0]))))


def _length(b: TfBuilder, items: TensorList) -> Value:
    if items.value is None:
        assert items.size is not None
        return items.size
    size = b.size_of(items.value, 0)
    return size.value if isinstance(size, Sym) else b.full((), size, dtypes.I64)


def _static(value: Value | None) -> Shape:
    """Return an element's shape that is an operand: -1 for unknown sizes or for an unknown rank."""
    known = const_array(value)
    if known is None or known.ndim == 0:
        return None
    return tuple(None if d < 0 else int(d) for d in known.tolist())


def _args(node: Node, operands: Sequence[Slot], count: int) -> Sequence[Slot]:
    if len(operands) < count:
        raise UnsupportedError(f"{len(operands)} operands", code="tf-list")
    return operands


def _element_type(node: Node, *names: str) -> DType:
    for name in names:
        found = node.attr(name)
        if found is not None and found.kind != "complex":
            return found  # type: ignore[no-any-return]
    raise UnsupportedError("a list of texts, handles or complex numbers", code="tf-list")


# -- lists of TensorFlow 2 -------------------------------------------------------------------------


@tf_structure("TensorListReserve")
def _reserve(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    shape, size = operands
    count, dtype = row_index(scope.b, size), _element_type(node, "element_dtype")
    return [TensorList(None, count, dtype, _static(shape))]


@tf_structure("EmptyTensorList")
def _empty(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    size = scope.b.full((), 0, dtypes.I64)
    return [
        TensorList(None, size, _element_type(node, "element_dtype"), _static(operands[0])),
    ]


@tf_structure("TensorListFromTensor")
def _from_tensor(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    tensor = operands[0]
    return [TensorList(tensor, None, _element_type(node, "element_dtype"), _static(operands[1]))]


@tf_structure("TensorListSetItem")
def _set_item(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    items, index, item = operands[:3]
    grows = bool(node.attr(GROWS, False))
    return [stored(scope.b, _list(items), index, item, grows)]


@tf_structure("TensorListGetItem")
def _get_item(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    items, index, shape = _args(node, operands, 3)
    return [_row(scope.b, _list(items), index, _static(shape))]


def _row(b: TfBuilder, items: TensorList, index: Value, shape: Shape) -> Value:
    buffer = dense(b, items, shape)
    found: Value = b.gather(buffer, row_index(b, index), axis=0)
    return found


@tf_structure("TensorListStack")
def _stack(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    items, shape = _args(node, operands, 2)
    sizes = _static(shape)
    return [dense(scope.b, _list(items), sizes)]


@tf_structure("TensorListLength")
def _list_length(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    return [scope.b.cast_to(_length(scope.b, _list(operands[0])), dtypes.I32)]


@tf_structure("TensorListElementShape")
def _element_shape(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    items, b = _list(operands[0]), scope.b
    buffer = dense(b, items)
    sizes = b.ints(b.sizes_of(buffer)[1:])
    return [b.cast_to(sizes, node.attr("shape_type", dtypes.I32))]


@tf_structure("TensorListPushBack")
def _push(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    items, item = _list(operands[0]), operands[1]
    b = scope.b
    one = b.unsqueeze(item, b.ints([0]))
    size = None if items.size is None else const_array(items.size)
    if items.value is None and size is not None and not size.any():
        return [items.of(one)]
    buffer = dense(b, items, b.sizes_of(item))
    return [items.of(b.concat(buffer, one, axis=0))]


@tf_structure("TensorListPopBack")
def _pop(reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]) -> Sequence[Slot]:
    items, b = _list(operands[0]), scope.b
    buffer = dense(b, items, _static(operands[1]))
    rest = b.slice(buffer, b.ints([0]), b.ints([-1]), b.ints([0]))
    return [items.of(rest), b.gather(buffer, b.full((), -1, dtypes.I64), axis=0)]


@tf_structure("TensorListGather")
def _gather(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    items, indices = operands[:2]
    return [scope.b.gather(dense(scope.b, _list(items)), indices, axis=0)]


@tf_structure("TensorListScatter", "TensorListScatterV2")
def _scatter(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    b = scope.b
    tensor, indices, shape = operands[:3]
    given = operands[3] if len(operands) > 3 else None
    if given is None or (const_array(given) == -1):
        given = b.size_of(tensor, 0)
        size = given.value if isinstance(given, Sym) else b.full((), given, dtypes.I64)
    else:
        size = row_index(b, given)
    items = TensorList(None, size, _element_type(node, "element_dtype"), _static(shape))
    return [_scattered(b, items, indices, tensor)]


def _scattered(b: TfBuilder, items: TensorList, indices: Value, rows: Value) -> TensorList:
    """Return the list with rows written; as many as there are elements, in order, are all of it."""
    order = const_array(indices)
    size = None if items.size is None else const_array(items.size)
    count = b.size_of(rows, 0)
    if _is_all(indices, order, items, size, count):
        return items.of(rows)
    buffer = dense(b, items, b.sizes_of(rows)[1:])
    places = b.unsqueeze(b.cast_to(indices, dtypes.I64), b.ints([1]))
    return items.of(b.scatter_nd(buffer, places, rows))


def _is_all(indices: Value, order: Any, items: TensorList, size: Any, count: int | Sym) -> bool:
    """Whether the rows at ``indices`` are all elements, in order."""
    if order is not None and size is not None:
        return bool(order.tolist() == list(range(int(size.reshape(-1)[0]))))
    op = indices.op
    if op is None or op.name != "range" or items.size is None:
        return False
    start, _, step = (const_array(v) for v in op.operands)
    end = op.operands[1]
    if start is None or step is None or end is None or start != 0 or step != 1:
        return False
    left, right = content_of(end), content_of(items.size)
    return bool(left and right and same_dim(left[0], right[0]))


@tf_structure("TensorListConcatV2", "TensorListConcat")
def _concat(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    b = scope.b
    shape = node.attr("element_shape") or (_static(operands[1]) if len(operands) > 1 else None)
    return _joined(b, dense(b, _list(operands[0]), shape))


def _joined(b: TfBuilder, buffer: Value) -> Sequence[Slot]:
    """Return the elements one after another, and how long each is."""
    if b.rank(buffer) < 2:
        raise UnsupportedError("scalars cannot be concatenated", code="tf-list")
    count, length, *rest = b.sizes_of(buffer)
    whole = b.resized(buffer, [-1, *rest])
    lengths = b.expand(b.ints([length]), b.ints([count]))
    return [whole, lengths]


@tf_structure("TensorListResize")
def _resize(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    items, b = _list(operands[0]), scope.b
    size = row_index(b, operands[1])
    if items.value is None:
        return [TensorList(None, size, items.dtype, items.shape)]
    sizes = b.sizes_of(items.value)[1:]
    more = dense(b, TensorList(None, size, items.dtype, items.shape), sizes)
    whole = b.concat(items.value, more, axis=0)
    cut = b.slice(whole, b.ints([0]), b.resized(size, [1]), b.ints([0]))
    return [items.of(cut)]


# -- TensorArrays of TensorFlow 1: the flow, not the handle, stands for the elements ---------------


@tf_structure("TensorArrayV3")
def _array(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    size = row_index(scope.b, operands[0])
    grows = bool(node.attr("dynamic_size", False))
    dtype, shape = _element_type(node, "dtype"), node.attr("element_shape")
    items = TensorList(None, size, dtype, shape, grows)
    return [Handle("a TensorArray"), items]


@tf_structure("TensorArrayWriteV3")
def _write(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    _, index, item, flow = operands
    items = _list(flow)
    return [stored(scope.b, items, index, item, items.grows)]


@tf_structure("TensorArrayReadV3")
def _read(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    _, index, flow = operands
    return [_row(scope.b, _list(flow), index, None)]


@tf_structure("TensorArrayScatterV3")
def _array_scatter(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    _, indices, rows, flow = operands
    return [_scattered(scope.b, _list(flow), indices, rows)]


@tf_structure("TensorArrayGatherV3")
def _array_gather(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    _, indices, flow = operands
    shape = node.attr("element_shape")
    return [scope.b.gather(dense(scope.b, _list(flow), shape), indices, axis=0)]


@tf_structure("TensorArraySizeV3")
def _array_size(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    return [scope.b.cast_to(_length(scope.b, _list(operands[1])), dtypes.I32)]


@tf_structure("TensorArrayConcatV3")
def _array_concat(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    return _joined(scope.b, dense(scope.b, _list(operands[1]), node.attr("element_shape_except0")))
