"""What a case of the corpus is, and short builders for models that `onnx.helper` would refuse."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper

Expect = Literal["refuse", "keep", "either"]
Judge = Literal["values", "shapes", "none"]
Built = onnx.ModelProto | bytes | Path | str
Build = Callable[[Path], Built]

F32 = TensorProto.FLOAT
F64 = TensorProto.DOUBLE
F16 = TensorProto.FLOAT16
I32 = TensorProto.INT32
I64 = TensorProto.INT64
U8 = TensorProto.UINT8
BOOL = TensorProto.BOOL
STR = TensorProto.STRING

HUGE = 1 << 62


@dataclass(frozen=True)
class Case:
    """One bad or odd input.

    Attributes:
        group: The class of issue 2, part 12, that the case belongs to.
        name: Unique within the group.
        expect: `refuse` (exit 1, one clear error), `keep` (same results), `either` (never wrong).
        build: Writes what the case needs into an empty folder; returns the model, its bytes, or
            the path (or bare command-line text) of the file to pass.
        filename: Where a returned model or bytes are written, inside the folder.
        args: Further command-line arguments; `{dir}` and `{out}` are replaced.
        says: Regular expressions (ignoring case), each of which a refusal has to match.
        seconds: Wall limit.
        judge: How a written result is compared: `values`, `shapes` (random ops), or `none` where
            the source cannot be run (it would allocate without end) or its result is undefined.
        heavy: Left out of the quick run.
    """

    group: str
    name: str
    expect: Expect
    build: Build
    filename: str = "model.onnx"
    args: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    seconds: float = 10.0
    judge: Judge = "values"
    heavy: bool = False

    @property
    def id(self) -> str:
        """`group/name`, unique over the corpus."""
        return f"{self.group}/{self.name}"

    def write(self, folder: Path) -> str:
        """Generate the case in `folder` and return the argument that names its model."""
        built = self.build(folder)
        if isinstance(built, str | Path):
            return str(built)
        data = built if isinstance(built, bytes) else built.SerializeToString()
        path = folder / self.filename
        path.write_bytes(data)
        return str(path)


def names(text: str | Sequence[str]) -> list[str]:
    """`"a,b"` as `["a", "b"]`; lists pass through, for names that have commas."""
    if isinstance(text, str):
        return text.split(",") if text else []
    return list(text)


def node(
    op: str, ins: str | Sequence[str], outs: str | Sequence[str], **attrs: Any
) -> onnx.NodeProto:
    """A node; `domain`, `name` and `doc_string` are taken out of `attrs` by onnx's helper."""
    return helper.make_node(op, names(ins), names(outs), **attrs)


def value(name: str, dims: Sequence[int | str | None] | None, elem: int = F32) -> Any:
    """A typed value: `dims` may be symbolic, unknown (`None`), negative, or absent (unranked)."""
    return helper.make_tensor_value_info(name, elem, dims)


