"""What the modes share: which operations are layers, permission, editing, rows of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.builder import Builder
from lepton_ir.clone import clone_module
from lepton_ir.context import source_key
from lepton_ir.diagnostics import Location, UnsupportedError
from lepton_ir.infer import const_tensor
from lepton_ir.passes.quant import recipe
from lepton_ir.passes.quant.numbers import Weight, quantize_weight
from lepton_ir.tensors import ElidedTensor, Tensor

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Module, Op, Value
    from lepton_ir.passes.quant import Quant
    from lepton_ir.passes.quant.mixed import Unit

Array = np.ndarray[Any, Any]

LAYERS = frozenset({"conv", "matmul", "gemm"})
"""Operations whose products with a constant weight can run on integers."""


@dataclass
class Layer:
    """One quantized layer: a row of the report.

    Attributes:
        name: the node's name in the source (of the weight, for tables and weight-only layers).
        kind: operation and mode.
        weight: name of the weight in the source file, empty when there is none.
        output: name of the tensor that the layer computes, the same in source and result.
        weight_sqnr: of the dequantized weight against the source's, dB.
        bytes_before: of weight and bias.
        bytes_after: of integers, scales and zero points, and of originals that others still read.
        source: the operation as it was, to find it in a snapshot.
        result: the value in the quantized module.
        ends: what of its range readers see, where the layer gives integers.
        output_sqnr: of ``output`` on the calibration data, dB; ``None`` when not measured.
        sensitivity: what is lost when only this layer is quantized; ``None`` when not measured.
        cause: why it is sensitive.
    """

    name: str
    kind: str
    weight: str
    output: str
    weight_sqnr: float
    bytes_before: int
    bytes_after: int
    source: Value | None = None
    result: Value | None = None
    ends: tuple[float, float] | None = None
    output_sqnr: float | None = None
    sensitivity: float | None = None
    cause: str = ""

    def row(self) -> dict[str, Any]:
        """Return the row: plain JSON; a ratio without noise is ``None``."""
        ratio = _finite(self.weight_sqnr)
        return {
            "name": self.name,
            "kind": self.kind,
            "weight": self.weight,
            "output": self.output,
            "sqnr": ratio,
            "weight_sqnr": ratio,
            "output_sqnr": _finite(self.output_sqnr),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "sensitivity": self.sensitivity,
            "cause": self.cause,
        }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 3)


@dataclass
class Snapshot:
    """The module before quantization, and where its values went.

    Attributes:
        module: a copy; payloads are shared.
        values: from a value of the quantized module to the copy's.
        ops: from an operation of ``main``'s own block to the copy's.
    """

    module: Module
    values: dict[Value, Value]
    ops: dict[Op, Op]


class Run:
    """One run of the pass: options, module, context, and what was done."""

    def __init__(self, options: Quant, module: Module, ctx: PassContext, mode: str) -> None:
        self.options = options
        self.module = module
        self.ctx = ctx
        self.mode = mode
        self.layers: list[Layer] = []
        self.per_channel = options.per_channel
        self.limit = 63 if options.reduce_range or self.prefers("reduce_range") else 127
        self._cache: dict[tuple[Any, ...], Weight | None] = {}
        self._spent: list[tuple[Layer, Value, int]] = []
        self._skipped = self._skip_ends()
        self.recipe = recipe.read(options.recipe)
        self.refused: dict[str, str] = {}
        self.units: list[Unit] = []
        self.causes: dict[str, str] = {}
        name = options.activations
        self.activations: DType = (
            dtypes.BY_NAME[name] if name else self.prefers("activation_dtype") or dtypes.U8
        )
        self.whole = bool(self.prefers("whole")) and mode == "static"
        self.merges = False
        if options.per_channel and not self.has("dequantize_linear", 13, axis=0):
            self.per_channel = mode == "dynamic"  # which has no DequantizeLinear
            narrow = self.activations.bits == 8
            self.merges = mode == "static" and narrow and self.has("qlinear_conv", 10)
            if not self.per_channel:
                ctx.remark(
                    "note",
                    "",
                    "weights{} get one scale per tensor; one per channel needs opset 13 "
                    "(--opset 13)",
                    " of matrix products" if self.merges else "",
                )

    # -- asking ------------------------------------------------------------------------------

    def prefers(self, key: str) -> Any:
        """Return what the target prefers, ``None`` when it does not care."""
        return None if self.ctx.target is None else self.ctx.target.quant(key)

    def has(self, name: str, opset: int, **attrs: Any) -> bool:
        """Return whether an operation, new in ``opset``, can be written."""
        if self.ctx.target is not None:
            return self.ctx.legal_name(name, self.module, **attrs)
        return self.module.opsets.get("", opset) >= opset

    def require(self, name: str, opset: int) -> None:
        """Refuse a mode whose operations the written opset does not have.

        Raises:
            UnsupportedError: says which opset is needed.
        """
        if not self.has(name, opset):
            found = self.module.opsets.get("", 0)
            raise UnsupportedError(
                f"{self.mode} quantization needs opset {opset} or later, the model has {found}",
                code="quant-opset",
                hint="--opset 13 converts the model",
            )

    def _skip_ends(self) -> set[Op]:
        options = self.options
        if not (options.skip_first or options.skip_last):
            return set()
        ops = [o for o in self.module.main.block.ops if o.name in LAYERS and constant(o, 1)]
        ends = ops[:1] if options.skip_first else []
        return set(ends + (ops[-1:] if options.skip_last else []))

    def permitted(self, rule: str, op: Op) -> bool:
        """Return whether a layer may be quantized; counts it if so."""
        name = label(op)
        patterns = (*self.options.exclude, *self.ctx.data.get("quant_exclude", ()))
        named = any(name == p or fnmatchcase(name, p) for p in patterns)
        if named or op in self._skipped or self.recipe.find(name).exclude:
            self.ctx.remark("missed", op, "stays in float: excluded")
            return False
        return self.ctx.allow(rule, op)

    def choice(self, op: Op) -> recipe.Choice:
        """Return what the recipe says about ``op``."""
        return self.recipe.find(label(op))

    def activation_dtype(self, op: Op) -> DType:
        """Return the type of the activations that ``op`` gives, or that it alone asks for."""
        name = self.choice(op).activations
        return dtypes.BY_NAME[name] if name else self.activations

    def fixed(self, op: Op) -> tuple[float, int] | None:
        """Return scale and zero point that the target's kernel gives what ``op`` gives, if any."""
        known = self.prefers("fixed") if self.whole else None
        return None if known is None else known.get((op.name, self.activation_dtype(op).name))

    def symmetric(self, op: Op) -> bool:
        """Return whether these activations have their zero point in the middle."""
        if self.whole and self.activation_dtype(op).bits == 16:
            return True
        found = self.choice(op).symmetric
        return self.options.symmetric if found is None else found

    def axis(self, op: Op) -> int | None:
        """Return the axis of a layer's weight that has a scale for each element, if one has."""
        return weight_axis(op) if self.choice(op).per_channel is not False else None

    def refuse(self, op: Op, reason: str, *args: object) -> None:
        """Remark why a layer stays in float."""
        if op.name in LAYERS:
            self.refused[label(op)] = reason.format(*args) if args else reason
        self.ctx.remark("missed", op, "stays in float: " + reason, *args)

    # -- weights -----------------------------------------------------------------------------

    def weight(
        self,
        value: Value,
        axis: int | None,
        floor: Array | None = None,
        *,
        forced: bool = False,
    ) -> Weight | None:
        """Quantize a constant, once for all layers that read it; ``None`` if it is not finite.

        Args:
            value: the constant.
            axis: of output channels; ignored where there is one scale per tensor.
            floor: least scale per channel.
            forced: one scale per channel all the same.
        """
        tensor = const_tensor(value)
        assert tensor is not None
        axis = axis if self.per_channel or forced else None
        if floor is not None and axis is None:
            floor = np.asarray(floor.max(initial=0.0))
        search = self.options.scales == "mse"
        key = (id(tensor), axis)
        if key not in self._cache:
            self._cache[key] = quantize_weight(tensor, axis, self.limit, search=search)
        found = self._cache[key]
        if found is None or floor is None:
            return found
        # A channel of zeros has scale 1, which may be coarse for its bias.
        if not ((found.scale == 1) & (floor > 0)).any() and (found.scale >= floor).all():
            return found
        return quantize_weight(tensor, axis, self.limit, floor, search=search)

    def share_weights(self, other: Run) -> None:
        """Take over what another run makes of weights that both modules have."""
        self._cache = other._cache

    # -- results -----------------------------------------------------------------------------

    def record(self, layer: Layer, *originals: Value) -> None:
        """Add a row; originals that others still read at the end count as bytes after."""
        self.layers.append(layer)
        for value in originals:
            tensor = const_tensor(value)
            if tensor is not None:
                self._spent.append((layer, value, tensor.nbytes))

    def finish(self) -> None:
        """Drop constants that nothing reads any more, and settle the bytes of the rows."""
        for layer, value, nbytes in self._spent:
            if value.first_use is not None:
                layer.bytes_after += nbytes
            elif value.op is not None and value.op.block is not None:
                value.op.erase()
        if not self.layers:
            self.ctx.remark("note", "", "nothing to quantize in {} mode", self.mode)

    def add_sensitivities(self) -> None:
        """Put what a search found into the rows; layers kept in float get rows of their own."""
        if not self.units:
            return
        for name, reason in self.refused.items():
            if all(unit.name != name for unit in self.units):
                self.layers.append(Layer(name, "float", "", "", math.inf, 0, 0, cause=reason))
        rows = {layer.name: layer for layer in self.layers}
        for unit in self.units:
            row = rows.get(unit.name)
            if row is None:
                row = Layer(unit.name, "float", "", "", math.inf, 0, 0)
                self.layers.append(row)
            row.sensitivity = round(float(unit.distance), 6)
            row.cause = unit.cause

    def snapshot(self) -> Snapshot:
        """Return a copy of the module, to compare with later."""
        copy = clone_module(self.module)
        values = dict(zip(self.module.main.inputs, copy.main.inputs, strict=True))
        ops = dict(zip(self.module.main.block.ops, copy.main.block.ops, strict=True))
        for old, new in ops.items():
            values.update(zip(old.results, new.results, strict=True))
        return Snapshot(copy, values, ops)


