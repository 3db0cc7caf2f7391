"""Static quantization: which operations of a model compute on integers.

Layers (``conv``, ``matmul`` and ``gemm`` with constant weights) read dequantized u8 activations and
dequantized i8 weights; a bias is i32 in units of ``x_scale * w_scale``. What joins their results
(``add``, ``mul``, ``concat``, pools, ``sigmoid``, ``hard_swish``) is quantized when all its inputs
are and some quantized operation reads the result, likewise what only moves elements (``reshape``,
``max_pool``), which keeps scale and zero point. A product with one positive number only changes the
scale. A ``relu`` or ``clip`` behind an operation belongs to it: there is no pair in between. So
every pair stands where onnxruntime fuses it away. Regions whose borders cost more than their
integers gain stay in float, see ``regions``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.infer import const_tensor
from lepton_ir.passes.quant.common import LAYERS, Editor, constant, float_constant, weight_axis
from lepton_ir.passes.quant.qdq import insert_pairs
from lepton_ir.passes.quant.regions import drop_islands

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.calibrate import Range
    from lepton_ir.passes.quant.common import Run, Snapshot
    from lepton_ir.passes.quant.correct import Correction
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.passes.quant.numbers import Weight
    from lepton_ir.tensors import Tensor

Array = np.ndarray[Any, Any]

JOINS = frozenset(
    {
        *("add", "mul", "concat", "average_pool", "global_average_pool", "sigmoid", "leaky_relu"),
        *("hard_sigmoid", "hard_swish"),
    }
)
"""Operations on activations that onnxruntime has in integers, with a scale of their own."""

VIEWS = frozenset(
    {
        *("reshape", "flatten", "squeeze", "unsqueeze", "transpose", "max_pool", "resize"),
        *("slice", "gather", "split", "depth_to_space", "space_to_depth", "expand", "tile"),
    }
)
"""Operations that pass their first operand's elements on: the result keeps its scale."""

SINCE = {"max_pool": 12, "resize": 11, "depth_to_space": 13, "space_to_depth": 13, "slice": 10}
"""Opsets since when onnxruntime has these on 8-bit integers, where that is not all."""

CONSTANTS = frozenset({"add", "mul"})
"""Joins one operand of which may be a constant, which is quantized too."""

WHOLE_JOINS = (JOINS - {"hard_sigmoid", "average_pool"}) | {
    *("softmax", "log_softmax", "tanh", "relu", "prelu", "gelu", "elu", "sub", "max", "min"),
    "reduce_mean",
}
"""The same for targets that compute whole graphs in integers."""

WHOLE_VIEWS = VIEWS | {"average_pool"}
"""The same for them: means keep the scale, too."""

WHOLE_CONSTANTS = CONSTANTS | {"sub", "max", "min", "prelu"}
"""The same for them."""

MAX_CONSTANT = 65_536
"""Elements of a constant operand of a join; larger ones stay in float, and so does the join."""

NARROW = 16
"""Channels of a group below which onnxruntime's integer convolution loses to the float one."""


@dataclass
class Plan:
    """What is quantized.

    Attributes:
        ops: layers, joins and views, in order.
        inputs: by operation, the operand slots of activations.
        outputs: by operation, the values it gives with its activation taken in.
        source: by view result, the value whose scale it keeps.
        factor: by result of a product with one number, that number.
        constants: by join, the slots of its constant operands.
        starts: operations that turn floats into integers themselves: layers, products.
    """

    ops: list[Op] = field(default_factory=list)
    inputs: dict[Op, list[int]] = field(default_factory=dict)
    outputs: dict[Op, list[Value]] = field(default_factory=dict)
    source: dict[Value, Value] = field(default_factory=dict)
    factor: dict[Value, float] = field(default_factory=dict)
    constants: dict[Op, list[int]] = field(default_factory=dict)
    starts: set[Op] = field(default_factory=set)

    def root(self, value: Value) -> Value:
        """Return the value whose range gives the scale of ``value``."""
        while value in self.source:
            value = self.source[value]
        return value

    def copy(self) -> Plan:
        """Return a plan that can be changed."""
        return Plan(
            list(self.ops),
            dict(self.inputs),
            dict(self.outputs),
            dict(self.source),
            dict(self.factor),
            dict(self.constants),
            set(self.starts),
        )

    def drop(self, ops: set[Op]) -> None:
        """Take operations out, and what they say about values."""
        self.ops = [op for op in self.ops if op not in ops]
        for op in ops:
            self.starts.discard(op)
            for table in (self.inputs, self.constants):
                table.pop(op, None)
            for value in self.outputs.pop(op, ()):
                self.source.pop(value, None)
                self.factor.pop(value, None)

    def paired(self, *, whole: bool = False) -> dict[Value, bool]:
        """Return the values that get a pair; ``True`` if all that read it read the pair.

        ``whole``: the target computes whole graphs in integers, and gives floats nowhere.

        An operation in integers must have no reader of its float result. A matrix product may
        give floats directly: it gets a pair only where another operation wants integers, or where
        onnxruntime would make it and a float bias one Gemm, which has no integer form.
        """
        made = {value for op in self.ops for value in self.outputs[op]}
        wanted: dict[Value, bool] = {}
        for op in self.ops:
            for index in self.inputs[op]:
                value = op.operands[index]
                assert value is not None
                wanted[value] = value in made
            if whole or op.name not in ("matmul", "gemm") or joins_gemm(op):
                for value in self.outputs[op]:
                    wanted[value] = True
        return wanted


