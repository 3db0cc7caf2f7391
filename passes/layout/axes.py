"""How a change of axis order passes through each operation.

An *order* is a permutation ``s``: a value ``v`` in that order is ``transpose(v, s)``, so axis ``a``
of ``v`` stands at ``s.index(a)``. A handler says, for the order of its principal operand, in which
orders the other operands are wanted, in which orders the results then come, and what else about
the operation changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.infer import const_array, const_tensor
from lepton_ir.passes.layout.order import Order, Plan, known_axes, without
from lepton_ir.passes.layout.regroup import VIEWS, view, view_source
from lepton_ir.tensors import ElidedTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.ir import Op, Value

REDUCTIONS = frozenset(
    f"reduce_{n}"
    for n in (
        *("sum", "mean", "max", "min", "prod", "l1", "l2", "log_sum", "log_sum_exp"),
        "sum_square",
    )
)
_ROUNDING = frozenset(
    REDUCTIONS - {"reduce_max", "reduce_min"}
    | {"softmax", "log_softmax", "layer_normalization", "rms_normalization", "matmul", "cum_sum"}
    | {"resize"}
)
"""Operations whose sums may be taken in another order in another layout."""


def _attr_axis(op: Op, rank: int, name: str = "axis") -> int | None:
    axis = int(op.attr(name))
    axis = axis + rank if axis < 0 else axis
    return axis if 0 <= axis < rank else None


def _i64(values: Sequence[int]) -> np.ndarray[Any, Any]:
    return np.asarray(list(values), np.int64)


def stored(value: Value) -> Op | None:
    """Return what makes ``value`` of a constant of fewer bits alone: a cast, a dequantization."""
    op = value.op
    if op is None or op.name not in ("cast", "dequantize_linear") or op.has_attr_refs:
        return None
    tensor = const_tensor(op.operands[0])
    if tensor is None or isinstance(tensor, ElidedTensor):
        return None
    return op if all(v is None or v.rank == 0 for v in op.operands[1:]) else None


def operand_order(value: Value, order: Order) -> Order | bool | None:
    """Return in which order an operand that broadcasts to a result in ``order`` is wanted.

    ``None`` when it reads the same in every order, ``False`` when it cannot be said. A constant of
    lower rank answers ``order``: it is reshaped when it is folded; one of fewer bits alike.
    """
    shape = value.shape
    if shape is None:
        return False
    if len(shape) == len(order):
        return None if all(d == 1 for d in shape) else order
    if len(shape) > len(order):
        return False
    if all(d == 1 for d in shape):
        return None
    if const_tensor(value) is not None or stored(value) is not None:
        return order
    lead = len(order) - len(shape)
    fixed = all(order[i] == i for i in range(lead, len(order)))
    return None if fixed else False


def _elementwise(op: Op, order: Order) -> Plan | None:
    if any(r.rank != len(order) for r in op.results):
        return None
    wanted: list[Order | None] = []
    for value in op.operands:
        found = None if value is None else operand_order(value, order)
        if found is False or found is True:
            return None
        wanted.append(found)
    if all(w is None for w in wanted):
        return None
    return Plan(wanted, [order] * len(op.results))


def _reduction(op: Op, order: Order) -> Plan | None:
    axes_value = op.operand("axes")
    keep = bool(op.attr("keepdims"))
    if axes_value is None:
        if op.attr("noop_with_empty_axes"):
            return None
        return Plan([order], [order if keep else ()])
    axes = known_axes(axes_value, len(order))
    if not axes:
        return None
    moved = sorted(order.index(a) for a in axes)
    result = order if keep else without(order, axes)
    return Plan([order, None], [result], {1: _i64(moved)})


def _on_axis(op: Op, order: Order) -> Plan | None:
    """One axis attribute, results of the operand's rank, operands all in the same order."""
    axis = _attr_axis(op, len(order))
    if axis is None or op.attrs.get("coerce_2d"):
        return None
    return Plan([order], [order] * len(op.results), attrs={"axis": order.index(axis)})


def _arg(op: Op, order: Order) -> Plan | None:
    axis = _attr_axis(op, len(order))
    if axis is None:
        return None
    result = order if op.attr("keepdims") else without(order, [axis])
    return Plan([order], [result], attrs={"axis": order.index(axis)})


def _concat(op: Op, order: Order) -> Plan | None:
    axis = _attr_axis(op, len(order))
    if axis is None or any(v is None or v.rank != len(order) for v in op.operands):
        return None
    wanted: list[Order | None] = [order] * len(op.operands)
    return Plan(wanted, [order], attrs={"axis": order.index(axis)})


def _split(op: Op, order: Order) -> Plan | None:
    axis = _attr_axis(op, len(order))
    if axis is None:
        return None
    wanted: list[Order | None] = [order, *([None] * (len(op.operands) - 1))]
    return Plan(wanted, [order] * len(op.results), attrs={"axis": order.index(axis)})


