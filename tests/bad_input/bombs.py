"""Small models of enormous results, endless loops, undefined arithmetic, and very long chains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from bad_input.case import (
    BOOL,
    F32,
    F64,
    I32,
    I64,
    U8,
    Build,
    Case,
    field,
    graph,
    ints,
    model,
    node,
    only_const,
    raw_model,
    raw_node,
    tensor,
    value,
    with_const,
)

TERA = 1 << 40


def _scalar(name: str, number: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    return tensor(name, number, dtype)


def _shape_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same bomb, of which only the shape is asked for."""
    bomb = proto.graph.node[-1]
    bomb.output[0] = "bomb"
    proto.graph.node.append(node("Shape", "bomb", "y"))
    proto.graph.output[0].CopyFrom(value("y", None, I64))
    return proto


def _foldable() -> dict[str, Build]:
    one = _scalar("v", 1.0)
    row = tensor("v", np.ones((1, 4)))
    image = tensor("v", np.ones((1, 1, 2, 2)))
    none = tensor("r", [])
    return {
        "constant-of-shape": lambda _: only_const("ConstantOfShape", [ints("s", TERA)]),
        "constant-of-shape-square": lambda _: only_const(
            "ConstantOfShape", [ints("s", 1 << 20, 1 << 20)]
        ),
        "constant-of-shape-overflow": lambda _: only_const(
            "ConstantOfShape", [ints("s", 1 << 32, 1 << 32)]
        ),
        "expand": lambda _: only_const("Expand", [one, ints("s", TERA)]),
        "tile": lambda _: only_const("Tile", [row, ints("r", 1 << 20, 1 << 20)]),
        "tile-overflow": lambda _: only_const("Tile", [row, ints("r", 1 << 62, 1 << 62)]),
        "pad": lambda _: only_const("Pad", [row, ints("p", 0, 0, 0, TERA)]),
        "range": lambda _: only_const(
            "Range",
            [_scalar("a", 0, np.int64), _scalar("b", 10**12, np.int64), _scalar("c", 1, np.int64)],
            I64,
        ),
        "range-float": lambda _: only_const(
            "Range", [_scalar("a", 0), _scalar("b", 1e12), _scalar("c", 1)]
        ),
        "one-hot": lambda _: only_const(
            "OneHot", [ints("i", 0, 1), _scalar("d", TERA, np.int64), tensor("w", [0, 1])]
        ),
        "resize": lambda _: only_const(
            "Resize", [image, none, tensor("s", [1, 1, 1e6, 1e6])], mode="nearest"
        ),
        "resize-sizes": lambda _: model(
            [node("Resize", ["v", "", "", "s"], "y", mode="linear")],
            [],
            [value("y", None)],
            [image, ints("s", 1, 1, 1 << 20, 1 << 20)],
        ),
        "eye-like": lambda _: model(
            [node("ConstantOfShape", "s", "z"), node("EyeLike", "z", "y")],
            [],
            [value("y", None)],
            [ints("s", 1 << 20, 1 << 20)],
        ),
        "hann-window": lambda _: only_const("HannWindow", [_scalar("n", TERA, np.int64)]),
        "mel-weights": lambda _: only_const(
            "MelWeightMatrix",
            [
                _scalar("a", 1 << 20, np.int64),
                _scalar("b", TERA, np.int64),
                _scalar("c", 16000, np.int64),
                _scalar("d", 0.0),
                _scalar("e", 8000.0),
            ],
        ),
        "outer-product": lambda _: model(
            [
                node("ConstantOfShape", "s", "a"),
                node("ConstantOfShape", "t", "b"),
                node("Add", "a,b", "y"),
            ],
            [],
            [value("y", None)],
            [ints("s", 1 << 20, 1), ints("t", 1, 1 << 20)],
        ),
        "matmul": lambda _: model(
            [
                node("ConstantOfShape", "s", "a"),
                node("ConstantOfShape", "t", "b"),
                node("MatMul", "a,b", "y"),
            ],
            [],
            [value("y", None)],
            [ints("s", 1 << 20, 1), ints("t", 1, 1 << 20)],
        ),
        "einsum": lambda _: only_const(
            "Einsum",
            [tensor(c, np.ones(4096)) for c in "abcd"],
            equation="i,j,k,l->ijkl",
        ),
        "gather": lambda _: model(
            [node("ConstantOfShape", "s", "z"), node("Gather", "v,i", "y")],
            [],
            [value("y", None)],
            [tensor("v", np.ones((1, 1 << 16))), ints("s", 4), ints("i", *[0] * 10_000)],
        ),
    }


