"""The adapt pass: operations that only another format has are taken apart before anything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lepton_ir import dtypes
from lepton_ir.infer import const_array
from lepton_ir.passes.decompose import decompose_body
from lepton_ir.passes.layout import batches
from lepton_ir.rewrite import RewritePass, Rule, RuleSet, apply_rules, collect_rules, rewrite

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module, Op
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_TFLITE = "tflite"
"""Metadata of modules that were read from TFLite files."""

_SHIFT = 128

_FAMILIES = "lepton_ir.ops.tf_"
"""Modules of operations that TensorFlow Lite has and ONNX has not."""


def _is_foreign(op: Op) -> bool:
    definition = op.definition
    return (
        definition is not None
        and definition.decompose is not None
        and definition.module.startswith(_FAMILIES)
    )


def _zero_point(op: Op) -> int | None:
    """Return the zero point of a pair's half for a whole tensor of i8."""
    known = const_array(op.operands[2]) if len(op.operands) > 2 else None
    if known is None or known.dtype != np.int8 or known.size != 1 or op.attr("block_size"):
        return None
    return int(known.reshape(-1)[0])


@rewrite("quantize_linear", exact=True)
def signed_to_unsigned(m: Match, rw: Rewriter) -> bool:
    """dq(q(x, s, z: i8), s, z) => dq(q(x, s, z + 128: u8), s, z + 128).

    The same numbers at the same places. onnxruntime does so itself on x86, but not where a result
    has several users (residual sums), whose neighbours it then leaves in floats.
    """
    op = m.root
    zero = _zero_point(op)
    if zero is None or op.operands[1] is None or op.operands[1].rank != 0:
        return rw.fail("it is not made for a whole tensor of i8")
    users = op.result.users
    for user in users:
        if user.name != "dequantize_linear" or user.operands[0] is not op.result:
            return rw.fail("its integers are used")
        if _zero_point(user) != zero or user.operands[1] is None or user.operands[1].rank != 0:
            return rw.fail("it is dequantized with another zero point")
    rw.also(*users)
    rw.permit()
    shifted = rw.const(np.asarray(zero + _SHIFT, np.uint8))
    attrs = {k: v for k, v in op.attrs.items() if k != "output_dtype"}
    codes = rw.quantize_linear(op.operands[0], op.operands[1], shifted, **attrs)
    for user in users:
        made = rw.dequantize_linear(codes, user.operands[1], shifted, **user.attrs)
        rw.replace(user.result, made)
    return True


@rewrite("dequantize_linear", exact=True)
def unsigned_input(m: Match, rw: Rewriter) -> bool:
    """dq(x, s, z: i8) of an input => dq(q(dq(x, s, z), s, z + 128: u8), s, z + 128).

    What reads it is computed on integers only where all of them are u8.
    """
    op = m.root
    x, zero = op.operands[0], _zero_point(op)
    if zero is None or x is None or x.op is not None or op.operands[1] is None:
        return rw.fail("it is no input of i8")
    if op.operands[1].rank != 0 or all(u.name == "quantize_linear" for u in op.result.users):
        return rw.fail("it is quantized again")
    rw.permit()
    shifted = rw.const(np.asarray(zero + _SHIFT, np.uint8))
    real = rw.dequantize_linear(*op.operands, **op.attrs)
    codes = rw.quantize_linear(real, op.operands[1], shifted)
    return rw.replace(op.result, rw.dequantize_linear(codes, op.operands[1], shifted))


@rewrite("quantize_linear", exact=True)
def unsigned_before_output(m: Match, rw: Rewriter) -> bool:
    """q(y, s, z: i8) that is an output => q(dq(q(y, s, z + 128: u8), s, z + 128), s, z).

    What makes y is computed on integers only where all of them are u8.
    """
    op = m.root
    y, zero = op.operands[0], _zero_point(op)
    if zero is None or op.operands[1] is None or op.operands[1].rank != 0:
        return rw.fail("it is not made for a whole tensor of i8")
    if y is None or y.op is None or y.op.name == "dequantize_linear":
        return rw.fail("it makes integers of integers")
    if not any(u.name == "return" for u in op.result.users):
        return rw.fail("it is no output")
    rw.permit()
    shifted = rw.const(np.asarray(zero + _SHIFT, np.uint8))
    codes = rw.quantize_linear(y, op.operands[1], shifted)
    real = rw.dequantize_linear(codes, op.operands[1], shifted)
    return rw.replace(op.result, rw.quantize_linear(real, *op.operands[1:], **op.attrs))


@dataclass(frozen=True)
class Adapt(RewritePass, name="adapt"):
    """Take operations apart that come from another format than the target's.

    Rules know the operations of ONNX; what TensorFlow Lite has beside them (pack, rsqrt, ...) would
    stop them until it is written. Dilations spelled with blocks moved to batches become the
    convolutions' own. Nothing happens to a model without such operations, nor where
    the target has them. Activations of i8 in what was read from a TFLite file become u8 for targets
    that like these better.
    """

    needs = "shapes"
    rule_modules: ClassVar[tuple[str, ...]] = (
        "lepton_ir.passes.adapt",
        "lepton_ir.passes.layout.batches",
    )

    def run(self, module: Module, ctx: PassContext) -> None:
        """Take apart what the target lacks; what cannot be is left to ``legalize``."""
        names = {op.name for op in module.walk() if _is_foreign(op)}
        if "space_to_batch_nd" in names:
            for function in list(module.functions.values()):
                apply_rules(function, RuleSet(tuple(collect_rules(batches))), ctx)
        target = ctx.target
        if target is not None and _FAMILIES in getattr(target, "families", ()):
            names = {name for name in names if not target.has(name, module, {})}
        rules: list[Rule] = []
        if names:
            rules.append(Rule("decompose", tuple(sorted(names)), None, decompose_body))
        if _TFLITE in module.meta and target and target.quant("activation_dtype") is dtypes.U8:
            rules += self.rules().rules
        for function in list(module.functions.values()) if rules else ():
            apply_rules(function, RuleSet(tuple(rules)), ctx)
