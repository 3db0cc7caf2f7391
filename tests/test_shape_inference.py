"""Symbolic shape inference of the operations that move elements around."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_ir import dtypes
from lepton_ir.builder import Builder
from lepton_ir.diagnostics import VerifyError
from lepton_ir.dims import minimum, sym
from lepton_ir.infer import InferContext
from lepton_ir.ir import Module
from lepton_ir.types import TensorType

N, H, W = sym("N"), sym("H"), sym("W")
MAX, MIN = 2**63 - 1, -(2**63)


def build(op, shape, *contents, results=None, **attrs):
    """Build ``op`` on an f32 operand of ``shape`` and i64 vectors of the given contents."""
    function = Module().add_function("main")
    operands = [function.block.add_arg(TensorType(dtypes.F32, shape))]
    for content in contents:
        value = function.block.add_arg(TensorType(dtypes.I64, (len(content),)))
        value.content = content
        operands.append(value)
    return Builder(function.block).build(op, *operands, results=results, **attrs)


RESHAPES = [
    ((N, 64, H, W), (N, 8, -1, W), (N, 8, 8 * H, W)),
    ((N, 64, H, W), (0, 8, -1, W), (N, 8, 8 * H, W)),
    ((N, H, 768), (0, 0, 12, 64), (N, H, 12, 64)),
    ((N, H, 12, 64), (N, H, 768), (N, H, 768)),
    ((N, H, 12, 64), (-1, H, 768), (N, H, 768)),
    ((N, H, None), (0, -1, 0), (N, H, None)),
    ((1, 12, H, 64), (12, H, 64), (12, H, 64)),
    ((N, 768, 7, 7), (N, 768, -1), (N, 768, 49)),
    ((2, 12), (4, None), (4, 6)),
    ((N,), (-1, 2), (N // 2, 2)),
    # A 0 at run time copies the dim of x: N=H=0 gives (0, 12, 64).
    ((N, 12, H, 64), (12 * N, H, 64), (12 * N, None, 64)),
    ((N, 12, H, 64), (12 * N, -1, 64), (12 * N, H, 64)),
    # N=0 copies the 4.
    ((4,), (N,), (4,)),
    ((None, None), (0, N), (None, None)),
    ((N, 3), (H - 1, 3), (N, 3)),
    ((N, H), (H - 1, W - 1), (None, None)),
]


@pytest.mark.parametrize(("shape", "target", "expected"), RESHAPES)
def test_reshape(shape, target, expected):
    assert build("reshape", shape, target).result.shape == expected


@pytest.mark.parametrize(
    ("shape", "bounds", "expected"),
    [
        ((N, H), ((1,), (MAX,), (0,)), "f32[max(N-1,0),H]"),
        ((N,), ((0,), (N - 1,)), "f32[max(N-1,0)]"),
        ((N,), ((0,), (N - 3,)), "f32[?]"),
        ((N + 3,), ((0,), (N - 1 + 1,)), "f32[N]"),
        ((N,), ((-3,), (2**31 - 1,)), "f32[min(N,3)]"),
        ((4 * H + 8,), ((2,), (5,)), "f32[3]"),
        ((N,), ((-1,), (MIN,), (0,), (-1,)), "f32[N]"),
        ((N + 2,), ((1,), (-1,)), "f32[N]"),
        ((N, H), ((0,), (N,)), "f32[N,H]"),
        ((N,), ((0,), (MAX,), (0,), (2,)), "f32[(N+1)//2]"),
        ((5, None), ((3, 0), (-9, MAX), (0, 1), (-1, 1)), "f32[4,?]"),
        ((5,), ((3,), (MAX,), (0,), (-1,)), "f32[?]"),
        ((N, H), ((0,), (None,), (-1,)), "f32[N,?]"),
    ],
)
def test_slice(shape, bounds, expected):
    assert str(build("slice", shape, *bounds).result.type) == expected


@pytest.mark.parametrize(
    ("shape", "target", "expected"),
    [
        ((1, N), (H, 1), "f32[H,N]"),
        ((1, 5), (None, None), "f32[?,5]"),
        ((N,), (None,), "f32[?]"),
        ((N, 4), (N, 4), "f32[N,4]"),
        ((None, 4), (3, 1), "f32[3,4]"),
        ((N,), (7,), "f32[7]"),
    ],
)
def test_expand(shape, target, expected):
    assert str(build("expand", shape, target).result.type) == expected


def test_parts_and_margins():
    assert str(build("pad", (N, H), (1, 0, 1, -2)).result.type) == "f32[N+2,H-2]"
    halves = build("split", (4 * N, 3), results=2, num_outputs=2).results
    assert [str(r.type) for r in halves] == ["f32[2*N,3]", "f32[2*N,3]"]
    assert build("flatten", (N, 3, H, W), axis=2).result.shape == (3 * N, H * W)
    assert build("flatten", (0, None)).result.shape == (0, None)
    assert build("squeeze", (1, N)).result.shape is None
    assert build("squeeze", (1, N), (0,)).result.shape == (N,)


def test_concat_sums_the_axis():
    function = Module().add_function("main")
    shapes = [(N, H, 4), (N, W + 1, None), (N, 3, 4)]
    values = [function.block.add_arg(TensorType(dtypes.F32, s)) for s in shapes]
    result = Builder(function.block).build("concat", *values, axis=1).result
    assert result.shape == (N, H + W + 4, 4)


def test_a_shape_computation_is_followed_to_the_reshape():
    function = Module().add_function("main")
    b = Builder(function.block)
    x = function.block.add_arg(TensorType(dtypes.F32, (N, 3, H, W)))
    batch = b.gather(b.shape(x), b.const(np.array([0])))
    rest = b.unsqueeze(b.const(np.array(-1)), b.const(np.array([0])))
    assert b.reshape(x, b.concat(batch, rest, axis=0)).shape == (N, 3 * H * W)


def test_data_dependent_sizes_have_symbols_that_stay():
    op = build("non_zero", (N, 4))
    again = op.definition.infer(InferContext(op))
    assert op.result.shape[0] == 2
    assert again.shape[1] is op.result.shape[1]


@pytest.mark.parametrize(
    ("op", "shape", "content", "attrs", "code"),
    [
        ("reshape", (2, 3), (4, 2), {}, "reshape-C2"),
        ("reshape", (2, 3), (-1, -1), {}, "reshape-C1"),
        ("squeeze", (2, 3), (0,), {}, "squeeze-C2"),
        ("unsqueeze", (2, 3), (0, 0), {}, "unsqueeze-C2"),
        ("expand", (2, 3), (4, 3), {}, "expand-C1"),
        ("split", (2, 3), (1, 2), {}, "split-C3"),
        ("top_k", (2, 3), (4,), {}, "top_k-C2"),
        ("pad", (2, 3), (1, 2), {}, "pad-C1"),
    ],
)
def test_broken_constraints_are_reported(op, shape, content, attrs, code):
    with pytest.raises(VerifyError) as caught:
        build(op, shape, content, results=2 if op in ("split", "top_k") else None, **attrs)
    assert caught.value.code == code


def test_minimum_stays_where_it_is_needed():
    assert build("slice", (N,), (0,), (5,)).result.shape == (minimum(N, 5),)
