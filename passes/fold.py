"""Constant folding within a documented budget, and shapes computed from what inference proved.

An operation on constants is evaluated by its NumPy meaning when its result is at most as large as
its inputs together or ``FOLD_OUTPUT_BYTES``, and the module has not yet grown by
``FOLD_TOTAL_BYTES``. The size is known from inference before anything is computed, so a model
cannot make the folder allocate. A small integer result whose elements inference knows (``Shape`` of
a static dim, arithmetic on it) becomes a constant without its operands being constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import context, dtypes
from lepton_ir.builder import create
from lepton_ir.diagnostics import Location
from lepton_ir.infer import const_tensor, infer_op
from lepton_ir.passes.disputed import ALWAYS, disputed
from lepton_ir.pipeline import Pass
from lepton_ir.tensors import DenseTensor, ElidedTensor, Tensor
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.diagnostics import Location
    from lepton_ir.ir import Block, Module, Op, Value

_BOUNDED = {"non_zero": 8, "unique": 8, "compress": 1}
"""Operations whose result size depends on data but is at most this many times the input's
elements per dim of rank, times their size."""

_EXACT = frozenset(
    {
        *("add", "sub", "mul", "div", "sqrt", "neg"),
        *("abs", "min", "max", "clip", "floor", "ceil"),
        *("round", "sign", "relu", "where", "equal", "greater"),
        *("less", "greater_or_equal", "less_or_equal", "gather", "gather_elements", "gather_nd"),
        *("scatter_elements", "scatter_nd", "slice", "concat", "split", "transpose"),
        *("reshape", "squeeze", "unsqueeze", "expand", "tile", "pad"),
        *("identity", "flatten", "constant_of_shape", "range", "trilu", "depth_to_space"),
        *("space_to_depth", "eye_like", "reverse_sequence", "one_hot", "compress", "is_nan"),
        *("is_inf", "cast", "cast_like", "reciprocal"),
    }
)
"""Operations on floats that IEEE 754 or plain data movement make exact on every machine."""

_SLOW = frozenset(
    {
        *("conv", "conv_transpose", "conv_integer", "qlinear_conv", "deform_conv", "ms_fused_conv"),
        *("lstm", "gru", "rnn", "einsum", "dft", "stft", "col2im", "det", "linear_attention"),
        *("attention", "ms_multi_head_attention", "ms_group_query_attention"),
        *("causal_conv_with_state", "grid_sample"),
        *("non_max_suppression", "roi_align", "max_roi_pool", "max_pool", "average_pool"),
        *("lp_pool", "lrn", "ms_qlinear_average_pool"),
    }
)
"""Operations whose time is not bounded by the size of operands and results."""

SLOW_BYTES = 1 << 20
"""Bytes of operands of such operations that a run evaluates."""

_NEVER = {
    "dequantize_linear": "keeps the weight quantized",
    "const": "",
    "identity": "",
    **ALWAYS,
}


COPY_BYTES = 1 << 16
"""Bytes that results made of large constants may take up more than the constants they replace: a
table looked up by a constant, a transpose of a weight that something else reads. The file would
grow to save a node that runtimes evaluate at load."""

COPY_SHARE = 0.01
"""The same as a share of all constants; the larger of both counts."""

_COPY_RATIO = 8
"""How many times its operands' size a result may have and still be made of them; what is larger is
generated: masks, ranges, anchors."""

_USE_LIMIT = 64
"""Readers of a constant that are looked at."""

_STORED = frozenset({"convert/storage", "tflite/storage", "quant/static-bias-scale"})
"""Rules whose results are left for the runtime to compute, since a file holds them in fewer bytes:
casts of constants kept in 16 bits, and scales of biases, the products of two others."""


def _is_stored(loc: Location) -> bool:
    """Return whether one of these rules made an operation, wherever it was moved since."""
    while loc.rule not in _STORED:
        if len(loc.parents) != 1:
            return False
        (loc,) = loc.parents
    return True


@dataclass(frozen=True)
class Fold(Pass, name="fold"):
    """Evaluate operations on constants, within a budget.

    Attributes:
        exact: fold floats only where every machine gives the same bits.
        limit: bytes a result may have even if its inputs are smaller.
        total: bytes that folding may add to the module.
    """

    exact: bool = False
    limit: int = context.FOLD_OUTPUT_BYTES
    total: int = context.FOLD_TOTAL_BYTES

    rule_names = ("fold", "known_content")

    def run(self, module: Module, ctx: PassContext) -> None:
        """Visit every operation once, in order; infer again what reads a new constant."""
        for function in module.functions.values():
            self._block(function.block, ctx, set())

    def _block(self, block: Block, ctx: PassContext, stale: set[Op]) -> None:
        for op in block.ops:
            if op.regions:
                for region in op.regions:
                    self._block(region.block, ctx, stale)
            if op in stale:
                stale.discard(op)
                if infer_op(op):
                    _mark(op.results, stale)
            if op.regions:
                continue
            definition = op.definition
            if definition is None or op.name in _NEVER or op.has_attr_refs or not op.results:
                continue
            if not definition.foldable or _is_stored(op.loc):
                continue
            if not self._from_content(op, ctx, stale):
                self._from_constants(op, ctx, stale)

    def _from_content(self, op: Op, ctx: PassContext, stale: set[Op]) -> bool:
        """Replace a single small integer result whose elements are all known."""
        result = op.results[0]
        content = result.content
        if content is None or len(op.results) != 1 or result.first_use is None:
            return False
        if not all(d.__class__ is int for d in content):
            return False
        shape = result.type.static_shape if isinstance(result.type, TensorType) else None
        if shape is None or result.dtype is None:
            return False
        if not ctx.allow("known_content", op):
            return False
        array = np.asarray(content, np.int64).reshape(shape)
        _mark(op.results, stale)
        _replace(op, [DenseTensor(array, result.dtype)], "known_content")
        return True

    def _from_constants(self, op: Op, ctx: PassContext, stale: set[Op]) -> None:
        tensors: list[Tensor | None] = []
        for value in op.operands:
            if value is None:
                tensors.append(None)
                continue
            tensor = _tensor(value)
            if tensor is None or isinstance(tensor, ElidedTensor):
                return
            tensors.append(tensor)
        given = [t for t in tensors if t is not None]
        if not given and op.operands:
            return
        size = self._result_bytes(op, given)
        if size is None:
            ctx.remark("missed", op, "not folded: the size of its result is not known")
            return
        constants = {v: t for v, t in zip(op.operands, tensors, strict=True) if v is not None and t}
        inputs = sum(t.nbytes for t in constants.values())
        added = self._added(op, constants, size, ctx)
        if added is None:
            return
        if self.exact and not _is_exact(op):
            return
        if op.name in _SLOW:
            spent = ctx.data.get("fold_slow", 0) + inputs + size
            if spent > SLOW_BYTES:
                ctx.remark("missed", op, "not folded: it may take long on {} bytes", inputs)
                return
            ctx.data["fold_slow"] = spent
        arrays = _evaluate(op, tensors, ctx)
        if arrays is None or not ctx.allow("fold", op):
            return
        growth, copied = added
        ctx.fold_bytes += growth
        ctx.data["fold_copied"] = ctx.data.get("fold_copied", 0) + copied
        _mark(op.results, stale)
        _replace(op, arrays, "fold")

    def _added(
        self, op: Op, constants: dict[Value, Tensor], size: int, ctx: PassContext
    ) -> tuple[int, int] | None:
        """Return the bytes that a result of ``size`` adds, and those that are copies.

        ``None`` when that is over the budget.
        """
        inputs = sum(t.nbytes for t in constants.values())
        if size > max(inputs, self.limit):
            ctx.remark(
                "missed", op, "not folded: {} bytes from {} are over the budget", size, inputs
            )
            return None
        freed = sum(t.nbytes for v, t in constants.items() if not _stays(v, op))
        growth = max(size - freed, 0)
        copied = growth if _COPY_RATIO * inputs >= size else 0
        if copied and ctx.data.get("fold_copied", 0) + copied > self._copies(ctx, op):
            ctx.remark("missed", op, "not folded: the file would grow by {} bytes", copied)
            return None
        if ctx.fold_bytes + growth > self.total:
            ctx.note_once(
                "fold-total",
                op,
                "folding stopped: the module grew by {} bytes already",
                ctx.fold_bytes,
            )
            return None
        return growth, copied

    @staticmethod
    def _copies(ctx: PassContext, op: Op) -> float:
        """Bytes that copies of constants may add to the module of ``op``."""
        found = ctx.data.get("fold_copies")
        if found is None:
            assert op.function is not None
            ops = (o for o in op.function.walk() if o.name == "const")
            sizes = (t.nbytes for o in ops if (t := const_tensor(o.result)) is not None)
            found = ctx.data["fold_copies"] = max(COPY_SHARE * sum(sizes), COPY_BYTES)
        return float(found)

    def _result_bytes(self, op: Op, given: list[Tensor]) -> int | None:
        """Bytes of all results, an upper bound where they depend on data; ``None`` if unknown."""
        if op.name in _BOUNDED:
            rank = max(len(given[0].shape), 1)
            return len(op.results) * rank * given[0].size * max(_BOUNDED[op.name], 8)
        total = 0
        for result in op.results:
            t = result.type
            if not isinstance(t, TensorType) or t.dtype is None or t.static_shape is None:
                infer_op(op)
                t = result.type
            if not isinstance(t, TensorType) or t.dtype is None or t.static_shape is None:
                return None
            count = 1
            for d in t.static_shape:
                count *= d
            total += max(t.dtype.nbytes(count), count // 8)
        return total


def _tensor(value: Value) -> Tensor | None:
    """Return a constant, also behind identities, as exporters share constants by."""
    op = value.op
    while op is not None and op.name == "identity" and not op.has_attr_refs:
        inner = op.operands[0]
        if inner is None:
            return None
        value, op = inner, inner.op
    return const_tensor(value)


def _stays(value: Value, op: Op) -> bool:
    """Return whether something else than ``op`` needs a constant.

    What folds, or only asks for its shape, does not.
    """
    if value.use_count > _USE_LIMIT:
        return True
    return any(u is not op and not _goes(u) for u in value.users)


def _goes(op: Op) -> bool:
    return op.name in ("shape", "size") or all(
        v is None or _tensor(v) is not None for v in op.operands
    )


def _mark(results: list[Value], stale: set[Op]) -> None:
    """Note what reads ``results``, and the operations whose regions do, for another inference."""
    for result in results:
        for use in result.uses:
            op: Op | None = use.op
            while op is not None and op not in stale:
                stale.add(op)
                op = op.parent


def _is_exact(op: Op) -> bool:
    if op.name in _EXACT or (op.definition and "view" in op.definition.traits):
        return True
    values: list[Value | None] = [*op.results, *op.operands]
    exact_kinds = (dtypes.BOOL, dtypes.STRING)
    return all(
        v is None or (v.dtype is not None and (v.dtype.is_integer or v.dtype in exact_kinds))
        for v in values
    )


def _evaluate(op: Op, tensors: list[Tensor | None], ctx: PassContext) -> list[Tensor] | None:
    definition = op.definition
    assert definition is not None
    assert definition.meaning is not None
    operands: list[Any] = [None if t is None else t.numpy() for t in tensors]
    operands += [None] * max(definition.max_operands - len(operands), 0)
    try:
        with np.errstate(all="ignore"):
            found = definition.meaning(*operands, **op.all_attrs())
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError, MemoryError) as e:
        ctx.remark("missed", op, "not folded: {}", e)
        return None
    results = found if isinstance(found, tuple) else (found,)
    reason = disputed(op, operands, list(results))
    if reason is not None:
        ctx.remark("missed", op, "not folded: {}", reason)
        return None
    out: list[Tensor] = []
    for value, array in zip(op.results, results, strict=False):
        if isinstance(array, list) or not isinstance(value.type, TensorType):
            return None
        dtype = value.dtype or dtypes.from_numpy(np.asarray(array).dtype)
        array = np.asarray(array)
        if array.base is not None and array.base.nbytes > 2 * array.nbytes:
            array = array.copy()
        out.append(DenseTensor(array, dtype))
    return out


def _replace(op: Op, tensors: list[Any], rule: str) -> None:
    assert op.block is not None
    operands = [v for v in op.operands if v is not None]
    loc = Location("", (op.loc,), rule)
    for result, tensor in zip(op.results, tensors, strict=True):
        made = create("const", (), {"value": tensor}, loc=loc)
        made.result.name = result.name
        made.result.declared = result.declared
        op.block.insert_before(made, op)
        infer_op(made)
        result.replace_all_uses(made.result)
    op.erase()
    for value in operands:
        producer = value.op
        unused = producer is not None and producer.name == "const" and value.first_use is None
        if unused and producer is not None and producer.block is not None:
            producer.erase()
