"""Nodes as operations: what the outputs need is read, in the order of the dataflow.

A node's results are slots: a value, a list of tensors (:mod:`.lists`), or a handle. Calls are
inlined without recursion, so that only graphs in regions nest Python's stack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from lepton_ir.diagnostics import (
    InvalidModelError,
    LeptonError,
    Location,
    UnsupportedError,
    shorten,
)
from lepton_ir.frontends.tensorflow import table
from lepton_ir.frontends.tensorflow.functions import Body, Library, Ref
from lepton_ir.frontends.tensorflow.lowering import TfBuilder
from lepton_ir.frontends.tensorflow.nodes import FunctionRef, Node
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from lepton_ir.frontends.tensorflow.variables import Variables
    from lepton_ir.ir import Block, Function

MAX_DEPTH = 40
"""Regions within regions."""

MAX_NODES = 1_000_000
"""Nodes that are built: bodies of loops within loops are built several times."""

CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall"))

Slot = Any
"""A ``Value``, a list, a handle, or ``None``."""


class Variable(NamedTuple):
    """The handle of a variable.

    Attributes:
        name: of the node that makes it.
    """

    name: str


class Handle(NamedTuple):
    """A handle that stands for nothing by itself."""

    what: str


class Access(NamedTuple):
    """A read of a variable, or a write.

    Attributes:
        scope: where the node is.
        node: its name.
        value: what is read or written.
    """

    scope: Scope
    node: str
    value: Value


@dataclass
class Shared:
    """What all scopes of a model share.

    Attributes:
        library: the functions.
        variables: what they hold.
        function: where operations go.
        taken: names of values in use.
        inlined: functions that were inlined before, whose nodes need other names.
        count: nodes built.
        reads: of variables, by the name of their handle.
        writes: to variables.
    """

    library: Library
    variables: Variables
    function: Function
    taken: set[str] = field(default_factory=set)
    inlined: set[str] = field(default_factory=set)
    count: int = 0
    reads: dict[str, list[Access]] = field(default_factory=dict)
    writes: dict[str, list[Access]] = field(default_factory=dict)


class Scope:
    """Nodes and what they stand for, in one block.

    Args:
        body: the nodes.
        builder: where operations go.
        outer: a scope of the same nodes around this one, in TensorFlow 1's control flow.
        chain: functions that are being inlined.
        prefix: in front of the names of nodes.
        depth: of regions.
        caller: the scope that this one is nested in, and the node there.

    Attributes:
        at: the node that is being built.
    """

    def __init__(
        self,
        body: Body,
        builder: TfBuilder,
        *,
        outer: Scope | None = None,
        chain: tuple[str, ...] = (),
        prefix: str = "",
        depth: int = 0,
        caller: tuple[Scope, str] | None = None,
    ) -> None:
        self.body = body
        self.b = builder
        self.outer = outer
        self.chain = chain
        self.prefix = prefix
        self.depth = depth
        self.caller = caller
        self.at = ""
        self.slots: dict[str, Sequence[Slot]] = {}

    def find(self, name: str) -> Sequence[Slot] | None:
        """Return the results of a node, ``None`` when it was not read."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.slots:
                return scope.slots[name]
            scope = scope.outer
        return None

    def get(self, ref: Ref) -> Slot:
        """Return a result.

        Raises:
            InvalidModelError: the node has no such result.
        """
        found = self.find(ref.node)
        if found is None or ref.port >= len(found):
            raise InvalidModelError(
                f"{shorten(ref.node)} has no result {ref.port}", code="tf-input"
            )
        return found[ref.port]

    def inside(self, block: Block, body: Body | None = None) -> Scope:
        """Return a scope in a region: of the same nodes, or of those of a function."""
        if self.depth >= MAX_DEPTH:
            raise UnsupportedError("control flow is nested too deeply", code="tf-nesting")
        return Scope(
            self.body if body is None else body,
            TfBuilder(block, loc=self.b.loc),
            outer=self if body is None else None,
            chain=self.chain,
            prefix=self.prefix,
            depth=self.depth + 1,
            caller=(self, self.at),
        )

    def label(self, node: Node) -> str:
        """Return what a node is called."""
        return self.prefix + node.name


