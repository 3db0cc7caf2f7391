"""Rows of products whose operands are already as the operators want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.backends.tflite.row import Row

if TYPE_CHECKING:
    from lepton_ir.backends.tflite.graph import Graph
    from lepton_ir.ir import Op


def _dense(g: Graph, op: Op) -> None:
    inputs = [g.value(v) for v in op.operands if v is not None]
    x = op.operands[0]
    assert x is not None
    g.add(
        "FULLY_CONNECTED",
        inputs,
        [g.result(op)],
        fused_activation_function=g.activation(op),
        keep_num_dims=(x.rank or 0) > 2,
    )


def _dense_fits(op: Op) -> str:
    x, w = op.operands[:2]
    assert x is not None
    assert w is not None
    if not 2 <= (x.rank or 0) <= 5:
        return "FULLY_CONNECTED takes tensors of rank 2 to 5"
    return "" if all(isinstance(d, int) for d in w.shape or ()) else "the columns are not known"


def _batch(g: Graph, op: Op) -> None:
    inputs = [g.value(v) for v in op.operands]
    flags = {"adj_x": bool(op.attr("adj_x")), "adj_y": bool(op.attr("adj_y"))}
    g.add("BATCH_MATMUL", inputs, [g.result(op)], **flags)


ROWS = {
    "fully_connected": Row("FULLY_CONNECTED", _dense, _dense_fits),
    "batch_matmul": Row("BATCH_MATMUL", _batch),
}
