"""The verifier: what every module fulfils between passes, as numbered constraints.

V1  The definition of each operand comes before the use: earlier in its block, an argument of it,
    or visible in an enclosing region.
V2  Use lists agree with operands, and name the right slots.
V3  Counts of operands, results and regions, and the kinds of attributes, are those of the op
    table; attribute parameters are declared by the function.
V4  A function's block ends with ``return``, a region's with ``yield``, and no other place has one;
    a function has one name per result.
V5  Stored result types do not contradict what inference derives. An operation's own numbered
    constraints (``conv-C2``) are reported under their own names. Inside regions this is not
    checked: a branch that is never taken may contradict what is known outside.
V6  Functions are isolated: no operand comes from another one, and all links name the owner.
V7  Block links are consistent, and order numbers rise.
V8  Calls name functions of the module, with fitting counts, and never recurse.

Linear in the number of operations; never recursive over nesting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from lepton_ir.diagnostics import LeptonError, VerifyError, shorten
from lepton_ir.dtypes import DType
from lepton_ir.infer import describe, infer_types
from lepton_ir.ir import AttrRef, Block, Function, Module, Op, Value
from lepton_ir.types import Type, TypeMismatchError, meet

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.opdef import AttrSpec, OpDef

NEIGHBOURS = 5
"""Operations shown on either side of the one that a message is about."""

_LINE = 140
"""Characters shown of each of them."""


def verify_module(module: Module) -> None:
    """Check a module; leaves it as it was.

    Raises:
        VerifyError: the first constraint found broken, its ``code`` the number.
    """
    if "main" not in module.functions:
        raise VerifyError("the module has no function main", code="V8")
    calls: dict[str, list[str]] = {}
    for name, function in module.functions.items():
        if function.module is not module or function.name != name:
            raise VerifyError(f"function {shorten(name)} is linked elsewhere", code="V6")
        calls[name] = verify_function(function)
    _check_recursion(calls)


def verify_function(function: Function) -> list[str]:
    """Check one function; return the names of the functions it calls.

    Raises:
        VerifyError: the first constraint found broken.
    """
    return _Checker(function).run()


def _check_recursion(calls: dict[str, list[str]]) -> None:
    done: set[str] = set()
    for root in calls:
        path: dict[str, Any] = {root: iter(calls[root])} if root not in done else {}
        while path:
            current = next(reversed(path))
            callee = next(path[current], None)
            if callee is None:
                del path[current]
                done.add(current)
            elif callee in path:
                shown = " -> ".join(shorten(n, 40) for n in [*list(path)[-4:], callee])
                raise VerifyError(f"functions call each other in a circle: {shown}", code="V8")
            elif callee not in done:
                path[callee] = iter(calls[callee])


def neighbourhood(op: Op, count: int = NEIGHBOURS) -> tuple[str, ...]:
    """Return the text of ``op`` marked ``>`` and up to ``count`` operations either side."""
    from lepton_ir.text.print import Printer

    first, last = op, op
    before = after = 0
    while first.prev is not None and before < count:
        first, before = first.prev, before + 1
    while last.next is not None and after < count:
        last, after = last.next, after + 1
    printer = Printer()
    lines = []
    current: Op | None = first
    while current is not None:
        try:
            text = printer.line(current)
        except (LeptonError, AttributeError, TypeError, ValueError):
            text = repr(current)  # what is broken may not be printable
        lines.append(f"{'>' if current is op else ' '} {shorten(text, _LINE)}")
        current = None if current is last else current.next
    return tuple(lines)


class _Checker:
    """State of checking one function."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.callees: list[str] = []
        self.reads: dict[Value, int] = {}
        self.ops: list[Op] = []
        self.blocks: list[Block] = []

    def fail(self, code: str, op: Op | None, message: str) -> NoReturn:
        place = f"function {shorten(self.function.name)}"
        if op is None:
            raise VerifyError(message, code=code, where=place)
        raise VerifyError(
            message, code=code, where=f"{place}, {describe(op)}", notes=neighbourhood(op)
        )

    def run(self) -> list[str]:
        """Check everything; return the callees."""
        body = self.function.body
        if body.parent is not self.function or body.block.region is not body:
            self.fail("V6", None, "its body is linked elsewhere")
        self._links()
        for block in self.blocks:
            self._terminator(block)
        for op in self.ops:
            self._operands(op)
            self._signature(op)
            if op.name == "call":
                self._call(op)
        self._uses()
        self._types()
        return self.callees

    # -- V6, V7: ownership and links ---------------------------------------------------------------

    def _links(self) -> None:
        pending = [self.function.block]
        while pending:
            block = pending.pop()
            self.blocks.append(block)
            if block.function is not self.function:
                self.fail("V6", block.first, "a block belongs to another function")
            for i, arg in enumerate(block.args):
                if arg.producer is not block or arg.index != i:
                    self.fail("V7", block.first, f"argument {i} is linked to another place")
            block.ensure_order()
            start = len(self.ops)
            previous: Op | None = None
            op = block.first
            while op is not None:
                self._link(op, previous, block)
                self.ops.append(op)
                previous, op = op, op.next
            if block.last is not previous:
                self.fail("V7", previous, "the block's last operation is another one")
            for op in self.ops[start:]:
                pending.extend(self._regions(op))

    def _link(self, op: Op, previous: Op | None, block: Block) -> None:
        if op.block is not block or op.prev is not previous:
            self.fail("V7", op, "the links of the block are broken")
        if previous is not None and previous.order >= op.order:
            self.fail("V7", op, "order numbers do not rise")
        for i, result in enumerate(op.results):
            if result.producer is not op or result.index != i:
                self.fail("V7", op, f"result {i} is linked to another operation")

    def _regions(self, op: Op) -> list[Block]:
        for region in op.regions:
            if region.parent is not op or region.block.region is not region:
                self.fail("V7", op, f"region {region.name!r} is linked to another operation")
        return [r.block for r in op.regions]

    # -- V1, V2: definitions and uses --------------------------------------------------------------

    def _operands(self, op: Op) -> None:
        if len(op.uses) != len(op.operands):
            self.fail("V2", op, f"{len(op.operands)} operands have {len(op.uses)} uses")
        for i, value in enumerate(op.operands):
            use = op.uses[i]
            if value is None:
                if use is not None:
                    self.fail("V2", op, f"absent operand {i} has a use")
                continue
            if use is None or use.value is not value or use.op is not op or use.index != i:
                self.fail("V2", op, f"the use of operand {i} names another place")
            self.reads[value] = self.reads.get(value, 0) + 1
            self._dominated(op, i, value)

    def _dominated(self, op: Op, index: int, value: Value) -> None:
        producer = value.producer
        home = producer if isinstance(producer, Block) else producer.block
        if home is None:
            self.fail("V1", op, f"operand {index} ({value}) is defined by a detached operation")
        anchor = op
        while anchor.block is not home:
            parent = None if anchor.block is None else anchor.block.parent_op
            if parent is None:
                if home.function is not self.function:
                    self.fail("V6", op, f"operand {index} ({value}) belongs to another function")
                self.fail("V1", op, f"operand {index} ({value}) is not visible here")
            anchor = parent
        if isinstance(producer, Op) and producer.order >= anchor.order:
            self.fail("V1", op, f"operand {index} ({value}) is defined after its use")

    def _uses(self) -> None:
        values = [v for op in self.ops for v in op.results]
        values += [v for b in self.blocks for v in b.args]
        for value in values:
            expected = self.reads.get(value, 0)
            use, previous, count = value.first_use, None, 0
            while use is not None:
                if use.prev is not previous or use.value is not value or count >= expected:
                    break
                previous, use, count = use, use.next, count + 1
            if use is not None or count != expected or value.use_count != expected:
                where = value.op or (
                    value.producer.first if isinstance(value.producer, Block) else None
                )
                self.fail(
                    "V2", where, f"the use list of {value} does not match its {expected} uses"
                )

    # -- V3: signatures ----------------------------------------------------------------------------

    def _signature(self, op: Op) -> None:
        definition = op.definition
        if definition is None:
            if op.has_attr_refs:
                self._references(op)
            return
        count, results = len(op.operands), len(op.results)
        required = definition.min_operands
        if count < required or None in op.operands[:required]:
            self.fail("V3", op, f"{definition.signature()}: an operand is missing")
        if 0 <= definition.max_operands < count:
            self.fail("V3", op, f"{definition.signature()}: got {count} operands")
        if results < definition.min_results or 0 <= definition.max_results < results:
            self.fail("V3", op, f"{definition.signature()}: cannot have {results} results")
        if tuple(r.name for r in op.regions) != definition.regions:
            self.fail("V3", op, f"its regions are not {', '.join(definition.regions) or 'none'}")
        self._attributes(op, definition)
        if op.has_attr_refs:
            self._references(op)

    def _attributes(self, op: Op, definition: OpDef) -> None:
        specs = definition.attrs
        for name, value in op.attrs.items():
            spec = specs.get(name)
            if spec is None:
                if op.name != "call":
                    self.fail("V3", op, f"{op.name} has no attribute {shorten(name)!r}")
                continue
            if not is_of_kind(value, spec):
                shown = shorten(repr(value), 60)
                self.fail("V3", op, f"attribute {name} should be {spec.kind}, it is {shown}")
        for name, spec in specs.items():
            if spec.required and name not in op.attrs:
                self.fail("V3", op, f"attribute {name} is missing")

    def _references(self, op: Op) -> None:
        for name, value in op.attrs.items():
            if isinstance(value, AttrRef) and value.name not in self.function.attr_params:
                self.fail(
                    "V3",
                    op,
                    f"attribute {shorten(name)} refers to {shorten(value.name)!r}, which is no "
                    "attribute parameter of the function",
                )

    # -- V4, V8: terminators and calls -------------------------------------------------------------

    def _terminator(self, block: Block) -> None:
        wanted = "yield" if block.parent_op is not None else "return"
        op = block.first
        while op is not None:
            ends = op.definition is not None and "terminator" in op.definition.traits
            if ends and (op.next is not None or op.name != wanted):
                self.fail("V4", op, f"{op.name} stands where it cannot; blocks end with {wanted}")
            op = op.next
        if block.terminator is None:
            self.fail("V4", block.last or block.parent_op, f"a block does not end with {wanted}")
        names, count = len(self.function.output_names), len(block.last.operands)  # type: ignore[union-attr]
        if wanted == "return" and names != count:
            self.fail("V4", block.last, f"{count} results have {names} names")

    def _call(self, op: Op) -> None:
        callee = op.attrs.get("callee")
        module = self.function.module
        target = None if module is None else module.functions.get(str(callee))
        if target is None:
            self.fail("V8", op, f"no function is called {shorten(str(callee))!r}")
        if len(op.operands) > len(target.inputs):
            self.fail("V8", op, f"{target} takes {len(target.inputs)} values")
        if len(op.results) > len(target.output_names):
            self.fail("V8", op, f"{target} returns {len(target.output_names)} values")
        for name in op.attrs:
            if name != "callee" and name not in target.attr_params:
                self.fail("V8", op, f"{target} has no attribute parameter {shorten(name)!r}")
        self.callees.append(target.name)

    # -- V5: types ---------------------------------------------------------------------------------

    def _types(self) -> None:
        function = self.function
        epoch, symbols = function.epoch, set(function.used_symbols)
        try:
            for op in function.block.ops:
                if op.regions:
                    self._region_types(op)
                else:
                    self._op_types(op)
        finally:
            function.epoch, function.used_symbols = epoch, symbols

    def _op_types(self, op: Op) -> None:
        given = op.symbols
        try:
            found = infer_types(op)
        except LeptonError as error:
            place = f"function {shorten(self.function.name)}, {describe(op)}"
            raise VerifyError(
                error.message, code=error.code, where=place, notes=neighbourhood(op)
            ) from error
        finally:
            if given is None:
                op.symbols = None
        for result, type_ in zip(op.results, found, strict=True):
            self._compatible(op, type_, result.type)

    def _compatible(self, op: Op, found: Type, stored: Type) -> None:
        if found is stored:
            return
        try:
            meet(found, stored)
        except TypeMismatchError as error:
            self.fail("V5", op, f"stored as {stored}, inferred as {found}: {error}")

    def _region_types(self, op: Op) -> None:
        """Infer an operation with regions, and take back what that stored inside."""
        inside = [inner for inner in op.walk() if inner is not op]
        values = [v for inner in inside for v in inner.results]
        values += [a for o in (op, *inside) for r in o.regions for a in r.block.args]
        before = [(v, v.type, v.content) for v in values]
        symbols = [(inner, inner.symbols) for inner in inside]
        try:
            self._op_types(op)
        finally:
            for value, stored, content in before:
                value.type, value.content = stored, content
            for inner, given in symbols:
                inner.symbols = given


def is_of_kind(value: Any, spec: AttrSpec) -> bool:
    """Return whether an attribute's value is what its declaration asks for."""
    if isinstance(value, AttrRef) or (value is None and spec.optional):
        return True
    return _KINDS[spec.kind](value)


def _tuple_of(*kinds: type) -> Callable[[Any], bool]:
    return lambda v: v.__class__ is tuple and all(i.__class__ in kinds for i in v)


def _is_tensor(value: Any) -> bool:
    from lepton_ir.tensors import Tensor

    return isinstance(value, Tensor)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "int": lambda v: v.__class__ is int,
    "float": lambda v: v.__class__ is float,
    "str": lambda v: v.__class__ in (str, bytes),
    "bool": lambda v: v.__class__ is bool,
    "ints": _tuple_of(int),
    "floats": _tuple_of(float),
    "strs": _tuple_of(str, bytes),
    "dtype": lambda v: isinstance(v, DType),
    "tensor": _is_tensor,
    "type": lambda v: isinstance(v, Type),
    "any": lambda v: True,
}