@dataclass
class Prepared:
    """A plan with what the data says.

    Attributes:
        plan: what is quantized.
        ranges: by root value.
        means: of the inputs of layers whose bias is to be corrected.
        rounded: weights of layers that are not simply rounded to the nearest.
    """

    plan: Plan
    ranges: dict[Value, Range] = field(default_factory=dict)
    means: dict[Op, Array] = field(default_factory=dict)
    rounded: dict[Op, Weight] = field(default_factory=dict)

    def moved(self, to: Snapshot) -> Prepared:
        """Return the same about a copy of the module."""
        ops, values, plan = to.ops, to.values, self.plan
        moved = Plan(
            [ops[op] for op in plan.ops],
            {ops[op]: slots for op, slots in plan.inputs.items()},
            {ops[op]: [values[v] for v in made] for op, made in plan.outputs.items()},
            {values[v]: values[source] for v, source in plan.source.items()},
            {values[v]: factor for v, factor in plan.factor.items()},
            {ops[op]: slots for op, slots in plan.constants.items()},
            {ops[op] for op in plan.starts},
        )
        ranges = {values[v]: found for v, found in self.ranges.items()}
        means = {ops[op]: mean for op, mean in self.means.items()}
        return Prepared(moved, ranges, means, {ops[op]: w for op, w in self.rounded.items()})


def prepare(run: Run, feeds: Feeds) -> Prepared:
    """Plan, and calibrate."""
    from lepton_ir.passes.quant.adaround import adapt
    from lepton_ir.passes.quant.calibrate import calibrate
    from lepton_ir.passes.quant.causes import note_causes
    from lepton_ir.passes.quant.correct import input_means
    from lepton_ir.passes.quant.narrow import narrow

    needs_contrib(run)  # or else it is refused here
    plan = make_plan(run)
    if not plan.ops:
        return Prepared(plan)
    roots = dict.fromkeys(plan.root(v) for v in plan.paired(whole=run.whole))
    fixed = {v for op in plan.ops if op.name == "hard_sigmoid" for v in plan.outputs[op]}
    ranges = calibrate(run, [v for v in roots if v not in fixed], feeds)
    narrow(plan, ranges)
    note_causes(run, plan, ranges)
    means = input_means(run, plan, feeds) if run.options.bias_correction else {}
    for value in plan.source:
        # A view is a root of its own when what it views stays in float.
        root, factor = plan.root(value), 1.0
        at = value
        while at in plan.source:
            factor, at = factor * plan.factor.get(at, 1.0), plan.source[at]
        if root in ranges and value not in ranges:
            ranges[value] = ranges[root].times(factor)
    rounded = adapt(run, plan, feeds) if run.options.weights == "adaround" else {}
    return Prepared(plan, ranges, means, rounded)


def quantize_static(run: Run, feeds: Feeds, prepared: Prepared | None = None) -> list[Correction]:
    """Quantize the main function's own block, as prepared if it is; returns bias corrections."""
    return insert_prepared(run, prepare(run, feeds) if prepared is None else prepared)


def insert_prepared(run: Run, found: Prepared) -> list[Correction]:
    """Quantize the main function's own block as prepared; returns bias corrections."""
    if run.options.embeddings:
        _quantize_tables(run)
    if not found.plan.ops:
        return []
    corrections = insert_pairs(run, found.plan, found.ranges, found.means, found.rounded)
    if needs_contrib(run):
        _to_contrib(run)
    return corrections


def leave_in_float(run: Run, plan: Plan, layers: set[Op]) -> None:
    """Take layers out of a plan, and what has no integers to read any more."""
    plan.drop(layers)
    prune(plan, whole=run.whole)
    drop_islands(run, plan)


