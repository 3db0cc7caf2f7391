"""Parses text into modules; see docs/text-format.md.

Types that the text gives stand as they are written, after a check that inference does not
contradict them; types that it leaves out are inferred.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lepton_ir import dims, opdef
from lepton_ir.builder import normalize_attrs
from lepton_ir.diagnostics import NOWHERE, InvalidModelError, LeptonError, Location
from lepton_ir.infer import infer_block, infer_op
from lepton_ir.ir import Block, Function, Module, Op, Value
from lepton_ir.pauses import collector_paused
from lepton_ir.text import FORMAT_VERSION
from lepton_ir.text.blobs import Archives
from lepton_ir.text.literals import unquoted, value_name
from lepton_ir.text.syntax import (
    Blobs,
    CallLiteral,
    DictLiteral,
    FuncNode,
    ModuleNode,
    OpNode,
    Problem,
    Source,
    symbol_text,
    token_text,
)
from lepton_ir.text.values import Values, type_at
from lepton_ir.types import UNKNOWN, MapType, SparseType, TensorType, Type, TypeMismatchError, meet
from lepton_ir.verify import is_of_kind

if TYPE_CHECKING:
    import os

    from lark import Token

MAX_REGION_DEPTH = 64
"""Deepest nesting of regions; inference follows it recursively."""

_HEADER = re.compile(r"\A\ufeff?\s*// lepton-ir (\S+)")


def parse_module(
    text: str, *, folder: str | os.PathLike[str] | None = None, filename: str = "<text>"
) -> Module:
    """Return the module that a text spells.

    Args:
        text: the text form, at most one module.
        folder: where ``npz`` blobs may lie; without it a text that has some is refused.
        filename: for messages.

    Raises:
        InvalidModelError: a syntax error, a name that nothing defines, a type that inference
            contradicts; with file, line, column and a caret.
    """
    source = Source(text, filename)
    header = _HEADER.match(text)
    if header is not None and header[1] != str(FORMAT_VERSION):
        raise InvalidModelError(
            f"the text has format version {header[1]:.20}, this is version {FORMAT_VERSION}",
            code="lir-version",
            where=filename,
        )
    with collector_paused():
        parts = source.parse()
        try:
            return _Reader(parts, Archives(folder), source).module
        except Problem as problem:
            raise source.at(problem.message, problem.token) from problem.__cause__


class _Reader:
    """Builds the module out of the parts of a document."""

    def __init__(self, parts: list[Any], archives: Archives, source: Source) -> None:
        self.source = source
        nodes = [p for p in parts if p.__class__ is ModuleNode]
        loose = [p for p in parts if p.__class__ is FuncNode]
        blobs: dict[str, CallLiteral] = {}
        for token, call in (b for p in parts if p.__class__ is Blobs for b in p):
            name = symbol_text(token)
            if name in blobs:
                raise Problem(f"blob #{name:.60} is defined twice", token)
            blobs[name] = call
        if len(nodes) > 1 or (nodes and loose):
            second = nodes[1].name if len(nodes) > 1 else loose[0].name
            raise Problem("a file holds one module", second)
        if not nodes and not loose:
            raise Problem("there is no module and no function", None)
        self.values = Values(blobs, archives)
        node = nodes[0] if nodes else ModuleNode(loose)
        self.module = Module("module" if node.name is None else symbol_text(node.name))
        if node.facts is not None:
            self._facts(node.facts)
        for function in node.functions:
            _FunctionReader(self, function).read()
        if "main" not in self.module.functions:
            raise Problem("the module has no function @main", node.name)

    def _facts(self, facts: DictLiteral) -> None:
        given = self.values.value(facts, facts.token, meta=True)
        opset = given.pop("opset", None)
        if opset is not None:
            self.module.opsets[""] = _version(opset, facts.token)
        for domain, version in _dict(given.pop("opsets", {}), facts.token).items():
            self.module.opsets[domain] = _version(version, facts.token)
        self.module.meta = _dict(given.pop("meta", {}), facts.token)
        _no_more(given, "opset, opsets, meta", facts.token)


def _version(value: Any, token: Token | None) -> int:
    if value.__class__ is not int or not 0 < value < 1 << 31:
        raise Problem("an opset version is a positive integer", token)
    return int(value)


def _dict(value: Any, token: Token | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Problem("expected {key=value, ...}", token)
    return value


def _no_more(rest: dict[str, Any], known: str, token: Token | None) -> None:
    if rest:
        raise Problem(f"unknown key {next(iter(rest))!r:.60}; known: {known}", token)


@lru_cache(maxsize=1 << 16)
def _split_name(token: str) -> tuple[str, str | None]:
    """Return the canonical text of a value's name and the name itself (``%0`` has none)."""
    if token[1] != '"':
        plain = token[1:].partition("#")[0]
        return token, None if plain.isdigit() else plain
    end = token.rindex('"') + 1
    name = unquoted(token[1:end])
    return f"{value_name(name)}{token[end:]}", name


