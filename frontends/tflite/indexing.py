"""Rows of gathers, scatters, one-hot, and the suppression of overlapping boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.frontends.tflite.table import row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.frontends.tflite.call import Call
    from lepton_ir.ir import Value


@row("GATHER", ir="gather; gather_nd and transpose for batch dims")
def _gather(call: Call) -> Value:
    b, o = call.b, call.options
    x, indices = call.real(0), call.raw(1)
    batch = int(o.batch_dims)
    if not batch:
        found: Value = b.gather(x, indices, axis=o.axis)
        return found
    rank, index_rank = call.rank(0), call.rank(1)
    axis = int(o.axis) % rank
    batch = batch % (index_rank + 1) if batch < 0 else batch
    if not batch <= axis < rank or batch > index_rank:
        call.opaque(f"the axis is {o.axis}, with {o.batch_dims} batch dims")
    order = [*range(batch), axis, *(a for a in range(batch, rank) if a != axis)]
    turned = x if axis == batch else b.transpose(x, perm=order)
    taken = b.gather_nd(turned, b.unsqueeze(call.index(1), [-1]), batch_dims=batch)
    if axis == batch:
        return taken  # type: ignore[no-any-return]
    inner = index_rank - batch
    before = axis - batch
    back = [
        *range(batch),
        *range(batch + inner, batch + inner + before),
        *range(batch, batch + inner),
        *range(batch + inner + before, index_rank + rank - batch - 1),
    ]
    found = b.transpose(taken, perm=back)
    return found


@row("GATHER_ND", ir="gather_nd")
def _gather_nd(call: Call) -> Value:
    found: Value = call.b.gather_nd(call.real(0), call.index(1))
    return found


@row("SCATTER_ND", ir="expand, scatter_nd")
def _scatter_nd(call: Call) -> Value:
    updates = call.real(1)
    zeros = call.b.expand(call.scalar(0, updates), call.vector(2))
    found: Value = call.b.scatter_nd(zeros, call.index(0), updates, reduction="add")
    return found


@row("SPARSE_TO_DENSE", ir="expand, scatter_nd")
def _sparse_to_dense(call: Call) -> Value:
    b, values = call.b, call.real(2)
    rank, value_rank = call.rank(0), call.rank(2)
    indices = call.index(0)
    if rank == 0:
        indices = b.reshape(indices, [1, 1])
    elif rank == 1:
        indices = b.unsqueeze(indices, [-1])
    if value_rank == 0:
        count = b.slice(b.shape(indices), [0], [1], [0])
        values = b.expand(values, count)
    default = b.expand(call.real(3), call.vector(1))
    found: Value = b.scatter_nd(default, indices, values)
    return found


@row("ONE_HOT", ir="one_hot_on_off")
def _one_hot(call: Call) -> Value:
    axis = int(call.options.axis)
    found: Value = call.b.one_hot_on_off(
        call.raw(0), call.raw(1), call.real(2), call.real(3), axis=axis
    )
    return found


@row("WHERE", ir="non_zero, transpose", stored=True)
def _where(call: Call) -> Value:
    found: Value = call.b.transpose(call.b.non_zero(call.raw(0)), perm=(1, 0))
    return found


@row("NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", ir="soft_non_max_suppression")
def _suppression(call: Call) -> Sequence[Value]:
    """Results are padded to the largest number of boxes; the count comes last."""
    operands = [call.real(i) for i in range(len(call.inputs))]
    op = call.b.build("soft_non_max_suppression", *operands, results=3)
    if call.name.endswith("V4"):
        return [op.results[0], op.results[2]]
    return [op.results[0], op.results[1], op.results[2]]


@row("RFFT2D", ir="rfft2d")
def _rfft2d(call: Call) -> Value:
    found: Value = call.b.rfft2d(call.real(0), call.vector(1))
    return found
