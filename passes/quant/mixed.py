"""Which layers static quantization leaves in float: sensitivities, and mixed precision.

One copy of the model holds both worlds: a vector of switches says for each layer whether its
pairs and its integer weight count, so that every combination is one run over the calibration data
and nothing is rebuilt. Layers are measured alone (in groups that are halved where they are bad, in
deep models), those that add most to the distance go to float, as few as a bisection shows to be
enough, and then those that turn out not to matter come back.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.builder import Builder
from lepton_ir.context import PassContext
from lepton_ir.diagnostics import LeptonError
from lepton_ir.passes.quant.common import LAYERS, float_constant, label, weight_axis
from lepton_ir.passes.quant.integers import hard_affine
from lepton_ir.passes.quant.numbers import affine, spread
from lepton_ir.passes.quant.probe import Probe
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.calibrate import Range
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.passes.quant.static import Plan

Array = np.ndarray[Any, Any]

PASSES = 48
"""Runs over the calibration data after which no layer is taken back."""

ROUNDS = 4
"""Times that the result itself is measured; it differs a little from the model with switches."""

MARGIN = 0.9
"""Factor on the limit of the next round."""

ALONE = 32
"""Of these, for measuring groups of layers alone before the worst are halved."""

HALVING = 40
"""Runs after which no group is halved any more."""

KEPT_BYTES = 256 << 20
"""Float outputs that are kept to compare with; later samples do not count."""

_SWITCHES = "lepton.switches"


@dataclass
class Unit:
    """A layer with what follows it, up to the next layer.

    Attributes:
        name: of the layer.
        ops: the planned operations.
        distance: of the output when only this is quantized.
        cause: why it is sensitive.
        kept: whether it stays in float.
    """

    name: str
    ops: list[Op]
    distance: float = 0.0
    cause: str = ""
    kept: bool = False


def choose(run: Run, feeds: Feeds) -> list[Unit]:
    """Return the layers with their sensitivities and whether they stay in float.

    Raises:
        LeptonError: the user's metric cannot be imported or fails.
    """
    from lepton_ir.clone import clone_module
    from lepton_ir.passes.quant.calibrate import calibrate
    from lepton_ir.passes.quant.common import Run as Trial
    from lepton_ir.passes.quant.narrow import narrow
    from lepton_ir.passes.quant.static import make_plan

    ctx = trial_context(run)
    trial = Trial(run.options, clone_module(run.module), ctx, "static")
    plan = make_plan(trial)
    units = _units(plan)
    if not units:
        return []
    roots = list(dict.fromkeys(plan.root(v) for v in plan.paired()))
    fixed = {v for op in plan.ops if op.name == "hard_sigmoid" for v in plan.outputs[op]}
    ranges = calibrate(trial, [v for v in roots if v not in fixed], feeds)
    for unit in units:
        unit.cause = _cause(unit, plan, ranges)
    narrow(plan, ranges)
    module = trial.module
    _install_switches(trial, plan, units, roots, ranges)
    with Probe(module, ctx, "sensitivity", fast=True) as probe:
        search = _Search(run, probe, feeds, units)
        search.measure()
        limit = target = run.options.max_drop
        for _ in range(ROUNDS if limit > 0 else 0):
            search.reduce(target)
            lost = search.loss(_quantized_outputs(run, feeds, units))
            if lost <= limit or all(u.kept for u in units):
                break
            target = min(target, limit) * (limit / lost) * MARGIN
        else:
            if limit > 0:
                run.ctx.remark(
                    "note", "", "max_drop={} is not reached: {:.4g} is lost", limit, lost
                )
    return units


def _quantized_outputs(run: Run, feeds: Feeds, units: list[Unit]) -> Iterator[list[Any]]:
    """Yield what the model gives when it is quantized without the layers kept in float."""
    from lepton_ir.clone import clone_module
    from lepton_ir.passes.quant.common import Run as Trial
    from lepton_ir.passes.quant.static import quantize_static

    trial = Trial(run.options, clone_module(run.module), trial_context(run), "static")
    trial.vetoed = frozenset(u.name for u in units if u.kept)
    quantize_static(trial, feeds)
    with Probe(trial.module, trial.ctx, "sensitivity", fast=True) as probe:
        yield from probe.run(feeds)


def trial_context(run: Run) -> PassContext:
    """Return a context for trials, whose rewrites do not count."""
    ctx = PassContext(
        target=run.ctx.target,
        exclude_rules=run.ctx.exclude_rules,
        keep_nodes=run.ctx.keep_nodes,
        progress=run.ctx.progress,
    )
    ctx.pass_name = run.ctx.pass_name
    ctx.data["quant_exclude"] = run.ctx.data.get("quant_exclude", ())
    return ctx


def _units(plan: Plan) -> list[Unit]:
    owner: dict[Value, Unit] = {}
    units: list[Unit] = []
    for op in plan.ops:
        given = [owner[v] for i in plan.inputs[op] if (v := op.operands[i]) in owner]
        if op.name in LAYERS or not given:
            unit = Unit(label(op), [])
            units.append(unit)
        else:
            unit = given[-1]
        unit.ops.append(op)
        owner.update(dict.fromkeys(plan.outputs[op], unit))
    return units


# -- the model with switches ---------------------------------------------------------------------


def _install_switches(
    run: Run, plan: Plan, units: list[Unit], roots: list[Value], ranges: dict[Value, Range]
) -> None:
    block = run.module.main.block
    switches = block.add_arg(TensorType(dtypes.BOOL, (len(units),)), _SWITCHES)
    build = Builder(block, block.first)
    flags = [
        build.gather(switches, build.const(np.asarray(i, np.int64)), axis=0)
        for i in range(len(units))
    ]
    number = {op: i for i, unit in enumerate(units) for op in unit.ops}
    maker = {value: op for op in plan.ops for value in plan.outputs[op]}
    dtype = run.activations
    for value in roots:
        found = ranges.get(value)
        if found is None:
            p = hard_affine(dtype)
        else:
            p = affine(found.low, found.high, dtype, run.options.symmetric)
        made = maker.get(value)
        uses = list(value.uses)
        at = _behind(build, value)
        scale, zero = at.const(p.scale), at.const(p.zero)
        rounded = at.dequantize_linear(at.quantize_linear(value, scale, zero), scale, zero)
        own = None if made is None else at.where(flags[number[made]], rounded, value)
        readers: dict[int, Value] = {}
        for use in uses:
            planned = use.op in number and use.index in plan.inputs[use.op]
            if not planned:
                if own is not None:
                    use.op.set_operand(use.index, own)
                continue
            reader = number[use.op]
            if reader not in readers:
                readers[reader] = at.where(flags[reader], rounded, value if own is None else own)
            use.op.set_operand(use.index, readers[reader])
    for op in plan.ops:
        if op.name in LAYERS:
            _switch_weight(run, op, flags[number[op]])


def _behind(build: Builder, value: Value) -> Builder:
    if value.op is None:
        return build
    assert value.op.block is not None
    return Builder(value.op.block, value.op.next)


def _switch_weight(run: Run, op: Op, flag: Value) -> None:
    source, tensor = op.operands[1], float_constant(op, 1)
    if source is None or tensor is None:
        return  # a product of two activations
    weight = run.weight(source, weight_axis(op), forced=run.merges and op.name == "conv")
    assert weight is not None
    assert op.block is not None
    build = Builder(op.block, op)
    wide = spread(weight.scale, weight.axis, len(tensor.shape))
    back = build.const(weight.tensor.numpy().astype(np.float32) * wide)
    op.set_operand(1, build.where(flag, back, source))


# -- measuring -----------------------------------------------------------------------------------


def load_metric(source: str) -> Callable[[list[Any], list[Any]], float]:
    """Return the user's ``module:function``, called with feeds and with dicts of outputs.

    Raises:
        LeptonError: it cannot be imported.
    """
    module, _, name = source.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name or "metric")
    except (ImportError, AttributeError) as error:
        raise LeptonError(
            f"cannot import it: {error}",
            code="metric",
            where=source,
            hint="MODULE:FUNCTION is called with a list of feeds and a list of outputs by name",
        ) from error
    finally:
        sys.path.remove(here)
    return found  # type: ignore[no-any-return]


class _Search:
    """Runs over the calibration data with different switches."""

    def __init__(self, run: Run, probe: Probe, feeds: Feeds, units: list[Unit]) -> None:
        self.run, self.probe, self.feeds, self.units = run, probe, feeds, units
        self.passes = 0
        self.names = [n or "" for n in run.module.main.output_names]
        self.metric = load_metric(run.options.metric) if run.options.metric else None
        self.expected: list[list[Any]] = []
        self.all_lost: float | None = None
        off = np.zeros(len(units), bool)
        size = 0
        for results in self._outputs(off):
            size += sum(getattr(r, "nbytes", 0) for r in results)
            self.expected.append(results)
            if size > KEPT_BYTES and self.metric is None:
                break
        self.best = self._score(self.expected) if self.metric is not None else 0.0

    def _outputs(self, on: Array) -> Any:
        self.passes += 1
        feeds = ({**feed, _SWITCHES: on} for feed in self.feeds)
        return self.probe.run(feeds)

    def _score(self, outputs: list[list[Any]]) -> float:
        assert self.metric is not None
        named = [dict(zip(self.names, item, strict=True)) for item in outputs]
        try:
            return float(self.metric(list(self.feeds), named))
        except Exception as error:
            raise LeptonError(
                f"it fails: {type(error).__name__}: {error}",
                code="metric",
                where=self.run.options.metric,
            ) from error

    def drop(self, on: Array) -> float:
        """Return how much is lost with these units quantized."""
        return self.loss(self._outputs(on))

    def loss(self, outputs: Iterable[list[Any]]) -> float:
        """Return how much is lost: of the metric, or the distance.

        The distance is the worst output's ``sqrt(sum (x - y)^2 / sum x^2)`` over all samples.
        """
        if self.metric is not None:
            return self.best - self._score(list(outputs))
        signal = noise = np.zeros(len(self.names))
        for results, wanted in zip(outputs, self.expected, strict=False):
            pairs = [
                (np.asarray(x, np.float64), np.asarray(y, np.float64))
                for x, y in zip(wanted, results, strict=True)
                if np.asarray(x).dtype.kind == "f"
            ]
            signal = signal[: len(pairs)] + [float(np.square(x).sum()) for x, _ in pairs]
            noise = noise[: len(pairs)] + [float(np.square(x - y).sum()) for x, y in pairs]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(noise > 0, noise / signal, 0.0)
        return float(np.sqrt(np.max(ratio, initial=0.0)))

    def measure(self) -> None:
        """Fill in the distance of every unit; of one in a group, its share of the group's."""
        count = len(self.units)
        size = -(-count // ALONE)
        groups = [list(range(i, min(i + size, count))) for i in range(0, count, size)]
        found = [(self._alone(g), g) for g in groups]
        while self.passes < HALVING:
            found.sort(key=lambda item: -item[0] if len(item[1]) > 1 else 1.0)
            loss, group = found[0]
            if len(group) == 1 or loss <= 0:
                break
            middle = len(group) // 2
            found[:1] = [(self._alone(g), g) for g in (group[:middle], group[middle:])]
        for loss, group in found:
            for i in group:
                self.units[i].distance = loss / np.sqrt(len(group))

    def _alone(self, group: list[int]) -> float:
        on = np.zeros(len(self.units), bool)
        on[group] = True
        return self.drop(on)

    def reduce(self, limit: float) -> None:
        """Keep units in float until no more than ``limit`` is lost, then take back what can be."""
        order = sorted(range(len(self.units)), key=lambda i: -self.units[i].distance)
        on = np.ones(len(self.units), bool)

        def without(count: int) -> Array:
            chosen = on.copy()
            chosen[order[:count]] = False
            return chosen

        if self.all_lost is None:
            self.all_lost = self.drop(on)
        if self.all_lost <= limit:
            return
        low, high = 0, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            if self.drop(without(middle)) <= limit:
                high = middle
            else:
                low = middle
        chosen = without(high)
        for i in reversed(order[:high]):
            if self.passes >= PASSES:
                break
            chosen[i] = True
            if self.drop(chosen) > limit:
                chosen[i] = False
        for i, unit in enumerate(self.units):
            unit.kept = not bool(chosen[i])


# -- causes --------------------------------------------------------------------------------------


def _cause(unit: Unit, plan: Plan, ranges: dict[Value, Range]) -> str:
    """Name what makes a layer hard to quantize; the first that applies."""
    values = [op.operands[i] for op in unit.ops for i in plan.inputs[op]]
    values += [v for op in unit.ops for v in plan.outputs[op]]
    worst, name = 0.0, ""
    for value in values:
        found = ranges.get(plan.root(value)) if value is not None else None
        if found is not None and found.outlier > worst:
            worst, name = found.outlier, (value.name if value is not None else "") or ""
    weight = float_constant(unit.ops[0], 1) if unit.ops[0].name in LAYERS else None
    if weight is not None:
        data = np.abs(weight.numpy())
        axis = weight_axis(unit.ops[0])
        top = data.max(tuple(i for i in range(data.ndim) if i != axis), initial=0.0)
        if float(top.min(initial=np.inf)) < 1e-6 * float(top.max(initial=0.0)):
            return "dead channel: some weights are next to nothing beside the others"
    if worst > NARROW_RANGE:
        return f"range outlier: {name} reaches {worst:.0f} times its root mean square"
    if weight is not None and unit.ops[0].name == "conv" and unit.ops[0].attr("group") != 1:
        return "its channels are convolved alone, and have one scale for their different ranges"
    return "what follows amplifies its rounding"


NARROW_RANGE = 16.0
"""Ratio of range and root mean square from which on rounding takes more than it should."""
