"""Which layers static quantization leaves in float: sensitivities, and mixed precision.

Layers are measured alone in a model with switches, on a few samples; choices of layers as the
quantized models that they give: on a few samples, and on all what seems to hold the limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.passes.quant.common import LAYERS, Run, float_constant, label
from lepton_ir.passes.quant.correct import corrected
from lepton_ir.passes.quant.distance import alone, samples
from lepton_ir.passes.quant.integers import hard_affine
from lepton_ir.passes.quant.judge import Judge, trial_context
from lepton_ir.passes.quant.numbers import affine, spread
from lepton_ir.passes.quant.probe import Probe
from lepton_ir.passes.quant.reasons import cause
from lepton_ir.passes.quant.search import Search
from lepton_ir.passes.quant.static import VIEWS, Prepared, leave_in_float, prune
from lepton_ir.passes.quant.switches import SWITCHES, Switches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.passes.quant.static import Plan

Array = np.ndarray[Any, Any]


BUDGET = 18.0
"""Runs of the float model over all samples that measuring choices may take the time of."""

SLOWER = 1.5
"""Times the float model's that a quantized one may take."""

BUILD = 32
"""Samples' runs in whose time a quantized model is built and loaded, about."""


@dataclass
class Unit:
    """A layer with what follows it, up to the next layer.

    Attributes:
        name: of the layer.
        ops: the planned operations.
        distance: of the outputs when only this is quantized.
        typical: the same, as it is for most samples.
        cause: why it is sensitive.
        kept: whether it stays in float.
    """

    name: str
    ops: list[Op]
    distance: float = 0.0
    typical: float = 0.0
    cause: str = ""
    kept: bool = False


def choose(run: Run, feeds: Feeds, prepared: Prepared) -> list[Unit]:
    """Return the layers with their sensitivities and whether they stay in float.

    Raises:
        LeptonError: the user's metric cannot be imported or fails.
    """
    units = find_units(prepared.plan)
    if not units:
        return []
    for unit in units:
        unit.cause = cause(unit.ops, prepared)
    judge = None
    if run.options.max_drop > 0:
        judge = Judge(run.snapshot().module, run.ctx, feeds, run.options.metric, glances=True)
    simulation = _Simulation(run, prepared, units)
    for unit, found in zip(units, simulation.alone(feeds), strict=True):
        unit.distance, unit.typical = found
    if judge is not None:
        _reach(run, judge, simulation, units)
    return units


def _reach(run: Run, judge: Judge, simulation: _Simulation, units: list[Unit]) -> None:
    """Leave units in float until the limit is held, as few operations as can be found."""

    def loss(left_out: frozenset[int]) -> float:
        return judge.loss(quantized_outputs(run, simulation, left_out, judge.feeds))

    def glance(left_out: frozenset[int]) -> float:
        return judge.glance(quantized_outputs(run, simulation, left_out, judge.few))

    limit = run.options.max_drop
    search = Search(
        np.square([u.typical for u in units]),
        simulation.cost,
        loss,
        glance=glance if judge.few else None,
        prices=(_price(judge.count, judge), _price(len(judge.few), judge)),
        budget=BUDGET,
    )
    kept = search.reduce(limit)
    lost = search.loss(kept)
    if lost > limit:
        run.ctx.remark("note", "", "max_drop={} is not reached: {:.4g} is lost", limit, lost)
    for i in kept:
        units[i].kept = True


def _price(samples: int, judge: Judge) -> float:
    """Return the time of building a quantized model and running it, in runs over all samples."""
    return (BUILD + SLOWER * samples) / judge.count


def quantized_outputs(
    run: Run, simulation: _Simulation, left_out: frozenset[int], feeds: Iterable[dict[str, Any]]
) -> Iterator[list[Any]]:
    """Yield what the model gives when it is quantized without some units."""
    from lepton_ir.passes.quant.static import insert_prepared

    snapshot = run.snapshot()
    trial = Run(run.options, snapshot.module, trial_context(run.ctx), "static")
    trial.share_weights(simulation.run)
    prepared = replace(simulation.prepared, plan=simulation.plan(left_out))
    insert_prepared(trial, prepared.moved(snapshot))
    with Probe(trial.module, trial.ctx, "sensitivity", fast=True) as probe:
        yield from probe.run(feeds)


def find_units(plan: Plan) -> list[Unit]:
    """Return the planned operations, layer by layer."""
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


