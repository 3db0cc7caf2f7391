"""Graphs and functions as nodes by name, whatever form their operands' names have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten
from lepton_ir.frontends.tensorflow.nodes import Node
from lepton_ir.frontends.tensorflow.ports import port_of

if TYPE_CHECKING:
    from collections.abc import Iterable

PASSING = frozenset(("Identity", "StopGradient", "PreventGradient", "Snapshot", "RefIdentity"))
"""Operators whose result is their operand."""


ASSIGN = "AssignVariableOp"


class Ref(NamedTuple):
    """A result of a node.

    Attributes:
        node: name of the node.
        port: which result.
    """

    node: str
    port: int


class Body:
    """The nodes of a graph or of a function.

    Args:
        nodes: NodeDefs.
        library: where functions are found.
        function: its FunctionDef; ``None`` for a graph.

    Attributes:
        nodes: by name.
        args: names of the operands of a function.
        returns: the results of a function.
        writes: nodes of a function that assign to a variable; they run whoever reads them.
    """

    def __init__(self, nodes: Iterable[Any], library: Library, function: Any = None) -> None:
        self.library = library
        self.is_function = function is not None
        self.nodes: dict[str, Node] = {}
        for message in nodes:
            if message.name in self.nodes:
                raise InvalidModelError(
                    f"two nodes are called {shorten(message.name)}", code="tf-node"
                )
            self.nodes[message.name] = Node(message)
        self.args: list[str] = []
        self.returns: list[Ref] = []
        self.writes = [n for n in self.nodes.values() if n.op == ASSIGN and function is not None]
        if function is not None:
            self._read_signature(function)

    def _read_signature(self, function: Any) -> None:
        signature = function.signature
        for arg in (*signature.input_arg, *signature.output_arg):
            if arg.number_attr or arg.type_list_attr:
                raise UnsupportedError(
                    f"function {shorten(signature.name)} has a list of tensors as "
                    f"{shorten(arg.name)}",
                    code="tf-function",
                )
        self.args = [a.name for a in signature.input_arg]
        if len(set(self.args)) != len(self.args) or set(self.args) & set(self.nodes):
            raise InvalidModelError(
                f"function {shorten(signature.name)} has names twice", code="tf-function"
            )
        known = set(self.args)
        for result in signature.output_arg:
            if result.name not in function.ret:
                raise InvalidModelError(
                    f"function {shorten(signature.name)} says nothing of its result "
                    f"{shorten(result.name)}",
                    code="tf-function",
                )
            self.returns.append(self._ref(function.ret[result.name], known))

    def _ref(self, text: str, args: set[str] | None = None) -> Ref:
        args = set(self.args) if args is None else args
        parts = text.split(":")
        name = parts[0]
        if name in args and len(parts) == 1:
            return Ref(name, 0)
        node = self.nodes.get(name)
        if node is None:
            raise InvalidModelError(f"nothing defines {shorten(text)}", code="tf-input")
        if len(parts) == 1:
            return Ref(name, 0)
        if not all(p.isascii() and p.isdigit() and len(p) < 7 for p in parts[2:] or parts[1:]):
            raise InvalidModelError(f"{shorten(text)} names no result", code="tf-input")
        if len(parts) == 2:
            return Ref(name, int(parts[1]))
        signature = self.library.signature(node.op)
        return Ref(name, port_of(node.op, parts[1], int(parts[2]), signature))

    def ref(self, text: str) -> Ref:
        """Return what an operand or an output names.

        Raises:
            InvalidModelError: there is no such node, or it has no such result.
        """
        return self._ref(text)

    def operands(self, node: Node) -> list[Ref]:
        """Return the results that a node reads."""
        return [self._ref(i) for i in node.inputs]

    def source(self, ref: Ref) -> Ref:
        """Return the result behind nodes that pass it on."""
        for _ in range(len(self.nodes)):
            node = self.nodes.get(ref.node)
            if node is None or node.op not in PASSING or len(node.inputs) != 1:
                break
            ref = self._ref(node.inputs[0])
        return ref


class Library:
    """The functions of a model.

    Args:
        message: a FunctionDefLibrary.
    """

    def __init__(self, message: Any) -> None:
        self._messages = {f.signature.name: f for f in message.function}
        self._bodies: dict[str, Body] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._messages

    def signature(self, name: str) -> Any:
        """Return the signature of a function, ``None`` when there is none of this name."""
        found = self._messages.get(name)
        return None if found is None else found.signature

    def body(self, name: str) -> Body:
        """Return a function.

        Raises:
            InvalidModelError: there is none of this name.
        """
        if name not in self._bodies:
            message = self._messages.get(name)
            if message is None:
                raise InvalidModelError(f"there is no function {shorten(name)}", code="tf-function")
            self._bodies[name] = Body(message.node_def, self, message)
        return self._bodies[name]
