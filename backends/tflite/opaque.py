"""Operators that the IR does not interpret, written back as they were read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.backends.tflite.graph import ABSENT
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.foreign import Foreign
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.schema import enums, options, tables

if TYPE_CHECKING:
    from lepton_ir.backends.tflite.graph import Graph
    from lepton_ir.ir import Op

PREFIX, CUSTOM = "tflite.", "tflite.custom."

CUSTOM_KEY = "custom:"
"""In front of the name of a custom operator, among the operator codes."""


def is_foreign(op: Op) -> bool:
    """Return whether an operation is an operator of a TFLite file that stayed as it was."""
    return op.definition is None and op.name.startswith(PREFIX)


def write_opaque(graph: Graph, op: Op) -> None:
    """Add the operator with its options, and what its quantized results stand for.

    Raises:
        UnsupportedError: it runs subgraphs, which are not here any more.
    """
    custom = op.name.startswith(CUSTOM)
    name = op.name.removeprefix(CUSTOM if custom else PREFIX)
    fields = {k: _plain(v) for k, v in op.attrs.items()}
    data = fields.pop("custom_options", None)
    for index, result in enumerate(op.results):
        scale = fields.pop(f"scale_{index}", None)
        zero, axis = fields.pop(f"zero_point_{index}", None), fields.pop(f"axis_{index}", 0)
        if scale is not None and result.dtype is not None:
            node = Node(
                "QuantizationParameters",
                scale=np.asarray(scale, np.float32),
                zero_point=np.asarray(zero, np.int64),
                quantized_dimension=axis,
            )
            graph.parameters.setdefault(result, (result.dtype, node))
    if any(key.endswith(("subgraph_index", "subgraph_indices")) for key in fields):
        raise UnsupportedError(f"{name} runs a subgraph, which is not kept")
    table = None if custom else options().get(name)
    chosen = None
    if table is not None and fields:
        chosen = Node(table, **{k: v for k, v in fields.items() if k in tables()[table].fields})
    second = table is not None and table in enums()["BuiltinOptions2"].members
    code = graph.buffers.code(CUSTOM_KEY + name if custom else name, op.version or 1)
    graph.operators.append(
        Node(
            "Operator",
            opcode_index=code,
            inputs=[ABSENT if v is None else graph.value(v) for v in op.operands],
            outputs=[graph.given_rank(r) for r in op.results],
            custom_options=data,
            **{"builtin_options_2" if second else "builtin_options": chosen},
        )
    )
    graph.references.append(graph.reference)
    if not custom:
        graph.runtimes.append((name, op.version or 1))


def _plain(value: Any) -> Any:
    return value.data if isinstance(value, Foreign) else value
