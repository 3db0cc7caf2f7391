"""Synthetic ONNX models by family and size, for speed, growth and memory measurements.

    python -m lepton_ir.tools.bench.synthetic chain --nodes 10000 -o chain.onnx

Every model is deterministic, opset 17, accepted by `onnx.checker` and cheap to run. A size counts
nodes that are not `Constant`; a family that is built of units takes as many whole units as fit.
The arithmetic keeps distances (reflections and shifts, no saturating functions), so that a wrong
rewrite anywhere in a deep model still moves its output.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
SEED = 20240117
PAGE = 4096
STREAM_FLOATS = 1 << 22

Array = npt.NDArray[np.float32] | npt.NDArray[np.int64]
Dims = Sequence[int | str]


class Graph:
    """Collects nodes and initializers of one graph under construction."""

    def __init__(self, name: str) -> None:
        """Start an empty graph called `name`."""
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.size = 0
        self._serial = itertools.count()

    def input(self, name: str, dims: Dims) -> str:
        """Declare a float32 input."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)))
        return name

    def weight(self, data: Array, name: str | None = None) -> str:
        """Add an initializer and return its name."""
        name = name or f"w{next(self._serial)}"
        self.initializers.append(numpy_helper.from_array(data, name))
        return name

    def constant(self, data: Array) -> str:
        """Add a Constant node, as the exporters write scalars and indices; not counted in size."""
        name = f"c{next(self._serial)}"
        tensor = numpy_helper.from_array(data, "value")
        self.nodes.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
        return name

    def op(self, kind: str, *inputs: str, **attributes: int | Sequence[int]) -> str:
        """Add a node with one output and return that output's name."""
        name = f"{kind}_{next(self._serial)}"
        node = helper.make_node(kind, inputs, [f"{name}_out"], name=name)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        self.size += 1
        return f"{name}_out"

    def model(self, result: str, dims: Dims) -> onnx.ModelProto:
        """Close the graph with `result` as its output, renamed to `y`."""
        for node in reversed(self.nodes):
            if node.output[0] == result:
                node.output[0] = "y"
                break
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, list(dims))
        graph = helper.make_graph(
            self.nodes, self.name, self.inputs, [output], initializer=self.initializers
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="lepton-bench"
        )


def _scalar(value: float) -> npt.NDArray[np.float32]:
    return np.array(value, np.float32)


