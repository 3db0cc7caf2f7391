"""Elementwise operations and reductions: broadcasting of symbolic shapes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_ir import opdef
from lepton_ir.builder import Builder
from lepton_ir.diagnostics import VerifyError
from lepton_ir.dims import sym
from lepton_ir.dtypes import F32, I64
from lepton_ir.ir import Module
from lepton_ir.ops._shapes import broadcast_shapes
from lepton_ir.types import tensor

N, M = sym("N"), sym("M")


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([], ()),
        ([(2, 3), None], None),
        ([(N,), (5,)], (5,)),
        ([(N,), (1,)], (N,)),
        ([(N,), (N,)], (N,)),
        ([(None,), (5,)], (5,)),
        ([(None,), (0,)], (0,)),
        ([(None,), (1,)], (None,)),
        ([(None,), (N,)], (None,)),
        ([(None,), (N + 2,)], (N + 2,)),
        ([(2, 1, N), (3, 1)], (2, 3, N)),
        ([(1, 4), (), (N, 1)], (N, 4)),
    ],
)
def test_broadcast_claims_only_what_is_certain(shapes: Any, expected: Any) -> None:
    assert broadcast_shapes(shapes) == expected


def test_broadcast_refuses_sizes_that_differ() -> None:
    with pytest.raises(ValueError, match="do not broadcast"):
        broadcast_shapes([(2, 3), None, (4,)])


def _builder(*types: Any) -> tuple[Builder, list[Any]]:
    block = Module("test").add_function("main").block
    return Builder(block), [block.add_arg(t) for t in types]


@pytest.mark.parametrize(
    ("name", "types", "code"),
    [
        ("add", [tensor(F32, 2), tensor(F32, 3)], "add-C1"),
        ("add", [tensor(F32, 2), tensor(I64, 2)], "add-C2"),
        ("swiglu", [tensor(F32, 2, N), tensor(F32, 1, N)], "swiglu-C1"),
        ("clip", [tensor(F32, 2), tensor(F32, 2)], "clip-C1"),
    ],
)
def test_broken_constraints_are_named(name: str, types: list[Any], code: str) -> None:
    builder, values = _builder(*types)
    with pytest.raises(VerifyError) as caught:
        builder.build(name, *values)
    assert caught.value.code == code


def test_axis_out_of_range_is_named() -> None:
    builder, (x,) = _builder(tensor(F32, 2, N))
    with pytest.raises(VerifyError) as caught:
        builder.reduce_sum(x, [2])
    assert caught.value.code == "reduce_sum-C1"


def test_shape_arithmetic_is_followed() -> None:
    builder, (x,) = _builder(tensor(I64, 2))
    x.content = (N, M)
    assert builder.mul(x, [2, 3]).content == (2 * N, 3 * M)
    assert builder.div(x, [2, 1]).content == (N // 2, M)
    assert builder.div(builder.sub(x, [1, 0]), [2, 1]).content == (None, M)
    assert builder.reduce_prod(x, keepdims=False).content == (N * M,)
    assert builder.reduce_max(builder.max(x, [4, 4])).content is not None


@pytest.mark.parametrize(
    ("name", "operands"),
    [
        ("div", (np.array([1, 2]), np.array([1, 0]))),
        ("div", (np.array([-128], np.int8), np.array([-1], np.int8))),
        ("mod", (np.array([1]), np.array([0]))),
        ("pow", (np.array([0]), np.array([-1]))),
        ("pow", (np.array([10]), np.array([30]))),
        ("pow", (np.array([2]), np.array([np.nan]))),
        ("relu", (np.array([True]),)),
        ("sum", (np.array([1]),)),
        ("add", (np.array([1], np.int32), np.array([1], np.int64))),
        ("clip", (np.array([1.0]), np.array([1.0, 2.0]))),
        ("reduce_sum", (np.ones((2, 2)), np.array([0, -2]))),
        ("reduce_sum", (np.ones((2, 2)), np.array([2]))),
        ("reduce_mean", (np.zeros((0,), np.int64),)),
    ],
)
def test_meaning_refuses_what_runtimes_do_not_agree_on(name: str, operands: Any) -> None:
    definition = opdef.lookup(name)
    assert definition is not None
    with pytest.raises(ValueError, match=r"."):
        definition(*operands)


def test_division_of_nothing_by_zero_is_fine() -> None:
    definition = opdef.lookup("div")
    assert definition is not None
    assert definition(np.zeros((0, 1), np.int64), np.zeros(3, np.int64)).shape == (0, 3)
