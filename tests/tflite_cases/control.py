"""Cases: control flow and variables."""

from __future__ import annotations

import numpy as np

from tests.tflite_cases import graph_case, rand
from tests.tflite_models import Maker, T, const


def _if() -> None:
    m = Maker()
    f, c = T((3,)), T((), "bool")
    m.graph(
        [c, f, f, f],
        [0, 1, 2],
        [3],
        [m.operator("IF", [0, 1, 2], [3], then_subgraph_index=1, else_subgraph_index=2)],
    )
    m.graph([f, f, f], [0, 1], [2], [m.operator("ADD", [0, 1], [2])], "then")
    m.graph(
        [f, f, f],
        [0, 1],
        [2],
        [m.operator("MUL", [0, 1], [2], fused_activation_function=1)],
        "else",
    )
    x, y = rand(3), rand(3, seed=1)
    graph_case("IF", m, [[True, x, y], [False, x, y]])


def _while() -> None:
    m = Maker()
    i, f, b = T((), "int32"), T((3,)), T((), "bool")
    m.graph(
        [i, f, i, f],
        [0, 1],
        [2, 3],
        [m.operator("WHILE", [0, 1], [2, 3], cond_subgraph_index=1, body_subgraph_index=2)],
    )
    m.graph([i, f, const(4, "int32"), b], [0, 1], [3], [m.operator("LESS", [0, 2], [3])], "cond")
    m.graph(
        [i, f, const(1, "int32"), i, const([1.5, -1, 2]), f],
        [0, 1],
        [3, 5],
        [m.operator("ADD", [0, 2], [3]), m.operator("MUL", [1, 4], [5])],
        "body",
    )
    x = rand(3)
    graph_case("WHILE", m, [[np.int32(0), x], [np.int32(9), x]])


def _growing() -> None:
    """A loop whose value grows: its shape is open."""
    m = Maker()
    i, f, b = T((), "int32"), T((-1,)), T((), "bool")
    start = T((2,))
    m.graph(
        [i, start, i, f],
        [0, 1],
        [2, 3],
        [m.operator("WHILE", [0, 1], [2, 3], cond_subgraph_index=1, body_subgraph_index=2)],
    )
    m.graph([i, f, const(3, "int32"), b], [0, 1], [3], [m.operator("LESS", [0, 2], [3])], "cond")
    m.graph(
        [i, f, const(1, "int32"), i, f],
        [0, 1],
        [3, 4],
        [m.operator("ADD", [0, 2], [3]), m.operator("CONCATENATION", [1, 1], [4], axis=0)],
        "body",
    )
    graph_case("WHILE", m, [[np.int32(0), np.asarray([1, 2], np.float32)]], "growing")


def _variables() -> None:
    """A counter with a first value, and a sum that starts with 0."""
    m = Maker()
    r, f = T((), "int32", kind="RESOURCE"), T((2,))
    names = {"container": "", "shared_name": "count"}
    other = {"container": "c", "shared_name": "sum"}
    operators = [
        m.operator("CALL_ONCE", [], [], init_subgraph_index=1),
        m.operator("VAR_HANDLE", [], [1], **names),
        m.operator("READ_VARIABLE", [1], [2]),
        m.operator("ADD", [2, 0], [3]),
        m.operator("ASSIGN_VARIABLE", [1, 3], []),
        m.operator("READ_VARIABLE", [1], [4]),
        m.operator("VAR_HANDLE", [], [5], **other),
        m.operator("READ_VARIABLE", [5], [6]),
        m.operator("MUL", [6, 4], [7]),
        m.operator("ASSIGN_VARIABLE", [5, 7], []),
    ]
    m.graph([f, r, f, f, f, r, f, f], [0], [4, 6], operators)
    m.graph(
        [r, const([5, -2]), r, const([1, 1])],
        [],
        [],
        [
            m.operator("VAR_HANDLE", [], [0], **names),
            m.operator("ASSIGN_VARIABLE", [0, 1], []),
            m.operator("VAR_HANDLE", [], [2], **other),
            m.operator("ASSIGN_VARIABLE", [2, 3], []),
        ],
        "init",
    )
    graph_case("READ_VARIABLE", m, [[rand(2, seed=i)] for i in range(3)])


def _composite() -> None:
    m = Maker()
    f = T((3,))
    m.graph(
        [f, f],
        [0],
        [1],
        [
            m.operator(
                "STABLEHLO_COMPOSITE",
                [0],
                [1],
                name="my.square",
                decomposition_subgraph_index=1,
                composite_attributes=b"\x00\x00\x24\x01",
            )
        ],
    )
    m.graph([f, f], [0], [1], [m.operator("MUL", [0, 0], [1])], "square")
    graph_case("STABLEHLO_COMPOSITE", m, [[rand(3)]])


for _make in (_if, _while, _growing, _variables, _composite):
    _make()