def _quantize_tables(run: Run) -> None:
    from lepton_ir.passes.quant.weights import gather_layer

    for op in list(run.module.main.block.ops):
        if op.name == "gather":
            gather_layer(run, op)


def needs_contrib(run: Run) -> bool:
    """Return whether pairs of 16 bits have to be onnxruntime's own operators.

    Raises:
        UnsupportedError: the target has none at all.
    """
    kinds = [
        run.activations,
        *(dtypes.BY_NAME[c.activations] for _, c in run.recipe.choices if c.activations),
    ]
    if all(t.bits == 8 for t in kinds) or run.has("quantize_linear", 21, block_size=32):
        return False
    if run.ctx.target is not None and run.has("ms_quantize_linear", 1):
        return True
    raise UnsupportedError(
        "activations in 16 bits need opset 21, or onnxruntime's own operators",
        code="quant-opset",
        hint="--opset 21 converts the model; --target=ort writes com.microsoft QuantizeLinear",
    )


def _to_contrib(run: Run) -> None:
    """Replace pairs of 16 bits by onnxruntime's, which exist in every opset."""
    for op in list(run.module.main.block.ops):
        point = op.operands[2] if len(op.operands) > 2 else None
        pair = op.name in ("quantize_linear", "dequantize_linear")
        if not pair or point is None or point.dtype is None or point.dtype.bits != 16:
            continue
        edit = Editor(op, "static-pair")
        edit.loc = op.loc
        y = getattr(edit, f"ms_{op.name}")(*op.operands)
        old = op.result
        y.name, y.declared, y.meta = old.name, old.declared, old.meta
        y.op.node_name = op.node_name
        old.replace_all_uses(y)
        op.erase()


def make_plan(run: Run) -> Plan:
    """Return which operations to quantize."""
    plan = Plan()
    available: set[Value] = set()
    _split_fused(run)
    for found in run.module.main.block.ops:
        op = _as_pool(run, found, available)
        slots = _activation_slots(run, op, available, plan)
        if not slots:
            continue
        if op.name in LAYERS:
            plan.starts.add(op)
            if is_product(op) and not run.whole:
                _pull_factor(run, op)
                _take_factors(run, op, slots, plan)
        plan.ops.append(op)
        plan.inputs[op] = slots
        factors = {} if run.whole else _factors(op, slots)
        moves = is_view(run, op) or op in factors
        alone = moves or (op.name.startswith("hard_") and not run.whole)
        out = op.results if alone else [absorbed(op)]
        plan.outputs[op] = list(out)
        available.update(out)
        if moves:
            source = op.operands[slots[0]]
            assert source is not None
            plan.source.update(dict.fromkeys(out, source))
            plan.factor.update(factors.get(op, {}))
    _prune(run, plan)
    drop_islands(run, plan)
    _share_concats(run, plan)
    return plan


def is_view(run: Run, op: Op) -> bool:
    """Return whether the result of an operation keeps the scale of its operand."""
    return op.name in (WHOLE_VIEWS if run.whole else VIEWS)


def _share_concats(run: Run, plan: Plan) -> None:
    """Give what only a concat reads the scale of the concat, which then only copies."""
    maker = {value: op for op in plan.ops for value in plan.outputs[op]}
    for op in plan.ops:
        for value in (op.operands[i] for i in plan.inputs[op]) if op.name == "concat" else ():
            root = _only_root(plan, value, op)
            if root in maker and maker[root].name != "hard_sigmoid" and not run.fixed(maker[root]):
                plan.source[root] = op.result


def _only_root(plan: Plan, value: Value | None, reader: Op) -> Value | None:
    """Return what gives the scale of ``value``, if all of it ends in ``reader``."""
    while value is not None and all(u is reader for u in value.users):
        if value not in plan.source:
            return value
        made = value.op
        if value in plan.factor or made is None:
            return None
        value, reader = plan.source[value], made
    return None


def _factors(op: Op, slots: list[int]) -> dict[Op, dict[Value, float]]:
    """Return the number that ``op`` multiplies its only activation with, if that is all it does.

    Its scale does the same, so nothing is computed. The number must be positive and not extreme.
    """
    if op.name != "mul" or len(slots) != 1 or op.result.shape is None:
        return {}
    held, x = constant(op, 1 - slots[0]), op.operands[slots[0]]
    if held is None or held.size != 1 or x is None or x.rank != op.result.rank:
        return {}
    if x.op is not None and x.op.name == "hard_sigmoid":
        return {}  # whose codes have two scales
    number = float(held.numpy().reshape(-1)[0])
    return {op: {op.result: number}} if 1e-6 < number < 1e6 else {}


