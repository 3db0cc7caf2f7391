"""What functions are made of: values, uses, operations, blocks, regions.

Everything is slotted. The uses of a value form an intrusive doubly linked list, so replacing all
uses costs one step a use; the operations of a block form another, with gapped order numbers that
are renumbered lazily, so that "is before" is O(1) amortised. Iterating over ``block.ops`` or
``value.uses`` while the visited item is erased or moved is defined: the successor is read before
the item is handed out; items inserted after the current one by then are visited.

Every mutation bumps ``function.epoch``. Passes mutate through :mod:`lepton_ir.rewrite`, which adds
listeners and checks; this module keeps only the lists consistent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import NOWHERE, LeptonError, Location, shorten
from lepton_ir.types import UNKNOWN, TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lepton_ir.dims import Dim
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Function
    from lepton_ir.opdef import OpDef

_GAP = 1 << 20
"""Distance of neighbouring order numbers after a renumbering."""


class Use:
    """One operand slot of one operation that reads a value."""

    __slots__ = ("index", "next", "op", "prev", "value")

    def __init__(self, value: Value, op: Op, index: int) -> None:
        self.value = value
        self.op = op
        self.index = index
        self.prev: Use | None = None
        self.next: Use | None = value.first_use
        if value.first_use is not None:
            value.first_use.prev = self
        value.first_use = self
        value.use_count += 1

    def unlink(self) -> None:
        """Take this use out of its value's list."""
        if self.prev is not None:
            self.prev.next = self.next
        else:
            self.value.first_use = self.next
        if self.next is not None:
            self.next.prev = self.prev
        self.value.use_count -= 1


class Value:
    """A result of an operation or an argument of a block.

    Attributes:
        type: the proven type (what inference derived, or the contract of a function input).
        declared: the type a file declared, a hint that nothing may rest on; exported when it
            says more than ``type``.
        content: elements of a small integer tensor as dims, where inference knows them.
        name: the name hint; a model's own tensor name where it has one. Not unique.
        producer: the defining operation, or the block whose argument this is.
        index: position among the producer's results or arguments.
        meta: doc string and metadata of the value, rarely present.
    """

    __slots__ = (
        "content",
        "declared",
        "first_use",
        "index",
        "meta",
        "name",
        "producer",
        "type",
        "use_count",
    )

    def __init__(self, type_: Type, producer: Op | Block, index: int, name: str | None) -> None:
        self.type = type_
        self.producer = producer
        self.index = index
        self.name = name
        self.first_use: Use | None = None
        self.use_count = 0
        self.content: tuple[Dim | None, ...] | None = None
        self.declared: Type | None = None
        self.meta: dict[str, Any] | None = None

    @property
    def uses(self) -> Iterator[Use]:
        """The uses, latest first; see the module docstring for iteration under mutation."""
        use = self.first_use
        while use is not None:
            following = use.next
            yield use
            use = following

    @property
    def users(self) -> list[Op]:
        """The operations that read this value, each once, earliest use first."""
        return list(dict.fromkeys(reversed([u.op for u in self.uses])))

    @property
    def op(self) -> Op | None:
        """The defining operation, or ``None`` for a block argument."""
        return self.producer if isinstance(self.producer, Op) else None

    @property
    def dtype(self) -> DType | None:
        """Element type, ``None`` when unknown or not a tensor."""
        return self.type.dtype if isinstance(self.type, TensorType) else None

    @property
    def shape(self) -> tuple[Dim | None, ...] | None:
        """Shape, ``None`` when the rank is unknown or this is not a tensor."""
        return self.type.shape if isinstance(self.type, TensorType) else None

    @property
    def rank(self) -> int | None:
        """Rank, ``None`` when unknown."""
        shape = self.shape
        return None if shape is None else len(shape)

    def replace_all_uses(self, new: Value) -> None:
        """Make every use read ``new`` instead; one step a use."""
        if new is self or self.first_use is None:
            return
        use: Use | None = self.first_use
        last = use
        while use is not None:
            use.value = new
            use.op.operands[use.index] = new
            last, use = use, use.next
        assert last is not None
        last.next = new.first_use
        if new.first_use is not None:
            new.first_use.prev = last
        new.first_use = self.first_use
        new.use_count += self.use_count
        self.first_use, self.use_count = None, 0
        block = self.producer if isinstance(self.producer, Block) else self.producer.block
        if block is not None and block.function is not None:
            block.function.epoch += 1

    def __repr__(self) -> str:
        return f"%{shorten(self.name or '_', 40)}: {self.type}"