class Editor(Builder):
    """A builder that names what it makes after what it was made from."""

    def __init__(self, anchor: Op, rule: str, *, after: bool = False) -> None:
        assert anchor.block is not None
        super().__init__(anchor.block, anchor.next if after else anchor)
        self.loc = Location("", (anchor.loc,), f"quant/{rule}")

    def at_value(self, value: Value) -> Editor:
        """Move behind the place where ``value`` is defined."""
        producer = value.op
        if producer is None:
            self.before = self.block.first
        else:
            assert producer.block is not None
            self.block, self.before = producer.block, producer.next
        return self

    def named(self, value: Value, base: str | None, suffix: str) -> Value:
        """Give ``value`` the name ``base + suffix`` if there is a base."""
        if base:
            value.name = base + suffix
        return value

    def weight_consts(self, w: Weight, base: str | None) -> tuple[Value, Value]:
        """Build integers and scale of a symmetric weight."""
        q = self.named(self.const(w.tensor), base, "_quantized")
        return q, self.named(self.const(w.scale), base, "_scale")

    def weight_zero(self, w: Weight, base: str | None) -> Value:
        """Build the zero points of a symmetric weight, of the scale's shape."""
        return self.named(self.const(np.zeros(w.scale.shape, np.int8)), base, "_zero_point")