def tensor(name: str, data: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    """A constant from anything that `np.asarray` takes."""
    return numpy_helper.from_array(np.asarray(data, dtype), name)


def ints(name: str, *data: int) -> onnx.TensorProto:
    """A one-dimensional int64 constant."""
    return tensor(name, data, np.int64)


def model(
    nodes: Iterable[onnx.NodeProto],
    ins: Iterable[Any],
    outs: Iterable[Any],
    inits: Iterable[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    opsets: Sequence[tuple[str, int]] | None = None,
    functions: Iterable[onnx.FunctionProto] = (),
    infos: Iterable[Any] = (),
    ir_version: int = 8,
    graph_name: str = "g",
    ranked: bool = True,
) -> onnx.ModelProto:
    """A model with nothing checked; outputs without a shape get a rank where `ranked`."""
    graph = helper.make_graph(
        list(nodes), graph_name, list(ins), list(outs), list(inits), value_info=list(infos)
    )
    imports = [helper.make_opsetid(d, v) for d, v in (opsets or (("", opset),))]
    proto = helper.make_model(
        graph, opset_imports=imports, functions=list(functions), ir_version=ir_version
    )
    return _give_ranks(proto) if ranked else proto


def _give_ranks(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Give every output the rank that ONNX demands of it: inferred, else that of the input."""

    def unranked(info: onnx.ValueInfoProto) -> bool:
        kind = info.type
        return kind.HasField("tensor_type") and not kind.tensor_type.HasField("shape")

    if not any(map(unranked, proto.graph.output)):
        return proto
    known = {i.name: len(i.type.tensor_type.shape.dim) for i in proto.graph.input}
    default = next(iter(known.values()), 1)
    with contextlib.suppress(Exception):
        done = onnx.shape_inference.infer_shapes(proto).graph
        for info in (*done.value_info, *done.output):
            if info.type.tensor_type.HasField("shape"):
                known[info.name] = len(info.type.tensor_type.shape.dim)
    for info in filter(unranked, proto.graph.output):
        info.type.tensor_type.shape.SetInParent()
        for _ in range(known.get(info.name, default)):
            info.type.tensor_type.shape.dim.add()
    return proto


def graph(
    nodes: Iterable[onnx.NodeProto],
    outs: Iterable[Any],
    ins: Iterable[Any] = (),
    inits: Iterable[onnx.TensorProto] = (),
) -> onnx.GraphProto:
    """A body of If, Loop or Scan."""
    return helper.make_graph(list(nodes), "body", list(ins), list(outs), list(inits))


def unary(op: str = "Relu", **attrs: Any) -> onnx.ModelProto:
    """`y = op(x)` over f32[2,3]."""
    return model([node(op, "x", "y", **attrs)], [value("x", [2, 3])], [value("y", [2, 3])])


def small_net() -> onnx.ModelProto:
    """A little Conv, Relu, Flatten, Gemm network: the base of truncation and of bit flips."""
    rng = np.random.default_rng(7)
    weights = [
        tensor("w", rng.standard_normal((4, 3, 3, 3))),
        tensor("b", rng.standard_normal(4)),
        tensor("fc", rng.standard_normal((5, 64))),
        tensor("fb", rng.standard_normal(5)),
    ]
    nodes = [
        node("Conv", "x,w,b", "c", name="conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("Relu", "c", "r", name="relu"),
        node("Flatten", "r", "f", name="flatten", axis=1),
        node("Gemm", "f,fc,fb", "y", name="gemm", transB=1),
    ]
    return model(nodes, [value("x", [1, 3, 4, 4])], [value("y", [1, 5])], weights)


def with_const(
    op: str, consts: Sequence[onnx.TensorProto], outs: str = "y", x: Any = None, **attrs: Any
) -> onnx.ModelProto:
    """`outs = op(x, consts...)`, every output of unknown shape and the type of `x`."""
    x = x if x is not None else value("x", [2, 3])
    elem = x.type.tensor_type.elem_type
    ins = [x.name, *(c.name for c in consts)]
    results = [value(o, None, elem) for o in outs.split(",")]
    return model([node(op, ins, outs, **attrs)], [x], results, consts)


def only_const(
    op: str, consts: Sequence[onnx.TensorProto], elem: int = F32, opset: int = 17, **attrs: Any
) -> onnx.ModelProto:
    """`y = op(consts...)`: a model that is one constant expression, foldable by anyone careless."""
    ins = [c.name for c in consts]
    return model([node(op, ins, "y", **attrs)], [], [value("y", None, elem)], consts, opset=opset)


def varint(number: int) -> bytes:
    """Base-128 encoding of a 64-bit number, two's complement when negative."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, payload: int | str | bytes) -> bytes:
    """One protobuf field on the wire: a varint, or length-delimited bytes."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    data = payload.encode() if isinstance(payload, str) else payload
    return varint(number << 3 | 2) + varint(len(data)) + data


def raw_model(graph_bytes: bytes, opset: int = 17, ir_version: int = 8) -> bytes:
    """A serialized model around a serialized graph."""
    return field(1, ir_version) + field(7, graph_bytes) + field(8, field(1, b"") + field(2, opset))


def raw_node(op: str, ins: Sequence[str], outs: Sequence[str], attrs: bytes = b"") -> bytes:
    """A `node` field of a GraphProto on the wire."""
    body = b"".join(field(1, i) for i in ins) + b"".join(field(2, o) for o in outs)
    return field(1, body + field(4, op) + attrs)