class Op:
    """An operation: name, operands, attributes, results, regions.

    Attributes:
        name: the operation's name; for a foreign operation ``domain.OpType``
            (``onnx.StringSplit``).
        definition: its row of the op table, ``None`` for an opaque operation.
        operands: values read, ``None`` for an absent optional operand. Change through
            ``set_operand``.
        attrs: attributes that differ from their default (all of them for opaque operations).
        node_name: the node's own name in the source file, ``None`` if it has none.
        version: opset version of an opaque operation.
        meta: doc string, metadata and overload of the node, rarely present.
        symbols: fresh dim symbols of data-dependent results, so that inference is repeatable.
    """

    __slots__ = (
        "attrs",
        "block",
        "definition",
        "has_attr_refs",
        "loc",
        "meta",
        "name",
        "next",
        "node_name",
        "operands",
        "order",
        "prev",
        "regions",
        "results",
        "symbols",
        "uses",
        "version",
    )

    def __init__(
        self,
        name: str,
        definition: OpDef | None,
        operands: Sequence[Value | None],
        attrs: dict[str, Any],
        result_count: int,
        region_count: int = 0,
        loc: Location = NOWHERE,
    ) -> None:
        self.name = name
        self.definition = definition
        self.operands: list[Value | None] = list(operands)
        self.uses: list[Use | None] = [
            None if v is None else Use(v, self, i) for i, v in enumerate(operands)
        ]
        self.attrs = attrs
        self.results = [Value(UNKNOWN, self, i, None) for i in range(result_count)]
        self.regions = [Region(self) for _ in range(region_count)]
        self.block: Block | None = None
        self.prev: Op | None = None
        self.next: Op | None = None
        self.order = 0
        self.loc = loc
        self.node_name: str | None = None
        self.version: int | None = None
        self.meta: dict[str, Any] | None = None
        self.symbols: list[str] | None = None
        self.has_attr_refs = any(isinstance(a, AttrRef) for a in attrs.values())

    @property
    def result(self) -> Value:
        """The first result."""
        return self.results[0]

    @property
    def opaque(self) -> bool:
        """Whether the operation has no row in the op table."""
        return self.definition is None

    @property
    def function(self) -> Function | None:
        """The function this operation is in, ``None`` when detached."""
        return None if self.block is None else self.block.function

    @property
    def parent(self) -> Op | None:
        """The operation whose region holds this one, if any."""
        return None if self.block is None else self.block.parent_op

    def attr(self, name: str) -> Any:
        """Return an attribute, or its default.

        Raises:
            KeyError: not an attribute of this operation.
        """
        if name in self.attrs:
            return self.attrs[name]
        if self.definition is None:
            raise KeyError(name)
        return self.definition.attrs[name].default

    def all_attrs(self) -> dict[str, Any]:
        """Return every attribute, defaults filled in, in declared order."""
        if self.definition is None or not self.definition.attrs:
            return dict(self.attrs)
        given = self.attrs
        return {
            **{n: given.get(n, spec.default) for n, spec in self.definition.attrs.items()},
            **given,
        }

    def operand(self, name: str) -> Value | None:
        """Return the operand with the formal name ``name``; ``None`` when absent."""
        assert self.definition is not None
        index = self.definition.operand_index[name]
        return self.operands[index] if index < len(self.operands) else None

    def variadic(self, name: str) -> list[Value | None]:
        """Return the operands of the variadic formal ``name``."""
        assert self.definition is not None
        return self.operands[self.definition.operand_index[name] :]

    def region(self, name: str) -> Region:
        """Return the region called ``name``."""
        assert self.definition is not None
        return self.regions[self.definition.regions.index(name)]

    def set_operand(self, index: int, value: Value | None) -> None:
        """Read ``value`` in slot ``index`` from now on."""
        old = self.uses[index]
        if old is not None:
            old.unlink()
        self.uses[index] = None if value is None else Use(value, self, index)
        self.operands[index] = value
        self._touch()

    def set_operands(self, values: Sequence[Value | None]) -> None:
        """Replace the whole operand list."""
        for use in self.uses:
            if use is not None:
                use.unlink()
        self.operands = list(values)
        self.uses = [None if v is None else Use(v, self, i) for i, v in enumerate(values)]
        self._touch()

    def add_result(self, type_: Type, name: str | None = None) -> Value:
        """Append a result."""
        value = Value(type_, self, len(self.results), name)
        self.results.append(value)
        self._touch()
        return value

    def set_attr(self, name: str, value: Any) -> None:
        """Set one attribute."""
        self.attrs[name] = value
        self.has_attr_refs = any(isinstance(a, AttrRef) for a in self.attrs.values())
        self._touch()

    def is_before(self, other: Op) -> bool:
        """Return whether this comes before ``other`` in the same block."""
        assert self.block is not None
        assert self.block is other.block
        self.block.ensure_order()
        return self.order < other.order

    def walk(self) -> Iterator[Op]:
        """Yield this operation and all inside its regions, outer first; not recursive."""
        stack: list[Iterator[Op]] = [iter((self,))]
        while stack:
            op = next(stack[-1], None)
            if op is None:
                stack.pop()
                continue
            yield op
            if op.regions:
                stack.extend(r.block.ops for r in reversed(op.regions))

    def detach(self) -> None:
        """Take the operation out of its block; operands stay used."""
        if self.block is not None:
            self.block.remove(self)

    def erase(self) -> None:
        """Remove the operation for good; its results must be unused.

        Raises:
            LeptonError: a result is still used.
        """
        for result in self.results:
            if result.first_use is not None:
                raise LeptonError(
                    f"cannot erase {self}: result {result.index} is still used", code="erase"
                )
        for op in list(self.walk()):
            for use in op.uses:
                if use is not None:
                    use.unlink()
            op.uses = []
        self.detach()
        self.operands = []
        self.name = f"<erased {self.name}>"

    def _touch(self) -> None:
        if self.block is not None and self.block.function is not None:
            self.block.function.epoch += 1

    def __repr__(self) -> str:
        label = f' "{shorten(self.node_name, 60)}"' if self.node_name else ""
        return f"{self.name}{label}"


