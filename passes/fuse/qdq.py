"""Quantize and dequantize around operations that only move elements, and clamps before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._match import made_by, settle, sole_user
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_RANGES = {
    "u8": (0, 255),
    "i8": (-128, 127),
    "u16": (0, 65535),
    "i16": (-32768, 32767),
}
_MOVING = frozenset(
    ("reshape", "transpose", "squeeze", "unsqueeze", "flatten", "slice", "gather", "expand", "tile")
)
_POOLS_SINCE = 12
_DEPTH = 8
_BRANCHES = 16
_TINY, _HUGE = 1e-30, 1e30


@dataclass(frozen=True)
class Params:
    """Scale and zero point of a quantization, both constants.

    Attributes:
        scale: one number, or one a slice along ``axis``.
        zero: as many integers.
        axis: where there are several, not negative.
        dtype: the integer type.
    """

    scale: tuple[float, ...]
    zero: tuple[int, ...]
    axis: int | None
    dtype: DType

    @property
    def safe(self) -> bool:
        """Whether dequantized numbers quantize to the very integers they came from."""
        return all(_TINY < s < _HUGE for s in self.scale)


def params_of(op: Op) -> Params | None:
    """Return the parameters of a quantize_linear or dequantize_linear with constants."""
    integers = op.result if op.name == "quantize_linear" else op.operands[0]
    real = op.operands[0] if op.name == "quantize_linear" else op.result
    if integers is None or integers.dtype is None or integers.dtype.name not in _RANGES:
        return None
    scale = const_array(op.operands[1])
    if scale is None or op.attr("block_size") or real is None or scale.dtype != np.float32:
        return None
    offset = op.operands[2] if len(op.operands) > 2 else None
    zero = np.zeros_like(scale, np.int64) if offset is None else const_array(offset)
    if zero is None or zero.shape != scale.shape or scale.ndim > 1:
        return None
    axis = None
    if scale.size != 1:
        rank = integers.rank
        if rank is None:
            return None
        axis = int(op.attr("axis"))
        axis = axis + rank if axis < 0 else axis
    numbers = tuple(float(s) for s in scale.reshape(-1))
    return Params(numbers, tuple(int(z) for z in zero.reshape(-1)), axis, integers.dtype)


class _Integers:
    """Looks for the integers that a float value was dequantized from, through moves of elements."""

    def __init__(self, params: Params, rw: Rewriter) -> None:
        self.params = params
        self.rw = rw
        self.passed: list[Op] = []
        self.found = 0

    def known(self, value: Value | None, depth: int = _DEPTH) -> bool:
        """Whether ``value`` is dequantized with these parameters and only moved since."""
        source = made_by(value, "dequantize_linear")
        if source is not None:
            self.found += 1
            moved = depth < _DEPTH
            same = params_of(source) == self.params and not (moved and self.params.axis is not None)
            return same and source.operands[0] is not None
        op = None if value is None else value.op
        if op is None or value is None or depth == 0 or not self._moves(op):
            return False
        if not sole_user(value) or op.has_attr_refs or len(op.results) != 1:
            return False
        self.passed.append(op)
        sources = op.operands if op.name == "concat" else op.operands[:1]
        return len(sources) <= _BRANCHES and all(self.known(v, depth - 1) for v in sources)

    def _moves(self, op: Op) -> bool:
        if self.params.dtype.bits != 8:
            return False
        if op.name == "max_pool":
            function = op.function
            module = None if function is None else function.module
            return module is not None and module.opsets.get("", 0) >= _POOLS_SINCE
        return op.name in _MOVING or op.name == "concat"

    def build(self, value: Value) -> Value:
        """Build the moves again on the integers."""
        op = value.op
        assert op is not None
        if op.name == "dequantize_linear":
            assert op.operands[0] is not None
            return op.operands[0]
        count = len(op.operands) if op.name == "concat" else 1
        moved = [self.build(v) for v in op.operands[:count] if v is not None]
        made = self.rw.build(op.name, *moved, *op.operands[count:], **op.attrs)
        made.node_name = op.node_name
        return made.result


@rewrite("quantize_linear")
def quantize_of_moved(m: Match, rw: Rewriter) -> bool:
    """quantize(move(dequantize(v, s, z)), s, z) => move(v), for views, slices, pools, concats.

    (v - z) * s rounds back to v - z for every 8 or 16-bit v and a scale far from overflow. Along
    an axis only where nothing moves in between. Not where the result is dequantized again: there
    onnxruntime drops the pairs itself, and selects its integer kernels by them before.
    """
    params = params_of(m.root)
    x = m.root.operands[0]
    if params is None or x is None:
        return rw.fail("scale or zero point are not constants of a common kind")
    if not params.safe:
        return rw.fail("the scale is very small or very large")
    source = _Integers(params, rw)
    if not source.known(x):
        return rw.fail("it is not dequantized with the same parameters") if source.found else False
    own = hasattr(rw.ctx.target, "role")  # runs integers itself, whatever stands between
    if (
        source.passed
        and not own
        and any(u.name == "dequantize_linear" for u in m.root.result.users)
    ):
        return rw.fail("runtimes look for the pairs around the operations that surround it")
    rw.also(*source.passed)
    made = source.build(x)
    if made.dtype is not params.dtype:
        return rw.fail("the integers are {}", made.dtype)
    return rw.replace(m.root, made) if not source.passed else settle(rw, m.root, made)


def _bounds(op: Op) -> tuple[float, float] | None:
    """Return the constant bounds of a relu or clip."""
    if op.name == "relu":
        return 0.0, float("inf")
    out: list[float] = []
    for name, missing in (("min", -float("inf")), ("max", float("inf"))):
        value = op.operand(name)
        array: Any = None if value is None else const_array(value)
        if value is not None and (array is None or array.size != 1):
            return None
        out.append(missing if array is None else float(array.reshape(-1)[0]))
        if np.isnan(out[-1]):
            return None
    return out[0], out[1]


def _code(bound: float, scale: float) -> float:
    """Return the step that a bound is rounded to, as kernels do it in f32."""
    return float(np.rint(np.float32(bound) / np.float32(scale)))


@rewrite("quantize_linear")
def clamp_before_quantize(m: Match, rw: Rewriter) -> bool:
    """quantize(relu(x)) => quantize(x) where the integers already end at the clamp's bounds.

    Quantization saturates: with the zero point at the lowest integer everything below 0 becomes
    it. The same holds for a clip whose bounds become the lowest and the highest integer.
    """
    clamp = made_by(m.root.operands[0], "relu", "clip")
    if clamp is None:
        return False
    params, bounds = params_of(m.root), _bounds(clamp)
    if params is None or bounds is None or not params.safe:
        return rw.fail("scale, zero point or bounds are not constants of a common kind")
    if not sole_user(clamp.result):
        return rw.fail("the clamp has other users")
    low, high = _RANGES[params.dtype.name]
    for scale, zero in zip(params.scale, params.zero, strict=True):
        if _code(bounds[0], scale) + zero > low or _code(bounds[1], scale) + zero < high:
            return rw.fail("the clamp is narrower than the integers")
    rw.also(clamp)
    operands = [clamp.operands[0], *m.root.operands[1:]]
    return rw.replace(m.root, rw.build("quantize_linear", *operands, **m.root.attrs).result)
