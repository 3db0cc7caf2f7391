"""Type inference: runs the op table's ``infer`` hooks, one operation or a whole function.

Besides types, inference follows the *contents* of small integer tensors symbolically (a shape
computed by Shape, Gather, Concat...): ``Value.content`` holds one dim per element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from lepton_ir import dims, dtypes
from lepton_ir.diagnostics import InvalidModelError, VerifyError
from lepton_ir.ir import AttrRef, Block, Function, Op, Region, Value
from lepton_ir.types import UNKNOWN, Type, TypeMismatchError, meet

if TYPE_CHECKING:
    import numpy as np

    from lepton_ir.dims import Dim
    from lepton_ir.dtypes import DType
    from lepton_ir.tensors import Tensor

MAX_CONTENT = 64
"""Elements of an integer tensor whose contents are followed symbolically."""

MAX_CONST_READ = 1 << 20
"""Bytes of a constant operand that inference is willing to read."""

Content = tuple["Dim | None", ...]


def const_tensor(value: Value | None) -> Tensor | None:
    """Return the payload when ``value`` is a constant, else ``None``."""
    if value is None:
        return None
    op = value.producer
    if op.__class__ is Op and op.name == "const":
        payload = op.attrs.get("value")
        return None if isinstance(payload, AttrRef) else payload
    return None


def const_array(value: Value | None, limit: int = MAX_CONST_READ) -> np.ndarray[Any, Any] | None:
    """Return the data when ``value`` is a constant of at most ``limit`` bytes, else ``None``."""
    tensor = const_tensor(value)
    if tensor is None or tensor.nbytes > limit:
        return None
    from lepton_ir.tensors import ElidedTensor

    return None if isinstance(tensor, ElidedTensor) else tensor.numpy()


def is_true(value: Value | None) -> bool:
    """Return whether ``value`` is a constant of one element that is not 0."""
    known = const_array(value)
    return known is not None and known.size == 1 and bool(known.reshape(-1)[0])


def content_of(value: Value | None) -> Content | None:
    """Return the elements of a small integer tensor (rank 0 or 1) as dims, where known."""
    if value is None:
        return None
    if value.content is not None:
        return value.content
    tensor = const_tensor(value)
    if tensor is None or tensor.size > MAX_CONTENT or len(tensor.shape) > 1:
        return None
    if tensor.dtype is not dtypes.I64 and tensor.dtype is not dtypes.I32:
        return None
    array = const_array(value)
    if array is None:
        return None
    value.content = tuple(array.reshape(-1).tolist())
    return value.content


class InferContext:
    """What an ``infer`` or ``content`` hook may ask about the operation at hand.

    ``infer`` returns a type or a sequence of types, one per formal result (extra ones are ignored,
    a shorter sequence leaves the rest unknown). ``content`` returns dims or ``None``.
    """

    __slots__ = ("attrs", "op")

    def __init__(self, op: Op) -> None:
        self.op = op
        self.attrs = op.all_attrs()

    def _operand(self, name: str) -> Value | None:
        return self.op.operand(name)

    def has(self, name: str) -> bool:
        """Whether the optional operand is present."""
        return self._operand(name) is not None

    def value(self, name: str) -> Value | None:
        """The operand itself, ``None`` when absent."""
        return self._operand(name)

    def values(self, name: str) -> list[Value]:
        """The present operands of a variadic formal."""
        return [v for v in self.op.variadic(name) if v is not None]

    def type(self, name: str) -> Type:
        """The operand's type, ``UNKNOWN`` when absent."""
        v = self._operand(name)
        return UNKNOWN if v is None else v.type

    def types(self, name: str) -> list[Type]:
        """Types of the present operands of a variadic formal."""
        return [v.type for v in self.values(name)]

    def dtype(self, name: str) -> DType | None:
        """The operand's element type, ``None`` when unknown or absent."""
        v = self._operand(name)
        return None if v is None else v.dtype

    def shape(self, name: str) -> tuple[Dim | None, ...] | None:
        """The operand's shape, ``None`` when the rank is unknown or the operand absent."""
        v = self._operand(name)
        return None if v is None else v.shape

    def rank(self, name: str) -> int | None:
        """The operand's rank, ``None`` when unknown."""
        v = self._operand(name)
        return None if v is None else v.rank

    def const(self, name: str) -> np.ndarray[Any, Any] | None:
        """The operand's data when it is a (not huge) constant."""
        return const_array(self._operand(name))

    def content(self, name: str) -> Content | None:
        """The operand's elements as dims when it is a small integer vector or scalar."""
        return content_of(self._operand(name))

    def ints(self, name: str) -> tuple[int, ...] | None:
        """The operand's elements when all are known integers."""
        found = self.content(name)
        if found is None:
            array = self.const(name)
            if array is None or array.dtype.kind not in "iu":
                return None
            return tuple(array.reshape(-1).tolist())
        return found if all(d.__class__ is int for d in found) else None  # type: ignore[return-value]

    def region(self, name: str) -> Region:
        """The region called ``name``."""
        return self.op.region(name)

    @property
    def num_results(self) -> int:
        """How many results the operation has."""
        return len(self.op.results)

    def positive(self, dim: Dim | None) -> bool:
        """Whether ``dim`` is at least 1 in every run that does not fail."""
        if dim is None or dim.__class__ is int:
            return dim is not None and dims.prove_ge(dim, 1) is True
        if dims.prove_ge(dim, 1) is True:
            return True
        function = self.op.function
        known = [] if function is None else [d for d, yes in function.positive.items() if yes]
        if any(dim is d or dims.prove_ge(dim, d) is True for d in known):
            return True
        above = {str(d): d + 1 for d in known if str(d) in dims.symbols(dim)}
        try:
            return bool(above) and dims.prove_ge(dims.substitute(dim, above), 1) is True
        except (dims.DimTooComplex, ZeroDivisionError, ValueError):
            return False

    def fresh(self, index: int = 0) -> Dim | None:
        """A symbol for a data-dependent size, the same one whenever this op is inferred again."""
        function = self.op.function
        if function is None:
            return None
        if self.op.symbols is None:
            self.op.symbols = []
        while len(self.op.symbols) <= index:
            self.op.symbols.append(function.fresh_symbol(self.op.name))
        return dims.sym(self.op.symbols[index])

    def fail(self, constraint: str, message: str) -> NoReturn:
        """Report that the operation breaks the numbered constraint of its documentation."""
        raise VerifyError(message, code=f"{self.op.name}-{constraint}", where=describe(self.op))


