"""TensorFlow 1's control flow, rebuilt: Switch and Merge become ``if``, frames become ``loop``.

A Switch passes its operand on to one side; a Merge takes what arrives from one of two. So a Merge
is a choice on the condition whose two sides its operands depend on. A frame is a loop: each state
enters it, is merged with that of the next iteration, and leaves it where the condition fails.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten
from lepton_ir.frontends.tensorflow.control import choice, truth
from lepton_ir.frontends.tensorflow.functions import Ref
from lepton_ir.frontends.tensorflow.loops import Loop, View
from lepton_ir.frontends.tensorflow.table import tf_structure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lepton_ir.frontends.tensorflow.functions import Body
    from lepton_ir.frontends.tensorflow.graph import GraphReader, Scope, Slot
    from lepton_ir.frontends.tensorflow.nodes import Node
    from lepton_ir.ir import Block

_SWITCH = ("Switch", "RefSwitch")
_MERGE = ("Merge", "RefMerge")
_ENTER = ("Enter", "RefEnter")
_EXIT = ("Exit", "RefExit")
_NEXT = ("NextIteration", "RefNextIteration")

MAX_SIDES = 200
"""Conditions around one node."""

Side = tuple[Ref, int]
"""A condition, and whether it holds."""


@dataclass
class _Frame:
    """A loop.

    Attributes:
        merges: one per state.
        enters: where states come from.
        nexts: what they become.
        switches: where they go on or leave, by the merge.
        exits: where they leave, by the merge.
        constants: what the loop reads and does not change.
        condition: its LoopCond.
    """

    merges: list[str] = field(default_factory=list)
    enters: list[Node] = field(default_factory=list)
    nexts: list[Node] = field(default_factory=list)
    switches: dict[str, str] = field(default_factory=dict)
    exits: dict[str, list[str]] = field(default_factory=dict)
    constants: list[Node] = field(default_factory=list)
    condition: str = ""


class _Flow:
    """The control flow of some nodes.

    Args:
        body: the nodes.
    """

    def __init__(self, body: Body) -> None:
        self.body = body
        self.frames: dict[str, _Frame] = {}
        self.frame_of: dict[str, _Frame] = {}
        self._sides: dict[Ref, frozenset[Side]] = {}
        for node in body.nodes.values():
            if node.op in _MERGE:
                self._merge(node)
        merged = {e.name for f in self.frames.values() for e in f.enters}
        for node in body.nodes.values():
            if node.op in _ENTER and node.name not in merged:
                self._frame(node).constants.append(node)
            elif node.op in _SWITCH:
                self._switch(node)
        for node in body.nodes.values():
            if node.op in _EXIT:
                self._exit(node)

    def _frame(self, enter: Node) -> _Frame:
        return self.frames.setdefault(str(enter.attr("frame_name", "")), _Frame())

    def _nodes(self, node: Node) -> list[Node | None]:
        return [self.body.nodes.get(r.node) for r in self.body.operands(node)]

    def _merge(self, merge: Node) -> None:
        operands = [n for n in self._nodes(merge) if n is not None]
        enters = [n for n in operands if n.op in _ENTER]
        nexts = [n for n in operands if n.op in _NEXT]
        if not nexts:
            return
        if len(operands) != 2 or len(enters) != 1:
            raise UnsupportedError(
                "a loop whose states come from several places",
                code="tf-flow",
                where=merge.describe(),
            )
        frame = self._frame(enters[0])
        frame.merges.append(merge.name)
        frame.enters.append(enters[0])
        frame.nexts.append(nexts[0])
        self.frame_of[merge.name] = frame

    def _switch(self, switch: Node) -> None:
        operands = self.body.operands(switch)
        frame = self.frame_of.get(operands[0].node) if len(operands) == 2 else None
        if frame is None:
            return
        condition = self.body.source(operands[1])
        node = self.body.nodes.get(condition.node)
        if node is None or node.op != "LoopCond" or operands[0].port:
            return
        if frame.condition not in ("", node.name) or operands[0].node in frame.switches:
            raise UnsupportedError(
                "a loop with two conditions", code="tf-flow", where=switch.describe()
            )
        frame.condition = node.name
        frame.switches[operands[0].node] = switch.name
        self.frame_of[switch.name] = frame

    def _exit(self, node: Node) -> None:
        (ref,) = self.body.operands(node)
        frame = self.frame_of.get(ref.node)
        switch = self.body.nodes.get(ref.node)
        if frame is None or switch is None or switch.op not in _SWITCH or ref.port:
            raise UnsupportedError("leaves no loop", code="tf-flow", where=node.describe())
        merge = self.body.operands(switch)[0].node
        frame.exits.setdefault(merge, []).append(node.name)
        self.frame_of[node.name] = frame

    # -- sides -------------------------------------------------------------------------------------

    def sides(self, ref: Ref) -> frozenset[Side]:
        """Return the conditions under which a result is there."""
        stack = [ref]
        active = {ref}
        while stack:
            top = stack[-1]
            wanted = [r for r in self._before(top) if r not in self._sides]
            if wanted:
                if wanted[0] in active:
                    raise InvalidModelError(f"{shorten(top.node)} needs itself", code="tf-cycle")
                active.add(wanted[0])
                stack.append(wanted[0])
                continue
            self._sides[top] = self._of(top)
            active.discard(stack.pop())
        return self._sides[ref]

    def _before(self, ref: Ref) -> list[Ref]:
        """Return what decides whether a result is there."""
        node = self.body.nodes.get(ref.node)
        if node is None or node.op in _NEXT:
            return []
        operands = self.body.operands(node)
        if node.name in self.frame_of:
            if node.op in _MERGE:
                return [r for r in operands if self.body.nodes[r.node].op in _ENTER]
            return operands[:1]
        controls = [i[1:] for i in node.message.input if i.startswith("^")]
        return operands + [Ref(c, 0) for c in controls if self._is_sided(c)]

    def _is_sided(self, name: str) -> bool:
        node = self.body.nodes.get(name)
        return node is not None and node.op not in _SWITCH

    def _of(self, ref: Ref) -> frozenset[Side]:
        node = self.body.nodes.get(ref.node)
        before = [self._sides[r] for r in self._before(ref)]
        if node is None or not before:
            return frozenset()
        if node.op in _MERGE and node.name not in self.frame_of:
            return frozenset.intersection(*before)
        found = frozenset().union(*before)
        if node.op in _SWITCH and node.name not in self.frame_of:
            found |= {(self.condition(node), ref.port)}
        if len(found) > MAX_SIDES:
            raise UnsupportedError("conditions are nested too deeply", code="tf-nesting")
        return found

    def condition(self, switch: Node) -> Ref:
        """Return what a Switch decides by."""
        return self.body.source(self.body.operands(switch)[1])

    def choice(self, merge: Node) -> tuple[Ref, int]:
        """Return the condition of a Merge, and on which side of it the first operand is.

        Raises:
            UnsupportedError: the operands are not two sides of one condition.
        """
        operands = self.body.operands(merge)
        if len(operands) == 2:
            first, second = (self.sides(r) for r in operands)
            for ref, side in sorted(first - second):
                if (ref, 1 - side) in second:
                    return ref, side
        raise UnsupportedError("merges what are not two sides of one condition", code="tf-flow")

    def switched(self, refs: Sequence[Ref], condition: Ref) -> Iterator[Ref]:
        """Yield what goes into the sides of a condition, as some results need it."""
        work, seen = [r.node for r in refs], set()
        while work:
            name = work.pop()
            node = self.body.nodes.get(name)
            if name in seen or node is None or node.op in _NEXT:
                continue
            seen.add(name)
            operands = self.body.operands(node)
            plain = node.op in _SWITCH and name not in self.frame_of
            if plain and self.condition(node) == condition:
                yield operands[0]
                continue
            work += [r.node for r in operands]


_FLOWS: weakref.WeakKeyDictionary[Body, _Flow] = weakref.WeakKeyDictionary()


def _flow(scope: Scope) -> _Flow:
    if scope.body not in _FLOWS:
        _FLOWS[scope.body] = _Flow(scope.body)
    return _FLOWS[scope.body]


# -- choices ---------------------------------------------------------------------------------------


def _merge_needs(reader: GraphReader, scope: Scope, node: Node) -> list[Ref]:
    flow = _flow(scope)
    if node.name in flow.frame_of:
        raise UnsupportedError("a state of a loop is read outside of it", code="tf-flow")
    condition, _ = flow.choice(node)
    inputs = flow.switched(scope.body.operands(node), condition)
    return [condition, *dict.fromkeys(inputs)]


@tf_structure(*_MERGE, needs=_merge_needs)
def _merge(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    _, side = _flow(scope).choice(node)
    condition = truth(scope.b, operands[0])
    refs = scope.body.operands(node)

    def branch(ref: Ref) -> Callable[[Block], list[Slot]]:
        return lambda block: reader.evaluate(scope.inside(block), [ref])

    ordered = refs if side == 1 else refs[::-1]
    found = choice(scope, condition, 1, [branch(r) for r in ordered])
    b = scope.b
    first, second = (b.full((), i, dtypes.I32) for i in ((0, 1) if side == 1 else (1, 0)))
    return [*found, b.where(condition, first, second)]


@tf_structure(*_SWITCH)
def _switch(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    """Both sides get the operand: what reads one of them is built for that side only."""
    return [operands[0], operands[0]]


# -- loops -----------------------------------------------------------------------------------------


def _exit_needs(reader: GraphReader, scope: Scope, node: Node) -> list[Ref]:
    frame = _flow(scope).frame_of[node.name]
    enters = [*frame.enters, *frame.constants]
    return [scope.body.operands(e)[0] for e in enters]


@tf_structure(*_EXIT, needs=_exit_needs)
def _exit(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    frame = _flow(scope).frame_of[node.name]
    body = scope.body
    count = len(frame.merges)
    constants = zip(frame.constants, operands[count:], strict=True)
    bound = {n.name: [slot] for n, slot in constants}
    # A state that no Switch takes is only read by the condition.
    keys = [Ref(frame.switches.get(m, f"{m}\0"), 1) for m in frame.merges]
    following = [body.operands(n)[0] for n in frame.nexts]
    condition = body.operands(body.nodes[frame.condition])
    if len(condition) != 1:
        raise InvalidModelError("the condition of a loop is not one value", code="tf-flow")

    def view(names: list[Ref], results: list[Ref]) -> View:
        return View(body, names, results, scope.chain, scope.prefix, True, bound)

    merges = [Ref(m, 0) for m in frame.merges]
    views = view(merges, condition), view(keys, following)
    last = Loop(reader, scope, views[0], views[1], operands[:count]).build()
    own: Slot = None
    for merge, slot in zip(frame.merges, last, strict=True):
        for name in frame.exits.get(merge, ()):
            if name == node.name:
                own = slot
            else:
                scope.slots[name] = [slot]
    return [own]


@tf_structure(*_ENTER, "LoopCond")
def _enter(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    return list(operands)


@tf_structure(*_NEXT)
def _next(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    raise UnsupportedError("the next iteration is read outside of its loop", code="tf-flow")
