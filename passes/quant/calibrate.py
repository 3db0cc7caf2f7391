"""Ranges of activations over the calibration data.

The least, the largest and the root mean square of every tensor are computed inside the model
itself, by reductions added to a copy of it: one session, a few numbers per tensor and sample, so
that memory does not grow with the number of tensors or samples. Calibrators that look at the
distribution then read the tensors themselves into histograms, as many tensors in one session as
``GROUP_BYTES`` holds. What was found is cached by the content of model, data and options.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.builder import Builder
from lepton_ir.passes.quant import cache
from lepton_ir.passes.quant.histogram import Histogram, entropy, percentile, squared_error
from lepton_ir.passes.quant.numbers import levels_of
from lepton_ir.passes.quant.probe import ProbeError, add_outputs, run_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lepton_ir.ir import Value
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.feeds import Feeds

GROUP_BYTES = 128 << 20
"""Data of one sample that is held at a time."""

FREE_DIM = 32
"""Length taken for a dim that is not known."""

OUTLIER = 60.0
"""A range this many times the root mean square leaves little of 8 bits for the typical value."""


@dataclass
class Range:
    """What a tensor held over all samples.

    Attributes:
        low: least finite value, at most 0.
        high: largest finite value, at least 0.
        square: mean of squares, averaged over samples.
        samples: samples it was seen in.
        broken: NaN or infinities were among its values.
        mended: they were, and were read as 0.
        cut: its readers see nothing of what lies outside.
    """

    low: float = 0.0
    high: float = 0.0
    square: float = 0.0
    samples: int = 0
    broken: bool = False
    mended: bool = False
    cut: bool = False

    def add(self, low: float, high: float, square: float, average: bool = False) -> None:
        """Take in one sample; ``average``: the ends are means over samples."""
        if math.isnan(square) or not (math.isfinite(low) and math.isfinite(high)):
            self.broken = True
            return
        self.samples += 1
        if average:
            self.low += (min(low, 0.0) - self.low) / self.samples
            self.high += (max(high, 0.0) - self.high) / self.samples
        else:
            self.low, self.high = min(self.low, low), max(self.high, high)
        if math.isfinite(square):
            self.square += (square - self.square) / self.samples

    def times(self, factor: float) -> Range:
        """Return the range of what is multiplied with a positive number."""
        square = self.square * factor**2
        return Range(self.low * factor, self.high * factor, square, self.samples)

    @property
    def outlier(self) -> float:
        """The largest magnitude over the root mean square."""
        rms = math.sqrt(self.square)
        return max(-self.low, self.high) / rms if rms > 0 else 1.0


def calibrate(run: Run, values: list[Value], feeds: Feeds) -> dict[Value, Range]:
    """Return the range of each value, by the calibrator of the options.

    Values that hold NaN or infinities are read again with these replaced by 0, and noted.

    Raises:
        ProbeError: the model does not run on the data.
    """
    key = cache.key(run, values, feeds) if run.options.cache else None
    ranges = {v: Range() for v in values}
    held = cache.read(key) if key else None
    if held is not None and len(held) == len(values):
        for found, numbers in zip(ranges.values(), held, strict=True):
            found.low, found.high, found.square = numbers[:3]
            found.mended = bool(numbers[3])
    else:
        ranges = _measure(run, values, feeds)
        if run.options.calibrate in _CHOOSE:
            _refine(run, ranges, feeds)
        if key:
            cache.write(key, [[r.low, r.high, r.square, float(r.mended)] for r in ranges.values()])
    broken = [v for v, r in ranges.items() if r.mended]
    if broken:
        names = ", ".join(sorted(v.name or "?" for v in broken)[:4])
        run.ctx.remark(
            "note",
            "",
            "{} activations hold NaN or infinities on the calibration data, which do not count "
            "for their ranges: {}",
            len(broken),
            names,
        )
    for value, found in ranges.items():
        if found.outlier > OUTLIER:
            run.ctx.remark(
                "missed",
                value.op or "",
                "range outlier: {} reaches {} times its root mean square",
                value.name or "a value",
                round(found.outlier),
            )
    return ranges


_CHOOSE: dict[str, Callable[[Histogram, float, int], tuple[float, float]]] = {
    "percentile": lambda h, percent, _: percentile(h, percent),
    "entropy": lambda h, _, levels: entropy(h, levels),
    "mse": lambda h, _, levels: squared_error(h, levels),
}


def _refine(run: Run, ranges: dict[Value, Range], feeds: Feeds) -> None:
    """Clip ranges as the calibrator says, from histograms."""
    choose, levels = _CHOOSE[run.options.calibrate], levels_of(run.activations)
    for group in groups(list(ranges)):
        snapshot = run.snapshot()
        inputs = dict(zip(run.module.main.inputs, snapshot.module.main.inputs, strict=True))
        add_outputs(snapshot.module, [inputs.get(v) or snapshot.values[v] for v in group])
        histograms = [Histogram() for _ in group]
        for results in run_probe(snapshot.module, feeds, run.ctx, "calibrate"):
            for histogram, data in zip(histograms, results, strict=True):
                histogram.add(data)
        for value, histogram in zip(group, histograms, strict=True):
            found = ranges[value]
            low, high = choose(histogram, run.options.percentile, levels)
            found.low, found.high = max(found.low, min(low, 0.0)), min(found.high, max(high, 0.0))


def groups(values: list[Value]) -> Iterator[list[Value]]:
    """Yield values in groups whose data for one sample is about ``GROUP_BYTES``."""
    group: list[Value] = []
    size = 0
    for value in values:
        shape = value.shape or ()
        nbytes = 4 * math.prod(d if isinstance(d, int) else FREE_DIM for d in shape)
        if group and size + nbytes > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(value)
        size += nbytes
    if group:
        yield group


def _measure(run: Run, values: list[Value], feeds: Feeds) -> dict[Value, Range]:
    """Return ranges by reductions inside the model."""
    ranges = {v: Range() for v in values}
    try:
        _collect(run, ranges, feeds, guarded=False)
    except ProbeError:
        # A reduction of an empty tensor is an error to some runtimes.
        for r in ranges.values():
            r.__init__()  # type: ignore[misc]
        _collect(run, ranges, feeds, guarded=True)
    broken = {v: Range() for v, r in ranges.items() if r.broken}
    if broken:
        _collect(run, broken, feeds, guarded=True, finite=True)
        for r in broken.values():
            r.mended = True
        ranges.update(broken)
    return ranges


def _collect(
    run: Run, ranges: dict[Value, Range], feeds: Feeds, *, guarded: bool, finite: bool = False
) -> None:
    snapshot = run.snapshot()
    main = snapshot.module.main
    inputs = dict(zip(run.module.main.inputs, main.inputs, strict=True))
    outputs: list[Value] = []
    build = Builder(main.block, main.block.terminator)
    for value in ranges:
        x = inputs[value] if value in inputs else snapshot.values[value]
        outputs += _reductions(build, x, guarded, finite)
    add_outputs(snapshot.module, outputs)
    for results in run_probe(snapshot.module, feeds, run.ctx, "calibrate"):
        for i, found in enumerate(ranges.values()):
            low, high, square = (float(np.asarray(r)) for r in results[3 * i : 3 * i + 3])
            found.add(low, high, square, run.options.calibrate == "average")


def _reductions(build: Builder, x: Value, guarded: bool, finite: bool) -> list[Value]:
    if finite:
        zero = build.const(np.float32(0))
        bad: Any = build.or_(build.is_nan(x), build.is_inf(x))
        x = build.where(bad, zero, x)
    if guarded:
        flat = build.reshape(x, build.const(np.array([-1], np.int64)))
        x = build.concat(flat, build.const(np.zeros(1, np.float32)), axis=0)
    low = build.reduce_min(x, keepdims=False)
    high = build.reduce_max(x, keepdims=False)
    return [low, high, build.reduce_mean(build.mul(x, x), keepdims=False)]