def _doubling(op: str, times: int) -> Build:
    def build(_: Any) -> onnx.ModelProto:
        nodes = []
        for i in range(times):
            if op == "Concat":
                nodes.append(node("Concat", f"v{i},v{i}", f"v{i + 1}", axis=0))
            else:
                nodes.append(node("Tile", f"v{i},two", f"v{i + 1}"))
        inits = [tensor("v0", [1.0, 2.0]), ints("two", 2)]
        return model(nodes, [], [value(f"v{times}", None)], inits)

    return build


def _shared_doubling(_: Any) -> onnx.ModelProto:
    """Sixty Adds, each of the value before with itself: 2**60 paths through 60 nodes."""
    nodes = [node("Add", f"v{i},v{i}", f"v{i + 1}") for i in range(60)]
    return model(nodes, [value("v0", [2])], [value("v60", [2])])


def _shape_chain(_: Any) -> onnx.ModelProto:
    """A shape that is squared again and again: its numbers overflow 64 bits."""
    nodes = [node("Mul", f"v{i},v{i}", f"v{i + 1}") for i in range(10)]
    nodes.append(node("ConstantOfShape", "v10", "y"))
    return model(nodes, [], [value("y", None)], [ints("v0", 3, 7)])


def folding() -> Iterator[Case]:
    """Constant expressions whose value is enormous: none may be computed."""
    for name, build in _foldable().items():
        yield Case("bomb", name, "either", build, judge="none")
        small = lambda d, b=build: _shape_of(b(d))  # noqa: E731
        yield Case("bomb", f"shape-of-{name}", "either", small, judge="none")
    for op, times in (("Concat", 30), ("Concat", 62), ("Tile", 45)):
        name = f"{op.lower()}-doubled-{times}-times"
        yield Case("bomb", name, "either", _doubling(op, times), judge="none")
    yield Case("bomb", "add-doubled-60-times", "keep", _shared_doubling)
    yield Case("bomb", "shape-chain-overflow", "either", _shape_chain, judge="none")
    steps = {"zero": 0.0, "nan": float("nan"), "tiny": 1e-30, "negative": -1.0}
    for name, step in steps.items():
        consts = [_scalar("a", 0), _scalar("b", 10), _scalar("c", step)]
        build = lambda _, c=consts: only_const("Range", c)  # noqa: E731
        yield Case("bomb", f"range-step-{name}", "either", build, judge="none")
    zero = [_scalar(n, v, np.int64) for n, v in (("a", 0), ("b", 5), ("c", 0))]
    yield Case("bomb", "range-step-int-zero", "either", lambda _: only_const("Range", zero, I64))
    infinite = [_scalar("a", 0), _scalar("b", float("inf")), _scalar("c", 1)]
    endless: Build = lambda _: only_const("Range", infinite)  # noqa: E731
    yield Case("bomb", "range-to-infinity", "either", endless, judge="none")
    random: Build = lambda _: model(  # noqa: E731
        [node("RandomNormal", "", "y", shape=[TERA])], [], [value("y", None)]
    )
    yield Case("bomb", "random-normal", "either", random, judge="none")