def _ints(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def chain(nodes: int) -> onnx.ModelProto:
    """A single chain of Identity, elementwise and Reshape nodes; exactly `nodes` of them.

    Of every five nodes an Identity and a pair of Reshapes there and back are redundant; two
    elementwise nodes stay.
    """
    rng = np.random.default_rng(SEED)
    graph = Graph("chain")
    x = graph.input("x", [2, 3, 4])
    flat = graph.weight(_ints(6, 4), "flat")
    full = graph.weight(_ints(2, 3, 4), "full")
    arithmetic = (("Sub", 0.4, 0.6), ("Add", -0.6, -0.4), ("Mul", 0.999, 1.001))
    while graph.size < nodes:
        unit, place = divmod(graph.size, 5)
        if place < 2:
            x = graph.op(("Identity", "Abs")[place], x)
        elif place == 2:
            kind, low, high = arithmetic[unit % 3]
            x = graph.op(kind, x, graph.weight(_scalar(rng.uniform(low, high))))
        else:
            x = graph.op("Reshape", x, flat if place == 3 else full)
    return graph.model(x, [6, 4] if nodes % 5 == 4 else [2, 3, 4])


def wide(nodes: int) -> onnx.ModelProto:
    """One input, many parallel branches, joined eight by eight by Sum and then by Concat.

    Exercises a value with tens of thousands of uses and nodes with many operands.
    """
    rng = np.random.default_rng(SEED)
    graph = Graph("wide")
    x = graph.input("x", [1, 4])

    def branch() -> str:
        value = graph.op("Identity", x)
        value = graph.op("Mul", value, graph.weight(_scalar(rng.uniform(0.1, 0.2))))
        value = graph.op("Add", value, graph.weight(_scalar(rng.uniform(-0.1, 0.1))))
        return graph.op("Abs", value)

    # a group of eight branches costs 33 nodes, and its share of the Concat tree 1/7
    groups = max(1, int(nodes / (33 + 1 / 7)))
    level = [graph.op("Sum", *(branch() for _ in range(8))) for _ in range(groups)]
    while len(level) > 1:
        parts = [level[i : i + 8] for i in range(0, len(level), 8)]
        level = [graph.op("Concat", *p, axis=1) if len(p) > 1 else p[0] for p in parts]
    return graph.model(level[0], [1, 4 * groups])


def duplicates(nodes: int) -> onnx.ModelProto:
    """A chain of groups, each with four copies of one subexpression whose constants are copied too.

    Of the 13 nodes of a group 4 are needed.
    """
    rng = np.random.default_rng(SEED)
    graph = Graph("duplicates")
    x = graph.input("x", [2, 3, 4])
    for _ in range(max(1, nodes // 13)):
        shift = _scalar(rng.uniform(-0.6, -0.4))
        copies = []
        for _copy in range(4):
            value = graph.op("Abs", x)
            value = graph.op("Add", value, graph.weight(shift))
            copies.append(graph.op("Mul", value, graph.weight(_scalar(0.25))))
        x = graph.op("Sum", *copies)
    return graph.model(x, [2, 3, 4])


def transposes(nodes: int) -> onnx.ModelProto:
    """Transposes to NHWC and back around elementwise nodes, with an NCHW node between the pairs.

    Of the 6 nodes of a unit both transposes go once they are pushed through the elementwise ones,
    whose per-channel constants must be reshaped with them.
    """
    rng = np.random.default_rng(SEED)
    graph = Graph("transposes")
    x = graph.input("x", [1, 3, 2, 4])
    for _ in range(max(1, nodes // 6)):
        value = graph.op("Transpose", x, perm=[0, 2, 3, 1])
        value = graph.op("Abs", value)
        bias = rng.uniform(-0.6, -0.4, 3).astype(np.float32)
        value = graph.op("Add", value, graph.weight(bias))
        value = graph.op("Transpose", value, perm=[0, 3, 1, 2])
        scale = rng.uniform(0.999, 1.001, (1, 3, 1, 1)).astype(np.float32)
        x = graph.op("Neg", graph.op("Mul", value, graph.weight(scale)))
    return graph.model(x, [1, 3, 2, 4])


class _Transformer:
    """Pre-norm transformer blocks in primitive ops, with the exporters' dynamic-shape chains."""

    hidden = 8
    heads = 2

    def __init__(self) -> None:
        self.rng = np.random.default_rng(SEED)
        self.graph = Graph("transformer")

    def linear(self, x: str, wide_in: int, wide_out: int) -> str:
        """MatMul and Add."""
        graph, scale = self.graph, 1 / math.sqrt(wide_in)
        w = (self.rng.standard_normal((wide_in, wide_out)) * scale).astype(np.float32)
        b = (self.rng.standard_normal(wide_out) * 0.1).astype(np.float32)
        return graph.op("Add", graph.op("MatMul", x, graph.weight(w)), graph.weight(b))

    def layer_norm(self, x: str) -> str:
        """(x - mean) / sqrt(variance + epsilon) * gamma + beta in nine nodes."""
        graph = self.graph
        gamma = self.rng.uniform(0.8, 1.2, self.hidden).astype(np.float32)
        beta = self.rng.uniform(-0.1, 0.1, self.hidden).astype(np.float32)
        centred = graph.op("Sub", x, graph.op("ReduceMean", x, axes=[-1]))
        squared = graph.op("Pow", centred, graph.constant(_scalar(2.0)))
        variance = graph.op("ReduceMean", squared, axes=[-1])
        stable = graph.op("Add", variance, graph.constant(_scalar(1e-5)))
        normal = graph.op("Div", centred, graph.op("Sqrt", stable))
        scaled = graph.op("Mul", normal, graph.weight(gamma))
        return graph.op("Add", scaled, graph.weight(beta))

    def dim(self, x: str, axis: int) -> str:
        """One dimension of `x` as a vector of one element: Shape, Gather, Unsqueeze."""
        graph = self.graph
        index = graph.constant(np.array(axis, np.int64))
        picked = graph.op("Gather", graph.op("Shape", x), index, axis=0)
        return graph.op("Unsqueeze", picked, graph.constant(_ints(0)))

    def split_heads(self, x: str) -> str:
        """[batch, seq, hidden] to [batch, heads, seq, hidden / heads]."""
        graph = self.graph
        heads = graph.constant(_ints(self.heads))
        width = graph.constant(_ints(self.hidden // self.heads))
        shape = graph.op("Concat", self.dim(x, 0), self.dim(x, 1), heads, width, axis=0)
        return graph.op("Transpose", graph.op("Reshape", x, shape), perm=[0, 2, 1, 3])

    def merge_heads(self, x: str) -> str:
        """[batch, heads, seq, hidden / heads] to [batch, seq, hidden]."""
        graph = self.graph
        x = graph.op("Transpose", x, perm=[0, 2, 1, 3])
        hidden = graph.constant(_ints(self.hidden))
        shape = graph.op("Concat", self.dim(x, 0), self.dim(x, 1), hidden, axis=0)
        return graph.op("Reshape", x, shape)

    def attention(self, x: str) -> str:
        """Multi-head self-attention."""
        graph = self.graph
        query, key, value = (
            self.split_heads(self.linear(x, self.hidden, self.hidden)) for _ in range(3)
        )
        scores = graph.op("MatMul", query, graph.op("Transpose", key, perm=[0, 1, 3, 2]))
        scale = graph.constant(_scalar(math.sqrt(self.hidden / self.heads)))
        weights = graph.op("Softmax", graph.op("Div", scores, scale), axis=-1)
        merged = self.merge_heads(graph.op("MatMul", weights, value))
        return self.linear(merged, self.hidden, self.hidden)

    def gelu(self, x: str) -> str:
        """X * (erf(x / sqrt 2) + 1) * 0.5."""
        graph = self.graph
        erf = graph.op("Erf", graph.op("Div", x, graph.constant(_scalar(math.sqrt(2.0)))))
        gate = graph.op("Add", erf, graph.constant(_scalar(1.0)))
        return graph.op("Mul", graph.op("Mul", x, gate), graph.constant(_scalar(0.5)))

    def block(self, x: str) -> str:
        """Attention and feed-forward, each with its norm and residual."""
        graph, hidden = self.graph, self.hidden
        x = graph.op("Add", x, self.attention(self.layer_norm(x)))
        inner = self.gelu(self.linear(self.layer_norm(x), hidden, 2 * hidden))
        return graph.op("Add", x, self.linear(inner, 2 * hidden, hidden))


def transformer(nodes: int) -> onnx.ModelProto:
    """Repeated transformer blocks over `[batch, sequence, 8]`, both dimensions dynamic."""
    body = _Transformer()
    x = body.graph.input("x", ["batch", "sequence", body.hidden])
    x = body.block(x)
    per_block = body.graph.size
    for _ in range(max(0, nodes // per_block - 1)):
        x = body.block(x)
    return body.graph.model(x, ["batch", "sequence", body.hidden])


FAMILIES: dict[str, Callable[[int], onnx.ModelProto]] = {
    "chain": chain,
    "wide": wide,
    "transformer": transformer,
    "duplicates": duplicates,
    "transposes": transposes,
}


def make(family: str, nodes: int) -> onnx.ModelProto:
    """Build the model of `family` with about `nodes` nodes.

    Raises:
        KeyError: no such family.
        ValueError: `nodes` is below 1.
    """
    if nodes < 1:
        raise ValueError(nodes)
    return FAMILIES[family](nodes)


def write_external(path: Path, *, matrices: int = 6, size: int = 10_000) -> None:
    """Write MatMuls by square matrices whose weights lie in `<path>.data`, streamed.

    The default is 6 times 10,000 x 10,000 float32, 2.235 GiB. Peak memory stays at one chunk.

    Args:
        path: the model file.
        matrices: how many weights.
        size: rows and columns of each.
    """
    graph = Graph("external")
    x = graph.input("x", [1, size])
    rng = np.random.Generator(np.random.SFC64(SEED))
    scale = np.float32(math.sqrt(12 / size))
    data = path.with_name(path.name + ".data")
    with data.open("wb") as stream:
        for index in range(matrices):
            stream.seek(-(-stream.tell() // PAGE) * PAGE)
            tensor = TensorProto(name=f"weight{index}", data_type=TensorProto.FLOAT)
            tensor.dims.extend([size, size])
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": data.name, "offset": stream.tell(), "length": 4 * size * size}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            for start in range(0, size * size, STREAM_FLOATS):
                block = rng.random(min(STREAM_FLOATS, size * size - start), dtype=np.float32)
                block -= np.float32(0.5)
                block *= scale
                block.tofile(stream)
            graph.initializers.append(tensor)
            x = graph.op("Identity", graph.op("MatMul", x, tensor.name))
    onnx.save_model(graph.model(x, [1, size]), str(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: write one model, check it with `onnx.checker`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("family", choices=[*FAMILIES, "external"])
    parser.add_argument("--nodes", type=int, default=10_000, help="nodes that are not Constant")
    parser.add_argument("--matrices", type=int, default=6, help="external: number of weights")
    parser.add_argument("--size", type=int, default=10_000, help="external: rows of each weight")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args(argv)
    if min(args.nodes, args.matrices, args.size) < 1:
        parser.error("sizes must be at least 1")
    if args.family == "external":
        write_external(args.out, matrices=args.matrices, size=args.size)
        onnx.checker.check_model(str(args.out))
        nodes = 2 * args.matrices
    else:
        model = make(args.family, args.nodes)
        onnx.checker.check_model(model)
        onnx.save_model(model, str(args.out))
        nodes = sum(node.op_type != "Constant" for node in model.graph.node)
    print(f"{args.out}: {nodes} nodes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
