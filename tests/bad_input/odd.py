"""Valid but odd models, which have to keep their meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from bad_input.case import (
    BOOL,
    F16,
    F32,
    F64,
    I64,
    STR,
    Build,
    Case,
    Expect,
    field,
    graph,
    ints,
    model,
    node,
    only_const,
    raw_model,
    tensor,
    unary,
    value,
)

X = value("x", [2, 3])
Y = value("y", [2, 3])
COND = value("cond", [], BOOL)
NAMES = {
    "quotes": "a\"b'c`",
    "newline": "a\nb\r\nc",
    "tab": "a\tb",
    "colon": "x:0",
    "slashes": "/model/layers.0/attn/",
    "backslash": "a\\n\\",
    "nul": "a\0b",
    "escape": "\x1b[31mred\x1b[0m",
    "percent": "%0",
    "block": "^bb0",
    "comment": "// }",
    "braces": "}{",
    "hash": "#w",
    "at": "@main",
    "space": " ",
    "spaces-around": "  a  ",
    "digits": "123",
    "keyword": "return",
    "unicode": "权重-🙂",
    "combining": "e\u0301",
    "right-to-left": "\u202eabc",
    "replacement": "\ufffd",
    "markup": "[bold red]x[/]",
    "format": "{0} %s %n",
    "long": "n" * 10_000,
}


def named() -> Iterator[Case]:
    """Values, nodes, graphs and metadata with odd names."""
    for name, text in NAMES.items():
        yield Case("name", name, "keep", lambda _, t=text: _everywhere(t))
    megabyte = "n" * (1 << 20)
    yield Case("name", "megabyte", "keep", lambda _: _everywhere(megabyte))
    yield Case("name", "megabyte-undefined", "refuse", lambda _: _undefined(megabyte))
    yield Case("name", "newlines-undefined", "refuse", lambda _: _undefined("a\nerror: b\n" * 99))
    yield Case("name", "escape-undefined", "refuse", lambda _: _undefined("\x1b[2Jgone\x07"))
    unknown: Build = lambda _: unary("O" * (1 << 20))  # noqa: E731
    yield Case("name", "megabyte-op-type", "either", unknown)
    foreign: Build = lambda _: unary(domain="d" * (1 << 20))  # noqa: E731
    yield Case("name", "megabyte-domain", "either", foreign)
    pairs = ["a", "a_", "a__", "a.1", "a_1", "%a", "a ", "A"]
    nodes = [node("Abs", ["x"], [p]) for p in pairs] + [node("Sum", pairs, "y")]
    yield Case("name", "nearly-equal", "keep", lambda _: model(nodes, [X], [Y]))
    yield from _invalid_utf8()


def _everywhere(text: str) -> onnx.ModelProto:
    x, y = value(text + "in", [2, 3]), value(text + "out", [2, 3])
    nodes = [
        node("Add", [x.name, text], [text + "mid"], name=text, doc_string=text),
        node("Relu", [text + "mid"], [y.name], name=text + "2"),
    ]
    w = tensor(text, np.arange(6).reshape(2, 3))
    proto = model(nodes, [x], [y], [w], graph_name=text)
    proto.doc_string = proto.producer_name = text
    helper.set_model_props(proto, {text: text})
    return proto


def _undefined(text: str) -> onnx.ModelProto:
    return model([node("Add", ["x", text], ["y"], name=text)], [X], [Y])


def _invalid_utf8() -> Iterator[Case]:
    bad = b"\xff\xfe\xc3("
    kind = field(2, field(1, field(1, F32)))

    def build(
        what: str,
    ) -> bytes:
        inner = {"value": bad}.get(what, b"m")
        first = field(1, b"x") + field(2, inner) + field(4, bad if what == "op" else b"Abs")
        if what == "node":
            first += field(3, bad)
        if what == "doc":
            first += field(6, bad)
        if what == "domain":
            first += field(7, bad)
        second = field(1, inner) + field(2, b"y") + field(4, b"Relu")
        body = field(1, first) + field(1, second) + field(2, bad if what == "graph" else b"g")
        body += field(11, field(1, b"x") + kind) + field(12, field(1, b"y") + kind)
        extra = field(14, field(1, b"key") + field(2, bad)) if what == "metadata" else b""
        return raw_model(body) + extra

    for what in ("value", "node", "doc", "op", "domain", "graph", "metadata"):
        yield Case("name", f"not-utf-8-{what}", "either", lambda _, w=what: build(w))


def _net(
    *nodes: onnx.NodeProto, ins: Any = (X,), outs: Any = (Y,), inits: Any = (), **kwargs: Any
) -> Build:
    return lambda _: model(nodes, ins, outs, inits, **kwargs)


def interfaces() -> Iterator[Case]:
    """Odd graph inputs and outputs."""
    relu = node("Relu", "x", "y")
    w = tensor("w", np.arange(6).reshape(2, 3))
    two = value("w", [2, 3])
    table: dict[str, tuple[Expect, Build]] = {
        "unused-input": ("keep", _net(relu, ins=[X, value("unused", [4])])),
        "unused-initializer": ("keep", _net(relu, inits=[w])),
        "output-is-input": ("keep", _net(relu, outs=[X, Y])),
        "only-output-is-input": ("either", _net(outs=[X])),
        "output-twice": ("either", _net(relu, outs=[Y, Y])),
        "two-outputs-one-value": (
            "keep",
            _net(relu, node("Identity", "y", "z"), outs=[Y, value("z", [2, 3])]),
        ),
        "output-is-initializer": ("keep", _net(relu, outs=[Y, two], inits=[w])),
        "output-is-initializer-and-input": (
            "either",
            _net(relu, ins=[X, two], outs=[Y, two], inits=[w]),
        ),
        "overridable-initializer": (
            "keep",
            _net(node("Add", "x,w", "y"), ins=[X, two], inits=[w]),
        ),
        "all-inputs-are-initializers": (
            "keep",
            _net(node("Relu", "w", "y"), ins=[two], inits=[w]),
        ),
        "no-nodes": ("either", _net(outs=[two], inits=[w])),
        "no-inputs": ("keep", _net(node("Relu", "w", "y"), ins=[], inits=[w])),
        "identity-only": ("keep", _net(node("Identity", "x", "y"))),
        "identity-chain-to-two-outputs": (
            "keep",
            _net(
                node("Identity", "x", "a"), node("Identity", "a", "y"), outs=[value("a", None), Y]
            ),
        ),
        "duplicate-subexpressions-as-outputs": (
            "keep",
            _net(node("Relu", "x", "y"), node("Relu", "x", "z"), outs=[Y, value("z", [2, 3])]),
        ),
        "constant-outputs": (
            "keep",
            _net(
                node("Constant", "", "y", value_float=1.5),
                node("Constant", "", "z", value_ints=[1, 2]),
                ins=[],
                outs=[value("y", []), value("z", [2], I64)],
            ),
        ),
        "unused-output-of-split": (
            "either",  # valid, and onnxruntime crashes on it
            _net(
                node("Split", ["x"], ["", "s"], axis=0),
                node("Relu", "s", "y"),
                outs=[value("y", None)],
            ),
        ),
        "unranked": (
            "either",
            _net(relu, ins=[value("x", None)], outs=[value("y", None)], ranked=False),
        ),
        "scalar": ("keep", _net(relu, ins=[value("x", [])], outs=[value("y", [])])),
        "dead-nodes": ("keep", _net(relu, node("Abs", "x", "d"), node("Neg", "d", "e"))),
        "thousand-outputs": ("keep", _thousand_outputs),
    }
    for name, (expect, build) in table.items():
        yield Case("interface", name, expect, build)


def _thousand_outputs(_: Any) -> onnx.ModelProto:
    nodes = [node("Relu", "x", f"y{i}") for i in range(1000)]
    return model(nodes, [X], [value(f"y{i}", [2, 3]) for i in range(1000)])


def numbers() -> Iterator[Case]:
    """NaN, infinities, signed zeros, denormals, zero-sized and scalar tensors."""
    nan, inf = float("nan"), float("inf")
    weights = {
        "nan": [nan] * 3,
        "inf": [inf, -inf, 1.0],
        "negative-zero": [-0.0, 0.0, -0.0],
        "denormal": [1e-45, -1e-42, 1e-38],
        "largest": [3.4e38, -3.4e38, 3.4e38],
    }
    for name, data in weights.items():
        w = tensor("w", data)
        for op in ("Add", "Mul", "Div", "Max"):
            build = _net(node(op, "x,w", "y"), inits=[w])
            yield Case("number", f"{name}-{op.lower()}", "keep", build)
    nans = tensor("s", [nan, 1.0, 1.0, 1.0, nan])
    ops = [node("Constant", "", "s", value=nans), node("Unique", "s", "y", sorted=1)]
    yield Case("number", "unique-nan", "either", _net(*ops, ins=[], outs=[value("y", None)]))
    conv = [tensor("w", np.full((2, 3, 1, 1), nan)), *(tensor(n, [1, 2]) for n in "sbm")]
    conv.append(tensor("v", [0.0, -1.0]))
    nodes = [node("Conv", "x,w", "c"), node("BatchNormalization", "c,s,b,m,v", "y")]
    image = [value("x", [1, 3, 4, 4])]
    build = _net(*nodes, ins=image, outs=[value("y", None)], inits=conv)
    yield Case("number", "batch-norm-nan", "keep", build)
    yield from _empties()


def _empties() -> Iterator[Case]:
    none = [value("x", [0, 3])]
    any_y = [value("y", None)]
    e = tensor("e", np.zeros((0, 3)))
    table: dict[str, tuple[Expect, Build]] = {
        "relu": ("keep", _net(node("Relu", "x", "y"), ins=none, outs=any_y)),
        "concat": ("keep", _net(node("Concat", "x,e", "y", axis=0), outs=any_y, inits=[e])),
        "reduce-sum": ("keep", _net(node("ReduceSum", "x", "y"), ins=none, outs=any_y)),
        "reduce-prod": ("keep", _net(node("ReduceProd", "x", "y"), ins=none, outs=any_y)),
        "reduce-max": ("either", _net(node("ReduceMax", "x", "y"), ins=none, outs=any_y)),
        "reduce-mean-folded": (
            "either",
            _net(node("ReduceMean", "e", "y"), ins=[], outs=any_y, inits=[e]),
        ),
        "argmax-folded": (
            "either",
            _net(node("ArgMax", "e", "y"), ins=[], outs=[value("y", None, I64)], inits=[e]),
        ),
        "matmul": (
            "keep",
            _net(
                node("MatMul", "x,w", "y"),
                ins=[value("x", [2, 0])],
                outs=any_y,
                inits=[tensor("w", np.zeros((0, 3)))],
            ),
        ),
        "softmax": ("keep", _net(node("Softmax", "x", "y"), ins=none, outs=any_y)),
        "slice-to-nothing": (
            "keep",
            _net(node("Slice", "x,b,b", "y"), outs=any_y, inits=[ints("b", 1)]),
        ),
        "expand-to-nothing": (
            "keep",
            _net(
                node("Expand", "v,s", "y"),
                ins=[],
                outs=any_y,
                inits=[tensor("v", 1.0), ints("s", 0, 5)],
            ),
        ),
        "nonzero": (
            "keep",
            _net(node("NonZero", "e", "y"), ins=[], outs=[value("y", None, I64)], inits=[e]),
        ),
        "initializer-output": (
            "keep",
            _net(node("Relu", "x", "y"), outs=[Y, value("e", [0, 3])], inits=[e]),
        ),
        "constant-of-shape-empty": (
            "keep",
            _net(
                node("ConstantOfShape", "s", "y"),
                ins=[],
                outs=any_y,
                inits=[tensor("s", [], np.int64)],
            ),
        ),
        "pad-of-nothing": (
            "keep",
            _net(node("Pad", "x,p", "y"), ins=none, outs=any_y, inits=[ints("p", 1, 0, 1, 0)]),
        ),
    }
    for name, (expect, build) in table.items():
        yield Case("empty", name, expect, build)


def element_types() -> Iterator[Case]:
    """Strings, complex, half, bfloat16, float8 and sub-byte tensors, of odd counts too."""

    def held(w: TensorProto, opset: int = 21) -> Build:
        ident = node("Identity", "w", "y")
        out = value("y", None, w.data_type)
        return lambda _: model([ident], [], [out], [w], opset=opset, ir_version=10)

    def widened(w: TensorProto) -> Build:
        """Read through a node that gives float32: NumPy has no such type as `w`."""
        op = "DequantizeLinear" if "INT4" in TensorProto.DataType.Name(w.data_type) else "Cast"
        ins, attrs = ("w,s", {}) if op != "Cast" else ("w", {"to": F32})
        read = node(op, ins, "y", **attrs)
        inits = [w, tensor("s", 0.25)][: len(read.input)]
        return lambda _: model([read], [], [value("y", None)], inits, opset=21, ir_version=10)

    half = tensor("w", [1.5, -0.0, 65504.0], np.float16)
    strings = helper.make_tensor("w", STR, [3], [b"a", b"\xff\xfe", b""])
    small = np.array([1, -8, 7], np.int8)
    table: dict[str, tuple[Expect, Build]] = {
        "float16": ("keep", held(half)),
        "double": ("keep", held(tensor("w", [1e300, 5e-324], np.float64))),
        "strings": ("keep", held(helper.make_tensor("w", STR, [2], [b"a", "é".encode()]))),
        "strings-not-utf-8": ("either", held(strings)),
        "complex64": ("either", held(tensor("w", [1 + 2j, 3j, 0], np.complex64))),
        "complex128": ("either", held(tensor("w", [1 + 2j], np.complex128))),
        "bool": ("keep", held(tensor("w", [True, False, True], np.bool_))),
        "bfloat16": ("keep", widened(tensor("w", [1.5, 2.5, -0.0], ml_dtypes.bfloat16))),
        "float8-e4m3": ("keep", widened(tensor("w", [1, 448, -2], ml_dtypes.float8_e4m3fn))),
        "float8-e5m2": ("keep", widened(tensor("w", [1, 57344, -2], ml_dtypes.float8_e5m2))),
        "int4-three": ("keep", widened(tensor("w", small, ml_dtypes.int4))),
        "uint4-five": ("keep", widened(tensor("w", [1, 15, 0, 7, 8], ml_dtypes.uint4))),
        "int4-one": ("keep", widened(tensor("w", [-8], ml_dtypes.int4))),
        "int4-none": ("either", widened(tensor("w", [], ml_dtypes.int4))),
        "uint64-largest": ("keep", held(tensor("w", [(1 << 64) - 1], np.uint64))),
    }
    for name, (expect, build) in table.items():
        yield Case("element-type", name, expect, build)
    cast = [node("Cast", "x", "h", to=F16), node("Cast", "h", "y", to=F32)]
    yield Case("element-type", "cast-there-and-back", "keep", _net(*cast))
    down = [node("Cast", "x", "h", to=F32), node("Cast", "h", "y", to=F64)]
    doubles = _net(*down, ins=[value("x", [3], F64)], outs=[value("y", [3], F64)])
    yield Case("element-type", "cast-loses-double", "keep", doubles)
    dq = node("DequantizeLinear", "w,s", "y")
    w4 = tensor("w", small, ml_dtypes.int4)
    quant: Build = lambda _: model(  # noqa: E731
        [dq], [], [value("y", None)], [w4, tensor("s", 0.5)], opset=21, ir_version=10
    )
    yield Case("element-type", "int4-dequantized", "keep", quant)
    text = node("Concat", "x,k", "y", axis=0)
    k = helper.make_tensor("k", STR, [2], [b"one", "zw\u00f6lf".encode()])
    build = _net(text, ins=[value("x", [2], STR)], outs=[value("y", None, STR)], inits=[k])
    yield Case("element-type", "string-concat", "keep", build)


def control() -> Iterator[Case]:
    """Subgraphs with odd shapes, names and captures; sequences and optionals."""
    then = graph([node("Relu", "x", "t")], [value("t", None)])
    wide = graph([node("Concat", "x,x", "e", axis=0)], [value("e", None)])
    same = graph([node("Abs", "x", "t")], [value("t", None)])
    shadow = graph([node("Neg", "x", "a")], [value("a", None)])
    own = graph([], [value("k", None)], inits=[tensor("k", np.ones((2, 3)))])
    any_y = [value("y", None)]
    ins = [X, COND]

    def chosen(a: onnx.GraphProto, b: onnx.GraphProto) -> onnx.NodeProto:
        return node("If", "cond", "y", then_branch=a, else_branch=b)

    yes = tensor("cond", True, np.bool_)
    bad = graph([node("Gather", "x,far", "t")], [value("t", None)], inits=[ints("far", 99)])
    table: dict[str, tuple[Expect, Build]] = {
        "branches-of-two-shapes": ("keep", _net(chosen(then, wide), ins=ins, outs=any_y)),
        "same-names-in-both": ("keep", _net(chosen(then, same), ins=ins, outs=any_y)),
        "shadowed-name": (
            "either",
            _net(node("Abs", "x", "a"), chosen(shadow, then), ins=ins, outs=any_y),
        ),
        "branch-is-initializer": ("keep", _net(chosen(own, then), ins=ins, outs=any_y)),
        "constant-condition": ("keep", _net(chosen(then, wide), outs=any_y, inits=[yes])),
        "untaken-branch-fails": ("either", _net(chosen(then, bad), outs=any_y, inits=[yes])),
        "condition-of-one-element": (
            "either",
            _net(chosen(then, same), ins=[X, value("cond", [1], BOOL)], outs=any_y),
        ),
        "branch-returns-outer": (
            "either",
            _net(chosen(graph([], [value("x", None)]), then), ins=ins, outs=any_y),
        ),
        "sequence": (
            "keep",
            _net(
                node("SequenceConstruct", "x,x,x", "s"),
                node("ConcatFromSequence", "s", "y", axis=0),
                outs=any_y,
            ),
        ),
        "sequence-output": (
            "keep",
            _net(
                node("SplitToSequence", "x", "s", axis=0),
                outs=[helper.make_tensor_sequence_value_info("s", F32, None)],
            ),
        ),
        "empty-sequence": (
            "keep",
            _net(
                node("SequenceEmpty", "", "e"),
                node("SequenceInsert", "e,x", "s"),
                node("SequenceLength", "s", "y"),
                outs=[value("y", [], I64)],
            ),
        ),
        "sequence-at-out-of-range": (
            "either",
            _net(
                node("SequenceConstruct", "x", "s"),
                node("SequenceAt", "s,i", "y"),
                outs=any_y,
                inits=[tensor("i", 9, np.int64)],
            ),
        ),
        "optional": (
            "keep",
            _net(
                node("Optional", "x", "o"),
                node("OptionalHasElement", "o", "h"),
                node("OptionalGetElement", "o", "y"),
                outs=[Y, value("h", [], BOOL)],
            ),
        ),
    }
    for name, (expect, build) in table.items():
        yield Case("control", name, expect, build)


def extras() -> Iterator[Case]:
    """Parts of the format that few models have."""
    yield Case("extra", "quantization-annotation", "keep", _annotated)
    yield Case("extra", "training-info", "either", _training)
    yield Case("extra", "metadata-twice", "either", _metadata_twice)
    yield Case("extra", "metadata-odd-keys", "keep", _metadata_odd)
    yield Case("extra", "value-info-of-nothing", "keep", _stray_value_info)
    normal = node("RandomNormal", "", "r", shape=[2, 3], seed=1.0)
    build = _net(normal, node("Add", "x,r", "y"))
    yield Case("extra", "random-normal", "keep", build, judge="shapes")
    drawn = [node("RandomNormalLike", "x", n) for n in ("a", "b")]
    build = _net(*drawn, node("Sub", "a,b", "y"))
    yield Case("extra", "two-random-draws", "keep", build, judge="shapes")
    gated = _net(
        node("Dropout", "x,r,t", "y"), inits=[tensor("r", 0.5), tensor("t", True, np.bool_)]
    )
    yield Case("extra", "dropout-in-training", "keep", gated, judge="shapes")
    old: Build = lambda _: model([node("Relu", "x", "y")], [X], [Y], opset=7, ir_version=3)  # noqa: E731
    yield Case("extra", "oldest-table-opset", "keep", old)
    microsoft = node("Gelu", "x", "y", domain="com.microsoft")
    build = _net(microsoft, opsets=[("", 17), ("com.microsoft", 1)])
    yield Case("extra", "microsoft-gelu", "keep", build)
    without = _net(node("Gelu", "x", "y", domain="com.microsoft"))
    yield Case("extra", "microsoft-without-import", "either", without)
    whole = only_const("Identity", [tensor("w", np.arange(1 << 16))])
    yield Case("extra", "large-constant-only", "keep", lambda _: whole)


def _annotated(_: Any) -> onnx.ModelProto:
    proto = unary()
    proto.graph.initializer.append(tensor("scale", 0.1))
    note = proto.graph.quantization_annotation.add(tensor_name="x")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    return proto


def _training(_: Any) -> onnx.ModelProto:
    proto = unary()
    info = proto.training_info.add()
    info.algorithm.CopyFrom(proto.graph)
    info.update_binding.add(key="w", value="y")
    return proto


def _metadata_twice(_: Any) -> onnx.ModelProto:
    proto = unary()
    for text in ("one", "two"):
        proto.metadata_props.add(key="key", value=text)
    return proto


def _metadata_odd(_: Any) -> onnx.ModelProto:
    proto = unary()
    for key in ("", " ", "a=b", "a\nb", "k" * 100_000, "\0"):
        proto.metadata_props.add(key=key, value=key)
    return proto


def _stray_value_info(_: Any) -> onnx.ModelProto:
    proto = unary()
    proto.graph.value_info.extend([value("nobody", [7]), value("x", [2, 3])])
    return proto


def cases() -> Iterator[Case]:
    """Every case of this module."""
    yield from named()
    yield from interfaces()
    yield from numbers()
    yield from element_types()
    yield from control()
    yield from extras()