@lru_cache(maxsize=1 << 12)
def _symbols_of(type_: Type) -> frozenset[str]:
    while not isinstance(type_, TensorType):
        if isinstance(type_, SparseType):
            type_ = type_.dense
        elif isinstance(type_, MapType):
            type_ = type_.value
        elif hasattr(type_, "elem"):
            type_ = type_.elem
        else:
            return frozenset()
    return frozenset(s for d in type_.shape or () if d is not None for s in dims.symbols(d))


class _FunctionReader:
    """Builds one function: operations first, then types."""

    def __init__(self, reader: _Reader, node: FuncNode) -> None:
        self.values = reader.values
        self.source = reader.source
        self.node = node
        name = symbol_text(node.name)
        try:
            self.function: Function = reader.module.add_function(name)
        except LeptonError as error:
            raise Problem(error.message, node.name) from error
        self.scope: dict[str, Value] = {}
        self.given: list[tuple[Value, Type, Token]] = []
        self.tokens: dict[Op, OpNode] = {}

    def read(self) -> None:
        """Read the function."""
        node, function = self.node, self.function
        if node.facts is not None:
            facts = self.values.value(node.facts, node.facts.token, meta=True)
            function.attr_params = _dict(facts.pop("attributes", {}), node.name)
            for domain, version in _dict(facts.pop("opsets", {}), node.name).items():
                function.opsets[domain] = _version(version, node.name)
            function.meta = _dict(facts.pop("meta", {}), node.name)
            _no_more(facts, "attributes, opsets, meta", node.name)
        self._args(function.block, node.params, [])
        self._blocks(function.block, node.ops)
        last = function.block.last
        if last is None or last.name != "return":
            raise Problem("a function ends with return(...)", node.name)
        self._infer()
        self._results(last)

    # -- structure ---------------------------------------------------------------------------------

    def _args(self, block: Block, params: list[Any], defined: list[str]) -> None:
        for token, (type_, declared, meta), default in params:
            value = block.add_arg(UNKNOWN, None)
            self._define(token, value, defined)
            self._typed(value, type_, declared, meta)
            value.type = self.given[-1][1]
            if default:
                if block.parent_op is not None or value.name is None:
                    raise Problem("only a named input of a function has a default", token)
                tensor = self.values.tensor(default[0], value.type, token)
                self.function.overridable[value.name] = tensor

    def _define(self, token: Token, value: Value, defined: list[str]) -> None:
        try:
            key, value.name = _split_name(token)
        except ValueError as error:
            raise Problem(f"bad escape in a name: {error}", token) from error
        if key in self.scope:
            raise Problem(f"{token!s:.80} is defined twice", token)
        self.scope[key] = value
        defined.append(key)

    def _typed(self, value: Value, type_: Token, declared: Any, meta: Any) -> None:
        found = type_at(type_)
        self.given.append((value, found, type_))
        self.function.used_symbols |= _symbols_of(found)
        if declared is not None:
            value.declared = found if declared is True else type_at(declared)
            self.function.used_symbols |= _symbols_of(value.declared)
        if meta is not None:
            value.meta = self.values.value(meta, type_, meta=True)

    def _blocks(self, block: Block, ops: list[OpNode]) -> None:
        """Fill a block and, without recursion, the regions inside."""
        # One frame per open block: the block, its operations, what to forget at its end.
        stack: list[tuple[Block, Any, list[str]]] = [(block, iter(ops), [])]
        waiting: list[list[tuple[Block, Any, Token]]] = [[]]
        while stack:
            current, rest, defined = stack[-1]
            if waiting[-1]:
                inner, region, token = waiting[-1].pop()
                if len(stack) > MAX_REGION_DEPTH:
                    raise Problem(f"regions are nested deeper than {MAX_REGION_DEPTH}", token)
                names: list[str] = []
                self._args(inner, region.params, names)
                stack.append((inner, iter(region.ops), names))
                waiting.append([])
                continue
            node = next(rest, None)
            if node is None:
                stack.pop()
                waiting.pop()
                if stack:
                    for key in defined:
                        del self.scope[key]
                    self._outer_results(current, waiting, stack)
                continue
            op = self._op(node)
            current.append(op)
            if node.regions:
                pairs = zip(op.regions, node.regions, strict=True)
                queue = [(r.block, n, node.name) for r, n in pairs]
                waiting[-1] = queue[::-1]
            else:
                self._op_results(op, node, defined)

    def _outer_results(
        self, done: Block, waiting: list[Any], stack: list[tuple[Block, Any, list[str]]]
    ) -> None:
        """After the last region of an operation its results become visible."""
        op = done.parent_op
        if op is not None and not waiting[-1]:
            self._op_results(op, self.tokens[op], stack[-1][2])

    def _op_results(self, op: Op, node: OpNode, defined: list[str]) -> None:
        for token, value in zip(node.results, op.results, strict=True):
            self._define(token, value, defined)
        if node.types is None:
            return
        if len(node.types) != len(op.results):
            raise Problem(
                f"{len(op.results)} results but {len(node.types)} types", node.types[0][0]
            )
        for value, (type_, declared, meta) in zip(op.results, node.types, strict=True):
            self._typed(value, type_, declared, meta)
            value.type = self.given[-1][1]

    def _operands(self, node: OpNode) -> list[Value | None]:
        scope = self.scope
        out: list[Value | None] = []
        for token in node.args:
            found = scope.get(token)
            if found is None and token.type == "VALUE":
                try:
                    found = scope.get(_split_name(token)[0])
                except ValueError as error:
                    raise Problem(f"bad escape in a name: {error}", token) from error
                if found is None:
                    raise Problem(f"{token!s:.80} is not defined here", token)
            out.append(found)
        return out

    def _op(self, node: OpNode) -> Op:
        token = node.name
        quoted = token.type == "STRING"
        name = token_text(token)
        definition = None if node.version is not None else opdef.lookup(name)
        if definition is None and not quoted and "." not in name and node.version is None:
            raise _unknown_op(name, token)
        operands = self._operands(node)
        regions = node.regions or []
        if definition is not None:
            _check_counts(definition, operands, node)
        attrs = self._attrs(definition, node)
        loc, node_name = _location(node)
        op = Op(name, definition, operands, attrs, len(node.results), len(regions), loc)
        op.version = node.version
        op.node_name = node_name
        for i, (region, written) in enumerate(zip(op.regions, regions, strict=True)):
            region.name = definition.regions[i] if definition else written.label or ""
        if node.node is not None:
            self._node_facts(op, node)
        self.tokens[op] = node
        return op

    def _node_facts(self, op: Op, node: OpNode) -> None:
        assert node.node is not None
        facts = {k: self.values.value(v, node.name, meta=True) for k, v in node.node.items()}
        name: Any = facts.pop("name", op.node_name)
        meta: Any = facts.pop("meta", None)
        symbols: Any = facts.pop("symbols", None)
        listed = symbols is None or (
            isinstance(symbols, list) and all(isinstance(s, str) for s in symbols)
        )
        if not (listed and isinstance(name, str | None) and isinstance(meta, dict | None)):
            raise Problem("expected node {name=string, meta={...}, symbols=[strings]}", node.name)
        op.node_name, op.meta, op.symbols = name, meta, symbols
        self.function.used_symbols.update(symbols or ())
        _no_more(facts, "name, meta, symbols", node.name)

    def _attrs(self, definition: opdef.OpDef | None, node: OpNode) -> dict[str, Any]:
        given: dict[str, Any] = node.attrs or {}
        token = node.name
        if definition is None:
            return {k: self.values.value(v, token) for k, v in given.items()}
        attrs: dict[str, Any] = {}
        more: dict[str, Any] = {}
        for name, item in given.items():
            spec = definition.attrs.get(name)
            if spec is None and definition.name == "call":
                more[name] = self.values.value(item, token)
            elif spec is not None and spec.kind == "tensor" and not _is_reference(item):
                type_ = self._const_type(definition, node)
                attrs[name] = self.values.tensor(item, type_, token)
            else:
                attrs[name] = self.values.value(item, token)
        try:
            normal = normalize_attrs(definition, attrs)
        except LeptonError as error:
            raise Problem(error.message, token) from error
        for name, value in normal.items():
            if not is_of_kind(value, definition.attrs[name]):
                kind = definition.attrs[name].kind
                raise Problem(f"{definition.name}: attribute {name} should be {kind}", token)
        return {**normal, **more}

    def _const_type(self, definition: opdef.OpDef, node: OpNode) -> Type | None:
        if definition.name != "const" or not node.types:
            return None
        return type_at(node.types[0][0])

    # -- types -------------------------------------------------------------------------------------

    def _infer(self) -> None:
        """Infer what is not written; check what is."""
        symbols = {op: op.symbols for op in self.tokens}
        for op in self.function.block.ops:
            try:
                infer_op(op)
                if op.definition is None:
                    for region in op.regions:
                        infer_block(region.block)
            except LeptonError as error:
                raise self._located(error, self.tokens[op].name) from error
        body = self.function.block
        for value, type_, token in self.given:
            # Inside a region, which may never run, a contradiction is no error.
            if value.op is not None and value.op.block is body:
                try:
                    meet(value.type, type_)
                except TypeMismatchError as error:
                    raise Problem(f"{error} (inferred, written)", token) from error
            value.type = type_
        for op, given in symbols.items():
            if op.symbols is not given and self.tokens[op].types is not None:
                op.symbols = given

    def _located(self, error: LeptonError, token: Token) -> LeptonError:
        at = self.source.at(error.message, token, hint=error.hint)
        code = error.code or "lir"
        where = f"{at.where}: {error.where}" if error.where else at.where
        return type(error)(
            error.message, code=code, where=where, hint=error.hint, notes=error.notes + at.notes
        )

    def _results(self, last: Op) -> None:
        outs = self.node.outs
        values = last.operands
        if outs is not None and len(outs) != len(values):
            raise Problem(f"{len(outs)} results declared, {len(values)} returned", self.node.name)
        for i, value in enumerate(values):
            name, token = outs[i] if outs is not None else (None, None)
            if token is not None and value is not None:
                try:
                    meet(value.type, type_at(token))
                except TypeMismatchError as error:
                    raise Problem(f"result {i}: {error}", token) from error
            own = None if value is None else value.name
            self.function.output_names.append(
                name if name is not None else own if own is not None else f"output{i}"
            )