_Wish = tuple[Scope, str]


class GraphReader:
    """Reads nodes into blocks.

    Args:
        shared: what all scopes of the model share.
    """

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.rows = table.load()
        self.structures = table.structures()

    def evaluate(self, scope: Scope, refs: Sequence[Ref]) -> list[Slot]:
        """Read what some results need; return them.

        Raises:
            InvalidModelError: nodes need themselves, or do not fit together.
            UnsupportedError: an operator has no row, or cannot be lowered.
        """
        for ref in refs:
            if scope.find(ref.node) is None:
                self._run(scope, ref.node)
        return [scope.get(r) for r in refs]

    def _run(self, scope: Scope, name: str) -> None:
        stack = [((scope, name), self._read(scope, name))]
        active = {(id(scope), name)}
        while stack:
            for wanted in stack[-1][1]:
                where, which = wanted
                if where.find(which) is not None:
                    continue
                if (id(where), which) in active:
                    raise InvalidModelError(
                        f"{shorten(which)} needs itself", code="tf-cycle", where=shorten(which)
                    )
                active.add((id(where), which))
                stack.append((wanted, self._read(where, which)))
                break
            else:
                (where, which), _ = stack.pop()
                active.discard((id(where), which))

    def _read(self, scope: Scope, name: str) -> Generator[_Wish, None, None]:
        """Read a node; yields what it needs first."""
        node = scope.body.nodes.get(name)
        if node is None:
            raise InvalidModelError(f"nothing defines {shorten(name)}", code="tf-input")
        try:
            called = self._called(node)
            if called:
                yield from self._call(scope, node, called)
                return
            structure = self.structures.get(node.op)
            if structure is not None and structure.needs is not None:
                refs = structure.needs(self, scope, node)
            else:
                refs = scope.body.operands(node)
            for ref in refs:
                yield scope, ref.node
            operands = [scope.get(r) for r in refs]
            scope.b.loc = Location(scope.label(node))
            scope.at = node.name
            self._count()
            if structure is not None:
                found = structure.build(self, scope, node, operands)
            else:
                found = self.row(scope, node, operands)
            self._bind(scope, node, found)
        except LeptonError as error:
            error.where = error.where or node.describe()
            raise
        except (TypeError, ValueError, AssertionError, KeyError, IndexError, OverflowError) as e:
            text = shorten(str(e) or type(e).__name__)
            raise InvalidModelError(
                f"operands and attributes do not fit: {text}",
                code="tf-node",
                where=node.describe(),
            ) from e

    def _count(self) -> None:
        self.shared.count += 1
        if self.shared.count > MAX_NODES:
            raise UnsupportedError(f"more than {MAX_NODES} nodes", code="tf-size")

    # -- calls -------------------------------------------------------------------------------------

    def _called(self, node: Node) -> str:
        if node.op in CALLS:
            return function_name(node, "f")
        return node.op if node.op in self.shared.library else ""

    def _call(self, scope: Scope, node: Node, name: str) -> Generator[_Wish, None, None]:
        """Inline a function."""
        refs = scope.body.operands(node)
        for ref in refs:
            yield scope, ref.node
        self._count()
        inner = self.entered(
            Scope(
                self.shared.library.body(name),
                scope.b,
                chain=self.chained(scope, name),
                prefix=self.prefix(scope, node, name),
                depth=scope.depth,
                caller=(scope, node.name),
            ),
            name,
            [scope.get(r) for r in refs],
        )
        for ref in inner.body.returns:
            yield inner, ref.node
        scope.slots[node.name] = [inner.get(r) for r in inner.body.returns]
        for write in inner.body.writes:
            refs = inner.body.operands(write)
            for ref in refs:
                yield inner, ref.node
            self._write(inner, write, [inner.get(r) for r in refs])

    def _write(self, scope: Scope, node: Node, operands: Sequence[Slot]) -> None:
        handle, value = operands
        if scope.depth or not isinstance(handle, Variable) or not isinstance(value, Value):
            raise UnsupportedError(
                "a write to a variable inside control flow", code="tf-op", where=node.describe()
            )
        access = Access(scope, node.name, value)
        self.shared.writes.setdefault(handle.name, []).append(access)

    def chained(self, scope: Scope, name: str) -> tuple[str, ...]:
        """Return the functions that are being inlined, one more.

        Raises:
            InvalidModelError: it is among them already.
        """
        if name in scope.chain:
            raise InvalidModelError(f"function {shorten(name)} calls itself", code="tf-cycle")
        return (*scope.chain, name)

    def prefix(self, scope: Scope, node: Node, name: str) -> str:
        """Return what is put before the names of nodes of a function."""
        again = name in self.shared.inlined
        self.shared.inlined.add(name)
        return f"{scope.label(node)}/" if again or scope.prefix else ""

    def entered(self, scope: Scope, name: str, operands: Sequence[Slot]) -> Scope:
        """Return the scope of a function, its operands bound.

        Raises:
            InvalidModelError: it has more or fewer.
        """
        if len(scope.body.args) != len(operands):
            raise InvalidModelError(
                f"function {shorten(name)} takes {len(scope.body.args)} operands, "
                f"gets {len(operands)}",
                code="tf-function",
            )
        for arg, operand in zip(scope.body.args, operands, strict=True):
            scope.slots[arg] = [operand]
        return scope

    # -- nodes -------------------------------------------------------------------------------------

    def row(self, scope: Scope, node: Node, operands: Sequence[Slot]) -> Sequence[Slot]:
        """Build a node by its row; return its results.

        Raises:
            UnsupportedError: there is none, or an operand is no tensor.
        """
        row = (table.COMPLEX if node.is_complex else self.rows).get(node.op)
        if row is None and node.is_complex:
            raise UnsupportedError(f"{shorten(node.op)} of complex numbers", code="tf-complex")
        if row is None:
            raise UnsupportedError(
                f"operator {shorten(node.op)} is not supported{reason(node.op)}", code="tf-op"
            )
        for number, operand in enumerate(operands):
            if not isinstance(operand, Value):
                raise UnsupportedError(
                    f"operand {number} is {described(operand)}, not a tensor", code="tf-operand"
                )
        found = row(scope.b, node, *operands)
        return [found] if isinstance(found, Value) else list(found)

    def _bind(self, scope: Scope, node: Node, found: Sequence[Slot]) -> None:
        scope.slots[node.name] = found
        label = scope.label(node)
        for port, value in enumerate(found):
            if not isinstance(value, Value) or value.op is None or value.name is not None:
                continue
            name = f"{label}:{port}" if port else label
            if name not in self.shared.taken:
                self.shared.taken.add(name)
                value.name = name


