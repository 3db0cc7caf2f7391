"""Symbolic dims that cannot be 0: a model that would fail with 0 never runs with it.

A Reshape copies a dim where its target is 0, so a symbolic target is a dim of the result only if
it is not 0. Transformers add what was reshaped to what was not, which fails if the dim was copied.
Inferring the function with 0 for that dim finds the failure; from then on the dim is known to be
at least 1, and shapes behind the Reshape are certain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dims
from lepton_ir.clone import clone_function
from lepton_ir.diagnostics import VerifyError
from lepton_ir.infer import content_of, infer_block, reset_block
from lepton_ir.ir import Module
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.ir import Function, Value

MAX_PROBES = 6
"""Dims of one function that are tried; each costs one inference of the function."""


def learn_positive(function: Function) -> bool:
    """Find dims that open Reshapes depend on and that cannot be 0; return whether any was.

    What was tried is kept in ``function.positive`` and not tried again.
    """
    stamp = (function.epoch, True)
    if function.analyses.get("positive") == stamp:
        return False
    function.analyses["positive"] = stamp
    inputs = {s for value in function.inputs for s in _symbols(value)}
    learned = False
    for dim in _doubtful(function):
        names = _zero_only_with(dim)
        if dim in function.positive or not names or not names <= inputs:
            continue
        if len(function.positive) >= MAX_PROBES:
            break
        function.positive[dim] = _fails_with_zeros(function, names)
        learned |= function.positive[dim]
    return learned


def _doubtful(function: Function) -> Iterator[dims.DimExpr]:
    """Yield symbolic targets of Reshapes where the dim of the result is not known."""
    for op in function.block.ops:
        if op.name != "reshape" or op.has_attr_refs:
            continue
        found, shape = content_of(op.operands[1]), op.result.shape
        if found is None or shape is None or len(found) != len(shape):
            continue
        for element, dim in zip(found, shape, strict=True):
            if dim is None and isinstance(element, dims.DimExpr):
                yield element


def _zero_only_with(dim: dims.DimExpr) -> set[str]:
    """Return the symbols of a sum of symbols, which is 0 only if all of them are; else none."""
    names: set[str] = set()
    for mono, coefficient in dim.terms:
        if len(mono) != 1 or mono[0].kind != "sym" or coefficient < 0:
            return set()
        names.add(mono[0].name)
    return names


def _symbols(value: Value) -> set[str]:
    t = value.type
    if not isinstance(t, TensorType) or t.shape is None:
        return set()
    return {s for d in t.shape if isinstance(d, dims.DimExpr) for s in dims.symbols(d)}


def _fails_with_zeros(function: Function, names: set[str]) -> bool:
    """Return whether inference finds a broken constraint when the symbols ``names`` are 0.

    Only operations that every run executes count: inference ignores failures inside regions.
    """
    zeros: dict[str, dims.Dim] = dict.fromkeys(names, 0)
    copy = clone_function(function, Module("probe"))
    for value in copy.inputs:
        t = value.type
        if isinstance(t, TensorType) and t.shape is not None:
            value.type = t.with_shape(
                None if d is None else dims.substitute(d, zeros) for d in t.shape
            )
        value.content = None
    reset_block(copy.block)
    try:
        infer_block(copy.block)
    except VerifyError:
        return True
    except (ZeroDivisionError, ValueError):
        return False
    return False