class Block:
    """A straight list of operations with arguments, ended by a terminator."""

    __slots__ = ("args", "first", "function", "last", "ordered", "region")

    def __init__(self, region: Region, function: Function | None) -> None:
        self.region = region
        self.function = function
        self.args: list[Value] = []
        self.first: Op | None = None
        self.last: Op | None = None
        self.ordered = True

    @property
    def parent_op(self) -> Op | None:
        """The operation whose region this block is, ``None`` for a function's body."""
        parent = self.region.parent
        return parent if isinstance(parent, Op) else None

    @property
    def ops(self) -> Iterator[Op]:
        """The operations in order; see the module docstring for iteration under mutation."""
        op = self.first
        while op is not None:
            following = op.next
            yield op
            # The visited op may have been erased; its successor as seen before stands unless new
            # operations were put right behind it.
            op = op.next if op.block is self else following

    @property
    def terminator(self) -> Op | None:
        """The last operation if it is a terminator."""
        last = self.last
        if last is not None and last.definition and "terminator" in last.definition.traits:
            return last
        return None

    def add_arg(self, type_: Type, name: str | None = None) -> Value:
        """Append an argument."""
        value = Value(type_, self, len(self.args), name)
        self.args.append(value)
        if self.function is not None:
            self.function.epoch += 1
        return value

    def erase_arg(self, index: int) -> None:
        """Remove an unused argument."""
        if self.args[index].first_use is not None:
            raise LeptonError(f"block argument {index} is still used", code="erase")
        del self.args[index]
        for i, arg in enumerate(self.args):
            arg.index = i
        if self.function is not None:
            self.function.epoch += 1

    def append(self, op: Op) -> Op:
        """Put ``op`` at the end."""
        return self._link(op, self.last, None)

    def insert_before(self, op: Op, anchor: Op) -> Op:
        """Put ``op`` right before ``anchor``."""
        return self._link(op, anchor.prev, anchor)

    def insert_after(self, op: Op, anchor: Op) -> Op:
        """Put ``op`` right after ``anchor``."""
        return self._link(op, anchor, anchor.next)

    def _link(self, op: Op, before: Op | None, after: Op | None) -> Op:
        assert op.block is None, "detach an operation before inserting it"
        op.block, op.prev, op.next = self, before, after
        if before is None:
            self.first = op
        else:
            before.next = op
        if after is None:
            self.last = op
            op.order = _GAP if before is None else before.order + _GAP
        else:
            after.prev = op
            low = 0 if before is None else before.order
            op.order = (low + after.order) // 2
            if op.order <= low:
                self.ordered = False
        if self.function is not None:
            self.function.epoch += 1
        if op.regions:
            op_function = self.function
            for inner in op.walk():
                for region in inner.regions:
                    region.block.function = op_function
        return op

    def remove(self, op: Op) -> None:
        """Unlink ``op``; it keeps its operands."""
        if op.prev is None:
            self.first = op.next
        else:
            op.prev.next = op.next
        if op.next is None:
            self.last = op.prev
        else:
            op.next.prev = op.prev
        op.block = None
        op.prev = op.next = None
        if self.function is not None:
            self.function.epoch += 1

    def ensure_order(self) -> None:
        """Renumber if an insertion found no gap."""
        if not self.ordered:
            number, op = 0, self.first
            while op is not None:
                number += _GAP
                op.order = number
                op = op.next
            self.ordered = True


class Region:
    """A graph-valued attribute of an operation, or the body of a function: one block."""

    __slots__ = ("block", "name", "parent")

    def __init__(self, parent: Op | Function) -> None:
        self.parent = parent
        self.name = ""
        self.block = Block(self, None if isinstance(parent, Op) else parent)


class AttrRef:
    """An attribute whose value is a parameter of the enclosing function (ONNX ref_attr_name)."""

    __slots__ = ("kind", "name")

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttrRef) and (self.name, self.kind) == (other.name, other.kind)

    def __hash__(self) -> int:
        return hash((self.name, self.kind))

    def __repr__(self) -> str:
        return f"AttrRef({self.name!r}, {self.kind!r})"
