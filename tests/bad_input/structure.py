"""Graphs that are no graphs: cycles, names, op sets, signatures, functions, nesting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bad_input.case import (
    BOOL,
    F32,
    I64,
    Build,
    Case,
    Expect,
    Judge,
    field,
    graph,
    model,
    node,
    raw_model,
    raw_node,
    small_net,
    tensor,
    unary,
    value,
)

X = [value("x", [2, 3])]
Y = [value("y", [2, 3])]
COND = value("cond", [], BOOL)


def _net(*nodes: onnx.NodeProto, ins: Any = X, outs: Any = Y, **kwargs: Any) -> Build:
    return lambda _: model(nodes, ins, outs, **kwargs)


def _if(then: onnx.GraphProto, other: onnx.GraphProto, out: str = "y") -> onnx.NodeProto:
    return node("If", "cond", out, name="branch", then_branch=then, else_branch=other)


def _branch(*nodes: onnx.NodeProto, out: str = "t", **kwargs: Any) -> onnx.GraphProto:
    return graph(nodes, [value(out, None)], **kwargs)


def cycles() -> Iterator[Case]:
    """Values that depend on themselves."""
    then = _branch(node("Add", "x,y", "t", name="inner"))
    other = _branch(node("Relu", "x", "e"), out="e")
    ring = [node("Relu", f"v{i}", f"v{(i + 1) % 1000}", name=f"n{i}") for i in range(1000)]
    bad = {
        "two-nodes": [node("Add", "x,b", "a", name="one"), node("Add", "x,a", "b", name="two")],
        "self": [node("Add", "x,a", "a", name="one")],
        "three-nodes": [node("Relu", i, o) for i, o in ("ab", "bc", "ca")],
        "thousand-nodes": ring,
    }
    for name, nodes in bad.items():
        tail = node("Relu", "v5" if name == "thousand-nodes" else "a", "y")
        yield Case("cycle", name, "refuse", _net(*nodes, tail))
        yield Case("cycle", f"{name}-dead", "refuse", _net(*nodes, node("Relu", "x", "y")))
    yield Case("cycle", "through-branch", "refuse", _net(_if(then, other), ins=[*X, COND]))
    loop = graph(
        [node("Identity", "go", "go2"), node("Add", "v,y", "w")],
        [value("go2", [], BOOL), value("w", None)],
        [value("i", [], I64), value("go", [], BOOL), value("v", None)],
    )
    nodes = node("Loop", ",,x", "y", name="loop", body=loop)
    yield Case("cycle", "through-loop", "refuse", _net(nodes))


def definitions() -> Iterator[Case]:
    """Names defined twice, never, or after their use."""
    relu = node("Relu", "x", "y", name="first")
    w = tensor("w", np.ones((2, 3)))
    twice: dict[str, Build] = {
        "two-nodes": _net(relu, node("Abs", "x", "y", name="second")),
        "one-node": _net(node("Split", "x", "y,y", name="split", axis=0)),
        "node-and-input": _net(node("Relu", "x", "x"), node("Abs", "x", "y")),
        "node-and-initializer": _net(node("Relu", "x", "w"), node("Abs", "w", "y"), inits=[w]),
        "two-inputs": _net(relu, ins=X * 2),
        "two-inputs-two-types": _net(relu, ins=[*X, value("x", [9], I64)]),
        "in-dead-code": _net(relu, node("Abs", "x", "d"), node("Neg", "x", "d")),
    }
    for name, build in twice.items():
        yield Case("defined-twice", name, "refuse", build, says=(r"\b[xywd]\b",))
    other = tensor("w", np.zeros((2, 3)))
    both = node("Add", "x,w", "y")
    yield Case("defined-twice", "two-initializers", "refuse", _net(both, inits=[w, other]))
    yield Case("defined-twice", "same-initializer-twice", "either", _net(both, inits=[w, w]))

    never: dict[str, Build] = {
        "operand": _net(node("Add", "x,ghost", "y", name="adder")),
        "graph-output": _net(relu, outs=[value("ghost", [2, 3])]),
        "branch-output": _net(
            _if(_branch(out="ghost"), _branch(node("Identity", "x", "t"))), ins=[*X, COND]
        ),
        "branch-operand": _net(
            _if(_branch(node("Relu", "ghost", "t")), _branch(node("Relu", "x", "t"))),
            ins=[*X, COND],
        ),
        "leaked-from-branch": _net(
            _if(
                _branch(node("Relu", "x", "ghost"), out="ghost"),
                _branch(node("Identity", "x", "t")),
                "z",
            ),
            node("Relu", "ghost", "y"),
            ins=[*X, COND],
        ),
        "only-value-info": _net(node("Add", "x,ghost", "y"), infos=[value("ghost", [2, 3])]),
    }
    for name, build in never.items():
        yield Case("never-defined", name, "refuse", build, says=("ghost",))
    yield Case(
        "never-defined",
        "operand-of-dead-node",
        "refuse",
        _net(relu, node("Abs", "ghost", "d", name="dead")),
        says=("ghost",),
    )
    late = [node("Relu", "a", "y"), node("Abs", "x", "a")]
    yield Case("unsorted", "two-nodes", "either", _net(*late))
    chain = [node("Relu", f"v{i}", f"v{i + 1}") for i in range(2000)]
    chain = [node("Abs", "x", "v0"), *chain, node("Abs", "v2000", "y")]
    yield Case("unsorted", "reversed-chain", "either", _net(*reversed(chain)))
    branch = _if(_branch(node("Relu", "late", "t")), _branch(node("Relu", "x", "t")))
    nodes = [branch, node("Abs", "x", "late")]
    yield Case("unsorted", "branch-uses-later-name", "either", _net(*nodes, ins=[*X, COND]))


def opsets() -> Iterator[Case]:
    """Op set imports and IR versions."""

    def imports(*pairs: tuple[str, int]) -> Build:
        def build(_: Any) -> onnx.ModelProto:
            proto = unary()
            del proto.opset_import[:]
            proto.opset_import.extend(helper.make_opsetid(d, v) for d, v in pairs)
            return proto

        return build

    table: dict[str, tuple[Expect, list[tuple[str, int]]]] = {
        "none": ("refuse", []),
        "only-other-domain": ("refuse", [("com.microsoft", 1)]),
        "zero": ("refuse", [("", 0)]),
        "negative": ("refuse", [("", -1)]),
        "most-negative": ("refuse", [("", -(1 << 63))]),
        "future": ("refuse", [("", 9999)]),
        "largest": ("refuse", [("", (1 << 63) - 1)]),
        "conflicting": ("refuse", [("", 17), ("", 13)]),
        "repeated": ("either", [("", 17), ("", 17)]),
        "alias-conflicting": ("either", [("", 17), ("ai.onnx", 13)]),
        "alias": ("either", [("ai.onnx", 17)]),
        "old": ("either", [("", 5)]),
        "oldest": ("either", [("", 1)]),
        "unused-domains": ("keep", [("", 17), ("ai.onnx.ml", 3)]),
        "unknown-unused-domain": ("either", [("", 17), ("no.such.domain", 4)]),
        "thousand-domains": ("either", [("", 17), *((f"d{i}", 1) for i in range(1000))]),
    }
    for name, (expect, pairs) in table.items():
        yield Case("opset", name, expect, imports(*pairs))

    def version(number: int | None) -> Build:
        def build(_: Any) -> onnx.ModelProto:
            proto = unary()
            proto.ClearField("ir_version")
            if number is not None:
                proto.ir_version = number
            return proto

        return build

    for name, number in {"ir-missing": None, "ir-zero": 0, "ir-future": 9999}.items():
        yield Case("opset", name, "refuse", version(number))
    yield Case("opset", "ir-negative", "refuse", version(-3))
    yield Case("opset", "ir-one", "either", version(1))


def containers() -> Iterator[Case]:
    """Models without a graph, nodes or outputs."""
    head = field(1, 8)
    imports = field(8, field(1, b"") + field(2, 17))
    yield Case("container", "no-graph", "refuse", lambda _: head + imports)
    yield Case("container", "empty-graph", "refuse", lambda _: raw_model(b""))
    yield Case("container", "no-outputs", "either", _net(node("Relu", "x", "y"), outs=[]))
    yield Case("container", "graph-twice", "refuse", _graph_twice)
    yield Case("container", "empty-graph-name", "either", _net(*unary().graph.node, graph_name=""))
    nameless = [value("x", [2, 3]), value("", [2, 3])]
    yield Case("container", "nameless-input", "refuse", _net(node("Relu", "x", "y"), ins=nameless))
    unnamed = raw_node("Relu", ["x"], [""])
    yield Case("container", "nameless-result", "either", lambda _: _around(unnamed))
    untyped = field(11, field(1, "x")) + field(12, field(1, "y"))
    relu = raw_node("Relu", ["x"], ["y"])
    yield Case("container", "untyped-input", "either", lambda _: raw_model(relu + untyped))
    no_op = field(1, field(1, "x") + field(2, "y"))
    yield Case("container", "node-without-op-type", "refuse", lambda _: _around(no_op))
    yield Case("container", "node-empty-message", "refuse", lambda _: _around(field(1, b"")))
    unknown = field(1, field(1, "x") + field(2, "y") + field(4, "Relu") + field(999, b"?" * 50))
    yield Case("container", "unknown-fields", "keep", lambda _: _around(unknown))


def _around(nodes: bytes) -> bytes:
    proto = unary()
    del proto.graph.node[:]
    return raw_model(nodes + proto.graph.SerializeToString())


def _graph_twice(_: Any) -> bytes:
    return small_net().SerializeToString() + field(7, small_net().graph.SerializeToString())


def signatures() -> Iterator[Case]:
    """Nodes with too few, too many or unknown parts."""
    table: dict[str, tuple[Expect, onnx.NodeProto]] = {
        "too-few-inputs": ("refuse", node("Add", "x", "y", name="bad")),
        "no-inputs": ("refuse", node("Relu", "", "y", name="bad")),
        "empty-required-input": ("refuse", node("Add", ["x", ""], "y", name="bad")),
        "too-many-inputs": ("refuse", node("Relu", "x,x", "y", name="bad")),
        "thousand-inputs": ("refuse", node("Relu", ["x"] * 1000, "y", name="bad")),
        "too-many-outputs": ("refuse", node("Relu", "x", "y,z", name="bad")),
        "no-outputs": ("refuse", node("Relu", "x", "", name="bad")),
        "empty-variadic": ("refuse", node("Concat", "", "y", name="bad", axis=0)),
        "unknown-op": ("either", node("NoSuchOp", "x", "y", name="bad")),
        "op-of-later-opset": ("either", node("RMSNormalization", "x,x", "y", name="bad")),
        "op-removed-since": ("either", node("Upsample", "x", "y", name="bad")),
        "unknown-domain": ("either", node("Relu", "x", "y", name="bad", domain="no.such")),
        "loop-without-body": ("refuse", node("Loop", ",,x", "y", name="bad")),
        "if-without-branches": ("refuse", node("If", "x", "y", name="bad")),
        "trailing-empty-inputs": ("either", node("Clip", ["x", "", "", ""], "y", name="bad")),
        "empty-optional-inputs": ("keep", node("Clip", ["x", "", ""], "y", name="odd")),
    }
    for name, (expect, bad) in table.items():
        says = ("bad",) if expect == "refuse" else ()
        nodes = (bad,) if "y" in bad.output else (bad, node("Abs", "x", "y"))
        yield Case("signature", name, expect, _net(*nodes), says=says)
    scan = node(
        "Scan", "x", "y", name="bad", num_scan_inputs=7, body=_branch(node("Identity", "x", "t"))
    )
    yield Case("signature", "scan-without-inputs", "refuse", _net(scan))
    pair = [node("Identity", "x", "t"), node("Abs", "x", "u")]
    one = _if(
        graph(pair, [value("t", None), value("u", None)]), _branch(node("Identity", "x", "t"))
    )
    yield Case("signature", "branches-of-two-arities", "refuse", _net(one, ins=[*X, COND]))
    fed = _if(
        graph([node("Abs", "x", "t")], [value("t", None)], [value("i", [2, 3])]),
        _branch(node("Identity", "x", "t")),
    )
    yield Case("signature", "branch-with-inputs", "refuse", _net(fed, ins=[*X, COND]))
    lacking = graph([node("Relu", "v", "w")], [value("w", None)], [value("v", None)])
    loop = node("Loop", ",,x", "y", name="bad", body=lacking)
    yield Case("signature", "loop-body-arity", "refuse", _net(loop))


def _function(name: str, *nodes: onnx.NodeProto, **kwargs: Any) -> onnx.FunctionProto:
    ins, outs = kwargs.pop("ins", ["a"]), kwargs.pop("outs", ["r"])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("loc", 1)]
    return helper.make_function("loc", name, ins, outs, list(nodes), imports, **kwargs)


def _call(name: str, ins: str = "a", outs: str = "r") -> onnx.NodeProto:
    return node(name, ins, outs, domain="loc", name=f"call_{name}")


def functions() -> Iterator[Case]:
    """Local functions that recurse, explode, clash or do not fit their calls."""

    def calling(*functions: onnx.FunctionProto, call: onnx.NodeProto | None = None) -> Build:
        first = call or _call(functions[0].name, "x", "y")
        return _net(first, opsets=[("", 17), ("loc", 1)], functions=functions)

    relu = node("Relu", "a", "r")
    ring = [_function(f"F{i}", _call(f"F{(i + 1) % 50}")) for i in range(50)]
    bomb = [_function(f"F{i}", _call(f"F{i + 1}", "a", "m"), _call(f"F{i + 1}", "m", "r"))
            for i in range(40)]  # fmt: skip
    deep = [_function(f"F{i}", _call(f"F{i + 1}")) for i in range(1000)]
    wide = [_function(f"F{i}", *(_call(f"F{i + 1}", "a" if j == 0 else f"m{j}", f"m{j + 1}")
            for j in range(10)), node("Identity", "m10", "r")) for i in range(12)]  # fmt: skip
    leaf = [_function(f"F{i}", relu) for i in range(1001)]
    table: dict[str, tuple[Expect, Build]] = {
        "recursion-direct": ("refuse", calling(_function("F", _call("F")))),
        "recursion-mutual": (
            "refuse",
            calling(_function("F", _call("G")), _function("G", _call("F"))),
        ),
        "recursion-ring-of-50": ("refuse", calling(*ring)),
        "recursion-uncalled": (
            "refuse",
            _net(
                node("Relu", "x", "y"),
                opsets=[("", 17), ("loc", 1)],
                functions=[_function("F", _call("F"))],
            ),
        ),
        "recursion-in-branch": ("refuse", calling(_recursing_branch())),
        "exponential-2-to-40": ("either", calling(*bomb, leaf[40])),
        "exponential-10-to-12": ("either", calling(*wide, leaf[12])),
        "thousand-deep": ("either", calling(*deep, leaf[1000])),
        "too-many-operands": (
            "refuse",
            calling(_function("F", relu), call=_call("F", "x,x,x", "y")),
        ),
        "too-many-results": (
            "refuse",
            calling(_function("F", relu), call=_call("F", "x", "y,z")),
        ),
        "defined-twice": (
            "refuse",
            calling(_function("F", relu), _function("F", node("Abs", "a", "r"))),
        ),
        "undefined-callee": ("either", calling(_function("F", _call("Nowhere")))),
        "undefined-result": ("refuse", calling(_function("F", relu, outs=["ghost"]))),
        "undefined-operand": ("refuse", calling(_function("F", node("Relu", "ghost", "r")))),
        "uses-caller-value": ("refuse", calling(_function("F", node("Add", "a,x", "r")))),
        "name-defined-twice-inside": (
            "refuse",
            calling(_function("F", relu, node("Abs", "a", "r"))),
        ),
        "cycle-inside": (
            "refuse",
            calling(_function("F", node("Add", "a,r", "q"), node("Relu", "q", "r"))),
        ),
        "without-opset-import": ("refuse", calling(_no_imports())),
        "result-is-parameter": ("either", calling(_function("F", ins=["a"], outs=["a"]))),
        "parameter-twice": ("refuse", calling(_function("F", relu, ins=["a", "a"]))),
        "fewer-operands": (
            "either",
            calling(_function("F", relu, ins=["a", "b"])),
        ),
        "nested-calls": ("keep", calling(_function("F", _call("G")), _function("G", relu))),
    }
    for name, (expect, build) in table.items():
        # onnxruntime inlines every call: the exponential ones would never end.
        judge: Judge = "none" if name.startswith("exponential") else "values"
        yield Case("function", name, expect, build, judge=judge)
    ref = onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    leaky = node("LeakyRelu", "a", "r")
    leaky.attribute.append(ref)
    yield Case("function", "attribute-not-passed", "either", calling(_function("F", leaky)))
    outside = node("LeakyRelu", "x", "y", name="bad")
    outside.attribute.append(ref)
    yield Case("function", "attribute-reference-outside", "refuse", _net(outside))


def _no_imports() -> onnx.FunctionProto:
    function = _function("F", node("Relu", "a", "r"))
    del function.opset_import[:]
    return function


def _recursing_branch() -> onnx.FunctionProto:
    then = _branch(_call("F", "a", "t"))
    cond = node("Constant", "", "cond", value=tensor("c", True, np.bool_))
    branch = node(
        "If", "cond", "r", then_branch=then, else_branch=_branch(node("Identity", "a", "t"))
    )
    return _function("F", cond, branch)


def _attr_graph(name: str, body: bytes) -> bytes:
    return field(5, field(1, name) + field(6, body) + field(20, 5))


def nested_ifs(depth: int) -> bytes:
    """A model of `depth` If nodes, each within the branches of the one before, by hand."""
    out = field(12, field(1, "r") + field(2, field(1, field(1, F32))))
    body = raw_node("Relu", ["x"], ["r"]) + field(2, "b") + out
    other = raw_node("Abs", ["x"], ["r"]) + field(2, "b") + out
    for _ in range(depth - 1):
        attrs = _attr_graph("then_branch", body) + _attr_graph("else_branch", other)
        body = raw_node("If", ["cond"], ["r"], attrs) + field(2, "b") + out
    attrs = _attr_graph("then_branch", body) + _attr_graph("else_branch", other)
    proto = model([], [*X, COND], Y).graph.SerializeToString()
    return raw_model(raw_node("If", ["cond"], ["y"], attrs) + proto)


def _nested_type(depth: int, number: int) -> bytes:
    kind = field(1, field(1, F32))
    for _ in range(depth):
        kind = field(number, field(1, kind))
    relu = raw_node("Identity", ["x"], ["y"])
    io = [field(n, field(1, name) + field(2, kind)) for n, name in ((11, "x"), (12, "y"))]
    return raw_model(relu + field(2, "g") + b"".join(io))


def nesting() -> Iterator[Case]:
    """Subgraphs within subgraphs and types within types: nothing may recurse without end."""
    for depth, expect in ((10, "keep"), (20, "keep"), (60, "either"), (1000, "either")):
        name = f"if-{depth}"
        yield Case("nesting", name, expect, lambda _, d=depth: nested_ifs(d))  # type: ignore[arg-type]
    yield Case("nesting", "if-5000", "refuse", lambda _: nested_ifs(5000))
    for number, kind in ((4, "sequence"), (9, "optional")):
        for depth in (40, 1000, 5000):
            expect = "refuse" if depth == 5000 else "either"
            yield Case(
                "nesting",
                f"{kind}-types-{depth}",
                expect,  # type: ignore[arg-type]
                lambda _, d=depth, n=number: _nested_type(d, n),
            )
    groups = b"\x0b" * 100_000  # start-group tags of field 1, never closed
    yield Case("nesting", "unclosed-wire-groups", "refuse", lambda _: raw_model(groups))


def cases() -> Iterator[Case]:
    """Every case of this module."""
    yield from cycles()
    yield from definitions()
    yield from opsets()
    yield from containers()
    yield from signatures()
    yield from functions()
    yield from nesting()
