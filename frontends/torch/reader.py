"""PyTorch in: `load` makes a module of a ``.pt2`` archive."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lepton_ir import dims
from lepton_ir.builder import create
from lepton_ir.diagnostics import InvalidModelError, LeptonError, Remark, UnsupportedError, shorten
from lepton_ir.frontends.sized import unique_names
from lepton_ir.frontends.torch import table
from lepton_ir.frontends.torch.archive import SCHEMA_MAJOR, Archive, dtype_of, expect
from lepton_ir.frontends.torch.cells import Cell
from lepton_ir.frontends.torch.graph import GraphReader, describe, is_known
from lepton_ir.frontends.torch.lowering import Lowering
from lepton_ir.frontends.torch.symbols import parse_size
from lepton_ir.ir import Module, Value
from lepton_ir.pauses import collector_paused
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.dims import Dim
    from lepton_ir.frontends.torch.cells import Slot
    from lepton_ir.ir import Function

_SHOWN = 8


def load(source: str | os.PathLike[str] | bytes, *, keep_overridable: bool = False) -> Module:
    """Read a program that ``torch.export.save`` wrote. Weights stay in the file until used.

    Buffers that the program writes become further results, named after the buffer.

    Args:
        source: a path.
        keep_overridable: make buffers that are written inputs with a default, so that a caller can
            carry them from run to run; otherwise each run begins with what the archive holds.

    Raises:
        InvalidModelError: the file is malformed or contradicts itself.
        UnsupportedError: an operator has no row, or the archive is of an older layout.
    """
    if isinstance(source, bytes):
        raise UnsupportedError("archives are read from a file, not from bytes", code="pt2-zip")
    path = os.fspath(source)
    try:
        archive = Archive(path)
        reader = _ProgramReader(archive, keep_overridable)
        with collector_paused():
            module = reader.read()
    except LeptonError as error:
        shown = shorten(path, 200)
        error.where = f"{shown}: {error.where}" if error.where else shown
        raise
    module.meta["source_path"] = os.path.abspath(path)
    return module


class _ProgramReader:
    def __init__(self, archive: Archive, keep_overridable: bool) -> None:
        program = expect(archive.json("models/model.json"), dict, "model.json")
        _check_version(program)
        self.program = program
        self.keep = keep_overridable
        inner = expect(program.get("graph_module"), dict, "graph_module")
        self.graph = expect(inner.get("graph"), dict, "graph")
        self.signature = expect(inner.get("signature"), dict, "signature")
        self.call_graph = inner.get("module_call_graph")
        self.metas = expect(self.graph.get("tensor_values"), dict, "tensor_values")
        self.weights = archive.tensors("data/weights", "model_weights_config.json")
        self.constants = archive.tensors("data/constants", "model_constants_config.json")
        self.module = Module("torch")
        self.module.meta["producer"] = _text(program.get("torch_version"), "pytorch ")
        self.function = self.module.add_function("main")
        self.states: list[tuple[str, Cell]] = []

    def read(self) -> Module:
        _require_rows(self.graph)
        builder = Lowering(self.function.block)
        slots: dict[str, Slot] = {}
        specs = expect(self.signature.get("input_specs"), list, "input_specs")
        inputs = [self._input(spec) for spec in specs]
        for kind, name, item in sorted(inputs, key=lambda i: i[0] != "user"):
            slots[name] = item if kind == "user" else self._weight(builder, kind, name, item)
        reader = GraphReader(builder, slots)
        found = reader.read(self.graph)
        self._outputs(builder, found)
        self._ranges(self.function)
        return self.module

    # -- inputs ------------------------------------------------------------------------------------

    def _input(self, spec: Any) -> tuple[str, str, Any]:
        ((kind, data),) = expect(spec, dict, "an input").items()
        data = expect(data, dict, "an input")
        if kind == "user_input":
            arg = expect(data.get("arg"), dict, "an input")
            if "as_tensor" in arg:
                name = expect(arg["as_tensor"].get("name"), str, "an input")
                return "user", name, Cell(self.function.block.add_arg(self._type(name), name))
            text = ", ".join(arg)
            raise UnsupportedError(
                f"an input that is no tensor ({shorten(text)})",
                code="torch-input",
                hint="bind it to a number before exporting",
            )
        if kind == "constant_input":
            name = expect(data.get("name"), str, "an input")
            return "user", name, next(iter(data.get("value", {}).values()), None)
        names = {"parameter": "parameter_name", "buffer": "buffer_name"}
        names["tensor_constant"] = "tensor_constant_name"
        if kind not in names:
            raise UnsupportedError(f"an input of kind {shorten(kind)}", code="torch-input")
        name = expect(expect(data.get("arg"), dict, "an input").get("name"), str, "an input")
        return kind, name, expect(data.get(names[kind]), str, "an input")

    def _type(self, name: str) -> TensorType:
        meta = expect(self.metas.get(name), dict, f"type of {shorten(name)}")
        sizes = [self._size(s) for s in expect(meta.get("sizes"), list, "sizes")]
        return TensorType(dtype_of(meta.get("dtype"), shorten(name)), sizes)

    def _size(self, size: Any) -> Dim | None:
        size = expect(size, dict, "a size")
        if "as_int" in size:
            number = expect(size["as_int"], int, "a size")
            if number < 0:
                raise InvalidModelError(f"a size of {number}", code="torch-size")
            return int(number)
        found = parse_size(expect(size.get("as_expr"), dict, "a size").get("expr_str"))
        if found is not None:
            self.function.used_symbols.update(dims.symbols(found))
        return found

    def _weight(self, builder: Lowering, kind: str, name: str, full_name: str) -> Cell:
        tensor = self.weights.get(full_name)
        tensor = self.constants.get(full_name) if tensor is None else tensor
        if tensor is None:
            raise InvalidModelError(f"no data for {shorten(full_name)}", code="torch-weight")
        if tensor.type is not self._type(name):
            raise InvalidModelError(
                f"{shorten(full_name)} is {tensor.type}, the graph says {self._type(name)}",
                code="torch-weight",
            )
        if kind == "buffer" and self.keep and self._is_written(name, full_name):
            value = self.function.block.add_arg(tensor.type, full_name)
            self.function.overridable[full_name] = tensor
        else:
            value = builder.const(tensor, name=full_name)
        cell = Cell(value)
        if kind == "buffer":
            self.states.append((full_name, cell))
        return cell

    def _is_written(self, name: str, full_name: str) -> bool:
        """Return whether the program writes a buffer: by a result, or in place."""
        for spec in self.signature.get("output_specs", ()):
            if spec.get("buffer_mutation", {}).get("buffer_name") == full_name:
                return True
        for node in self.graph.get("nodes", ()):
            in_place = table.split(str(node.get("target")))[1].endswith("_")
            first = (node.get("inputs") or [{}])[0].get("arg", {}).get("as_tensor", {})
            if in_place and first.get("name") == name:
                return True
        return False

    # -- outputs -----------------------------------------------------------------------------------

    def _outputs(self, builder: Lowering, found: list[Any]) -> None:
        specs = expect(self.signature.get("output_specs"), list, "output_specs")
        if len(specs) != len(found):
            raise InvalidModelError(f"{len(found)} results, {len(specs)} said", code="torch-output")
        names: list[str] = []
        values: list[Value] = []
        states: dict[str, Value] = {}
        for spec, value in zip(specs, found, strict=True):
            ((kind, data),) = expect(spec, dict, "an output").items()
            if kind == "user_output" and isinstance(value, Value):
                names.append(_output_name(data, len(names)))
                values.append(value)
            elif kind == "buffer_mutation":
                states[data["buffer_name"]] = value
            elif kind == "user_output":
                self.module.remarks.append(
                    Remark("note", "torch", "", f"result {value!r:.40} is no tensor; left out")
                )
            else:
                raise UnsupportedError(f"a result of kind {shorten(kind)}", code="torch-output")
        states.update({n: c.get() for n, c in self.states if c.written})
        for name, value in states.items():
            names.append(f"{name}.out")
            values.append(value)
        self.function.output_names = unique_names(
            names, {v.name or "" for v in self.function.inputs}
        )
        self.function.block.append(create("return", values))

    def _ranges(self, function: Function) -> None:
        """Record which symbolic sizes the exporter says are never 0."""
        ranges = expect(self.program.get("range_constraints", {}), dict, "range_constraints")
        for name, limits in ranges.items():
            low = limits.get("min_val") if isinstance(limits, dict) else None
            if isinstance(low, int) and low >= 1 and name in function.used_symbols:
                symbol = dims.sym(name)
                if isinstance(symbol, dims.DimExpr):
                    function.positive[symbol] = True


def _check_version(program: dict[str, Any]) -> None:
    version = expect(program.get("schema_version"), dict, "schema_version")
    if version.get("major") != SCHEMA_MAJOR:
        raise UnsupportedError(
            f"schema {version.get('major')!r:.10}; version {SCHEMA_MAJOR} can be read",
            code="pt2-version",
            hint="write the file with torch 2.8 or later",
        )


def _graphs(graph: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a graph and of those inside."""
    for node in expect(graph.get("nodes"), list, "nodes"):
        yield expect(node, dict, "a node")
        for item in node.get("inputs") or ():
            inner = item.get("arg", {}).get("as_graph") if isinstance(item, dict) else None
            if isinstance(inner, dict) and depth < 100:
                yield from _graphs(expect(inner.get("graph"), dict, "a graph"), depth + 1)


def _require_rows(graph: dict[str, Any]) -> None:
    """Refuse operators without a row, all at once."""
    missing: dict[str, dict[str, Any]] = {}
    for node in _graphs(graph):
        target = expect(node.get("target"), str, "target")
        if not is_known(target):
            missing.setdefault(target, node)
    if not missing:
        return
    first, *others = missing.values()
    target = shorten(str(first["target"]).removeprefix("torch.ops."))
    notes = [describe(n) for n in others[:_SHOWN]]
    if len(others) > _SHOWN:
        notes.append(f"and {len(others) - _SHOWN} more operators")
    raise UnsupportedError(
        f"operator {target} is not supported",
        code="torch-op",
        where=describe(first),
        hint="run_decompositions() before torch.export.save may take it apart",
        notes=tuple(notes),
    )


def _output_name(data: Any, index: int) -> str:
    arg = data.get("arg", {}) if isinstance(data, dict) else {}
    name = arg.get("as_tensor", {}).get("name") if isinstance(arg, dict) else None
    return name if isinstance(name, str) and name else f"output_{index}"


def _text(value: Any, prefix: str) -> str:
    return prefix + shorten(value) if isinstance(value, str) else prefix.strip()
