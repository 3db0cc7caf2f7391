"""TFLite models made for tests, and what LiteRT answers to them."""

from __future__ import annotations

import importlib.util
import io
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.schema import enums, options
from lepton_ir.formats.tflite.writer import write

Array = np.ndarray[Any, Any]

HAS_LITERT = importlib.util.find_spec("ai_edge_litert") is not None

TYPES = {
    "float32": "FLOAT32",
    "float16": "FLOAT16",
    "int32": "INT32",
    "uint8": "UINT8",
    "int64": "INT64",
    "bool": "BOOL",
    "int16": "INT16",
    "int8": "INT8",
    "float64": "FLOAT64",
    "uint32": "UINT32",
    "complex64": "COMPLEX64",
}


@dataclass
class T:
    """A tensor of a made model.

    Attributes:
        shape: its dims, -1 for those that are open.
        dtype: NumPy's name of the element type.
        data: contents of a constant.
        scale: of quantized ones: a number, or a list with one for each index of ``axis``.
        zero: zero point.
        axis: quantized dimension.
        kind: TFLite's name of the element type, where NumPy has none.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    data: Array | None = None
    scale: float | list[float] | None = None
    zero: int = 0
    axis: int = 0
    kind: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def const(data: Any, dtype: str = "float32", **how: Any) -> T:
    """Return a constant."""
    array = np.asarray(data, dtype)
    return T(array.shape, dtype, array, **how)


def variable(shape: tuple[int, ...], dtype: str = "float32", **how: Any) -> T:
    """Return a tensor whose contents stay from run to run."""
    return T(shape, dtype, extra={"is_variable": True}, **how)


def enum(name: str, member: str) -> int:
    """Return the number of an enum's member."""
    return enums()[name].members[member]


class Maker:
    """Collects the buffers and operator codes of a model."""

    def __init__(self) -> None:
        self.buffers = [Node("Buffer")]
        self.codes: list[Node] = []
        self.subgraphs: list[Node] = []

    def tensor(self, t: T, name: str) -> Node:
        """Return the table of a tensor."""
        values: dict[str, Any] = {"name": name, "shape": [abs(d) for d in t.shape]}
        if min(t.shape, default=0) < 0:
            values["shape_signature"] = list(t.shape)
        values["type"] = enum("TensorType", t.kind or TYPES[t.dtype])
        if t.data is not None:
            values["buffer"] = len(self.buffers)
            self.buffers.append(Node("Buffer", data=np.ascontiguousarray(t.data).tobytes()))
        if t.scale is not None:
            scales = np.atleast_1d(np.asarray(t.scale, np.float32))
            values["quantization"] = Node(
                "QuantizationParameters",
                scale=scales,
                zero_point=[t.zero] * scales.size,
                quantized_dimension=t.axis,
            )
        return Node("Tensor", **{**values, **t.extra})

    def code(self, name: str, version: int = 1) -> int:
        """Return the index of an operator code."""
        number = enum("BuiltinOperator", name)
        code = Node(
            "OperatorCode",
            builtin_code=number,
            deprecated_builtin_code=min(number, 127),
            version=version,
        )
        if code not in self.codes:
            self.codes.append(code)
        return self.codes.index(code)

    def operator(
        self, name: str, inputs: list[int], outputs: list[int], version: int = 1, /, **given: Any
    ) -> Node:
        """Return the table of an operator; ``given`` are its options."""
        table = options().get(name)
        values: dict[str, Any] = {}
        if table is not None:
            second = table in enums()["BuiltinOptions2"].members
            values["builtin_options_2" if second else "builtin_options"] = Node(table, **given)
        return Node(
            "Operator",
            opcode_index=self.code(name, version),
            inputs=inputs,
            outputs=outputs,
            **values,
        )

    def graph(
        self,
        tensors: list[T],
        inputs: list[int],
        outputs: list[int],
        operators: list[Node],
        name: str = "main",
    ) -> None:
        """Add a subgraph."""
        nodes = [self.tensor(t, f"t{i}") for i, t in enumerate(tensors)]
        self.subgraphs.append(
            Node(
                "SubGraph",
                tensors=nodes,
                inputs=inputs,
                outputs=outputs,
                operators=operators,
                name=name,
            )
        )

    def model(self, **more: Any) -> bytes:
        """Return the bytes of the model."""
        out = io.BytesIO()
        node = Node(
            "Model",
            version=3,
            operator_codes=self.codes,
            subgraphs=self.subgraphs,
            buffers=self.buffers,
            **more,
        )
        write(node, out)
        return out.getvalue()


def one_operator(
    name: str, operands: list[T | None], results: list[T], version: int = 1, **given: Any
) -> bytes:
    """Return a model of one operator: operands without data are its inputs, unless variable."""
    maker = Maker()
    tensors: list[T] = []
    numbers = []
    for operand in operands:
        numbers.append(-1 if operand is None else len(tensors))
        tensors += [] if operand is None else [operand]
    outputs = list(range(len(tensors), len(tensors) + len(results)))
    inputs = [i for i, t in enumerate(tensors) if t.data is None and not t.extra]
    operator = maker.operator(name, numbers, outputs, version, **given)
    maker.graph([*tensors, *results], inputs, outputs, [operator])
    return maker.model()


def litert(jobs: list[tuple[bytes, list[list[Array]]]], *, reference: bool = False) -> list[Any]:
    """Return what LiteRT answers: for each model a list of output lists, or an error's text."""
    child = [sys.executable, str(Path(__file__).with_name("litert_child.py"))]
    done = subprocess.run(
        [*child, *(["--reference"] if reference else [])],
        input=pickle.dumps(jobs),
        capture_output=True,
        check=True,
        timeout=600,
    )
    found: list[Any] = pickle.loads(done.stdout)
    return found