def function_name(node: Node, attr: str) -> str:
    """Return the name of the function in an attribute.

    Raises:
        InvalidModelError: there is none.
    """
    found = node.attr(attr)
    if not isinstance(found, FunctionRef):
        raise InvalidModelError(f"attribute {attr} is no function", code="tf-attr")
    return found.name


def described(slot: Slot) -> str:
    """Return what a slot is, for messages."""
    if slot is None:
        return "nothing"
    if isinstance(slot, Handle):
        return slot.what
    return {"Variable": "a variable", "TensorList": "a list of tensors"}.get(
        type(slot).__name__, "no tensor"
    )


_REASONS = (
    (
        ("HashTable", "LookupTable", "MutableHash", "MutableDense", "AnonymousHash"),
        "a lookup table",
    ),
    (("Dataset", "Iterator", "Queue", "Reader"), "a source of data"),
    (("String", "Regex", "Unicode", "AsString", "Substr", "Decode", "Encode"), "work on strings"),
    (("Assign", "Scatter", "Apply"), "a write to a variable"),
    (("Summary", "PyFunc", "EagerPy"), "code outside of the model"),
)


def reason(op: str) -> str:
    """Return more on why an operator is not supported."""
    if op == "EagerPyFunc" or "PyFunc" in op:
        return ": code outside of the model"
    if (op.startswith("Resource") or op.endswith("VariableOp")) and op != "ReadVariableOp":
        return ": a write to a variable"
    for words, text in _REASONS:
        if any(w in op for w in words) and not op.startswith("TensorScatter"):
            return f": {text}"
    return ""
