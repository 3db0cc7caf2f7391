"""Prints modules; see docs/text-format.md. Same module, same text, whatever the hash seed."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import LeptonError
from lepton_ir.dtypes import DType
from lepton_ir.foreign import Foreign
from lepton_ir.ir import AttrRef, Block, Function, Module, Op, Region, Value
from lepton_ir.tensors import ElidedTensor, SplatTensor, Tensor
from lepton_ir.text import FORMAT_VERSION, RESERVED_WORDS
from lepton_ir.text.blobs import write_npz
from lepton_ir.text.generators import GeneratedTensor
from lepton_ir.text.literals import (
    bytes_literal,
    element_text,
    float_text,
    key,
    quoted,
    symbol,
    value_name,
)
from lepton_ir.types import Type

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lepton_ir.diagnostics import Location

INLINE_ELEMENTS = 8
"""Elements of a constant that stand in the text itself."""

_SPLAT_SCAN_BYTES = 1 << 24
"""Bytes of a constant in memory that are looked through for ``splat``."""

_NOT_PRINTED = frozenset({"source_path"})
"""Metadata that says where a file lay, not what it holds."""

_HEX_DIGITS = 8


def print_module(
    module: Module, *, blobs: str = "elide", npz_path: str | os.PathLike[str] | None = None
) -> str:
    """Return the text of a module.

    Args:
        module: what to print.
        blobs: how large constants appear: ``elide`` (count and hash only), ``base64`` (in the
            text), or ``npz`` (in the archive ``npz_path``, written by this call).
        npz_path: the archive; the text names it by its base name, so it belongs beside the text.

    Raises:
        LeptonError: an attribute or metadata value that has no text.
    """
    if blobs not in ("elide", "base64", "npz") or (blobs == "npz" and npz_path is None):
        raise LeptonError(f"no such way to print large constants: {blobs!r}", code="print")
    printer = Printer()
    printer.module(module)
    text = "".join(printer.out)
    if printer.handles:
        text += printer.trailer(blobs, "" if npz_path is None else os.path.basename(npz_path))
        if blobs == "npz":
            assert npz_path is not None
            write_npz(npz_path, printer.archived())
    return f"// lepton-ir {FORMAT_VERSION}\n{text}"


def print_bare(module: Module) -> str:
    """Return the text without version line, large constants elided; for golden files.

    A module that is nothing but its functions is printed as these.
    """
    printer = Printer()
    if module.name == "module" and not module.opsets and not module.meta:
        for function in module.functions.values():
            printer.function(function, "")
    else:
        printer.module(module)
    return "".join(printer.out) + (printer.trailer("elide", "") if printer.handles else "")


def print_function(function: Function) -> str:
    """Return the text of one function, its large constants as bare handles."""
    printer = Printer()
    printer.function(function, "")
    return "".join(printer.out)


class Printer:
    """Text under construction; names of values are unique within one function."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.names: dict[Value, str] = {}
        self.taken: dict[str, int] = {}
        self.unnamed = 0
        self.handles: dict[str, Tensor] = {}
        self.handle_of: dict[int, str] = {}
        self.hint: str | None = None

    # -- names -------------------------------------------------------------------------------------

    def name(self, value: Value) -> str:
        """Return the printed name: the value's own, ``#1`` behind it for the second of a name."""
        found = self.names.get(value)
        if found is None:
            if value.name is None:
                found = f"%{self.unnamed}"
                self.unnamed += 1
            else:
                plain = value_name(value.name)
                count = self.taken.get(plain, 0)
                self.taken[plain] = count + 1
                found = f"{plain}#{count}" if count else plain
            self.names[value] = found
        return found

    def operand(self, value: Value | None) -> str:
        """Return an operand's text, ``_`` when it is absent."""
        return "_" if value is None else self.names.get(value) or self.name(value)

    # -- module and functions ----------------------------------------------------------------------

    def module(self, module: Module) -> None:
        """Print a module, all but its blobs."""
        facts: dict[str, Any] = {}
        if "" in module.opsets:
            facts["opset"] = module.opsets[""]
        others = {d: v for d, v in module.opsets.items() if d}
        if others:
            facts["opsets"] = others
        meta = {k: v for k, v in module.meta.items() if k not in _NOT_PRINTED}
        if meta:
            facts["meta"] = meta
        dict_text = f" {self.value(facts, meta=True)}" if facts else ""
        self.out.append(f"module {symbol('@', module.name)}{dict_text} {{\n")
        for function in module.functions.values():
            self.function(function, "  ")
        self.out.append("}\n")

    def function(self, function: Function, indent: str) -> None:
        """Print a function."""
        self.names, self.taken, self.unnamed = {}, {}, 0
        params = ", ".join(self.param(v, function) for v in function.inputs)
        body: list[str] = []
        out, self.out = self.out, body
        self.block(function.block, indent + "  ")
        self.out = out
        out.append(f"{indent}func {symbol('@', function.name)}({params})")
        out.append(f" -> ({', '.join(self.results(function))}){self.traits(function)} {{\n")
        out += body
        out.append(f"{indent}}}\n")

    def param(self, value: Value, function: Function | None = None) -> str:
        """Return an argument's text; one that may be overridden has its default behind ``=``."""
        text = f"{self.name(value)}: {self.typed(value)}"
        default = None if function is None else function.overridable.get(value.name or "")
        if default is not None:
            self.hint = value.name
            text += f" = {self.tensor(default)}"
        return text

    def results(self, function: Function) -> Iterator[str]:
        """Yield the types of the results, each behind its name where the value's differs."""
        names = function.output_names
        for i, value in enumerate(function.outputs):
            type_text = "?" if value is None else str(value.type)
            own = None if value is None else value.name
            given = names[i] if i < len(names) else own
            if given == own or given is None:
                yield type_text
            else:
                yield f"{key(given)}: {type_text}"

    def traits(self, function: Function) -> str:
        """Return the ``with`` clause of a function."""
        facts: dict[str, Any] = {}
        if function.attr_params:
            facts["attributes"] = function.attr_params
        if function.opsets:
            facts["opsets"] = function.opsets
        if function.meta:
            facts["meta"] = function.meta
        return f" with {self.value(facts, meta=True)}" if facts else ""

    def typed(self, value: Value) -> str:
        """Return the proven type, what was declared (``!``: just that), and metadata."""
        text = str(value.type)
        if value.declared is not None:
            same = value.declared is value.type
            text += "!" if same else f" declared {value.declared}"
        if value.meta:
            text += f" meta {self.value(value.meta, meta=True)}"
        return text

    # -- operations --------------------------------------------------------------------------------

    def block(self, block: Block, indent: str) -> None:
        """Print the operations of a block; regions inside without recursion."""
        stack: list[Any] = [(iter(block.ops), indent)]
        out = self.out
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                out.append(item)
            elif isinstance(item[0], Op):
                out.append(f"{self.tail(item[0])}\n")
            elif isinstance(item[0], Region):
                region, indent = item
                out.append(self.region_head(region))
                stack.append(f"{indent}}}")
                stack.append((iter(region.block.ops), indent + "  "))
            else:
                self._ops(item, stack)

    def _ops(self, item: tuple[Any, str], stack: list[Any]) -> None:
        ops, indent = item
        for op in ops:
            self.out.append(f"{indent}{self.head(op)}")
            if op.regions:
                stack.append(item)
                stack.append((op, indent))
                stack.extend((region, indent) for region in reversed(op.regions))
                return
            self.out.append(f"{self.tail(op)}\n")

    def line(self, op: Op) -> str:
        """Return an operation in one line, its regions as ``{...}``; for messages."""
        return self.head(op) + " {...}" * len(op.regions) + self.tail(op)

    def region_head(self, region: Region) -> str:
        """Return what stands before a region's operations."""
        args = ", ".join(map(self.param, region.block.args))
        parent = region.parent
        label = region.name and isinstance(parent, Op) and parent.definition is None
        text = f" region {quoted(region.name)}" if label else ""
        return f"{text} ({args}) {{\n" if args else f"{text} {{\n"

    def head(self, op: Op) -> str:
        """Return ``results = name(operands) {attributes} : types``."""
        operands = ", ".join(map(self.operand, op.operands))
        self.hint = op.results[0].name if op.results else None
        attrs = self.attributes(op) if op.attrs else ""
        results = op.results
        name = op.name if op.definition is not None and op.version is None else _opaque_name(op)
        if not results:
            return f"{name}({operands}){attrs}"
        if len(results) == 1:
            left, right = self.name(results[0]), self.typed(results[0])
        else:
            left = ", ".join(map(self.name, results))
            right = ", ".join(map(self.typed, results))
        return f"{left} = {name}({operands}){attrs} : {right}"

    def tail(self, op: Op) -> str:
        """Return the location and what else the source says about the node."""
        loc = location_text(op.loc)
        leaf = op.loc.name if op.loc.is_source and op.loc.name else None
        if op.node_name == leaf and not op.meta and op.symbols is None:
            return loc
        facts: dict[str, Any] = {}
        if op.node_name != leaf:
            facts["name"] = op.node_name
        if op.meta:
            facts["meta"] = op.meta
        if op.symbols is not None:
            facts["symbols"] = list(op.symbols)
        return f"{loc} node {self.value(facts, meta=True)}"

    def attributes(self, op: Op) -> str:
        """Return ``{...}``: declared order, defaults left out, then what else there is."""
        definition = op.definition
        attrs = op.attrs
        if definition is None:
            items = list(attrs.items())
        else:
            specs = definition.attrs
            items = [
                (n, attrs[n])
                for n, spec in specs.items()
                if n in attrs and (spec.required or not _is_default(attrs[n], spec.default))
            ]
            items += [(n, v) for n, v in attrs.items() if n not in specs]
            if definition.name == "const" and isinstance(attrs.get("value"), Tensor):
                return self._const(op, attrs["value"])
        if not items:
            return ""
        return f" {{{', '.join(f'{key(n)}={self.value(v)}' for n, v in items)}}}"

    def _const(self, op: Op, tensor: Tensor) -> str:
        plain = len(op.results) == 1 and op.results[0].type is tensor.type
        return f" {{value={self.payload(tensor) if plain else self.tensor(tensor)}}}"

    # -- values ------------------------------------------------------------------------------------

    def value(self, value: Any, *, meta: bool = False) -> str:
        """Return the text of an attribute, or of metadata (where lists and tuples differ)."""
        kind = value.__class__
        if kind is int:
            return str(value)
        if kind is str:
            return quoted(value)
        if kind is bool:
            return "true" if value else "false"
        if kind is float:
            return float_text(value)
        if kind is tuple and not meta:
            return f"[{', '.join(map(self.value, value))}]"
        if kind is bytes:
            return bytes_literal(value)
        if value is None:
            return "none"
        if kind is dict:
            pairs = (f"{key(k)}={self.value(v, meta=meta)}" for k, v in value.items())
            return f"{{{', '.join(pairs)}}}"
        if kind is list or kind is tuple:
            items = [self.value(v, meta=meta) for v in value]
            if kind is list:
                return f"[{', '.join(items)}]"
            return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
        return self._object(value)

    def _object(self, value: Any) -> str:
        if isinstance(value, (Type, DType)):
            return str(value) if isinstance(value, Type) else value.name
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, AttrRef):
            return f"{symbol('$', value.name)}:{value.kind}"
        if isinstance(value, Foreign):
            data = base64.b64encode(value.data).decode("ascii")
            return f"foreign({quoted(value.kind)}, {quoted(data)})"
        if isinstance(value, np.generic):
            return self.value(value.item())
        raise LeptonError(f"a {type(value).__name__} has no text: {value!r:.60}", code="print")

    def tensor(self, tensor: Tensor) -> str:
        """Return a tensor with its type, as it stands in attributes."""
        return f"{tensor.type} {self.payload(tensor)}"

    def payload(self, tensor: Tensor) -> str:
        """Return the data of a tensor: inline, a formula, or the handle of a blob."""
        if isinstance(tensor, GeneratedTensor):
            return tensor.text
        if isinstance(tensor, ElidedTensor):
            return self.handle(tensor)
        if isinstance(tensor, SplatTensor) and tensor.size > INLINE_ELEMENTS:
            return f"splat({element_text(tensor.value, tensor.dtype)})"
        if tensor.size <= INLINE_ELEMENTS:
            items = [element_text(v, tensor.dtype) for v in _elements(tensor)]
            return f"[{', '.join(items)}]" if tensor.shape else items[0]
        if tensor.nbytes <= _SPLAT_SCAN_BYTES and tensor.dtype is not dtypes.STRING:
            array = np.ascontiguousarray(tensor.numpy()).reshape(-1)
            raw = array.view(np.uint8).reshape(array.size, -1)
            if (raw[-1] == raw[0]).all() and (raw == raw[0]).all():
                return f"splat({element_text(array[0], tensor.dtype)})"
        return self.handle(tensor)

    def handle(self, tensor: Tensor) -> str:
        """Return the handle of a blob; one payload has one."""
        found = self.handle_of.get(id(tensor))
        if found is None:
            stem = tensor.name if isinstance(tensor, ElidedTensor) else self.hint or "blob"
            found, k = stem, 0
            while found in self.handles:
                k += 1
                found = f"{stem}_{k}"
            self.handles[found] = tensor
            self.handle_of[id(tensor)] = found
        return symbol("#", found)

    # -- blobs -------------------------------------------------------------------------------------

    def archived(self) -> dict[str, Tensor]:
        """Return the blobs that go into an archive."""
        return {
            name: t
            for name, t in self.handles.items()
            if t.dtype is not dtypes.STRING and not isinstance(t, ElidedTensor)
        }

    def trailer(self, blobs: str, archive: str) -> str:
        """Return the ``blobs`` section."""
        lines = []
        for name, tensor in self.handles.items():
            if isinstance(tensor, ElidedTensor):
                text = f"elided({tensor.size}, {quoted(tensor.short_hash)})"
            elif blobs == "elide":
                text = f'elided({tensor.size}, "{tensor.digest()[:_HEX_DIGITS]}")'
            elif tensor.dtype is dtypes.STRING:
                items = (element_text(v, tensor.dtype) for v in _elements(tensor))
                text = f"list({', '.join(items)})"
            elif blobs == "npz":
                text = f"npz({quoted(archive)}, {quoted(name)})"
            else:
                data = base64.b64encode(b"".join(tensor.chunks())).decode("ascii")
                text = f'base64("{data}")'
            lines.append(f"  {symbol('#', name)} = {text}\n")
        return f"blobs {{\n{''.join(lines)}}}\n"


def _is_default(value: Any, default: Any) -> bool:
    return value.__class__ is default.__class__ and bool(value == default)


def _opaque_name(op: Op) -> str:
    version = "" if op.version is None else f"@{op.version}"
    plain = "." in op.name and key(op.name) == op.name and op.name not in RESERVED_WORDS
    return f"{op.name if plain else quoted(op.name)}{version}"


def _elements(tensor: Tensor) -> Iterable[Any]:
    array: Iterable[Any] = tensor.numpy().reshape(-1)
    return array


def location_text(loc: Location) -> str:
    """Return ``loc("Conv_0")``, or the flattened sources and rules of a rewritten operation."""
    if loc.is_source:
        return f" loc({quoted(loc.name)})" if loc.name else ""
    names, rules = loc.flatten()
    rule_text = f"<{', '.join(map(quoted, rules))}>" if rules else ""
    return f" loc(fused{rule_text}[{', '.join(map(quoted, names))}])"
