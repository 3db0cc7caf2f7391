"""Broadcasting of symbolic shapes, and the infer and content hooks of broadcasting operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dims, dtypes
from lepton_ir.infer import content_of
from lepton_ir.types import UNKNOWN, TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lepton_ir.dims import Dim
    from lepton_ir.dtypes import DType
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Value

Shape = tuple["Dim | None", ...]


def broadcast_dim(a: Dim | None, b: Dim | None) -> Dim | None:
    """Return the dim that two dims broadcast to, ``None`` where it is not certain.

    A known size other than 1 wins over anything, since a valid program broadcasts. An unknown dim
    and a symbol give an unknown dim: the symbol may stand for 1.

    Raises:
        ValueError: two known sizes differ and neither is 1.
    """
    if a is None and b is None:
        return None
    if isinstance(a, int) and a == 1:
        return b
    if isinstance(b, int) and b == 1:
        return a
    if a is None or b is None:
        known = b if a is None else a
        assert known is not None
        low = dims.bounds(known)[0]
        return known if low is not None and (low > 1 or isinstance(known, int)) else None
    try:
        return dims.broadcast(a, b)
    except dims.DimTooComplex:
        return None


def broadcast_shapes(shapes: Iterable[Sequence[Dim | None] | None]) -> Shape | None:
    """Return the shape that ``shapes`` broadcast to, ``None`` when a rank is unknown.

    Args:
        shapes: any number of shapes; of none, the result is ``()``.

    Raises:
        ValueError: known sizes do not broadcast.
    """
    found: Shape = ()
    unknown = False
    for shape in shapes:
        if shape is None:
            unknown = True
            continue
        wide, narrow = (found, tuple(shape)) if len(found) >= len(shape) else (tuple(shape), found)
        head = len(wide) - len(narrow)
        tail = (broadcast_dim(p, q) for p, q in zip(wide[head:], narrow, strict=True))
        found = wide[:head] + tuple(tail)
    return None if unknown else found


def shape_text(shape: Sequence[Dim | None] | None) -> str:
    """Return a shape as messages show it: ``[1,N,?]``."""
    if shape is None:
        return "[*]"
    return "[" + ",".join("?" if d is None else str(d) for d in shape) + "]"


def _operands(ctx: InferContext) -> list[Value]:
    return [v for v in ctx.op.operands if v is not None]


def common_dtype(ctx: InferContext, values: Sequence[Value]) -> DType | None:
    """Return the element type that ``values`` share; differing ones break C2."""
    found: DType | None = None
    for value in values:
        dtype = value.dtype
        if found is not None and dtype is not None and dtype is not found:
            ctx.fail("C2", f"operands have element types {found} and {dtype}")
        found = found or dtype
    return found


def infer_same(ctx: InferContext) -> Type:
    """Infer the type of the first operand."""
    found = ctx.op.operands[0]
    if found is None or not isinstance(found.type, TensorType):
        return UNKNOWN
    return TensorType(found.type.dtype, found.type.shape)


def infer_predicate(ctx: InferContext) -> Type:
    """Infer booleans in the shape of the first operand."""
    found = ctx.op.operands[0]
    return TensorType(dtypes.BOOL, None if found is None else found.shape)


def _broadcast(ctx: InferContext, values: Sequence[Value]) -> Shape | None:
    try:
        return broadcast_shapes(v.shape for v in values)
    except ValueError:
        texts = " and ".join(shape_text(v.shape) for v in values)
        ctx.fail("C1", f"shapes {texts} do not broadcast")


def infer_broadcast(ctx: InferContext) -> Type:
    """Infer the broadcast of all operands, which share their element type (C1, C2)."""
    values = _operands(ctx)
    return TensorType(common_dtype(ctx, values), _broadcast(ctx, values))


def infer_compare(ctx: InferContext) -> Type:
    """Infer booleans in the broadcast shape of operands of one element type (C1, C2)."""
    values = _operands(ctx)
    common_dtype(ctx, values)
    return TensorType(dtypes.BOOL, _broadcast(ctx, values))


def infer_broadcast_first(ctx: InferContext) -> Type:
    """Infer the broadcast of all operands with the first one's element type (C1)."""
    values = _operands(ctx)
    return TensorType(values[0].dtype, _broadcast(ctx, values))


def content_of_all(
    function: Callable[..., Dim | None],
) -> Callable[[InferContext], tuple[Dim | None, ...] | None]:
    """Return a content hook that applies ``function`` to the operands' elements, broadcast.

    ``function`` takes as many dims as there are operands; it is not asked about unknown elements.
    """

    def content(ctx: InferContext) -> tuple[Dim | None, ...] | None:
        columns = [content_of(v) for v in _operands(ctx)]
        if not columns or any(c is None for c in columns):
            return None
        sizes = {len(c) for c in columns if c is not None}
        count = max(sizes) if 0 not in sizes else 0
        if not sizes <= {1, count}:
            return None
        rows = zip(
            *(c * count if len(c) == 1 else c for c in columns if c is not None), strict=True
        )
        return tuple(None if None in row else _apply(function, row) for row in rows)

    return content


def _apply(function: Callable[..., Dim | None], row: tuple[Dim | None, ...]) -> Dim | None:
    try:
        return function(*row)
    except dims.DimTooComplex:
        return None