def is_product(op: Op) -> bool:
    """Return whether ``op`` multiplies two matrices of activations."""
    return op.name == "matmul" and all(
        x is not None and const_tensor(x) is None and x.dtype is dtypes.F32 and (x.rank or 0) > 1
        for x in op.operands
    )


def _pull_factor(run: Run, op: Op) -> None:
    """Move a product with a number from behind a product of activations to its first operand.

    ``(a b) c == (a c) b``. There it is part of a scale; behind, onnxruntime computes it.
    """
    (user,) = op.result.users if op.result.use_count == 1 else (None,)
    if user is None or user.block is not op.block or user.name != "mul":
        return
    slots = [i for i, v in enumerate(user.operands) if v is op.result]
    factor = _factors(user, slots).get(user, {}).get(user.result)
    if factor is None or not run.permitted("static-mul", user):
        return
    edit, old = Editor(op, "static-mul"), user.result
    op.set_operand(0, edit.mul(op.operands[0], edit.const(np.float32(factor))))
    old.replace_all_uses(op.result)
    op.result.name, op.result.declared, op.result.meta = old.name, old.declared, old.meta
    user.erase()


def _take_factors(run: Run, op: Op, slots: list[int], plan: Plan) -> None:
    """Plan products with a number, on the way into a product of activations, as part of a scale."""
    for index in slots:
        x = op.operands[index]
        made = None if x is None else x.op
        if made is None or x is None or x.use_count != 1 or made in plan.inputs:
            continue
        inner = [i for i, v in enumerate(made.operands) if const_tensor(v) is None]
        factor = _factors(made, inner)
        if not factor or made.block is not op.block or not run.permitted("static-mul", made):
            continue
        source = made.operands[inner[0]]
        assert source is not None
        plan.ops.append(made)
        plan.starts.add(made)
        plan.inputs[made], plan.outputs[made] = inner, [x]
        plan.source[x] = source
        plan.factor.update(factor[made])


def joins_gemm(op: Op) -> bool:
    """Return whether onnxruntime merges a matrix product with the bias that is added to it."""
    x, value = op.operands[0], op.result
    if op.name != "matmul" or value.use_count != 1 or x is None or x.shape is None:
        return False
    if constant(op, 1) is None:
        return False
    (user,) = value.users
    if user.name != "add" or not any(constant(user, i) is not None for i in range(2)):
        return False
    return len(x.shape) == 2 or all(isinstance(d, int) for d in x.shape)


def _split_fused(run: Run) -> None:
    """Take convolutions apart that hold their activation; integers have another way to."""
    for op in run.module.main.block.ops:
        fused = op.name == "ms_fused_conv" and float_constant(op, 1) is not None
        if not fused or op.definition is None or op.definition.decompose is None:
            continue
        if not run.permitted("static-split", op):
            continue
        edit = Editor(op, "static-split")
        (y,) = op.definition.decompose(edit, op)
        old = op.result
        y.name, y.declared, y.meta = old.name, old.declared, old.meta
        made = op.prev
        while made is not None and made.loc is edit.loc:
            if made.name == "conv":
                made.node_name = op.node_name
            made = made.prev
        old.replace_all_uses(y)
        op.erase()


def _as_pool(run: Run, op: Op, available: set[Value]) -> Op:
    """Turn the mean over all spatial axes into the pool that is the same, and has integers."""
    if op.name != "reduce_mean" or op.operands[0] not in available or not op.attr("keepdims"):
        return op
    axes, rank = constant(op, 1), op.result.rank
    if rank is None or rank < 3 or axes is None:
        return op
    if sorted(int(a) % rank for a in axes.numpy().reshape(-1)) != list(range(2, rank)):
        return op
    if not run.permitted("static-mean-to-pool", op):
        return op
    y = Editor(op, "static-mean-to-pool").global_average_pool(op.operands[0])
    old = op.result
    y.name, y.declared, y.meta = old.name, old.declared, old.meta
    made: Op = y.op
    made.node_name = op.node_name
    old.replace_all_uses(y)
    op.erase()
    return made


