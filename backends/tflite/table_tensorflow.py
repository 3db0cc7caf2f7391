"""Rows of operations that come from TFLite and are its operators as they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.backends.tflite.row import Row, constant_ints, plain

if TYPE_CHECKING:
    from lepton_ir.backends.tflite.graph import Graph
    from lepton_ir.ir import Op


def _pack(g: Graph, op: Op) -> None:
    rank = op.results[0].rank or 1
    inputs = [g.value(v) for v in op.operands]
    axis = op.attr("axis") % rank
    g.add("PACK", inputs, [g.result(op)], values_count=len(inputs), axis=axis)


def _unpack(g: Graph, op: Op) -> None:
    x = op.operands[0]
    assert x is not None
    outputs = [g.result(op, i) for i in range(len(op.results))]
    axis = op.attr("axis") % max(x.rank or 1, 1)
    g.add("UNPACK", [g.value(x)], outputs, num=len(outputs), axis=axis)


def _batches(g: Graph, op: Op) -> None:
    x, blocks, pairs = op.operands
    assert blocks is not None
    assert pairs is not None
    inputs = [g.value(x), g.narrow(blocks), g.narrow(pairs)]
    g.add(op.name.upper(), inputs, [g.result(op)])


def _batches_fit(op: Op) -> str:
    x, blocks = op.operands[:2]
    known = constant_ints(blocks)
    if known is None or constant_ints(op.operands[2]) is None:
        return "the blocks are not constants"
    rank = 0 if x is None else x.rank or 0
    return "" if (rank, len(known)) in ((3, 1), (4, 2)) else "the operator has one or two axes"


ROWS = {
    "pack": Row("PACK", _pack),
    "unpack": Row("UNPACK", _unpack),
    "l2_normalization": plain("L2_NORMALIZATION"),
    "floor_mod": plain("FLOOR_MOD"),
    "space_to_batch_nd": Row("SPACE_TO_BATCH_ND", _batches, _batches_fit),
    "batch_to_space_nd": Row("BATCH_TO_SPACE_ND", _batches, _batches_fit),
}