def _slice(op: Op, order: Order) -> Plan | None:
    axes_value, starts = op.operand("axes"), op.operand("starts")
    if axes_value is None:
        count = None if starts is None or starts.shape is None else starts.shape[0]
        axes = list(range(count)) if isinstance(count, int) else None
    else:
        axes = known_axes(axes_value, len(order))
    if axes is None or any(a >= len(order) for a in axes):
        return None
    wanted: list[Order | None] = [order, *([None] * max(3, len(op.operands) - 1))]
    return Plan(wanted, [order], {3: _i64([order.index(a) for a in axes])})


def _pad(op: Op, order: Order) -> Plan | None:
    axes_value, pads = op.operand("axes"), const_array(op.operand("pads"))
    wanted: list[Order | None] = [order, *([None] * (len(op.operands) - 1))]
    if axes_value is not None:
        axes = known_axes(axes_value, len(order))
        if axes is None:
            return None
        return Plan(wanted, [order], {3: _i64([order.index(a) for a in axes])})
    if pads is None or pads.size != 2 * len(order):
        return None
    both = pads.reshape(2, len(order))
    return Plan(wanted, [order], {1: _i64(both[:, list(order)].reshape(-1).tolist())})


def _gather(op: Op, order: Order) -> Plan | None:
    axis, indices = _attr_axis(op, len(order)), op.operands[1]
    if axis is None or indices is None or indices.rank is None:
        return None
    more = indices.rank - 1
    result: list[int] = []
    for a in order:
        if a == axis:
            result += range(axis, axis + indices.rank)
        else:
            result.append(a if a < axis else a + more)
    return Plan([order, None], [tuple(result)], attrs={"axis": order.index(axis)})


def _elements(op: Op, order: Order) -> Plan | None:
    """Gather or scatter single elements: all operands are of the same rank, in the same order."""
    axis = _attr_axis(op, len(order))
    if axis is None or any(v is None or v.rank != len(order) for v in op.operands):
        return None
    wanted: list[Order | None] = [order] * len(op.operands)
    return Plan(wanted, [order], attrs={"axis": order.index(axis)})


def _resize(op: Op, order: Order) -> Plan | None:
    """Resize the same axes, where runtimes resize them at all: the last two, or two before one."""
    axes, rank = op.attr("axes"), len(order)
    wanted: list[Order | None] = [order, *([None] * (len(op.operands) - 1))]
    if axes is not None:
        axes = [a + rank if a < 0 else a for a in axes]
        places = [order.index(a) for a in axes]
        return (
            Plan(wanted, [order], attrs={"axes": tuple(places)}) if _resized(op, places) else None
        )
    constants: dict[int, np.ndarray[Any, Any]] = {}
    moved: list[int] = []
    for i, name in ((1, "roi"), (2, "scales"), (3, "sizes")):
        value = op.operand(name)
        array = const_array(value)
        if value is None or (array is not None and array.size == 0):
            continue
        if array is None or array.size % rank:
            return None
        constants[i] = np.ascontiguousarray(array.reshape(-1, rank)[:, list(order)]).reshape(-1)
        if name != "roi":
            shape = op.operands[0].shape if op.operands[0] is not None else None
            kept = (1,) * rank if name == "scales" or shape is None else shape
            moved = [order.index(a) for a in range(rank) if array[a] != kept[a]]
    return Plan(wanted, [order], constants) if _resized(op, moved) else None


def _resized(op: Op, axes: Sequence[int]) -> bool:
    """Whether kernels interpolate along ``axes``; all of them copy along any."""
    rank = op.result.rank
    if op.attr("mode") == "nearest":
        return True
    if rank is None:
        return False
    planes = [(rank - 2, rank - 1)]
    if op.attr("mode") == "linear" and rank == 4:
        planes.append((1, 2))
    return any(set(axes) <= set(plane) for plane in planes)


def _cum_sum(op: Op, order: Order) -> Plan | None:
    axes = known_axes(op.operand("axis"), len(order))
    if axes is None or len(axes) != 1:
        return None
    axis = op.operand("axis")
    assert axis is not None
    moved = np.asarray(order.index(axes[0]), np.int64)
    moved = moved.reshape(()) if axis.rank == 0 else moved.reshape(1)
    return Plan([order, None], [order], {1: moved})


def _quantization(op: Op, order: Order) -> Plan | None:
    scale = op.operands[1]
    if op.attr("block_size") or scale is None or scale.shape is None:
        return None
    wanted: list[Order | None] = [order, *([None] * (len(op.operands) - 1))]
    if all(d == 1 for d in scale.shape):
        axis = _attr_axis(op, len(order)) if scale.shape else None
        moved = {} if axis is None else {"axis": order.index(axis)}
        return Plan(wanted, [order], attrs=moved)
    axis = _attr_axis(op, len(order))
    if axis is None or len(scale.shape) != 1:
        return None
    return Plan(wanted, [order], attrs={"axis": order.index(axis)})


