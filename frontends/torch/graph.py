"""Graphs of an archive as blocks of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import (
    InvalidModelError,
    LeptonError,
    Location,
    UnsupportedError,
    shorten,
)
from lepton_ir.frontends.torch import table
from lepton_ir.frontends.torch.archive import DTYPES, dtype_of, expect
from lepton_ir.frontends.torch.cells import Cell
from lepton_ir.frontends.torch.lowering import Lowering, Sym
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.dtypes import DType
    from lepton_ir.frontends.torch.cells import Slot

MAX_DEPTH = 40
"""Graphs within graphs."""

_IGNORED = frozenset(
    (
        *("_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range"),
        *("sym_constrain_range_for_size", "_functional_assert_async", "_functional_sym_constrain"),
        *("_functional_assert_scalar", "_functional_sym_constrain_range"),
        "_functional_sym_constrain_range_for_size",
    )
)
"""Operators that only check what the exporter assumed."""

_UNSAID = frozenset(("as_device", "as_memory_format", "as_layout"))


class GraphReader:
    """Reads the nodes of one graph, and of those inside.

    Args:
        builder: where the operations go.
        slots: what names stand for when the graph begins.
        depth: of nesting.
    """

    def __init__(self, builder: Lowering, slots: dict[str, Slot], depth: int = 0) -> None:
        if depth > MAX_DEPTH:
            raise UnsupportedError("graphs are nested too deeply", code="torch-nesting")
        self.b = builder
        self.slots = slots
        self.depth = depth

    def read(self, graph: dict[str, Any]) -> list[Any]:
        """Read all nodes; return what the graph's outputs stand for."""
        metas = expect(graph.get("tensor_values", {}), dict, "tensor_values")
        for node in expect(graph.get("nodes"), list, "nodes"):
            node = expect(node, dict, "a node")
            try:
                self._node(node, metas)
            except LeptonError as error:
                if not error.where:
                    error.where = describe(node)
                raise
            except (TypeError, ValueError, AssertionError, KeyError, IndexError) as error:
                text = shorten(str(error) or type(error).__name__)
                raise InvalidModelError(
                    f"arguments do not fit: {text}", code="torch-node", where=describe(node)
                ) from error
        return [self.argument(o) for o in expect(graph.get("outputs"), list, "outputs")]

    # -- nodes -------------------------------------------------------------------------------------

    def _node(self, node: dict[str, Any], metas: dict[str, Any]) -> None:
        target = expect(node.get("target"), str, "target")
        outputs = _names(expect(node.get("outputs"), list, "outputs"))
        space, name, _ = table.split(target)
        if name in _IGNORED:
            return
        self.b.loc = Location(_label(node))
        self.b.declared = [_dtype(metas, n) if isinstance(n, str) else None for n in outputs]
        if space == "higher_order":
            from lepton_ir.frontends.torch import control

            found = control.lower(self, name, [i.get("arg") for i in node["inputs"]])
            self._bind_fresh(outputs, found)
            return
        row, in_place = table.find(target)
        if row is None:
            raise UnsupportedError(f"operator {shorten(target)} is not supported", code="torch-op")
        inputs = expect(node.get("inputs"), list, "inputs")

        def compute() -> Any:
            return row(self.b, **self._arguments(inputs))

        found = compute()
        self._check(outputs, found, metas)
        if in_place:
            self._write(inputs, outputs, found)
        elif self._is_view(f"{space}.{name}", inputs, outputs, metas):
            self._bind_views(node, inputs, outputs, found, compute)
        else:
            self._bind_fresh(outputs, found)

    def _is_view(
        self, operator: str, inputs: list[Any], outputs: list[Any], metas: dict[str, Any]
    ) -> bool:
        """Return whether the result shares its data with the first operand."""
        if operator in _MAYBE_COPIES:
            # Of a tensor whose elements lie in order these return the tensor itself, or a view.
            name = inputs[0].get("arg", {}).get("as_tensor", {}).get("name")
            return _in_order(metas.get(name)) and _dtype(metas, name) is self.b.declared[0]
        return operator in table.WRITERS or operator in _VIEWS

    def _check(self, outputs: list[Any], found: Any, metas: dict[str, Any]) -> None:
        """Compare element types and ranks with what the archive says about the results."""
        values = found if isinstance(found, (list, tuple)) else [found]
        for name, value in zip(_flat(outputs), values, strict=False):
            if not isinstance(value, Value) or name not in metas:
                continue
            wanted, rank = _dtype(metas, name), len(metas[name].get("sizes", ()))
            if (wanted is not None and value.dtype is not wanted) or value.rank != rank:
                raise InvalidModelError(
                    f"{shorten(name)} is declared as {wanted} of rank {rank}, "
                    f"but it is {value.type}",
                    code="torch-type",
                )

    def _write(self, inputs: list[Any], outputs: list[Any], found: Any) -> None:
        """Write a result into the first operand."""
        cell = self._cell(inputs[0])
        if cell is None or not isinstance(found, Value):
            raise UnsupportedError("writes in place into no tensor", code="torch-inplace")
        old = cell.get()
        assert old.dtype is not None
        cell.set(_fitted(self.b, found, old))
        for name in outputs:
            self.slots[name] = cell

    def _cell(self, item: Any) -> Cell | None:
        arg = item.get("arg", {})
        name = arg.get("as_tensor", {}).get("name")
        found = self.slots.get(name)
        return found if isinstance(found, Cell) else None

    def _bind_views(
        self,
        node: dict[str, Any],
        inputs: list[Any],
        outputs: list[Any],
        found: Any,
        compute: Callable[[], Any],
    ) -> None:
        base = self._cell(inputs[0])
        if base is None:
            self._bind_fresh(outputs, found)
            return
        if base.get() is found and isinstance(outputs[0], str):
            self.slots[outputs[0]] = base
            return
        space, name, _ = table.split(node["target"])
        writer = table.WRITERS.get(f"{space}.{name}")
        several = isinstance(found, (list, tuple))

        def view(index: int) -> Cell:
            def read() -> Value:
                result = compute()
                value: Value = result[index] if several else result
                return value

            def write(old: Value, new: Value) -> Value:
                args = self._arguments(inputs)
                args.pop(inputs[0]["name"])
                position = {"position": index} if several else {}
                assert writer is not None
                value: Value = writer(self.b, old, new, **args, **position)
                return value

            value = found[index] if several else found
            return Cell(value, base, read, write if writer else None, f"{space}.{name}")

        cells = [view(i) for i in range(len(found) if several else 1)]
        self._bind(outputs, cells if several else cells[0])

    def _bind_fresh(self, outputs: list[Any], found: Any) -> None:
        self._bind(outputs, _celled(found))

    def _bind(self, outputs: list[Any], found: Any) -> None:
        if not outputs:
            return
        if len(outputs) == 1:
            names: Any = outputs[0]
            if isinstance(names, list):
                for name, item in zip(names, found, strict=True):
                    self._name(name, item)
                return
            one = found[0] if isinstance(found, (list, tuple)) and len(found) == 1 else found
            self._name(names, one)
            return
        for name, item in zip(outputs, found, strict=False):
            self._name(name, item)

    def _name(self, name: Any, item: Any) -> None:
        if not isinstance(name, str):
            return
        self.slots[name] = item
        if isinstance(item, Cell):
            value = item.get()
            if value.op is not None and value.name is None:
                value.name = name

    # -- arguments ---------------------------------------------------------------------------------

    def _arguments(self, inputs: list[Any]) -> dict[str, Any]:
        found = {}
        for item in inputs:
            value = self.argument(item.get("arg"))
            if value is not _NOTHING:
                found[expect(item.get("name"), str, "an argument")] = value
        return found

    def slot(self, name: Any) -> Slot:
        """Return what a name stands for.

        Raises:
            InvalidModelError: nothing defines it.
        """
        if not isinstance(name, str) or name not in self.slots:
            raise InvalidModelError(f"nothing defines {shorten(str(name))}", code="torch-name")
        return self.slots[name]

    def argument(self, arg: Any) -> Any:
        """Return an argument: a value, a list, a scalar, a type, ``None``."""
        if not isinstance(arg, dict) or len(arg) != 1:
            raise InvalidModelError(f"no argument: {arg!r:.60}", code="torch-arg")
        ((kind, data),) = arg.items()
        decode = _DECODERS.get(kind)
        if decode is not None:
            return decode(self, data)
        if kind in _UNSAID:
            return _NOTHING
        raise UnsupportedError(f"an argument of kind {shorten(kind)}", code="torch-arg")

    def tensor(self, data: Any) -> Value:
        """Return the current value of a tensor argument."""
        found = self.slot(expect(data, dict, "a tensor").get("name"))
        if isinstance(found, Sym):
            return found.value
        if not isinstance(found, Cell):
            raise InvalidModelError(f"{data!r:.60} is no tensor", code="torch-arg")
        return found.get()

    def symbolic(self, data: Any) -> Any:
        """Return a scalar: a number, or what the graph computes."""
        data = expect(data, dict, "a scalar")
        for kind in ("as_int", "as_float", "as_bool"):
            if kind in data:
                return data[kind]
        found = self.slot(data.get("as_name"))
        if isinstance(found, Cell):
            return Sym(found.get())
        return found

    def optional(self, data: Any) -> Any:
        """Return a tensor or ``None``."""
        return self.argument(data)


