"""The state of a random ONNX graph under construction, for `lepton_ir.tools.fuzz`.

Shapes are known under a few assignments of the symbolic dims at once: a `Dim` is a tuple with the
dim's size under each of them (`None` when it depends on data), so that a graph whose every step is
valid for all of them is valid for symbolic dims, with no algebra shared with the optimizer under
test. Each tensor also carries an interval of its values and two flags, by which the productions
stay away from what has no single right answer:

* `exact`: the values are copied from inputs and constants or computed without rounding, so that
  discontinuous ops (comparisons, rounding, ArgMax, quantization) may read them;
* `special`: NaN or infinity may occur.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = [
    "ELEM_TYPES",
    "LIMIT",
    "NP_TYPES",
    "Context",
    "Dim",
    "Scope",
    "Shape",
    "Tensor",
    "broadcast",
    "product",
    "static",
]

Dim = tuple[int, ...] | None
"""The size under each assignment, or None when it depends on data."""

Shape = tuple[Dim, ...]

LIMIT = 64.0
"""Magnitude that values are scaled back from, so that rounding errors stay small."""

NP_TYPES: dict[str, np.dtype] = {
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "f16": np.dtype(np.float16),
    "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64),
    "i8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
ELEM_TYPES: dict[str, int] = {
    name: helper.np_dtype_to_tensor_dtype(dtype) for name, dtype in NP_TYPES.items()
}
FEED_RANGES: dict[str, tuple[float, float]] = {
    "f32": (-2, 2),
    "f64": (-2, 2),
    "f16": (-2, 2),
    "i32": (-5, 5),
    "i64": (-5, 5),
    "i8": (-100, 100),
    "u8": (0, 200),
    "bool": (0, 1),
}
"""The values that feeds are drawn from, by dtype."""

_ODD_NAMES = ("a/b:0", "x y", "q'\"", "ünï", "new\nline", "%1", "{}", "12", "a,b", "-", "#c", "\\t")
_LARGEST = 512


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the graph: what the productions need to know about it."""

    name: str
    dtype: str
    shape: Shape
    lo: float = -LIMIT
    hi: float = LIMIT
    exact: bool = False
    special: bool = False

    @property
    def rank(self) -> int:
        """The number of dims."""
        return len(self.shape)

    @property
    def known(self) -> bool:
        """Whether no dim depends on data."""
        return all(dim is not None for dim in self.shape)

    @property
    def nonempty(self) -> bool:
        """Whether every dim is known and at least 1 under every assignment."""
        return all(dim is not None and min(dim) > 0 for dim in self.shape)

    @property
    def floating(self) -> bool:
        """Whether the dtype is a floating-point type."""
        return self.dtype in {"f32", "f64", "f16"}

    @property
    def integer(self) -> bool:
        """Whether the dtype is i32 or i64, in which integer arithmetic is done."""
        return self.dtype in {"i32", "i64"}

    @property
    def plain(self) -> bool:
        """Whether it is an ordinary float32 tensor of known shape: what most productions want."""
        return self.dtype == "f32" and self.known and not self.special

    def size(self, draw: int) -> int:
        """The number of elements under one assignment; the dims must be known."""
        total = 1
        for dim in self.shape:
            assert dim is not None
            total *= dim[draw]
        return total


def static(dim: Dim) -> int | None:
    """Return the size of a dim that is the same under every assignment, else None."""
    return dim[0] if dim is not None and len(set(dim)) == 1 else None


def product(dims: Sequence[Dim]) -> Dim:
    """Return the dim that is the product of known dims, of which there is at least one."""
    sizes = [dim for dim in dims if dim is not None]
    return tuple(math.prod(column) for column in zip(*sizes, strict=True))


def broadcast(a: Shape, b: Shape) -> Shape | None:
    """Return the shape that `a` and `b` broadcast to, or None where that is not certain."""
    rank = max(len(a), len(b))
    draws = next((len(dim) for dim in (*a, *b) if dim is not None), 1)
    one: Dim = (1,) * draws
    result: list[Dim] = []
    for x, y in zip(
        (one,) * (rank - len(a)) + a, (one,) * (rank - len(b)) + b, strict=True
    ):  # fmt: skip
        if x is None or y is None or not (x == y or static(x) == 1 or static(y) == 1):
            return None
        result.append(y if static(x) == 1 else x)
    return tuple(result)


