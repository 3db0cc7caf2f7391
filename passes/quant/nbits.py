"""Weight-only quantization in blocks: 4 or 8 bits with a scale for every few rows of a matrix.

``w[k, n]`` becomes ``(q[k, n] - zero[k // block, n]) * scale[k // block, n]``. Symmetric codes take
their scale from the element of largest magnitude ``e``: ``scale = -e / 8``, so that ``e`` itself is
the code -8 and all 16 codes are used. Asymmetric ones map the range of a block, widened to 0, onto
0 to 15. Matrices are read, quantized and packed a few rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.passes.quant.common import Editor, Layer, float_constant, label
from lepton_ir.passes.quant.gptq import error_shares, spread_errors
from lepton_ir.passes.quant.numbers import decibels
from lepton_ir.passes.quant.parts import rows
from lepton_ir.passes.quant.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.tensors import Tensor

Array = np.ndarray[Any, Any]

CHUNK = 1 << 21
"""Elements that are quantized at a time."""

SEARCH = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Shares of a block's range that ``scales=mse`` tries."""


@dataclass(frozen=True)
class Scheme:
    """How a matrix is cut and rounded.

    Attributes:
        bits: 4 or 8.
        block: rows that share a scale.
        asymmetric: with zero points.
        search: choose among shares of the range by squared error.
    """

    bits: int
    block: int
    asymmetric: bool
    search: bool

    @property
    def middle(self) -> int:
        """The code of 0 in symmetric unsigned codes."""
        return 1 << (self.bits - 1)

    @property
    def top(self) -> int:
        """The largest unsigned code."""
        return (1 << self.bits) - 1


@dataclass
class Blocks:
    """Part of a matrix: u8 ``codes[blocks, block, N]``, f32 ``scale`` and ``zero[blocks, N]``."""

    codes: Array
    scale: Array
    zero: Array


def parameters(w: Array, scheme: Scheme, share: float = 1.0) -> tuple[Array, Array]:
    """Return scales and zero points of ``w[blocks, block, N]``, each ``[blocks, N]`` in f32."""
    low, high = w.min(1), w.max(1)
    if scheme.asymmetric:
        low, high = np.minimum(low, 0) * share, np.maximum(high, 0) * share
        scale = (high - low) / np.float32(scheme.top)
        scale[scale == 0] = 1
        zero = np.clip(np.rint(-low / scale), 0, scheme.top)
        return scale, zero
    extreme = np.where(-low > high, low, high) * np.float32(share)
    scale = extreme / np.float32(-scheme.middle)
    scale[scale == 0] = 1
    return scale, np.full_like(scale, scheme.middle)


def best_parameters(w: Array, scheme: Scheme) -> tuple[Array, Array]:
    """Return the scales and zero points that the scheme asks for."""
    scale, zero = parameters(w, scheme)
    if scheme.search:
        best = _errors(w, scale, zero, scheme)
        for share in SEARCH[1:]:
            other, at = parameters(w, scheme, share)
            error = _errors(w, other, at, scheme)
            better = error < best
            scale, zero = np.where(better, other, scale), np.where(better, at, zero)
            best = np.minimum(best, error)
    return scale, zero


def round_blocks(w: Array, scheme: Scheme) -> Blocks:
    """Quantize ``w[blocks, block, N]`` to the nearest codes."""
    scale, zero = best_parameters(w, scheme)
    return Blocks(_codes(w, scale, zero, scheme).astype(np.uint8), scale, zero)


def _codes(w: Array, scale: Array, zero: Array, scheme: Scheme) -> Array:
    q = w * np.reciprocal(scale)[:, None]
    q += zero[:, None]
    np.rint(q, out=q)
    return np.clip(q, 0, scheme.top, out=q)


def _errors(w: Array, scale: Array, zero: Array, scheme: Scheme) -> Array:
    back = _codes(w, scale, zero, scheme)
    back -= zero[:, None]
    back *= scale[:, None]
    back -= w
    return np.asarray(np.einsum("bkn,bkn->bn", back, back))