_NOTHING = object()

_DECODERS: dict[str, Callable[[GraphReader, Any], Any]] = {
    "as_none": lambda r, d: None,
    "as_tensor": lambda r, d: r.tensor(d),
    "as_tensors": lambda r, d: [r.tensor(i) for i in expect(d, list, "tensors")],
    "as_optional_tensor": lambda r, d: r.optional(d),
    "as_optional_tensors": lambda r, d: [r.optional(i) for i in expect(d, list, "tensors")],
    "as_int": lambda r, d: expect(d, int, "an int"),
    "as_float": lambda r, d: _float(d),
    "as_bool": lambda r, d: expect(d, bool, "a bool"),
    "as_string": lambda r, d: expect(d, str, "a string"),
    "as_ints": lambda r, d: [expect(i, int, "an int") for i in expect(d, list, "ints")],
    "as_floats": lambda r, d: [_float(i) for i in expect(d, list, "floats")],
    "as_bools": lambda r, d: expect(d, list, "bools"),
    "as_strings": lambda r, d: expect(d, list, "strings"),
    "as_sym_int": lambda r, d: r.symbolic(d),
    "as_sym_float": lambda r, d: r.symbolic(d),
    "as_sym_bool": lambda r, d: r.symbolic(d),
    "as_sym_ints": lambda r, d: [r.symbolic(i) for i in expect(d, list, "sizes")],
    "as_sym_floats": lambda r, d: [r.symbolic(i) for i in expect(d, list, "floats")],
    "as_scalar_type": lambda r, d: dtype_of(d, "an argument"),
    "as_graph": lambda r, d: expect(expect(d, dict, "a graph").get("graph"), dict, "a graph"),
}

