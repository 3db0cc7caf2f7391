"""Building operations: methods come from the op table, ``b.conv(x, w, strides=(2, 2))``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import opdef
from lepton_ir.diagnostics import NOWHERE, LeptonError, Location
from lepton_ir.infer import infer_op
from lepton_ir.ir import Block, Op, Value
from lepton_ir.tensors import DenseTensor, Tensor, from_array

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.dtypes import DType

_EXACT: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "str": lambda v: v.decode() if isinstance(v, bytes) else str(v),
    "bool": bool,
    "ints": lambda v: tuple(int(i) for i in v),
    "floats": lambda v: tuple(float(i) for i in v),
    "strs": lambda v: tuple(i.decode() if isinstance(i, bytes) else str(i) for i in v),
}


def normalize_attrs(definition: opdef.OpDef, attrs: dict[str, Any]) -> dict[str, Any]:
    """Return ``attrs`` converted to their declared kinds, in declared order, defaults left out.

    Raises:
        LeptonError: an unknown attribute, a missing one, or a value of the wrong kind.
    """
    from lepton_ir.ir import AttrRef

    out: dict[str, Any] = {}
    specs = definition.attrs
    for name in attrs:
        if name not in specs:
            raise LeptonError(
                f"{definition.name} has no attribute {name!r}; "
                f"it has: {', '.join(specs) or 'none'}",
                code="attribute",
            )
    for name, spec in specs.items():
        if name not in attrs:
            if spec.required:
                raise LeptonError(f"{definition.name} needs attribute {name!r}", code="attribute")
            continue
        value = attrs[name]
        if value is None or isinstance(value, AttrRef):
            if value is not None:
                out[name] = value
            continue
        convert = _EXACT.get(spec.kind)
        try:
            value = value if convert is None else convert(value)
        except (TypeError, ValueError, UnicodeDecodeError) as error:
            raise LeptonError(
                f"{definition.name}: attribute {name} should be {spec.kind}, got {value!r:.60}",
                code="attribute",
            ) from error
        if convert is None or spec.required or value != spec.default:
            out[name] = value
    return out


def create(
    name: str,
    operands: Sequence[Value | None],
    attrs: dict[str, Any] | None = None,
    results: int | None = None,
    loc: Location = NOWHERE,
) -> Op:
    """Return a detached operation of the op table; types are not inferred yet.

    Trailing absent operands are dropped. ``results`` defaults to the required ones.

    Raises:
        LeptonError: unknown operation, wrong operand count or attributes.
    """
    definition = opdef.lookup(name)
    if definition is None:
        raise LeptonError(f"no operation called {name!r}", code="op")
    items = list(operands)
    while items and items[-1] is None:
        items.pop()
    missing = [o.name for o in definition.operands[len(items) :] if not (o.optional or o.variadic)]
    missing += [
        o.name
        for o, v in zip(definition.operands, items, strict=False)
        if v is None and not (o.optional or o.variadic)
    ]
    formals = definition.operands
    if not items and formals and formals[0].variadic and definition.foldable:
        missing.append(formals[0].name)
    if missing or (definition.max_operands >= 0 and len(items) > definition.max_operands):
        what = f"misses {', '.join(missing)}" if missing else f"got {len(items)} operands"
        raise LeptonError(f"{definition.signature()}: {what}", code="operands")
    count = definition.min_results if results is None else results
    if count < definition.min_results or 0 <= definition.max_results < count:
        raise LeptonError(f"{definition.signature()}: cannot have {count} results", code="results")
    normal = normalize_attrs(definition, attrs or {}) if attrs or definition.attrs else {}
    op = Op(name, definition, items, normal, count, len(definition.regions), loc)
    for region, label in zip(op.regions, definition.regions, strict=True):
        region.name = label
    return op


class Builder:
    """Creates operations at an insertion point and infers their types.

    Operands may be values, ``None`` (absent), tensors, NumPy arrays, or Python numbers and lists
    (these become constants; a Python number takes the dtype of the first tensor operand,
    ``shape``-like lists of ints become i64 vectors).

    Args:
        block: where to insert.
        before: insert before this operation; at the end when ``None``.
        loc: location given to new operations.
    """

    def __init__(self, block: Block, before: Op | None = None, loc: Location = NOWHERE) -> None:
        self.block = block
        self.before = before
        self.loc = loc

    def insert(self, op: Op) -> Op:
        """Put a detached operation at the insertion point and infer its types."""
        if self.before is None:
            self.block.append(op)
        else:
            self.block.insert_before(op, self.before)
        try:
            infer_op(op)
        except LeptonError:
            op.erase()
            raise
        self.created(op)
        return op

    def created(self, op: Op) -> None:
        """Called for every new operation; rewriters listen here."""

    def const(self, value: Any, dtype: DType | None = None, name: str | None = None) -> Value:
        """Build a constant from a tensor, an array or Python numbers (ints are i64)."""
        tensor = value if isinstance(value, Tensor) else _as_tensor(value, dtype)
        op = create("const", (), {"value": tensor}, loc=self.loc)
        op.result.name = name
        return self.insert(op).result

    def build(self, op_name: str, *operands: Any, results: int | None = None, **attrs: Any) -> Op:
        """Build any operation of the table by name and return it."""
        reference = next((v.dtype for v in operands if isinstance(v, Value)), None)
        values = [self._operand(v, reference) for v in operands]
        return self.insert(create(op_name, values, attrs, results, self.loc))

    def _operand(self, value: Any, reference: DType | None) -> Value | None:
        if value is None or isinstance(value, Value):
            return value
        scalar = isinstance(value, (int, float)) and not isinstance(value, bool)
        return self.const(value, reference if scalar else None)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        definition = None if name.startswith("__") else opdef.lookup(name.rstrip("_"))
        if definition is None:
            raise AttributeError(f"no operation called {name!r}")
        single = definition.max_results == 1

        def method(*operands: Any, results: int | None = None, **attrs: Any) -> Any:
            op = self.build(definition.name, *operands, results=results, **attrs)
            return op.result if single or len(op.results) == 1 else tuple(op.results)

        return method


def _as_tensor(value: Any, dtype: DType | None) -> Tensor:
    if dtype is not None:
        return DenseTensor(np.asarray(value).astype(dtype.numpy), dtype)
    array = np.asarray(value)
    if array.size == 0 and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)
    return from_array(array)