def constant(op: Op, index: int) -> Tensor | None:
    """Return the payload of an operand, if it is a constant whose data is here."""
    if index >= len(op.operands):
        return None
    tensor = const_tensor(op.operands[index])
    return None if isinstance(tensor, ElidedTensor) else tensor


def float_constant(op: Op, index: int) -> Tensor | None:
    """Return the payload of an f32 constant operand that is not empty."""
    tensor = constant(op, index)
    return tensor if tensor is not None and tensor.dtype is dtypes.F32 and tensor.size else None


def weight_axis(op: Op) -> int:
    """Return the axis of a layer's weight that counts output channels."""
    return 0 if op.name == "conv" or (op.name == "gemm" and op.attr("transB")) else 1


def label(op: Op) -> str:
    """Return the name of a layer in the report."""
    return op.node_name or source_key(op)


def new_layer(run: Run, op: Op, weight: Weight | None, before: int, after: int) -> Layer:
    """Return a row about ``op``, whose weight is operand 1."""
    source = op.operands[1] if weight is not None else None
    return Layer(
        name=label(op),
        kind=f"{op.name} {run.mode}",
        weight=(source.name or "") if source is not None else "",
        output=op.result.name or "",
        weight_sqnr=math.inf if weight is None else weight.sqnr,
        bytes_before=before,
        bytes_after=after,
    )