def _activation_slots(run: Run, op: Op, available: set[Value], plan: Plan) -> list[int]:
    if run.options.products and is_product(op):
        return [0, 1]
    if op.name in LAYERS:
        reason = _layer_obstacle(run, op)
        if reason:
            run.refuse(op, reason)
            return []
        return [0]
    opset = run.module.opsets.get("", 99)
    joins, constants = (WHOLE_JOINS, WHOLE_CONSTANTS) if run.whole else (JOINS, CONSTANTS)
    if op.name in joins:
        slots = [i for i, v in enumerate(op.operands) if v is not None and v.dtype is dtypes.F32]
        held = [i for i in slots if op.name in constants and _small_constant(op, i)]
        slots = [i for i in slots if i not in held]
        if op.name == "hard_sigmoid" and not 0 < op.attr("beta") / op.attr("alpha") < 1e4:
            return []
        if held:
            plan.constants[op] = held
    elif is_view(run, op):
        if (opset < SINCE.get(op.name, 0) and not run.whole) or not _moves_only(op, run.whole):
            return []
        slots = [0]
    else:
        return []
    found = bool(slots) and all(op.operands[i] in available for i in slots)
    return slots if found and op.results[0].dtype is dtypes.F32 else []


def _small_constant(op: Op, index: int) -> bool:
    tensor = float_constant(op, index)
    return tensor is not None and tensor.size <= MAX_CONSTANT and _finite(tensor)


def _moves_only(op: Op, means: bool) -> bool:
    """Return whether a view gives nothing but elements of its first operand, or their ``means``."""
    if op.name == "resize":
        crops = op.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
        return str(op.attr("mode")) in ("nearest", "linear" if means else "") and not crops
    return op.name == "split" or len(op.results) == 1


def _layer_obstacle(run: Run, op: Op) -> str:
    x = op.operands[0]
    weight = float_constant(op, 1)
    if weight is None:
        return "its weight is no f32 constant"
    if x is None or x.dtype is not dtypes.F32:
        return "its input is not f32"
    if op.name != "conv" and len(weight.shape) != 2:
        return "its weight is no matrix"
    if not _finite(weight):
        return "its weight holds NaN or infinities"
    if len(op.operands) > 2 and op.operands[2] is not None:
        bias = float_constant(op, 2)
        if bias is None:
            return "its bias is no f32 constant"
        channels = weight.shape[weight_axis(op)]
        if bias.size != channels or bias.shape[-1:] != (channels,) or not _finite(bias):
            return "its bias is no vector of finite numbers"
    if (
        op.name == "conv"
        and not (run.options.islands or run.whole)
        and slow_groups(op.attr("group"), weight.shape)
    ):
        return "the runtime convolves groups of this shape one by one, slower than in float"
    if op.name == "gemm" and (op.attr("transA") or op.attr("alpha") != 1 or op.attr("beta") != 1):
        return "it transposes its input or scales its result"
    return ""


def slow_groups(group: int, shape: tuple[int, ...]) -> bool:
    """Return whether integer convolutions in groups are slow: neither depthwise nor wide."""
    depthwise = shape[0] == group and shape[1] == 1
    return group > 1 and not depthwise and shape[0] // group < NARROW


def _finite(tensor: Tensor) -> bool:
    """Return whether all elements of an f32 tensor are finite; their sum in f64 tells."""
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(np.sum(tensor.numpy(), dtype=np.float64)))


def absorbed(op: Op) -> Value:
    """Return the result of ``op``, or of the ``relu`` or ``clip`` that alone reads it."""
    value = op.result
    if value.use_count != 1:
        return value
    (user,) = value.users
    if user.block is not op.block or user.operands[0] is not value:
        return value
    bounds = all(constant(user, i) is not None for i in range(1, len(user.operands)))
    if user.name == "relu" or (user.name == "clip" and bounds and len(user.operands) == 3):
        return user.result
    return value


def _prune(run: Run, plan: Plan) -> None:
    """Drop joins and views that no quantized operation reads, and what is not permitted."""
    prune(plan, whole=run.whole)
    given: set[Value] = set()
    refused: set[Op] = set()
    for op in plan.ops:
        fed = op in plan.starts or all(op.operands[i] in given for i in plan.inputs[op])
        if fed and run.permitted(f"static-{op.name}", op):
            given.update(plan.outputs[op])
        else:
            refused.add(op)
    plan.drop(refused)
    prune(plan, whole=run.whole)


def prune(plan: Plan, *, whole: bool = False) -> None:
    """Drop joins and views that no quantized operation reads, or that are not fed integers.

    ``whole``: only the latter.
    """
    while True:
        given: set[Value] = set()
        bad: set[Op] = set()
        for op in plan.ops:
            if op in plan.starts or all(op.operands[i] in given for i in plan.inputs[op]):
                given.update(plan.outputs[op])
            else:
                bad.add(op)
        kept: set[Op] = set()
        for op in reversed(plan.ops):
            read = any(user in kept for value in plan.outputs[op] for user in value.users)
            if op not in bad and (whole or op.name in LAYERS or read):
                kept.add(op)
        if len(kept) == len(plan.ops):
            return
        plan.drop(set(plan.ops) - kept)