class _Simulation:
    """The model with a switch for every layer, and for every reader of a value that has a pair.

    What a choice of units means for joins, views and islands is what plans make of it.
    """

    def __init__(self, run: Run, prepared: Prepared, units: list[Unit]) -> None:
        self.run = Run(run.options, run.module, trial_context(run.ctx), "static")
        self.prepared = prepared
        self.heads = [unit.ops[0] for unit in units]
        plan = prepared.plan
        self.layers = [op for op in plan.ops if op in plan.inputs and _has_weight(op)]
        self.computing = sum(_computes(op) for op in plan.ops)
        read = [op.operands[i] for op in plan.ops for i in plan.inputs[op]]
        values = [v for v in read if v is not None]
        values += [v for op in plan.ops for v in plan.outputs[op]]
        self.values = list(dict.fromkeys(values))
        readers = {op.operands[i]: op for op in reversed(plan.ops) for i in plan.inputs[op]}
        makers = {v: op for op in plan.ops for v in plan.outputs[op]}
        self.deciders: dict[Any, Op] = {**readers, **makers}
        sites = [*self.layers, *((v, use.op, use.index) for v in self.values for use in v.uses)]
        self.number: dict[Any, int] = {site: i for i, site in enumerate(sites)}

    def plan(self, left_out: frozenset[int]) -> Plan:
        """Return what is quantized when units are left out."""
        plan = self.prepared.plan.copy()
        if left_out:
            leave_in_float(self.run, plan, {self.heads[i] for i in left_out})
        return plan

    def only(self, units: frozenset[int]) -> Plan:
        """Return a plan of these units, whether or not their borders pay alone."""
        plan = self.prepared.plan.copy()
        plan.drop({head for i, head in enumerate(self.heads) if i not in units})
        prune(plan)
        return plan

    def cost(self, left_out: frozenset[int]) -> int:
        """Return how many operations of the whole plan are then in float."""
        return self.computing - sum(_computes(op) for op in self.plan(left_out).ops)

    def _switches(self, plan: Plan) -> Array:
        """Return the switches for a plan."""
        on = np.zeros(len(self.number), bool)
        on[[self.number[op] for op in plan.ops if op in self.number]] = True
        for value, everywhere in plan.paired().items():
            if plan.root(value) is not value:
                continue
            for use in value.uses:
                reads = use.op in plan.inputs and use.index in plan.inputs[use.op]
                if everywhere or reads:
                    on[self.number[value, use.op, use.index]] = True
        return on

    def alone(self, feeds: Feeds) -> list[tuple[float, float]]:
        """Return distance and typical distance of every unit alone.

        Those of units in a group are their shares of the group's.
        """
        count = len(self.heads)
        chosen, size = samples(feeds, self.run.module.main, count)
        with self._probe() as probe:

            def outputs(units: frozenset[int]) -> Iterator[list[Any]]:
                on = self._switches(self.only(units))
                return probe.run({**feed, SWITCHES: on} for feed in chosen)

            return alone(count, size, outputs)

    def _probe(self) -> Probe:
        """Return the model, ready to run."""
        snapshot = self.run.snapshot()
        values, ops = snapshot.values, snapshot.ops
        switches = Switches(snapshot.module, len(self.number))
        uses = {
            value: [(ops.get(use.op), use.index) for use in value.uses] for value in self.values
        }
        now: dict[Value, Value] = {}
        for op in self.layers:
            rounded = _rounded(self.run, op, self.prepared)
            now[op.result] = switches.replace(ops[op], self.number[op], rounded)
        for value in self.values:
            pair = self._pair(value)
            for (reader, index), use in zip(uses[value], value.uses, strict=True):
                if reader is not None:
                    site = self.number[value, use.op, index]
                    switches.round(now.get(value, values[value]), (reader, index), site, pair)
        return Probe(snapshot.module, self.run.ctx, "sensitivity", fast=True)

    def _pair(self, value: Value) -> Callable[[Builder, Value], Value]:
        op = self.deciders[value]
        found, dtype = self.prepared.ranges.get(value), self.run.activation_dtype(op)
        if found is None:
            p = hard_affine(dtype)
        else:
            p = affine(found.low, found.high, dtype, self.run.symmetric(op))

        def pair(build: Builder, x: Value) -> Value:
            scale, zero = build.const(p.scale), build.const(p.zero)
            y: Value = build.dequantize_linear(build.quantize_linear(x, scale, zero), scale, zero)
            return y

        return pair


def _computes(op: Op) -> bool:
    """Return whether an operation counts; ``x * sigmoid(x)`` is one for runtimes."""
    uses = list(op.result.uses) if op.name == "sigmoid" else []
    if len(uses) == 1:
        reader = uses[0].op
        return reader.name != "mul" or reader.operands[1 - uses[0].index] is not op.operands[0]
    return op.name not in VIEWS


def _has_weight(op: Op) -> bool:
    return op.name in LAYERS and float_constant(op, 1) is not None


def _rounded(run: Run, op: Op, prepared: Prepared) -> dict[int, Array]:
    """Return the weight of a layer as it is read when quantized, and its corrected bias."""
    source, tensor = op.operands[1], float_constant(op, 1)
    assert source is not None
    assert tensor is not None
    forced = run.merges and op.name == "conv"
    weight = prepared.rounded.get(op) or run.weight(source, run.axis(op), forced=forced)
    assert weight is not None
    wide = spread(weight.scale, weight.axis, len(tensor.shape))
    found = {1: np.asarray(weight.tensor.numpy().astype(np.float32) * wide)}
    bias = float_constant(op, 2)
    if bias is not None and op in prepared.means:
        mean = prepared.means[op]
        found[2] = corrected(op, tensor.numpy(), weight, bias.numpy(), mean)
    return found