def _loop(trip: int | None, grow: bool, cond: bool = True) -> Build:
    step = node("Concat", "v,v", "w", axis=0) if grow else node("Neg", "v", "w")
    body = graph(
        [node("Identity", "go", "go2"), step],
        [value("go2", [], BOOL), value("w", None)],
        [value("i", [], I64), value("go", [], BOOL), value("v", None)],
    )
    inits = [tensor("v0", [1.0, 2.0]), tensor("cond", cond, np.bool_)]
    if trip is not None:
        inits.append(tensor("trip", trip, np.int64))
    ins = ["" if trip is None else "trip", "cond", "v0"]
    loop = node("Loop", ins, "y", name="endless", body=body)
    return lambda _: model([loop], [], [value("y", None)], inits)


def _scan(_: Any) -> onnx.ModelProto:
    body = graph(
        [node("Concat", "s,s", "t", axis=0), node("Identity", "e", "o")],
        [value("t", None), value("o", None)],
        [value("s", None), value("e", None)],
    )
    scan = node("Scan", "v0,seq", "y,z", body=body, num_scan_inputs=1)
    inits = [tensor("v0", [1.0]), tensor("seq", np.ones((62, 1)))]
    return model([scan], [], [value("y", None), value("z", None)], inits)


def loops() -> Iterator[Case]:
    """Loops of constant operands that do not end, or whose values double."""
    yield Case("loop", "trip-2-to-62", "either", _loop(1 << 62, False), judge="none")
    yield Case("loop", "condition-always-true", "either", _loop(None, False), judge="none")
    yield Case("loop", "doubling-62-times", "either", _loop(62, True), judge="none")
    yield Case("loop", "doubling-without-end", "either", _loop(1 << 62, True), judge="none")
    yield Case("loop", "scan-doubling", "either", _scan, judge="none")
    yield Case("loop", "trip-negative", "keep", _loop(-5, False))
    yield Case("loop", "trip-zero", "keep", _loop(0, True))
    yield Case("loop", "condition-false", "keep", _loop(7, False, cond=False))


def arithmetic() -> Iterator[Case]:
    """Constants whose arithmetic traps, overflows or is undefined."""

    def ab(op: str, a: Any, b: Any, dtype: Any, elem: int, **attrs: Any) -> Build:
        return lambda _: only_const(
            op, [tensor("a", a, dtype), tensor("b", b, dtype)], elem, **attrs
        )

    low32, low64 = -(1 << 31), -(1 << 63)
    undefined: dict[str, Build] = {
        "div-int32-by-zero": ab("Div", [1, 0], [0, 0], np.int32, I32),
        "div-int64-by-zero": ab("Div", [1, 0], [0, 0], np.int64, I64),
        "div-uint8-by-zero": ab("Div", [1, 0], [0, 0], np.uint8, U8),
        "div-int32-lowest-by-minus-one": ab("Div", [low32], [-1], np.int32, I32),
        "div-int64-lowest-by-minus-one": ab("Div", [low64], [-1], np.int64, I64),
        "mod-int32-by-zero": ab("Mod", [7], [0], np.int32, I32),
        "mod-int64-lowest-by-minus-one": ab("Mod", [low64], [-1], np.int64, I64),
        "fmod-int64-by-zero": ab("Mod", [7], [0], np.int64, I64, fmod=1),
        "shift-too-far": ab("BitShift", [1, 255], [9, 64], np.uint8, U8, direction="LEFT"),
        "pow-int-negative": ab("Pow", [2, 0], [-1, -1], np.int32, I32),
        "pow-int-overflow": ab("Pow", [10], [99], np.int64, I64),
    }
    for name, build in undefined.items():
        yield Case("arithmetic", name, "either", build, judge="none")
    for name, to in (("int32", I32), ("int64", I64), ("uint8", U8)):
        odd = [float("nan"), float("inf"), -1e30, 1e30]
        cast: Build = lambda _, t=to, o=odd: only_const(  # type: ignore[misc]  # noqa: E731
            "Cast", [tensor("a", o)], t, to=t
        )
        yield Case("arithmetic", f"cast-nan-to-{name}", "either", cast, judge="none")
    zeros = tensor("z", [0, 0, 0], np.int32)
    x32 = value("x", [3], I32)
    yield Case(
        "arithmetic",
        "div-input-by-zeros",
        "either",
        lambda _: with_const("Div", [zeros], x=x32),
        judge="none",
    )
    defined: dict[str, Build] = {
        "div-float-by-zero": ab("Div", [1, 0, -1], [0, 0, 0], np.float32, F32),
        "fmod-float-by-zero": ab("Mod", [1.0], [0.0], np.float32, F32, fmod=1),
        "add-int32-wraps": ab("Add", [(1 << 31) - 1], [1], np.int32, I32),
        "mul-int64-wraps": ab("Mul", [1 << 62], [4], np.int64, I64),
        "mod-negative": ab("Mod", [-7, 7], [3, -3], np.int64, I64),
        "div-negative-truncates": ab("Div", [-7, 7], [2, -2], np.int64, I64),
        "pow-float-overflow": ab("Pow", [1e30], [9.0], np.float32, F32),
        "log-of-negative": lambda _: only_const("Log", [tensor("a", [-1.0, 0.0])]),
        "sqrt-of-negative": lambda _: only_const("Sqrt", [tensor("a", [-1.0])]),
        "exp-overflow-double": lambda _: only_const("Exp", [tensor("a", [1e9], np.float64)], F64),
        "reciprocal-of-zero": lambda _: only_const("Reciprocal", [tensor("a", [0.0, -0.0])]),
    }
    for name, build in defined.items():
        yield Case("arithmetic", name, "keep", build)


