"""Operations between pairs as integer operators: which ones, on which tensors.

An operation all of whose numbers are dequantized and whose result is only quantized again becomes
one operator on the integers themselves, with the pairs' parameters on its tensors. Where a kernel
wants other parameters a QUANTIZE stands before or behind it; what no kernel does stays in float,
and `Integers.notes` says why.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.integers import Integer, fixed, integers
from lepton_ir.backends.tflite.layers import held_weight, layer_reads
from lepton_ir.backends.tflite.parameters import Params, params_of
from lepton_ir.backends.tflite.pinned import pinned_values
from lepton_ir.backends.tflite.reads import Made, Read, Unfit, constant_of, is_splat
from lepton_ir.backends.tflite.table import rows
from lepton_ir.backends.tflite.table_quant import KINDS, owner
from lepton_ir.infer import const_array, const_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lepton_ir.backends.tflite.graph import Graph
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Block, Module, Op, Value

DATA = {"resize": (0,), "gather": (0,), "tile": (0,), "clip": (0,), "quantize_linear": (0,)}
"""Operands that hold data, where those of f32 are not all there are."""

LAYERS = ("conv_nhwc", "conv_transpose_nhwc", "gemm", "matmul", "fully_connected")
"""Operations with weights."""

HYBRID = "tflite.hybrid"
"""Metadata of what dequantizes weights that a kernel multiplies floats with: how it does so."""

HYBRIDS = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"))
"""Operators that have such kernels."""

MEANS = frozenset(("AVERAGE_POOL_2D", "RESIZE_BILINEAR"))
"""Operators that round what they give, although it keeps the scale."""

_COARSER = 1.001
"""How many times a kernel's step may be that of a pair that is made of its result."""

SHIFT = 128
"""What u8 codes are larger by than i8 codes of the same numbers."""


@dataclass(frozen=True)
class Codes:
    """The integers that a value of floats is made of.

    Attributes:
        source: the integer value, or, where there is none, the value of floats itself.
        params: which numbers they stand for.
        dtype: element type in which they are computed with.
    """

    source: Value
    params: Params
    dtype: DType


@dataclass
class Operator:
    """One operation on integers.

    Attributes:
        op: the operation.
        dtype: element type of its data.
        reads: what it reads for each dequantized operand.
        results: what it gives, by result.
        zero_bias: one element of the bias that stands for none.
        extra: options that it gets besides.
    """

    op: Op
    dtype: DType
    reads: dict[Value, Read] = field(default_factory=dict)
    results: list[Made] = field(default_factory=list)
    zero_bias: Read | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def requantizes(self) -> bool:
        """Whether it gives integers other parameters or another type, which is all it does."""
        return self.op.name == "quantize_linear"


def keeps_u8(module: Module) -> bool:
    """Return whether data of u8 stays so: the weights of some layer are u8 with a zero point.

    Otherwise u8 is shifted to i8, for which kernels take weights with a scale per channel.
    """
    for op in module.walk():
        if op.name != "dequantize_linear" or op.operands[0] is None:
            continue
        params = params_of(op)
        if op.operands[0].dtype is not dtypes.U8 or const_tensor(op.operands[0]) is None:
            continue
        layer = any(u.name in LAYERS and u.operands[1] is op.result for u in op.result.users)
        if layer and params is not None and any(z != SHIFT for z in params.zero):
            return True
    return False


