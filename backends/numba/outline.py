"""Plans on paper: the layout of every value, the kernel calls and the memory, for given sizes.

Nothing is compiled and no weight is packed. For people (``lepton-opt --emit=plan``) and golden
tests, which pin the machine down: of kernels only the families are shown.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims
from lepton_ir.backends.numba.constants import Constants
from lepton_ir.backends.numba.dump import place_text, ref_text
from lepton_ir.backends.numba.machine import machine as find_machine
from lepton_ir.backends.numba.plan import PyStep, Ref, Row, Tensor
from lepton_ir.backends.numba.planner import Planner
from lepton_ir.backends.numba.prepare import prepare
from lepton_ir.backends.numba.regions import BlockPlans
from lepton_ir.backends.numba.target import NumbaTarget
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.types import TensorType, dim_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lepton_ir.backends.numba.machine import Machine
    from lepton_ir.backends.numba.plan import Array, Segment
    from lepton_ir.ir import Module, Op, Value


@dataclass
class _Paper:
    """What a planner wants of a session."""

    machine: Machine
    constants: Constants
    threads: int = 1
    precision: str = "standard"


def pinned(name: str) -> Machine:
    """Return the machine called ``name`` with the same caches everywhere."""
    return replace(find_machine(name), cores=1, l1=32 << 10, l2=1 << 20, l3=32 << 20)


def plan_on_paper(module: Module, machine: Machine, sizes: Mapping[str, int]) -> Segment:
    """Return the plan of a prepared module; nothing is compiled.

    Raises:
        UnsupportedError: an input has no known size.
    """
    paper: Any = _Paper(machine, Constants())
    plans = BlockPlans(paper, module.main.block, module.main.inputs)
    arrays = [_stand_in(v, sizes) for v in module.main.inputs]
    return Planner(plans, plans.start(arrays)).plan()


def outline(module: Module, machine: Machine, sizes: Mapping[str, int]) -> str:
    """Return the plan of a prepared module as text.

    Args:
        module: what is planned.
        machine: what for.
        sizes: of the symbolic dims.

    Raises:
        UnsupportedError: an input has no known size.
    """
    main = module.main
    segment = plan_on_paper(module, machine, sizes)
    names: dict[Value, str] = {}
    for index, value in enumerate(v for op in main.block.ops for v in op.results):
        names[value] = value.name or str(index)
    lines = [f"arena {segment.arena_bytes} of {segment.sum_bytes} bytes", "layouts"]
    places = segment.state.places
    lines += [
        f"  %{name}: {place_text(places[value])}"
        for value, name in names.items()
        if isinstance(places.get(value), Tensor) and _is_made(value)
    ]
    lines += ["steps", *(f"  {line}" for line in _steps(segment, names))]
    returned = segment.outputs
    if returned is None:
        lines.append("continues when the shapes are known of " + _cut(segment, names))
    else:
        lines.append("returns " + ", ".join(map(place_text, returned)))
    return "\n".join(lines)


def _is_made(value: Value) -> bool:
    return getattr(value.producer, "name", "const") != "const"


def _stand_in(value: Value, sizes: Mapping[str, int]) -> Array:
    """Return an array of an input's shape that takes no memory."""
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.shape is None or type_.dtype is None:
        raise UnsupportedError(f"input {value.name} has no known rank", code="plan-sizes")
    shape = []
    for dim in type_.shape:
        try:
            shape.append(dims.evaluate(dim, sizes) if dim is not None else sizes["?"])
        except KeyError:
            raise UnsupportedError(
                f"input {value.name} has a dim {dim_text(dim)} without a size",
                code="plan-sizes",
                hint="fix it with --dim NAME=SIZE",
            ) from None
    return np.broadcast_to(np.zeros((), type_.dtype.numpy), shape)


def _steps(segment: Segment, names: Mapping[Value, str]) -> Iterator[str]:
    for step in segment.steps:
        where = _results(step.op, names)
        if isinstance(step, Row):
            refs = " ".join(ref_text(a) for a in step.args if isinstance(a, Ref))
            yield f"{step.kernel.family} {refs}  for {where}"
        else:
            yield _python(step, where)


def _python(step: PyStep, where: str) -> str:
    inputs = ", ".join(map(place_text, step.inputs))
    outputs = ", ".join(f"slot{s}" for s in step.outputs)
    return f"{step.road}: {step.op.name}({inputs}) -> {outputs}  for {where}: {step.reason}"


def _results(op: Op, names: Mapping[Value, str]) -> str:
    found = [names[r] for r in op.results if r in names]
    return ", ".join(f"%{n}" for n in found) or op.name


def _cut(segment: Segment, names: Mapping[Value, str]) -> str:
    return ", ".join(f"%{names.get(value, '?')}" for value, _ in segment.cut)


class PlanTarget(NumbaTarget):
    """Writes plans as text, for this machine."""

    name = "plan"

    def save(self, module: Module, path: str | os.PathLike[str], **options: Any) -> None:
        """Write the plan of ``module``, made ready for this backend."""
        text = outline(prepare(module, ""), find_machine("host"), {})
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(text + "\n")


PLAN = PlanTarget()