@dataclass(slots=True)
class Context:
    """What all scopes of one model share."""

    rng: random.Random
    opset: int
    symbols: dict[str, Dim]
    draws: int
    odd_names: bool
    names: set[str] = field(default_factory=set)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    histogram: dict[str, int] = field(default_factory=dict)

    def dim(self, size: int) -> Dim:
        """Return the dim that is `size` under every assignment."""
        return (size,) * self.draws

    def fresh(self, hint: str) -> str:
        """Return a name that no other value or node has; an odd one now and then."""
        name = f"{hint}_{len(self.names)}"
        if self.odd_names and self.rng.random() < 0.3:
            name = f"{self.rng.choice(_ODD_NAMES)}{len(self.names)}"
        self.names.add(name)
        return name


class Scope:
    """A graph or subgraph being built: its nodes, initializers and the tensors visible in it."""

    def __init__(self, context: Context, parent: Scope | None = None) -> None:
        self.context = context
        self.parent = parent
        self.rng = context.rng
        self.opset = context.opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.tensors: list[Tensor] = []
        self.constants: list[tuple[np.ndarray, Tensor]] = []
        self.used: set[str] = set()

    @property
    def depth(self) -> int:
        """0 for the main graph, 1 for a subgraph in it, and so on."""
        return 0 if self.parent is None else self.parent.depth + 1

    def visible(self) -> list[Tensor]:
        """Return the tensors of this scope and of those around it."""
        outer = self.parent.visible() if self.parent else []
        return outer + self.tensors

    def pick(self, accept: Callable[[Tensor], bool]) -> Tensor | None:
        """Return a random visible tensor that `accept` likes; newer ones are likelier."""
        found = [tensor for tensor in self.visible() if accept(tensor)]
        if not found:
            return None
        if self.rng.random() < 0.5:
            return self.rng.choice(found[-6:])
        return self.rng.choice(found)

    def dim(self, size: int) -> Dim:
        """Return the dim that is `size` under every assignment."""
        return self.context.dim(size)

    def dims(self, *sizes: int) -> Shape:
        """Return a static shape."""
        return tuple(self.dim(size) for size in sizes)

    # -- nodes ---------------------------------------------------------------------------------

    def node(
        self, op: str, inputs: Sequence[Tensor | None], outputs: Iterable[str], **attrs: Any
    ) -> None:
        """Append a node that writes the named values; an input of None is left out."""
        names = [tensor.name if tensor else "" for tensor in inputs]
        self.used.update(names)
        name = self.context.fresh(op) if self.rng.random() < 0.8 else ""
        present = {key: value for key, value in attrs.items() if value is not None}
        self.nodes.append(helper.make_node(op, names, list(outputs), name=name, **present))
        self.context.histogram[op] = self.context.histogram.get(op, 0) + 1

    def emit(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        *,
        shape: Shape | None = None,
        dtype: str | None = None,
        lo: float | None = None,
        hi: float | None = None,
        exact: bool = False,
        special: bool | None = None,
        **attrs: Any,
    ) -> Tensor:
        """Append a node with one result and return it.

        Shape, dtype and interval default to those of the first input, `special` to whether any
        input is.
        """
        first = inputs[0]
        assert first is not None or (shape is not None and dtype is not None)
        if special is None:
            special = any(tensor.special for tensor in inputs if tensor)
        result = Tensor(
            self.context.fresh(op.lower()),
            dtype or (first.dtype if first else "f32"),
            first.shape if shape is None and first else shape or (),
            first.lo if lo is None and first else lo or 0.0,
            first.hi if hi is None and first else hi or 0.0,
            exact,
            special,
        )
        self.node(op, inputs, [result.name], **attrs)
        return self.add(result)

    def move(self, op: str, inputs: Sequence[Tensor | None], shape: Shape, **attrs: Any) -> Tensor:
        """Append a node that only moves the elements of its first input."""
        first = inputs[0]
        assert first is not None
        return self.emit(op, inputs, shape=shape, exact=first.exact, **attrs)

    def add(self, tensor: Tensor) -> Tensor:
        """Make `tensor` visible and return it."""
        self.tensors.append(tensor)
        return tensor

    def too_large(self, shape: Shape) -> bool:
        """Whether a tensor of this shape would have more elements than the generator allows."""
        probe = Tensor("", "f32", shape)
        return probe.known and any(
            probe.size(draw) > _LARGEST for draw in range(self.context.draws)
        )

    # -- sources -------------------------------------------------------------------------------

    def constant(self, array: np.ndarray, dtype: str | None = None) -> Tensor:
        """Return a constant: an initializer or a Constant node, at times an existing one."""
        kind = dtype or next(name for name, t in NP_TYPES.items() if t == array.dtype)
        array = np.asarray(array, NP_TYPES[kind])
        if self.rng.random() < 0.6:
            for known, tensor in self.constants:
                if tensor.dtype == kind and np.array_equal(known, array):
                    return tensor
        finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
        result = Tensor(
            self.context.fresh("c"),
            kind,
            self.dims(*array.shape),
            float(finite.min()) if finite.size else 0.0,
            float(finite.max()) if finite.size else 0.0,
            exact=True,
            special=finite.size != array.size,
        )
        proto = numpy_helper.from_array(array, result.name)
        if self.rng.random() < 0.5:
            self.initializers.append(proto)
        else:
            self.node("Constant", [], [result.name], value=proto)
        self.constants.append((array, result))
        return self.add(result) if self.rng.random() < 0.2 else result

    def ints(self, *values: int) -> Tensor:
        """Return a one-dimensional int64 constant."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float, dtype: str = "f32", rank: int = 0) -> Tensor:
        """Return a constant with one element."""
        return self.constant(np.full((1,) * rank, value, NP_TYPES[dtype]), dtype)

    def weights(self, *sizes: int, dtype: str = "f32", scale: float = 1.0) -> Tensor:
        """Return a constant of random values in [-scale, scale]."""
        seeded = np.random.default_rng(self.rng.getrandbits(32))
        return self.constant(
            seeded.uniform(-scale, scale, sizes).astype(NP_TYPES[dtype]), dtype
        )  # fmt: skip

    def feed(self, dtype: str, shape: Shape) -> Tensor:
        """Add an input to the main graph; its symbolic dims are written by name."""
        context = self.context
        by_dim = {dim: name for name, dim in context.symbols.items()}
        name = context.fresh("in")
        declared = [by_dim.get(dim, dim[0]) for dim in shape if dim is not None]
        context.inputs.append(helper.make_tensor_value_info(name, ELEM_TYPES[dtype], declared))
        lo, hi = FEED_RANGES[dtype]
        tensor = Tensor(name, dtype, shape, lo, hi, exact=True)
        root = self
        while root.parent:
            root = root.parent
        return root.add(tensor)

    # -- signatures that changed with the opset ------------------------------------------------

    def with_axes(
        self, op: str, source: Tensor, axes: Sequence[int], since: int
    ) -> tuple[list[Tensor | None], dict[str, Any]]:
        """Return inputs and attributes of an op whose axes became an input in opset `since`."""
        if self.opset >= since:
            return [source, self.ints(*axes)], {}
        return [source], {"axes": list(axes)}

    def unsqueeze(self, source: Tensor, axes: Sequence[int]) -> Tensor:
        """Unsqueeze at `axes`, which are sorted and count in the result."""
        shape = list(source.shape)
        for axis in axes:
            shape.insert(axis, self.dim(1))
        inputs, attrs = self.with_axes("Unsqueeze", source, axes, 13)
        return self.move("Unsqueeze", inputs, tuple(shape), **attrs)

    def squeeze(self, source: Tensor, axes: Sequence[int]) -> Tensor:
        """Squeeze `axes`, whose dims are 1."""
        shape = tuple(dim for axis, dim in enumerate(source.shape) if axis not in axes)
        inputs, attrs = self.with_axes("Squeeze", source, axes, 13)
        return self.move("Squeeze", inputs, shape, **attrs)

    def slice(
        self,
        source: Tensor,
        axis: int,
        bounds: tuple[int, int],
        size: Dim,
        step: int = 1,
    ) -> Tensor:
        """Slice one axis; steps other than 1 need opset 10."""
        start, end = bounds
        shape = (*source.shape[:axis], size, *source.shape[axis + 1 :])
        if self.opset < 10:
            return self.move("Slice", [source], shape, starts=[start], ends=[end], axes=[axis])
        inputs: list[Tensor | None] = [source, self.ints(start), self.ints(end), self.ints(axis)]
        if step != 1 or self.rng.random() < 0.3:
            inputs.append(self.ints(step))
        return self.move("Slice", inputs, shape)

    def clip(self, source: Tensor, lo: float | None, hi: float | None) -> Tensor:
        """Clip a float32 tensor; either bound may be absent."""
        floor, ceiling = -np.inf if lo is None else lo, np.inf if hi is None else hi
        low, high = (min(max(end, floor), ceiling) for end in (source.lo, source.hi))
        if self.opset < 11:
            return self.emit("Clip", [source], lo=low, hi=high, exact=source.exact, min=lo, max=hi)
        bounds = [None if bound is None else self.scalar(bound) for bound in (lo, hi)]
        while bounds and bounds[-1] is None:
            bounds.pop()
        return self.emit("Clip", [source, *bounds], lo=low, hi=high, exact=source.exact)

    def reduce(self, op: str, source: Tensor, axes: Sequence[int], keepdims: bool) -> Tensor:
        """Reduce the given axes, which must not be empty tensors' for Max, Min and Mean."""
        one = [self.dim(1)] if keepdims else []
        shape: list[Dim] = []
        for axis, dim in enumerate(source.shape):
            shape += one if axis in axes else [dim]
        count = 1
        for axis in axes:
            dim = source.shape[axis]
            count *= max(dim) if dim else 8
        lo, hi = _reduced_bounds(op, source, count)
        inputs, attrs = self.with_axes(op, source, axes, 13 if op == "ReduceSum" else 18)
        exact = source.exact and (source.integer or op in {"ReduceMax", "ReduceMin"})
        return self.emit(
            op, inputs, shape=tuple(shape), lo=lo, hi=hi, exact=exact,
            keepdims=int(keepdims) if not keepdims or self.rng.random() < 0.5 else None, **attrs,
        )  # fmt: skip

    def cast(self, source: Tensor, dtype: str) -> Tensor:
        """Cast; the values must fit the new dtype."""
        lossless = NP_TYPES[dtype].kind in "iub" or NP_TYPES[dtype].itemsize >= 4
        return self.emit(
            "Cast", [source], dtype=dtype, exact=source.exact and lossless, to=ELEM_TYPES[dtype]
        )

    def tame(self, source: Tensor) -> Tensor:
        """Return `source`, scaled down when its values may be large."""
        size = max(abs(source.lo), abs(source.hi))
        if size <= LIMIT or not source.floating:
            return source
        factor = float(2.0 ** -np.ceil(np.log2(size)))
        return self.emit(
            "Mul",
            [source, self.scalar(factor, source.dtype)],
            lo=source.lo * factor,
            hi=source.hi * factor,
        )


def _reduced_bounds(op: str, source: Tensor, count: int) -> tuple[float, float]:
    size = max(abs(source.lo), abs(source.hi))
    if op in {"ReduceMax", "ReduceMin", "ReduceMean"}:
        return source.lo, source.hi
    if op == "ReduceSum":
        return min(0.0, source.lo * count), max(0.0, source.hi * count)
    if op == "ReduceProd":
        return -(max(size, 1.0) ** count), max(size, 1.0) ** count
    if op == "ReduceSumSquare":
        return 0.0, size * size * count
    return 0.0, size * count