class Integers:
    """Which operations of a block are integer operators.

    Args:
        block: the block.
        activations: the activation that each operation is fused with, and its result.
        views: values that are read in place of others with the same elements.
        keep_u8: data of u8 stays so.

    Attributes:
        operators: by operation.
        notes: operations between pairs that stay in float, and why.
    """

    def __init__(
        self,
        block: Block,
        activations: dict[Op, tuple[str, Value]],
        views: dict[Value, Value],
        *,
        keep_u8: bool,
    ) -> None:
        self.block = block
        self.views = views
        self.activations = activations
        self.keep_u8 = keep_u8
        self.operators: dict[Op, Operator] = {}
        self.notes: list[tuple[Op, str]] = []
        self._moved: dict[Value, Codes] = {}
        self._tensors: dict[Value, int] = {}
        self._shifted: dict[Value, int] = {}
        self._silent: set[Op] = set()
        self._pinned = pinned_values(block)
        for op in block.ops:
            self._consider(op)
        self._forget()
        self._silence()

    # -- deciding ----------------------------------------------------------------------------------

    def _consider(self, op: Op) -> None:
        if op.results and op.results[0] in self.views:
            return
        hybrid = self._hybrid(op)
        if hybrid is not None:
            self.operators[op] = hybrid
            return
        kind = self._kernel(op)
        if kind is None:
            return
        try:
            found = self._operator(op, *kind)
        except Unfit as reason:
            if reason.args:
                self.notes.append((op, str(reason)))
            return
        self.operators[op] = found
        for made in found.results:
            if not made.ops:
                self._moved[made.value] = Codes(made.value, made.params, found.dtype)

    def _hybrid(self, op: Op) -> Operator | None:
        """Return the product of floats with integers that an operation was, if it was one.

        Its kernel quantizes the floats as it goes, which is not what the operation says: only what
        was read as one is written as one.
        """
        row, weight = rows().get(op.name), op.operands[1] if len(op.operands) > 1 else None
        pair = None if weight is None else weight.op
        if row is None or pair is None or pair.name != "dequantize_linear" or weight is None:
            return None
        how = dict((pair.meta or {}).get("metadata", {})).get(HYBRID)
        if how is None or row.against(op) or row.kind(op) not in HYBRIDS:
            return None
        try:
            held = held_weight(op, None)
        except Unfit:
            return None
        extra = {"asymmetric_quantize_inputs": True} if how == "asymmetric" else {}
        return Operator(op, dtypes.F32, {weight: held}, extra=extra)

    def _kernel(self, op: Op) -> tuple[str, Integer | None] | None:
        """Return the operator and its kernel, ``None`` for what reads no dequantized value."""
        row = rows().get(op.name)
        if row is None or op.name == "dequantize_linear" or op.definition is None:
            return None
        if not any(self._codes(op.operands[i]) for i in data_slots(op)):
            return None
        if row.against(op):
            return None
        builtin = row.kind(op)
        return builtin, integers().get(builtin)

    def _operator(self, op: Op, builtin: str, kernel: Integer | None) -> Operator:
        if kernel is None:
            self._results(op)
            raise Unfit(f"{builtin} has no integer kernel")
        try:
            made = self._results(op)
        except Unfit:
            moved = self._only_moves(op, builtin, kernel)
            if moved is None:
                raise
            made = moved
        if kernel.how == "layer":
            found = Operator(op, self._dtype(op, kernel, builtin, (0,)))
            x = self._data(op.operands[0], found.dtype)
            found.zero_bias = layer_reads(op, found.reads, x, found.dtype)
        else:
            slots = data_slots(op)
            found = Operator(op, self._dtype(op, kernel, builtin, slots))
            like = self._like(op, kernel, made)
            for i in slots:
                value = op.operands[i]
                assert value is not None
                found.reads[value] = self._data(value, found.dtype, like)
        found.results = self._made(op, builtin, kernel, made, found)
        if found.dtype is dtypes.I16:
            found.extra = {"pot_scale_int16": False}
        return found

    def _dtype(self, op: Op, kernel: Integer, builtin: str, slots: Iterable[int]) -> DType:
        """Return the element type of an operation's data, which is one for all of it."""
        kinds = set()
        for i in slots:
            codes = self._codes(op.operands[i])
            if codes is not None:
                kinds.add(codes.dtype)
        if len(kinds) > 1:
            raise Unfit("its operands have different integers")
        if not kinds:
            raise Unfit  # float data on weights that are stored as integers
        (dtype,) = kinds
        if dtype.name not in kernel.dtypes:
            raise Unfit(f"LiteRT's {builtin} has no kernel for quantized {dtype}")
        return dtype

    def _data(self, value: Value | None, dtype: DType, like: Params | None = None) -> Read:
        """Return how an operand is read; ``like`` are the parameters that it should have."""
        assert value is not None
        codes = self._codes(value)
        if codes is None:
            return _constant_data(value, dtype, like)
        params, source = codes.params, codes.source
        if params.axis is not None:
            raise Unfit("an operand has no scale of its own")
        if dtype is dtypes.I16 and not params.symmetric:
            raise Unfit("the zero point of an operand of i16 is not 0")
        wanted = like if like is not None and like != params else None
        payload = const_tensor(source)
        if payload is None:
            return Read(source=source, params=params, wanted=wanted)
        array = payload.numpy()
        if codes.dtype is not source.dtype:
            array = (array.astype(np.int16) - SHIFT).astype(np.int8)
        if wanted is not None:
            floats = (array.astype(np.float32) - params.zero[0]) * np.float32(params.scale[0])
            return Read(array=wanted.codes(floats, dtype), params=wanted)
        return Read(array=array, params=params)

    def _like(self, op: Op, kernel: Integer, made: list[Made]) -> Params | None:
        """Return the parameters that all operands should have, ``None`` for any."""
        if kernel.how == "result" and made:
            return made[0].params
        codes = self._codes(op.operands[0]) if kernel.how == "same" else None
        return None if codes is None else codes.params

    def _codes(self, value: Value | None) -> Codes | None:
        """Return the integers that a value is made of in this block, if it is."""
        value = value if value is None else self.views.get(value, value)
        if value in self._moved:
            return self._moved[value]
        op = None if value is None else value.op
        if op is None or op.name != "dequantize_linear" or op.block is not self.block:
            return None
        source, params = op.operands[0], params_of(op)
        dtype = None if source is None else self.stored(source.dtype)
        if source is None or params is None or dtype is None:
            return None
        return Codes(source, self.moved(params, source.dtype), dtype)

    def _only_moves(self, op: Op, builtin: str, kernel: Integer) -> list[Made] | None:
        """Return the integers that move in place of floats, whatever reads them.

        Elements of numbers with the same parameters can be moved and compared as codes.
        """
        if kernel.how not in ("same", "result") or builtin in MEANS:
            return None
        found: set[tuple[Params, DType]] = set()
        for i in data_slots(op):
            value = op.operands[i]
            codes = self._codes(value)
            if codes is not None:
                found.add((codes.params, codes.dtype))
            elif value is None or const_array(value) is None:
                return None
        if len(found) != 1:
            return None
        ((params, dtype),) = found
        values = [v for v in op.results if v.dtype is dtypes.F32]
        if params.axis is not None or not all(
            _is_exact(v, params, dtype, values)
            for i in data_slots(op)
            if self._codes(v := op.operands[i]) is None
        ):
            return None
        return [Made(value, params, []) for value in values]

    def _forget(self) -> None:
        """Leave moves in float whose results no integer operator reads."""
        for op in reversed(list(self.operators)):
            values = [m.value for m in self.operators[op].results if m.value in self._moved]
            read = any(found for v in values for found in self._reads(v))
            if values and not read:
                del self.operators[op]
                for value in values:
                    del self._moved[value]

    def _results(self, op: Op) -> list[Made]:
        """Return what becomes of each result: integers, as every reader quantizes it alike."""
        values = list(op.results)
        fused = self.activations.get(op)
        if fused is not None:
            values[0] = fused[1]
        if op.name == "quantize_linear":
            params = params_of(op)
            if params is None:
                raise Unfit
            return [Made(op.result, self.moved(params, op.result.dtype), [op])]
        found = []
        for value in values:
            if value.dtype is not dtypes.F32:
                continue
            users = value.users
            if not users or any(
                u.name != "quantize_linear" or u.block is not op.block for u in users
            ):
                raise Unfit(*(["its result is read as floats, too"] if users else []))
            params = params_of(users[0])
            if params is None or any(params_of(u) != params for u in users):
                raise Unfit("its result is quantized in several ways")
            found.append(Made(value, self.moved(params, users[0].result.dtype), users))
        return found

    def _made(
        self, op: Op, builtin: str, kernel: Integer, made: list[Made], found: Operator
    ) -> list[Made]:
        """Say which parameters the kernel gives each result: others are made behind it."""
        if kernel.how == "none":
            return []
        own = fixed(builtin, found.dtype.name)
        if kernel.how == "same":
            (first, *_) = found.reads.values()
            own = first.wanted or first.params
        if kernel.how == "result" and made and not made[0].ops:
            own = None
        if not made:
            raise Unfit
        for result in made:
            given = self.stored(result.ops[0].result.dtype) if result.ops else found.dtype
            result.dtype = found.dtype
            if found.requantizes:
                result.dtype = given or found.dtype
            elif own is not None and (own != result.params or given is not found.dtype):
                rounds = kernel.how == "fixed" or builtin in MEANS
                if rounds and own.scale[0] > _COARSER * result.params.scale[0]:
                    raise Unfit(f"the scale of {builtin} is coarser than the pair's")
                result.made = own
            elif given is not found.dtype:
                raise Unfit("its result has other integers than its operands")
            if result.dtype is dtypes.I16 and not result.params.symmetric:
                raise Unfit("the zero point of a result of i16 is not 0")
        return made

    def _reads(self, value: Value) -> list[bool]:
        """Return for each reader of a value whether it is an operator that reads its codes."""
        found = []
        for user in value.users:
            seen = value
            if user.results and user.results[0] in self.views:
                (seen,) = user.results[:1]
                (user,) = seen.users
            operator = self.operators.get(user)
            found.append(operator is not None and seen in operator.reads)
        return found

    def _silence(self) -> None:
        """Find halves of pairs that need no operator: all that they are for is done without."""
        for op in self.block.ops:
            if op.name == "dequantize_linear":
                readers = self._reads(op.result)
                if readers and all(readers):
                    self._silent.add(op)
        for operator in self.operators.values():
            for made in operator.results:
                self._silent.update(o for o in made.ops if o is not operator.op)

    # -- element types -----------------------------------------------------------------------------

    def stored(self, dtype: DType | None) -> DType | None:
        """Return the element type in which integers are computed with."""
        return dtypes.I8 if dtype is dtypes.U8 and not self.keep_u8 else dtype

    def moved(self, params: Params, dtype: DType | None) -> Params:
        """Return parameters as they are for the type that integers are computed with."""
        return params if self.stored(dtype) is dtype else params.shifted(-SHIFT)

    # -- writing -----------------------------------------------------------------------------------

    def prepare(self, g: Graph) -> None:
        """Give the tensors of all integers that stand for numbers their parameters."""
        self._own(g, self.block.args)
        for op in self.block.ops:
            self._own(g, op.results)

    def _own(self, g: Graph, values: Iterable[Value]) -> None:
        for value in values:
            if value.dtype not in KINDS or const_tensor(value) is not None:
                continue
            params = owner(value)
            if params is None or params.axis is not None:
                continue
            assert value.dtype is not None
            if value in self._pinned:
                g.parameters[value] = (value.dtype, params.node)
            else:
                stored = self.stored(value.dtype) or value.dtype
                g.parameters[value] = (stored, self.moved(params, value.dtype).node)

    def write(self, g: Graph, op: Op, write: Callable[[Graph, Op], None]) -> bool:
        """Write an operation as an integer operator, if it is one; returns whether that is done."""
        if op in self._silent:
            return True
        operator = self.operators.get(op)
        if operator is None:
            return False
        if operator.requantizes and self._is_same(g, operator):
            return True
        for value, read in operator.reads.items():
            if read.held is not None:
                g.held[value] = (read.held, read.params)
            else:
                g.alias[value] = self._tensor(g, read, operator)
        g.zero_bias = operator.zero_bias
        behind = [self._place(g, made, operator) for made in operator.results]
        g.extra = operator.extra
        write(g, op)
        g.alias, g.held, g.extra, g.zero_bias = {}, {}, {}, None
        for made in operator.results:
            self._as_floats(g, made.value)
        for source, target in behind:
            if source != target:
                g.add("QUANTIZE", [source], [target])
        return True

    def _is_same(self, g: Graph, operator: Operator) -> bool:
        """Let the result of a requantization be its operand, if that is what it gives."""
        (read,), (made,) = operator.reads.values(), operator.results
        source, value = read.source, operator.op.result
        if source is None or read.params != made.params or value in self._pinned:
            return False
        tensor = self._tensors[source] if source in self._tensors else g.value(source)
        stored = self.stored(value.dtype)
        if stored is None or g.info[tensor].dtype != stored.name:
            return False
        g.index[value] = tensor
        return True

    def _as_floats(self, g: Graph, value: Value) -> None:
        """Make the floats of codes that were moved, where something reads them."""
        tensor = self._tensors.get(value)
        if tensor is None:
            return
        if not all(self._reads(value)):
            g.add("DEQUANTIZE", [tensor], [g.value(value)])

    def _tensor(self, g: Graph, read: Read, operator: Operator) -> int:
        """Return the tensor of an operand."""
        if read.array is not None:
            return g.array(read.array, read.name, read.params)
        assert read.source is not None
        tensor = self._tensors.get(read.source)
        if tensor is None:
            tensor = g.value(read.source)
        if operator.requantizes:
            return tensor
        if g.info[tensor].dtype == "u8" and self.stored(dtypes.U8) is dtypes.I8:
            if read.source not in self._shifted:
                self._shifted[read.source] = self._requantized(g, tensor, read.params, dtypes.I8)
            tensor = self._shifted[read.source]
        if read.wanted is not None:
            tensor = self._requantized(g, tensor, read.wanted, operator.dtype)
        return tensor

    def _requantized(self, g: Graph, tensor: int, params: Params, dtype: DType) -> int:
        made = g.temporary(dtype, g.info[tensor].shape, "requantized", params.node)
        g.add("QUANTIZE", [tensor], [made])
        return made

    def _place(self, g: Graph, made: Made, operator: Operator) -> tuple[int, int]:
        """Return the tensor that the operator gives, and the one that is wanted."""
        if not made.ops:
            assert made.value.shape is not None
            name = f"{made.value.name or operator.op.name}_quantized"
            tensor = g.temporary(made.dtype, made.value.shape, name, made.params.node)
            self._tensors[made.value] = g.alias[made.value] = tensor
            return tensor, tensor
        first, *others = (op.result for op in made.ops)
        target = g.value(first)
        for other in others:
            g.index[other] = target
        params = made.made or made.params
        same = g.info[target].dtype == made.dtype.name and made.made is None
        source = target
        if not same and not operator.requantizes:
            assert first.shape is not None
            source = g.temporary(made.dtype, first.shape, "requantized", params.node)
        g.alias[made.value] = source
        return source, target


