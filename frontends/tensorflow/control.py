"""Functional control flow: If, Case and While become regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.builder import create
from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten
from lepton_ir.frontends.tensorflow.graph import described, function_name
from lepton_ir.frontends.tensorflow.lists import TensorList, flat, rebuilt
from lepton_ir.frontends.tensorflow.loops import Loop, View
from lepton_ir.frontends.tensorflow.lowering import TfBuilder
from lepton_ir.frontends.tensorflow.nodes import FunctionRef
from lepton_ir.frontends.tensorflow.table import tf_structure
from lepton_ir.infer import infer_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.frontends.tensorflow.functions import Body
    from lepton_ir.frontends.tensorflow.graph import GraphReader, Scope, Slot
    from lepton_ir.frontends.tensorflow.nodes import Node
    from lepton_ir.ir import Block

    Branch = Callable[[Block], list[Slot]]

MAX_BRANCHES = 1000


def truth(b: TfBuilder, value: Slot) -> Value:
    """Return what a condition says, as a bool: numbers that are not 0, tensors that have elements.

    Raises:
        UnsupportedError: it is no number, or its rank is unknown.
    """
    if not isinstance(value, Value):
        raise UnsupportedError(f"the condition is {described(value)}", code="tf-control")
    if b.rank(value):
        return b.greater(b.size(value), b.full((), 0, dtypes.I64))  # type: ignore[no-any-return]
    return b.cast_to(value, dtypes.BOOL)


def choice(scope: Scope, condition: Value, count: int, branches: Sequence[Branch]) -> list[Slot]:
    """Build an ``if``; the branches read into a block and return its results."""
    b = scope.b
    loc = b.loc
    op = create("if", [condition], {}, 0, loc)
    b.block.append(op)
    found: list[list[Slot]] = []
    try:
        for region, branch in zip(op.regions, branches, strict=True):
            slots = branch(region.block)
            if len(slots) != count:
                raise InvalidModelError(
                    f"a branch has {len(slots)} results, not {count}", code="tf-control"
                )
            found.append(slots)
        b.loc = loc
        results: list[Slot] = []
        yields: list[list[Value]] = [[], []]
        for yes, no in zip(*found, strict=True):
            if isinstance(yes, (Value, TensorList)) and isinstance(no, type(yes)):
                for region, slot, values in zip(op.regions, (yes, no), yields, strict=True):
                    other = no if slot is yes else yes
                    values.append(flat(TfBuilder(region.block, loc=loc), slot, other))
                results.append(rebuilt(op.add_result(yields[0][-1].type), yes))
            elif yes == no:
                results.append(yes)
            else:
                raise UnsupportedError(
                    f"the branches return {described(yes)} and {described(no)}", code="tf-control"
                )
    except Exception:
        op.erase()
        raise
    for region, values in zip(op.regions, yields, strict=True):
        region.block.append(create("yield", values))
    infer_op(op)
    return results


def _branch(
    reader: GraphReader, scope: Scope, node: Node, name: str, operands: Sequence[Slot]
) -> Branch:
    def fill(block: Block) -> list[Slot]:
        body = reader.shared.library.body(name)
        inner = scope.inside(block, body)
        inner.chain = reader.chained(scope, name)
        inner.prefix = reader.prefix(scope, node, name)
        reader.entered(inner, name, operands)
        return reader.evaluate(inner, body.returns)

    return fill


@tf_structure("If", "StatelessIf")
def _if(reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]) -> Sequence[Slot]:
    names = [function_name(node, f"{kind}_branch") for kind in ("then", "else")]
    condition = truth(scope.b, operands[0])
    bodies: list[Body] = [reader.shared.library.body(n) for n in names]
    branches = [_branch(reader, scope, node, n, operands[1:]) for n in names]
    return choice(scope, condition, len(bodies[0].returns), branches)


@tf_structure("Case", "StatelessCase")
def _case(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    """Branch ``i``, the last one where there is no such branch."""
    refs = node.attr("branches")
    if not isinstance(refs, list) or not 0 < len(refs) <= MAX_BRANCHES:
        raise InvalidModelError("no list of branches", code="tf-control")
    names = [r.name for r in refs if isinstance(r, FunctionRef)]
    index, *rest = operands
    if not isinstance(index, Value):
        raise UnsupportedError(f"the index is {described(index)}", code="tf-control")
    b, last = scope.b, len(names) - 1
    negative = b.less(index, b.like(index, 0))
    index = b.where(negative, b.like(index, last), index)
    count = len(reader.shared.library.body(names[0]).returns)
    branches = [_branch(reader, scope, node, n, rest) for n in names]
    return _cases(scope, index, count, branches, 0)


def _cases(
    scope: Scope,
    index: Value,
    count: int,
    branches: Sequence[Branch],
    first: int,
) -> list[Slot]:
    if len(branches) == 1:
        return branches[0](scope.b.block)
    middle = first + len(branches) // 2
    low, high = branches[: middle - first], branches[middle - first :]
    below = scope.b.less(index, scope.b.like(index, middle))

    def side(part: Sequence[Branch], start: int) -> Branch:
        return lambda block: _cases(scope.inside(block), index, count, part, start)

    return choice(scope, below, count, [side(low, first), side(high, middle)])


@tf_structure("While", "StatelessWhile")
def _while(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    views: list[View] = []
    for attr in ("cond", "body"):
        name = function_name(node, attr)
        body = reader.shared.library.body(name)
        if len(body.args) != len(operands):
            raise InvalidModelError(
                f"function {shorten(name)} takes {len(body.args)} operands, gets {len(operands)}",
                code="tf-function",
            )
        views.append(
            View.of_function(body, reader.chained(scope, name), reader.prefix(scope, node, name))
        )
    return Loop(reader, scope, views[0], views[1], operands).build()