def raw_chain(ops: list[str], length: int) -> bytes:
    """A chain of `length` unary nodes, written by hand: onnx's helper takes seconds for it."""
    shape = field(1, field(1, 2)) + field(1, field(1, 3))
    kind = field(2, field(1, field(1, F32) + field(2, shape)))
    parts = []
    for i in range(length):
        source = "x" if i == 0 else f"v{i}"
        target = "y" if i == length - 1 else f"v{i + 1}"
        body = field(1, source) + field(2, target) + field(4, ops[i % len(ops)])
        parts.append(field(1, body))
    io = field(11, field(1, "x") + kind) + field(12, field(1, "y") + kind)
    return raw_model(b"".join(parts) + field(2, "chain") + io)


def _wide(count: int) -> bytes:
    """`count` independent nodes, added up a hundred at a time."""
    proto = model([], [value("x", [2, 3])], [value("y", [2, 3])]).graph.SerializeToString()
    row = [f"v{i}" for i in range(count)]
    parts = [raw_node("Relu" if i % 2 else "Abs", ["x"], [v]) for i, v in enumerate(row)]
    while len(row) > 1:
        sums = [row[i : i + 100] for i in range(0, len(row), 100)]
        row = ["y"] if len(sums) == 1 else [f"{ins[0]}s" for ins in sums]
        parts += [raw_node("Sum", ins, [out]) for ins, out in zip(sums, row, strict=True)]
    return raw_model(b"".join(parts) + proto)


def chains() -> Iterator[Case]:
    """Chains far longer than any recursion limit."""
    kinds = {
        "identity": ["Identity"],
        "relu": ["Relu"],
        "neg": ["Neg"],
        "mixed": ["Abs", "Neg", "Sigmoid", "Identity", "Relu"],
    }
    for name, ops in kinds.items():
        for length, heavy in ((5_000, False), (100_000, True)):
            yield Case(
                "chain",
                f"{name}-{length}",
                "keep",
                lambda _, o=ops, n=length: raw_chain(o, n),
                seconds=60.0 if heavy else 20.0,
                heavy=heavy,
            )
    yield Case("chain", "wide-sum-5000", "keep", lambda _: _wide(5_000), seconds=20.0)
    wide: Build = lambda _: _wide(100_000)  # noqa: E731
    yield Case("chain", "wide-sum-100000", "keep", wide, seconds=60.0, heavy=True)


def cases() -> Iterator[Case]:
    """Every case of this module."""
    yield from folding()
    yield from loops()
    yield from arithmetic()
    yield from chains()
