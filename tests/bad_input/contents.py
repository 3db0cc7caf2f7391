"""Attributes, shapes and tensors whose contents cannot be what they claim."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from bad_input.case import (
    F16,
    F32,
    HUGE,
    I32,
    I64,
    STR,
    U8,
    Build,
    Case,
    Expect,
    field,
    ints,
    model,
    node,
    raw_model,
    tensor,
    value,
    with_const,
)

X = value("x", [2, 3])
IMAGE = value("x", [1, 4, 8, 8])


def _on(op: str, x: Any = X, **attrs: Any) -> Build:
    return lambda _: with_const(op, [], x=x, name="bad", **attrs)


def _attr(op: str, *attrs: AttributeProto, **more: Any) -> Build:
    def build(_: Any) -> onnx.ModelProto:
        proto = with_const(op, [], name="bad", **more)
        proto.graph.node[0].attribute.extend(attrs)
        return proto

    return build


def _conv(**attrs: Any) -> Build:
    w = tensor("w", np.ones((4, 4, 3, 3)))
    return lambda _: with_const("Conv", [w], x=IMAGE, name="bad", **attrs)


def attributes() -> Iterator[Case]:
    """Attributes of the wrong kind, missing, twice, or out of their range."""
    float_alpha = helper.make_attribute("alpha", 0.5)
    mislabelled = AttributeProto(name="alpha", type=AttributeProto.INT, f=0.5)
    unlabelled = AttributeProto(name="alpha", f=0.5)
    bad: dict[str, Build] = {
        "strides-string": _conv(strides="2,2"),
        "strides-float": _conv(strides=2.0),
        "strides-int": _conv(strides=2),
        "strides-of-three": _conv(strides=[1, 1, 1]),
        "strides-zero": _conv(strides=[0, 0]),
        "strides-negative": _conv(strides=[-1, -1]),
        "strides-million": _conv(strides=[1] * 1_000_000),
        "dilations-zero": _conv(dilations=[0, 1]),
        "pads-of-three": _conv(pads=[1, 1, 1]),
        "group-zero": _conv(group=0),
        "group-negative": _conv(group=-2),
        "group-not-dividing": _conv(group=3),
        "kernel-not-the-weight": _conv(kernel_shape=[5, 5]),
        "kernel-huge": _on("MaxPool", IMAGE, kernel_shape=[HUGE, HUGE]),
        "kernel-missing": _on("MaxPool", IMAGE),
        "kernel-larger-than-input": _on("MaxPool", IMAGE, kernel_shape=[20, 20]),
        "auto-pad-unknown": _conv(auto_pad="SAME_SIDEWAYS"),
        "auto-pad-not-utf-8": _conv(auto_pad=b"\xff\xfe"),
        "auto-pad-int": _conv(auto_pad=3),
        "concat-without-axis": _on("Concat"),
        "concat-axis-out-of-range": _on("Concat", axis=5),
        "concat-axis-list": _on("Concat", axis=[0]),
        "cast-without-to": _on("Cast"),
        "cast-to-nothing": _on("Cast", to=0),
        "cast-to-9999": _on("Cast", to=9999),
        "cast-to-string-attribute": _on("Cast", to="float"),
        "alpha-tensor": _on("LeakyRelu", alpha=tensor("a", 0.1)),
        "alpha-twice": _attr("LeakyRelu", float_alpha, helper.make_attribute("alpha", 0.7)),
        "alpha-mislabelled": _attr("LeakyRelu", mislabelled),
        "alpha-kind-unknown": _attr("LeakyRelu", AttributeProto(name="alpha", type=99, f=0.5))
        if _open_enums()
        else lambda _: _raw_attribute_kind(99),
        "transpose-perm-short": _on("Transpose", perm=[0]),
        "transpose-perm-repeated": _on("Transpose", perm=[0, 0]),
        "transpose-perm-out-of-range": _on("Transpose", perm=[0, 7]),
        "softmax-axis-out-of-range": _on("Softmax", axis=9),
        "flatten-axis-out-of-range": _on("Flatten", axis=-9),
        "argmax-axis-huge": _on("ArgMax", axis=HUGE),
        "depth-to-space-zero": _on("DepthToSpace", IMAGE, blocksize=0),
        "depth-to-space-not-dividing": _on("DepthToSpace", IMAGE, blocksize=3),
        "constant-without-value": lambda _: model(
            [node("Constant", "", "y", name="bad")], [], [value("y", None)]
        ),
        "constant-with-two-values": lambda _: model(
            [node("Constant", "", "y", name="bad", value_float=1.0, value_int=2)],
            [],
            [value("y", None)],
        ),
        "graph-for-number": _on("LeakyRelu", alpha=helper.make_graph([], "b", [], [])),
    }
    for name, build in bad.items():
        yield Case("attribute", name, "refuse", build, says=("bad",))
    odd: dict[str, Build] = {
        "alpha-unlabelled": _attr("LeakyRelu", unlabelled),
        "alpha-nan": _on("LeakyRelu", alpha=float("nan")),
        "unknown-attribute": _on("Relu", no_such_attribute=1),
        "nameless-attribute": _attr("Relu", AttributeProto(type=AttributeProto.INT, i=1)),
        "pads-negative": _conv(pads=[-1, -1, -1, -1]),
        "pads-huge": _conv(pads=[1 << 40] * 4),
        "strides-huge": _conv(strides=[HUGE, HUGE]),
        "einsum-mismatched": _on("Einsum", equation="ijk->i"),
        "einsum-nonsense": _on("Einsum", equation="->->,,..&"),
        "einsum-not-utf-8": _on("Einsum", equation=b"\xc3\x28->\xff"),
        "einsum-megabyte": _on("Einsum", equation="i" * 1_000_000 + "->i"),
        "lrn-size-zero": _on("LRN", IMAGE, size=0),
    }
    for name, build in odd.items():
        judge = "none" if name in {"pads-huge", "lrn-size-zero"} else "values"
        yield Case("attribute", name, "either", build, judge=judge)  # type: ignore[arg-type]


def _open_enums() -> bool:
    try:
        AttributeProto(type=99)
    except ValueError:
        return False
    return True


def _raw_attribute_kind(kind: int) -> bytes:
    proto = with_const("LeakyRelu", [], name="bad")
    attr = field(5, field(1, "alpha") + varint_f(0.5) + field(20, kind))
    nodes = field(1, proto.graph.node[0].SerializeToString() + attr)
    del proto.graph.node[:]
    return raw_model(nodes + proto.graph.SerializeToString())


def varint_f(number: float) -> bytes:
    """Field 2 of an AttributeProto, a 32-bit float, on the wire."""
    return b"\x15" + np.float32(number).tobytes()


def operands() -> Iterator[Case]:
    """Constant operands that contradict the shapes they are applied to."""
    i = ints
    bad: dict[str, Build] = {
        "reshape-to-other-size": lambda _: with_const("Reshape", [i("s", 7, 7)], name="bad"),
        "reshape-two-unknowns": lambda _: with_const("Reshape", [i("s", -1, -1)], name="bad"),
        "reshape-negative": lambda _: with_const("Reshape", [i("s", -3, -2)], name="bad"),
        "reshape-copies-missing-dim": lambda _: with_const(
            "Reshape", [i("s", 2, 3, 0)], name="bad"
        ),
        "slice-step-zero": lambda _: with_const(
            "Slice", [i("b", 0), i("e", 2), i("a", 0), i("s", 0)], name="bad"
        ),
        "slice-uneven-operands": lambda _: with_const(
            "Slice", [i("b", 0, 0), i("e", 2)], name="bad"
        ),
        "slice-axis-out-of-range": lambda _: with_const(
            "Slice", [i("b", 0), i("e", 2), i("a", 9)], name="bad"
        ),
        "split-wrong-sum": lambda _: with_const("Split", [i("s", 1, 5)], "y,z", name="bad"),
        "split-negative": lambda _: with_const("Split", [i("s", -1, 3)], "y,z", name="bad"),
        "split-wrong-count": lambda _: with_const("Split", [i("s", 1, 1)], "y,z,w", name="bad"),
        "squeeze-not-one": lambda _: with_const("Squeeze", [i("a", 1)], name="bad"),
        "unsqueeze-repeated": lambda _: with_const("Unsqueeze", [i("a", 0, 0)], name="bad"),
        "unsqueeze-out-of-range": lambda _: with_const("Unsqueeze", [i("a", 99)], name="bad"),
        "topk-too-many": lambda _: with_const("TopK", [i("k", 77)], "y,z", name="bad"),
        "expand-not-broadcastable": lambda _: with_const("Expand", [i("s", 7, 3)], name="bad"),
        "tile-wrong-rank": lambda _: with_const("Tile", [i("r", 2)], name="bad"),
        "tile-negative": lambda _: with_const("Tile", [i("r", -1, 2)], name="bad"),
        "pad-wrong-rank": lambda _: with_const("Pad", [i("p", 1, 1)], name="bad"),
        "reduce-axis-out-of-range": lambda _: with_const("ReduceSum", [i("a", 9)], name="bad"),
        "add-not-broadcastable": lambda _: with_const("Add", [tensor("w", np.ones(4))], name="bad"),
        "add-of-two-types": lambda _: with_const("Add", [i("w", 1, 2, 3)], name="bad"),
        "matmul-mismatch": lambda _: with_const(
            "MatMul", [tensor("w", np.ones((4, 2)))], name="bad"
        ),
        "gemm-rank": lambda _: with_const("Gemm", [tensor("w", np.ones((3, 2, 2)))], name="bad"),
        "conv-channels": lambda _: with_const(
            "Conv", [tensor("w", np.ones((4, 9, 3, 3)))], x=IMAGE, name="bad"
        ),
        "conv-rank": lambda _: with_const(
            "Conv", [tensor("w", np.ones((4, 4)))], x=IMAGE, name="bad"
        ),
        "float-indices": lambda _: with_const("Gather", [tensor("i", [0.0])], name="bad"),
    }
    for name, build in bad.items():
        yield Case("operand", name, "refuse", build, says=("bad",))
    data = tensor("d", np.arange(6).reshape(2, 3))
    loose: dict[str, Build] = {
        "gather-out-of-range": lambda _: with_const("Gather", [i("i", 5, -9)]),
        "gather-const-out-of-range": lambda _: model(
            [node("Gather", "d,i", "y")], [], [value("y", None)], [data, i("i", 99)]
        ),
        "gathernd-out-of-range": lambda _: with_const("GatherND", [i("i", 9, 9)]),
        "scatter-out-of-range": lambda _: model(
            [node("ScatterND", "d,i,u", "y")],
            [],
            [value("y", None)],
            [data, tensor("i", [[99]], np.int64), tensor("u", [[1, 2, 3]])],
        ),
        "pad-negative-too-far": lambda _: with_const("Pad", [i("p", -9, 0, -9, 0)]),
        "tile-zero": lambda _: with_const("Tile", [i("r", 0, 2)]),
        "slice-int-extremes": lambda _: with_const(
            "Slice",
            [i("b", (1 << 63) - 1), i("e", -(1 << 63)), i("a", 1), i("s", -(1 << 63) + 1)],
        ),
        "reverse-sequence-too-long": lambda _: with_const("ReverseSequence", [i("n", 9, 9, 9)]),
    }
    for name, build in loose.items():
        yield Case("operand", name, "either", build)


def shapes() -> Iterator[Case]:
    """Declared shapes that are impossible, enormous, odd, or contradict inference."""

    def relu(dims: Any, out: Any = None, elem: int = F32) -> Build:
        x, y = value("x", dims, elem), value("y", out, elem)
        return lambda _: model([node("Relu", "x", "y")], [x], [y])

    table: dict[str, tuple[Expect, Build]] = {
        "dim-minus-one": ("either", relu([-1, 3])),
        "dim-very-negative": ("refuse", relu([-(1 << 63), 3])),
        "dim-minus-seven": ("refuse", relu([-7, 3])),
        "dim-huge": ("either", relu([HUGE])),
        "product-overflows": ("either", relu([HUGE, HUGE, HUGE])),
        "rank-ten-thousand": ("either", relu([1] * 10_000)),
        "symbols-ten-thousand": ("either", relu([f"d{i}" for i in range(10_000)])),
        "symbol-empty": ("either", relu(["", 3])),
        "symbol-megabyte": ("either", relu(["n" * 1_000_000, 3])),
        "symbol-parentheses": ("either", relu(["(" * 20_000 + "N", 3])),
        "symbol-deep-expression": ("either", relu(["N" + "+1" * 20_000, 3])),
        "symbol-power-tower": ("either", relu(["9**9**9**9", "2**9999999999"])),
        "elem-type-unknown": ("refuse", relu([2, 3], elem=999)),
        "flatten-overflow": ("either", _on("Flatten", value("x", [1 << 40, 1 << 40]))),
        "conv-of-huge-image": ("either", _huge_conv),
    }
    for name, (expect, build) in table.items():
        judge = "none" if name in {"conv-of-huge-image", "dim-huge"} else "values"
        yield Case("shape", name, expect, build, judge=judge)  # type: ignore[arg-type]
    symbols = {
        "division-by-zero": "N/0",
        "floor-by-zero": "N//0",
        "negative": "-N",
        "code": "__import__('os').system('touch unpickled')",
        "spaces": "batch size",
        "unicode": "批量",
        "newline": "a\nb",
        "quote": 'a"b',
        "minus-one-text": "-1",
        "number-text": "17",
        "unknown-text": "?",
        "none-text": "None",
        "keyword": "lambda",
    }
    for name, symbol in symbols.items():
        yield Case("shape", f"symbol-{name}", "keep", relu([symbol, 3]))
    contradictions = {
        "output-rank": relu([2, 3], [2, 3, 1]),
        "output-dim": relu([2, 3], [9, 9]),
        "output-equal-symbols": relu(["N", "M"], ["N", "N"]),
    }
    for name, build in contradictions.items():
        yield Case("shape", f"contradicts-{name}", "either", build)
    wrong = [value("h", [77, 1])]
    both = [node("Relu", "x", "h"), node("Abs", "h", "y")]
    lying: Build = lambda _: model(both, [X], [value("y", [2, 3])], infos=wrong)  # noqa: E731
    yield Case("shape", "contradicts-value-info", "either", lying)
    lying_type: Build = lambda _: model(both, [X], [value("y", [2, 3], I64)])  # noqa: E731
    yield Case("shape", "contradicts-output-type", "either", lying_type)


def _huge_conv(_: Any) -> onnx.ModelProto:
    image = value("x", [1, 3, 1 << 30, 1 << 30])
    return with_const("Conv", [tensor("w", np.ones((3, 3, 3, 3)))], x=image)


def _proto(dims: list[int], elem: int = F32, **fields: Any) -> TensorProto:
    proto = TensorProto(name="w", dims=dims)
    proto.data_type = elem
    for key, data in fields.items():
        if isinstance(data, bytes | str | int):
            setattr(proto, key, data)
        else:
            getattr(proto, key).extend(data)
    return proto


def _holding(proto: TensorProto, elem: int = F32) -> Build:
    nodes = [node("Identity", "w", "y", name="holder")]
    return lambda _: model(nodes, [], [value("y", None, elem)], [proto])


def tensors() -> Iterator[Case]:
    """Initializers whose data does not match their header."""
    six = np.arange(6, dtype=np.float32)
    raw = six.tobytes()
    bad = {
        "raw-too-short": _proto([2, 3], raw_data=raw[:-1]),
        "raw-one-element-short": _proto([2, 3], raw_data=raw[:-4]),
        "raw-too-long": _proto([2, 3], raw_data=raw + bytes(4)),
        "raw-empty": _proto([2, 3], raw_data=b""),
        "no-data": _proto([2, 3]),
        "floats-too-few": _proto([2, 3], float_data=six[:5]),
        "floats-too-many": _proto([2, 3], float_data=[*six, 1.0]),
        "floats-for-int64": _proto([6], I64, float_data=six),
        "ints-for-float": _proto([6], int32_data=range(6)),
        "raw-and-floats": _proto([2, 3], raw_data=raw, float_data=six),
        "dims-negative": _proto([-2, -3], raw_data=raw),
        "dims-terabyte": _proto([1 << 40]),
        "dims-terabyte-some-data": _proto([1 << 40], raw_data=raw),
        "dims-overflow-to-zero": _proto([1 << 32, 1 << 32]),
        "dims-overflow-to-six": _proto([(1 << 63) - 1, 3, 2], raw_data=raw),
        "type-zero": _proto([2, 3], 0, raw_data=raw),
        "type-unknown": _proto([2, 3], 999, raw_data=raw),
        "type-negative": _proto([2, 3], -1, raw_data=raw),
        "strings-raw": _proto([2], STR, raw_data=b"abcd"),
        "strings-too-few": _proto([3], STR, string_data=[b"a"]),
        "int4-too-short": _proto([5], TensorProto.INT4, raw_data=b"\x21\x43"),
        "int4-too-long": _proto([5], TensorProto.INT4, raw_data=b"\x21\x43\x05\x00"),
        "complex-half": _proto([2], TensorProto.COMPLEX64, float_data=[1.0, 2.0, 3.0]),
        "float16-too-short": _proto([3], F16, int32_data=[15360]),
        "scalar-of-two": _proto([], raw_data=raw[:8]),
    }
    for name, proto in bad.items():
        build = _holding(proto, F32 if proto.data_type in {0, 999, -1} else proto.data_type)
        yield Case("tensor", name, "refuse", build, says=(r"\bw\b",))
    odd = {
        "uint8-out-of-range": _proto([2], U8, int32_data=[300, -5]),
        "float16-out-of-range": _proto([2], F16, int32_data=[1 << 20, -5]),
        "bool-raw-two": _proto([2], TensorProto.BOOL, raw_data=b"\x02\xff"),
        "zero-sized-with-huge-dim": _proto([0, HUGE]),
        "zero-sized-with-data": _proto([0, 3], raw_data=raw),
        "segment": _proto([2], I32, int32_data=[1, 2]),
    }
    odd["segment"].segment.begin, odd["segment"].segment.end = 0, 1 << 40
    for name, proto in odd.items():
        yield Case("tensor", name, "either", _holding(proto, proto.data_type), judge="none")
    yield Case("tensor", "in-attribute-too-short", "refuse", _bad_constant_node)
    yield Case("tensor", "in-attribute-terabyte", "refuse", _huge_constant_node)
    nameless = _proto([1], raw_data=bytes(4))
    nameless.name = ""
    relu = [node("Relu", "x", "y")]
    lost: Build = lambda _: model(relu, [X], [value("y", None)], [nameless])  # noqa: E731
    yield Case("tensor", "nameless", "either", lost)
    yield from _sparse()


def _bad_constant_node(_: Any) -> onnx.ModelProto:
    constant = node("Constant", "", "y", name="bad", value=_proto([9], raw_data=b"12"))
    return model([constant], [], [value("y", None)])


def _huge_constant_node(_: Any) -> onnx.ModelProto:
    constant = node("Constant", "", "y", name="bad", value=_proto([1 << 20, 1 << 20]))
    return model([constant], [], [value("y", None)])


def _sparse() -> Iterator[Case]:
    def build(dims: list[int], index: Any, count: int = 2) -> Build:
        values = tensor("w", np.ones(count))
        sparse = helper.make_sparse_tensor(values, tensor("", index, np.int64), dims)

        def make(_: Any) -> onnx.ModelProto:
            proto = model([node("Identity", "w", "y")], [], [value("y", None)])
            proto.graph.sparse_initializer.append(sparse)
            return proto

        return make

    yield Case("tensor", "sparse-out-of-range", "refuse", build([3], [1, 7]))
    yield Case("tensor", "sparse-negative", "refuse", build([3], [-1, 1]))
    yield Case("tensor", "sparse-wrong-count", "refuse", build([3], [1], 2))
    yield Case("tensor", "sparse-wrong-rank", "refuse", build([3], [[0, 0], [0, 1]]))
    yield Case("tensor", "sparse-repeated", "either", build([3], [1, 1]))
    yield Case("tensor", "sparse-unsorted", "either", build([3], [2, 0]))
    yield Case("tensor", "sparse-terabyte", "either", build([1 << 40], [0, 5]), judge="none")
    yield Case("tensor", "sparse-sound", "keep", build([3, 2], [1, 4]))


def cases() -> Iterator[Case]:
    """Every case of this module."""
    yield from attributes()
    yield from operands()
    yield from shapes()
    yield from tensors()
