"""Ranges of activations on calibration data, taken inside the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.builder import Builder
from lepton_ir.clone import clone_module
from lepton_ir.passes.quant.probe import add_outputs, run_probe

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module, Value
    from lepton_ir.passes.quant.feeds import Feeds

_FAR = float(np.finfo(np.float32).max)


@dataclass
class Range:
    """What a value held over all samples.

    Attributes:
        largest: largest finite magnitude.
        least: least magnitude that is not 0, the largest f32 when there is none.
    """

    largest: float = 0.0
    least: float = _FAR


def measure_ranges(
    module: Module, values: list[Value], feeds: Feeds, ctx: PassContext
) -> dict[Value, Range]:
    """Return the range of each value of ``main``'s own block.

    NaN and infinities do not count: a 16-bit type holds them as well.

    Raises:
        ProbeError: the model does not run on the data.
    """
    copy = clone_module(module)
    old, new = module.main, copy.main
    moved: dict[Value, Value] = dict(zip(old.inputs, new.inputs, strict=True))
    for a, b in zip(old.block.ops, new.block.ops, strict=True):
        moved.update(zip(a.results, b.results, strict=True))
    build = Builder(new.block, new.block.terminator)
    outputs: list[Value] = []
    for value in values:
        outputs += _reductions(build, moved[value])
    found = {v: Range() for v in values}
    add_outputs(copy, outputs)
    for results in run_probe(copy, feeds, ctx, "calibrate"):
        for i, r in enumerate(found.values()):
            largest, least = (float(np.asarray(x)) for x in results[2 * i : 2 * i + 2])
            r.largest, r.least = max(r.largest, largest), min(r.least, least)
    return found


def _reductions(build: Builder, x: Value) -> list[Value]:
    """Build the two reductions; an element put behind the others keeps them defined on nothing."""
    flat = build.reshape(x, build.const(np.array([-1], np.int64)))
    if x.dtype is not dtypes.F32:
        flat = build.cast(flat, to=dtypes.F32)
    magnitude = build.concat(build.abs(flat), build.const(np.zeros(1, np.float32)), axis=0)
    far = build.const(np.float32(_FAR))
    # False for NaN, too.
    finite = build.where(build.less(magnitude, far), magnitude, build.const(np.float32(0)))
    some = build.greater(finite, build.const(np.float32(0)))
    return [
        build.reduce_max(finite, keepdims=False),
        build.reduce_min(build.where(some, finite, far), keepdims=False),
    ]