def _sizes(op: Op, order: Order) -> Plan | None:
    """Tile and expand with one constant number an axis."""
    array = const_array(op.operands[1])
    if array is None or array.size != len(order) or op.result.rank != len(order):
        return None
    numbers = array.reshape(-1)[list(order)].astype(np.int64)
    return Plan([order, None], [order], {1: numbers})


def _fixed_tail(op: Op, order: Order) -> Plan | None:
    """Normalization of the last axes: only the axes before them may move."""
    axis = _attr_axis(op, len(order))
    if axis is None or any(order[i] != i for i in range(axis, len(order))):
        return None
    wanted: list[Order | None] = [order, *([None] * (len(op.operands) - 1))]
    return Plan(wanted, [order] * len(op.results))


def _matmul(op: Op, order: Order) -> Plan | None:
    """Batch axes may move; beside a matrix on the right all but the last axis may."""
    a, b = op.operands
    rank = len(order)
    if a is None or b is None or a.rank != rank or rank < 2 or b.rank is None:
        return None
    if b.rank == 2 and order[-1] == rank - 1:
        return Plan([order, None], [order])
    if b.rank == rank and order[-2:] == (rank - 2, rank - 1):
        return Plan([order, order], [order])
    return None


LAST_AXIS = frozenset({"softmax", "log_softmax", "hardmax", "top_k", "lp_normalization"})
"""What has kernels for the last axis only where channels go last: others need transposes."""

_DEEP = frozenset({"reshape", "flatten", "resize"})
"""What is passed only on request: others recognise patterns by the places of transposes there."""

HANDLERS: dict[str, Callable[[Op, Order], Plan | None]] = {
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(("softmax", "log_softmax", "hardmax", "lp_normalization"), _on_axis),
    "arg_max": _arg,
    "arg_min": _arg,
    "concat": _concat,
    "split": _split,
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "gather_elements": _elements,
    "scatter_elements": _elements,
    "top_k": _on_axis,
    "resize": _resize,
    "cum_sum": _cum_sum,
    "quantize_linear": _quantization,
    "dequantize_linear": _quantization,
    "tile": _sizes,
    "expand": _sizes,
    "layer_normalization": _fixed_tail,
    "rms_normalization": _fixed_tail,
    "matmul": _matmul,
}

_SAME_ORDER = frozenset({"concat", "matmul", "gather_elements", "scatter_elements"})
"""Operations that have a handler and read all operands in one order."""

_RANK_CHANGING = frozenset({"gather", "arg_max", "arg_min", *REDUCTIONS})


def plan(
    op: Op, order: Order, exact: bool, *, deep: bool = False, known: Order | None = None
) -> Plan | None:
    """Return what ``op`` becomes when its principal operand comes in ``order``.

    Args:
        op: an operation of any name.
        order: of the first operand; for elementwise operations of the result.
        exact: refuse what may add up in another order.
        deep: through reshapes and resizes, too.
        known: the order that its first result already has, for views, which leave it open.
    """
    definition = op.definition
    if definition is None or op.has_attr_refs or op.regions or not definition.pure:
        return None
    if (exact and op.name in _ROUNDING) or (not deep and op.name in _DEEP):
        return None
    handler = HANDLERS.get(op.name)
    first = op.operands[0] if op.operands else None
    if op.name in VIEWS:
        return None if first is None or first.rank != len(order) else view(op, order, known)
    if handler is None:
        if "elementwise" not in definition.traits or len(op.results) != 1:
            return None
        return _elementwise(op, order)
    if first is None or first.rank != len(order):
        return None
    return handler(op, order)


def principal_order(op: Op, index: int, order: Order) -> Order | None:
    """Return the order to plan ``op`` with so that operand ``index`` is wanted in ``order``."""
    if op.name in HANDLERS or op.name in VIEWS:
        return order if index == 0 or op.name in _SAME_ORDER else None
    return order if op.results and op.result.rank == len(order) else None


def source_order(op: Op, order: Order, known: Order | None = None) -> Order | None:
    """Return the order to plan ``op`` with so that its result comes in ``order``.

    Args:
        op: an operation of any name.
        order: of its result.
        known: the order that its first operand already has, for views, which leave it open.
    """
    first = op.operands[0] if op.operands else None
    if first is None or first.rank is None:
        return None
    if op.name in VIEWS:
        return view_source(op, order, known)
    if op.name in _RANK_CHANGING and first.rank != len(order):
        return None
    return order


def reordered(value: Value, order: Order) -> np.ndarray[Any, Any] | None:
    """Return the data of a constant in ``order``, leading axes of size 1 left out as before."""
    tensor = const_tensor(value)
    if tensor is None:
        return None
    array = tensor.numpy()
    rank = array.ndim
    full = array.reshape((1,) * (len(order) - rank) + array.shape).transpose(order)
    while full.ndim > rank and full.shape[0] == 1:
        full = full[0]
    return np.ascontiguousarray(full)