@dataclass
class _Packed:
    """One matrix in the layout of its operation.

    Attributes:
        codes: packed bytes.
        scale: f32.
        zero: packed or whole zero points; ``None`` for symmetric codes.
        signal: sum of squares.
        noise: sum of squared errors.
    """

    codes: Array
    scale: Array
    zero: Array | None
    signal: float = 0.0
    noise: float = 0.0
    nbytes: int = 0

    def settle(self) -> None:
        """Count the bytes while they are here."""
        held = (self.codes, self.scale, self.zero)
        self.nbytes = sum(a.nbytes for a in held if a is not None)


def _pieces(
    tensor: Tensor, spread: bool, block: int, transposed: bool
) -> Iterator[tuple[slice, slice, Array]]:
    """Yield rows, columns and elements of pieces of the matrix ``[K, N]``, in whole blocks.

    Args:
        tensor: the matrix as it is stored.
        spread: errors are spread over all rows, which pieces then hold.
        block: rows of a block.
        transposed: stored as ``[N, K]``.
    """
    k, n = tensor.shape if not transposed else tensor.shape[::-1]
    if transposed:
        step = max(CHUNK // max(k, 1), 1)
        for start in range(0, n, step):
            stop = min(start + step, n)
            yield slice(0, k), slice(start, stop), rows(tensor, start, stop).T
    elif spread:
        data = tensor.numpy()
        step = max(CHUNK // max(k, 1), 1)
        for start in range(0, n, step):
            stop = min(start + step, n)
            yield slice(0, k), slice(start, stop), data[:, start:stop]
    else:
        step = max(CHUNK // max(n, 1) // block, 1) * block
        for start in range(0, k, step):
            stop = min(start + step, k)
            yield slice(start, stop), slice(0, n), rows(tensor, start, stop)


def pack_nbits(
    tensor: Tensor, transposed: bool, scheme: Scheme, upper: Array | None = None
) -> _Packed:
    """Return a matrix for MatMulNBits: codes ``[N, blocks, bytes]``, scales ``[N, blocks]``."""
    k, n = tensor.shape if not transposed else tensor.shape[::-1]
    blocks = -(-k // scheme.block)
    width = scheme.block * scheme.bits // 8
    packed = _Packed(
        np.empty((n, blocks, width), np.uint8), np.empty((n, blocks), np.float32), None
    )
    zeros = np.empty((n, blocks) if scheme.asymmetric else (0, 0), np.uint8)
    for lines, columns, part in _pieces(tensor, upper is not None, scheme.block, transposed):
        found = _quantized(part, scheme, packed, upper)
        at = columns, slice(lines.start // scheme.block, -(-lines.stop // scheme.block))
        codes = found.codes
        if scheme.bits == 4:
            codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
        packed.codes[at] = codes.transpose(2, 0, 1)
        packed.scale[at] = found.scale.T
        if scheme.asymmetric:
            zeros[at] = found.zero.T
    if scheme.asymmetric:
        packed.zero = zeros
        if scheme.bits == 4:
            even = np.zeros((n, blocks + blocks % 2), np.uint8)
            even[:, :blocks] = zeros
            packed.zero = even[:, 0::2] | (even[:, 1::2] << 4)
    return packed


def pack_blocked(
    tensor: Tensor, transposed: bool, scheme: Scheme, upper: Array | None = None
) -> _Packed:
    """Return a matrix for a blocked DequantizeLinear: codes ``[K, N]``, scales ``[blocks, N]``."""
    k, n = tensor.shape if not transposed else tensor.shape[::-1]
    blocks = -(-k // scheme.block)
    packed = _Packed(np.empty(0, np.uint8), np.empty((blocks, n), np.float32), None)
    zeros = np.empty((blocks, n) if scheme.asymmetric else (0, 0), np.uint8)
    shift = np.uint8(0 if scheme.asymmetric else scheme.middle)
    whole = np.empty((k, n) if transposed or upper is not None else (0, 0), np.uint8)
    done: list[Array] = []
    for lines, columns, part in _pieces(tensor, upper is not None, scheme.block, transposed):
        found = _quantized(part, scheme, packed, upper)
        at = slice(lines.start // scheme.block, -(-lines.stop // scheme.block)), columns
        packed.scale[at] = found.scale
        if scheme.asymmetric:
            zeros[at] = found.zero
        codes = found.codes.reshape(-1, part.shape[1])[: len(part)] - shift
        if whole.size:
            whole[lines, columns] = codes
        else:
            done.append(_stored(codes, scheme))
    packed.codes = _stored(whole, scheme) if whole.size else np.concatenate(done)
    if scheme.asymmetric:
        packed.zero = _stored(zeros, scheme)
    return packed


def _stored(codes: Array, scheme: Scheme) -> Array:
    """Return codes as a file holds them."""
    return _nibbles(codes.reshape(-1)) if scheme.bits == 4 else codes.reshape(-1)


def _nibbles(codes: Array) -> Array:
    """Return 4-bit codes two to a byte, the first in the low half."""
    if codes.size % 2:
        codes = np.append(codes, np.uint8(0))
    return np.asarray((codes[0::2] & 15) | (codes[1::2] << 4))


def _quantized(part: Array, scheme: Scheme, packed: _Packed, upper: Array | None) -> Blocks:
    length, n = part.shape
    part = np.asarray(part, np.float32)
    if length % scheme.block:
        whole = np.zeros((-(-length // scheme.block) * scheme.block, n), np.float32)
        whole[:length] = part
        part = whole
    w = part.reshape(-1, scheme.block, n)
    if upper is not None:
        found = Blocks(*spread_errors(part, upper, scheme))
    else:
        found = round_blocks(w, scheme)
    back = found.codes.astype(np.float32)
    back -= found.zero[:, None]
    back *= found.scale[:, None]
    back -= w
    packed.signal += float(np.dot(w.reshape(-1), w.reshape(-1)))
    packed.noise += float(np.dot(back.reshape(-1), back.reshape(-1)))
    return found


@dataclass
class BlockQuantizer:
    """Rewrites matrix products; one for a run, so that shared weights are stored once."""

    run: Run
    scheme: Scheme
    hessians: dict[Value, Array] = field(default_factory=dict)
    spool: Spool = field(default_factory=Spool)
    made: dict[tuple[Value, bool, Scheme], tuple[list[Value], _Packed]] = field(
        default_factory=dict
    )

    @property
    def fused(self) -> bool:
        """Whether MatMulNBits may be written."""
        return self.run.has("ms_matmul_nbits", 1) and self.run.ctx.target is not None

    def takes(self, op: Op) -> bool:
        """Return whether ``op`` is a product with a constant matrix of enough bytes."""
        tensor = float_constant(op, 1) if op.name in ("matmul", "gemm") else None
        if tensor is None or len(tensor.shape) != 2:
            return False
        if op.name == "gemm" and op.attr("transA"):
            return False
        options, choice = self.run.options, self.run.recipe.find(label(op))
        bits = choice.bits or options.bits
        block = choice.block or options.block
        if bits == 8 and not block:
            return False
        self.scheme = replace(self.scheme, bits=bits, block=block or 32)
        return tensor.nbytes >= self.run.options.min_bytes

    def rewrite(self, op: Op) -> None:
        """Quantize the weight of ``op``, which ``takes`` accepts, if that is permitted."""
        run, rule = self.run, f"blocks-{op.name}"
        if not run.permitted(rule, op):
            return
        source, tensor = op.operands[1], float_constant(op, 1)
        assert source is not None
        assert tensor is not None
        transposed = op.name == "gemm" and bool(op.attr("transB"))
        first = (source, transposed, self.scheme) not in self.made
        make = self._fused if self.fused else self._standard
        packed, y = make(op, source, tensor, transposed, rule)
        row = Layer(
            label(op),
            f"{op.name} {run.mode}{self.scheme.bits}",
            source.name or "",
            y.name or "",
            decibels(packed.signal, packed.noise),
            tensor.nbytes if first else 0,
            packed.nbytes if first else 0,
            op.result,
            y,
        )
        if y is not op.result:
            op.result.replace_all_uses(y)
            op.erase()
        run.record(row, *([source] if first else []))

    def _shares(self, op: Op, k: int) -> Array | None:
        x = op.operands[0]
        found = None if x is None else self.hessians.get(x)
        block = self.scheme.block
        return None if found is None else error_shares(found, -(-k // block) * block)

    def _keep(self, edit: Editor, packed: _Packed, shapes: list[Any], base: str) -> list[Value]:
        """Build the constants of a packed matrix: codes, scales, and zero points if any."""
        packed.settle()
        arrays = [packed.codes, packed.scale, packed.zero]
        names = ("_quantized", "_scale", "_zero_point")
        held = []
        for array, (dtype, shape), suffix in zip(arrays, shapes, names, strict=True):
            if array is not None:
                value = edit.const(self.spool.keep(array, dtype, shape))
                held.append(edit.named(value, base, suffix))
        # A slice would keep the whole array.
        packed.codes, packed.scale, packed.zero = np.empty(0, np.uint8), np.empty(0), None
        return held

    def _fused(
        self, op: Op, source: Value, tensor: Tensor, transposed: bool, rule: str
    ) -> tuple[_Packed, Value]:
        key, scheme = (source, transposed, self.scheme), self.scheme
        k, n = tensor.shape if not transposed else tensor.shape[::-1]
        if key not in self.made:
            packed = pack_nbits(tensor, transposed, scheme, self._shares(op, k))
            zeros = () if packed.zero is None else packed.zero.reshape(-1).shape
            shapes = [
                (dtypes.U8, packed.codes.shape),
                (dtypes.F32, packed.scale.reshape(-1).shape),
                (dtypes.U8, zeros),
            ]
            at = Editor(op, rule).at_value(source)
            self.made[key] = self._keep(at, packed, shapes, source.name or ""), packed
        held, packed = self.made[key]
        edit = Editor(op, rule)
        y = edit.ms_matmul_nbits(
            op.operands[0], *held, K=k, N=n, bits=scheme.bits, block_size=scheme.block
        )
        y.op.node_name = op.node_name
        if op.name == "gemm":
            y = _scaled(edit, op, y)
        old = op.result
        y.name, y.declared, y.meta = old.name, old.declared, old.meta
        return packed, y

    def _standard(
        self, op: Op, source: Value, tensor: Tensor, transposed: bool, rule: str
    ) -> tuple[_Packed, Value]:
        key, scheme = (source, transposed, self.scheme), self.scheme
        k, n = tensor.shape if not transposed else tensor.shape[::-1]
        if key not in self.made:
            packed = pack_blocked(tensor, transposed, scheme, self._shares(op, k))
            kinds = {(4, False): dtypes.I4, (4, True): dtypes.U4}
            kinds |= {(8, False): dtypes.I8, (8, True): dtypes.U8}
            kind = kinds[scheme.bits, scheme.asymmetric]
            if kind is dtypes.I8:
                packed.codes = packed.codes.view(np.int8)
            blocks = packed.scale.shape
            shapes = [(kind, (k, n)), (dtypes.F32, blocks), (kind, blocks)]
            at = Editor(op, rule).at_value(source)
            held = self._keep(at, packed, shapes, source.name or "")
            y = at.dequantize_linear(*held, axis=0, block_size=scheme.block)
            self.made[key] = [at.named(y, source.name, "_dequantized")], packed
        (weight,), packed = self.made[key]
        op.set_operand(1, weight)
        if transposed:
            op.set_attr("transB", False)
        return packed, op.result


def _scaled(edit: Editor, op: Op, y: Value) -> Value:
    """Return what a Gemm makes of its product."""
    if op.attr("alpha") != 1.0:
        y = edit.mul(y, float(op.attr("alpha")))
    bias = op.operand("c")
    if bias is not None and op.attr("beta"):
        if op.attr("beta") != 1.0:
            bias = edit.mul(bias, float(op.attr("beta")))
        y = edit.add(y, bias)
    return y