def data_slots(op: Op) -> tuple[int, ...]:
    """Return the operands that hold numbers."""
    given = DATA.get(op.name, range(len(op.operands)))
    return tuple(i for i in given if (v := op.operands[i]) is not None and v.dtype is dtypes.F32)


def _is_exact(value: Value | None, params: Params, dtype: DType, results: list[Value]) -> bool:
    """Return whether codes hold a constant exactly, or the lowest one for a maximum does."""
    array = None if value is None else const_array(value)
    if array is None:
        return False
    codes = params.codes(array, dtype).astype(np.float32)
    numbers = (codes - np.float32(params.zero[0])) * np.float32(params.scale[0])
    if np.array_equal(numbers, array):
        return True
    lowest = bool((array <= np.finfo(np.float32).min).all())
    return lowest and all(u.name == "max_pool_nhwc" for v in results for u in v.users)


def _constant_data(value: Value, dtype: DType, like: Params | None) -> Read:
    """Return a constant of floats as integers, which must stand for the same numbers.

    Where all operands have the parameters of the result, rounding before is rounding behind.
    """
    array = constant_of(value)
    if array is None:
        raise Unfit("an operand is not quantized")
    if like is not None:
        return Read(array=like.codes(array, dtype), params=like)
    if not is_splat(array):
        raise Unfit("a constant is not quantized")
    number = float(array.reshape(-1)[0])
    if not np.isfinite(number):
        raise Unfit("a constant is not finite")
    zero = SHIFT if dtype is dtypes.U8 else 0
    scale = np.float32(abs(number) / 127) if number else np.float32(1)
    codes = np.full(array.shape, zero + round(number / float(scale)), dtype.numpy)
    return Read(array=codes, params=Params((float(scale),), (zero,)))