def describe(op: Op) -> str:
    """Return how messages name an operation: ``node "Conv_12" (conv)``."""
    from lepton_ir.diagnostics import shorten

    if op.node_name:
        return f'node "{shorten(op.node_name)}" ({shorten(op.name)})'
    names, _ = op.loc.flatten(1)
    if names:
        return f'node "{shorten(names[0])}" ({shorten(op.name)})'
    hint = next((r.name for r in op.results if r.name), None)
    return f'{shorten(op.name)} -> "{shorten(hint)}"' if hint else shorten(op.name)


def infer_types(op: Op) -> list[Type]:
    """Return the result types of ``op`` derived from its operands (not stored).

    Raises:
        VerifyError: a numbered constraint of the operation is broken.
    """
    definition = op.definition
    if definition is None or op.has_attr_refs:
        return [r.type for r in op.results]
    try:
        found = definition.infer(InferContext(op))
    except dims.DimTooComplex:
        found = None
    except (VerifyError, InvalidModelError):
        raise
    except (ValueError, TypeMismatchError, OverflowError) as error:
        raise VerifyError(str(error), code=f"{op.name}-types", where=describe(op)) from error
    if found is None:
        return [UNKNOWN] * len(op.results)
    types: list[Type] = [found] if isinstance(found, Type) else list(found)
    types += [UNKNOWN] * (len(op.results) - len(types))
    return types[: len(op.results)]


def infer_op(op: Op) -> bool:
    """Infer and store the result types and contents of ``op``; return whether any changed.

    A stored type only ever becomes more specific.

    Raises:
        VerifyError: a constraint is broken, or the derived type contradicts the stored one.
    """
    changed = False
    for result, found in zip(op.results, infer_types(op), strict=True):
        if found is result.type:
            continue
        try:
            merged = meet(found, result.type)
        except TypeMismatchError as error:
            raise VerifyError(str(error), code=f"{op.name}-types", where=describe(op)) from error
        if merged is not result.type:
            result.type = merged
            changed = True
    definition = op.definition
    if definition is not None and definition.content is not None and not op.has_attr_refs:
        changed |= _infer_content(op)
    if changed and op.block is not None and op.block.function is not None:
        op.block.function.epoch += 1
    return changed


def _infer_content(op: Op) -> bool:
    result = op.results[0]
    shape = result.shape
    if shape is None or len(shape) > 1 or result.dtype not in (dtypes.I64, dtypes.I32):
        return False
    if shape and not (isinstance(shape[0], int) and shape[0] <= MAX_CONTENT):
        return False
    assert op.definition is not None
    assert op.definition.content is not None
    try:
        found = op.definition.content(InferContext(op))
    except (dims.DimTooComplex, ValueError, ZeroDivisionError, OverflowError):
        found = None
    if found is None or (shape and len(found) != shape[0]):
        return False
    found = tuple(_checked(d, op) for d in found)
    if result.content == found or all(d is None for d in found):
        return False
    result.content = found
    return True


def _checked(dim: Dim | None, op: Op) -> Dim | None:
    """Drop a known element outside its integer type's range: the runtime would wrap around."""
    if isinstance(dim, int):
        limit = 1 << (31 if op.results[0].dtype is dtypes.I32 else 63)
        return dim if -limit <= dim < limit else None
    return dim


def infer_block(block: Block) -> bool:
    """Infer every operation of a block in order; return whether anything changed.

    An operation inside a region may never run (the branch not taken, a loop of no iterations), so
    a broken constraint there is no error: its results stay unknown.
    """
    nested = block.parent_op is not None
    changed = False
    op = block.first
    while op is not None:
        try:
            changed |= infer_op(op)
        except VerifyError:
            if not nested:
                raise
        op = op.next
    return changed


def infer_function(function: Function) -> bool:
    """Infer a whole function, in order; operations with regions infer these themselves."""
    return infer_block(function.block)


def mark_types_current(function: Function) -> None:
    """Note that every type of ``function`` was inferred as it stands now."""
    function.analyses["types"] = (function.epoch, True)


def types_are_current(function: Function) -> bool:
    """Return whether nothing changed since :func:`mark_types_current`."""
    stamp = function.analyses.get("types")
    return stamp is not None and stamp[0] == function.epoch


def reset_block(block: Block) -> None:
    """Forget what was inferred in a block (and inside it), so that it can be inferred afresh.

    Used by loops: a first try with optimistic argument types may have to be taken back. Types of
    opaque operations come from the file and stay.
    """
    for op in block.ops:
        for inner in op.walk():
            if inner.definition is None:
                continue
            for result in inner.results:
                if inner.name != "const":
                    result.type = UNKNOWN
                    result.content = None
            for region in inner.regions:
                for arg in region.block.args:
                    arg.type = UNKNOWN
                    arg.content = None
