"""Common subexpressions: equal operations on equal operands are computed once."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_ir.ir import Op
from lepton_ir.pipeline import Pass, measure
from lepton_ir.tensors import ElidedTensor, StoredTensor, Tensor, same_content

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from lepton_ir.context import PassContext
    from lepton_ir.ir import Block, Module

    Table = MutableMapping[Any, Any]

_SMALL = 256
"""Bytes up to which a constant's data itself is its key."""

_HASHED = 1 << 16
"""Bytes up to which a hash is: larger constants are few enough to be compared."""

_SHAPE_CHAIN = frozenset(
    {"gather", "slice", "split", "squeeze", "unsqueeze", "concat", "cast", "identity", "add", "sub"}
    | {"mul", "div", "min", "max", "reduce_prod"}
)
"""Operations by which a shape becomes another one."""

_SHAPE_DEPTH, _SHAPE_USES = 6, 16


@dataclass(frozen=True)
class Cse(Pass, name="cse"):
    """Merge equal operations without effects, and constants with equal data.

    Shapes are equal when inference proves their elements to be, unless they go into a reshape.
    Random and opaque operations are never merged. Constants are equal when type and bits are;
    large ones are compared by sample first and streamed.
    """

    rule_names = ("merge", "merge_constant")

    def run(self, module: Module, ctx: PassContext) -> None:
        """Visit every block once, in order; nested blocks see what dominates them."""
        for function in module.functions.values():
            _merge(function.block, ChainMap(), ctx)


def _merge(block: Block, table: ChainMap[Any, Any], ctx: PassContext) -> None:
    for op in block.ops:
        if op.regions:
            for region in op.regions:
                _merge(region.block, table.new_child(), ctx)
            continue
        definition = op.definition
        if definition is None or not definition.pure or op.has_attr_refs:
            continue
        earlier = _const_twin(op, table) if op.name == "const" else _twin(op, table)
        if earlier is None or earlier is op:
            continue
        rule = "merge_constant" if op.name == "const" else "merge"
        if not ctx.allow(rule, op):
            continue
        nodes, size = measure((op,))
        ctx.tally(rule, -nodes, -size)
        _replace(op, earlier)


def _replace(op: Op, earlier: Op) -> None:
    while len(earlier.results) < len(op.results):
        extra = op.results[len(earlier.results)]
        earlier.add_result(extra.type, extra.name)
    for old, new in zip(op.results, earlier.results, strict=False):
        if new.content is None:
            new.content = old.content
        old.replace_all_uses(new)
    op.erase()


def _twin(op: Op, table: Table) -> Op | None:
    assert op.definition is not None
    if op.name == "shape":
        content = op.results[0].content
        if content is not None and None not in content and not _reshapes(op, _SHAPE_DEPTH):
            return table.setdefault(("shape", content), op)  # type: ignore[no-any-return]
    operands = [None if v is None else id(v) for v in op.operands]
    if "commutative" in op.definition.traits and len(operands) == 2:
        operands.sort(key=lambda i: i or 0)
    attrs = tuple((k, attr_key(v)) for k, v in op.attrs.items()) if op.attrs else ()
    key = (op.name, tuple(operands), attrs)
    found: Op = table.setdefault(key, op)
    return found


def _reshapes(op: Op, depth: int) -> bool:
    """Return whether a shape goes into a reshape, or may.

    There runtimes look for the shape of what is reshaped, not for that of another tensor.
    """
    for result in op.results:
        if result.use_count > _SHAPE_USES or not depth:
            return True
        for user in result.users:
            if user.name in _SHAPE_CHAIN and _reshapes(user, depth - 1):
                return True
            if user.name in ("reshape", "return", "yield") or user.regions:
                return True
    return False


def attr_key(value: Any) -> Any:
    """Return a hashable key under which equal attribute values fall together.

    Floats are told apart by their bits (0.0 and -0.0 differ, NaN equals itself).
    """
    if isinstance(value, float):
        return ("float", value.hex())
    if isinstance(value, tuple):
        return tuple(map(attr_key, value))
    if isinstance(value, Tensor):
        return ("tensor", value.digest())
    if isinstance(value, (int, str, bytes)):
        return (type(value).__name__, value)
    return ("object", id(value))


def _const_twin(op: Op, table: Table) -> Op | None:
    tensor = op.attrs["value"]
    if not isinstance(tensor, Tensor):
        return None
    head: tuple[Any, ...] = ("const", tensor.dtype, tensor.shape)
    if tensor.nbytes <= _SMALL and tensor.dtype.kind != "string":
        try:
            key = (*head, tensor.numpy().tobytes())
        except Exception:  # an elided constant has no data to compare
            return None
        found: Op = table.setdefault(key, op)
        return found
    head = (*head, _sample(tensor))
    bucket: list[Op] = table.get(head) or []
    for earlier in bucket:
        if same_content(earlier.attrs["value"], tensor):
            return earlier
    table[head] = [*bucket, op]
    return None


def _sample(tensor: Tensor) -> str | bytes:
    """Return what keeps constants apart that are not equal, so that few are compared in full."""
    if isinstance(tensor, StoredTensor):
        return tensor.fingerprint()
    if tensor.nbytes <= _HASHED or isinstance(tensor, ElidedTensor):
        return tensor.digest()
    return bytes(memoryview(next(tensor.chunks())).cast("B")[:_SMALL])