_VIEWS = frozenset(
    f"aten.{name}"
    for name in (
        *("expand", "as_strided", "unfold", "diagonal", "broadcast_to", "expand_as", "alias"),
        *("detach", "detach_", "dropout", "lift", "lift_fresh"),
    )
)
"""Views that cannot be written through, and what returns its operand itself."""

_MAYBE_COPIES = frozenset(
    f"aten.{n}" for n in ("contiguous", "reshape", "flatten", "to", "type_as", "reshape_as")
)


def _in_order(meta: Any) -> bool:
    """Return whether a tensor's elements lie in row-major order, by its static strides."""
    if not isinstance(meta, dict):
        return False
    step: Any = 1
    for size, stride in zip(reversed(meta["sizes"]), reversed(meta["strides"]), strict=True):
        if stride.get("as_int") != step and size.get("as_int") != 1:
            return False
        step = step * size["as_int"] if step is not None and "as_int" in size else None
    return True


def _float(data: Any) -> float:
    if isinstance(data, str) and data in ("Infinity", "-Infinity", "NaN"):
        return float(data.replace("Infinity", "inf"))
    if isinstance(data, bool) or not isinstance(data, (int, float)):
        raise InvalidModelError(f"expected a float, got {data!r:.40}", code="torch-arg")
    return float(data)


def _celled(found: Any) -> Any:
    if isinstance(found, Value):
        return Cell(found)
    if isinstance(found, (list, tuple)):
        return [_celled(f) for f in found]
    return found


def _fitted(b: Lowering, new: Value, old: Value) -> Value:
    """Return ``new`` in the type and shape of what it is written into."""
    assert old.dtype is not None
    new = b.cast_to(new, old.dtype)
    if new.shape == old.shape:
        return new
    result: Value = b.expand(new, b.shape_of(old))
    return result


def _names(outputs: list[Any]) -> list[Any]:
    """Return the names of a node's results; a list for a result that is a list."""
    found: list[Any] = []
    for output in outputs:
        ((kind, data),) = expect(output, dict, "an output").items()
        if kind == "as_tensor":
            found.append(data["name"])
        elif kind == "as_tensors":
            found.append([d["name"] for d in data])
        elif kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            found.append(data.get("as_name"))
        elif kind == "as_optional_tensor":
            found.append(data.get("as_tensor", {}).get("name"))
        else:
            found.append(None)
    return found


def _flat(names: list[Any]) -> list[str]:
    return names[0] if len(names) == 1 and isinstance(names[0], list) else names


def _dtype(metas: dict[str, Any], name: str) -> DType | None:
    meta = metas.get(name)
    return DTYPES.get(meta.get("dtype", 0)) if isinstance(meta, dict) else None


def _label(node: dict[str, Any]) -> str:
    """Return the node's name behind the module that it is in."""
    name = node.get("name")
    if not isinstance(name, str):
        names = _names(expect(node.get("outputs"), list, "outputs"))
        name = next((n for n in names if isinstance(n, str)), "")
    meta = node.get("metadata")
    stack = meta.get("nn_module_stack", "") if isinstance(meta, dict) else ""
    path = stack.rsplit(";", 1)[-1].split(",")[1:2] if isinstance(stack, str) else []
    return f"{path[0]}/{name}" if path and path[0] and not path[0].startswith("_empty") else name


def is_known(target: str) -> bool:
    """Return whether an operator can be read."""
    space, name, _ = table.split(target)
    if space == "higher_order":
        from lepton_ir.frontends.torch import control

        return name in control.NAMES
    return name in _IGNORED or table.find(target)[0] is not None


def describe(node: dict[str, Any]) -> str:
    """Return how messages name a node."""
    target = str(node.get("target", "?")).removeprefix("torch.ops.")
    name = node.get("name") or next(iter(_names(node.get("outputs") or [])), "")
    return f'node "{shorten(str(name))}" ({shorten(target)})'