def _is_reference(item: Any) -> bool:
    return getattr(item, "type", None) == "ATTRREF"


def _unknown_op(name: str, token: Token) -> Problem:
    import difflib

    close = difflib.get_close_matches(name, opdef.load_all())
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return Problem(
        f"no operation called {name!r:.60}{hint} (foreign ones are written domain.Name)", token
    )


def _check_counts(definition: opdef.OpDef, operands: list[Value | None], node: OpNode) -> None:
    count, results = len(operands), len(node.results)
    few = count < definition.min_operands or None in operands[: definition.min_operands]
    if few or 0 <= definition.max_operands < count:
        missing = [
            o.name
            for i, o in enumerate(definition.operands)
            if not (o.optional or o.variadic) and (i >= count or operands[i] is None)
        ]
        what = f"misses {', '.join(missing)}" if missing else f"got {count} operands"
        if missing or not few:
            raise Problem(f"{definition.signature()}: {what}", node.name)
    if results < definition.min_results or 0 <= definition.max_results < results:
        raise Problem(f"{definition.signature()}: cannot have {results} results", node.name)
    given = len(node.regions or ())
    if given != len(definition.regions):
        raise Problem(
            f"{definition.name} has {len(definition.regions)} regions, got {given}", node.name
        )


def _location(node: OpNode) -> tuple[Location, str | None]:
    """Return the location and the node name that goes with a leaf."""
    loc = node.loc
    if loc is None:
        return NOWHERE, None
    if loc.leaf:
        return Location(loc.names[0]), loc.names[0]
    result = Location("", tuple(map(Location, loc.names)), loc.rules[-1] if loc.rules else None)
    for rule in reversed(loc.rules[:-1]):
        result = Location("", (result,), rule)
    return result, None
