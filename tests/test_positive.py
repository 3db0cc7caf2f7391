"""Dims that cannot be 0, since the model would fail with it."""

from __future__ import annotations

import pytest

from lepton_ir.context import PassContext
from lepton_ir.dims import sym
from lepton_ir.infer import InferContext
from lepton_ir.ir import Function
from lepton_ir.pipeline import PassManager, Pipeline
from lepton_ir.text.parse import parse_module

B, N, P = sym("B"), sym("N"), sym("P")

FLATTENED = """
func @main(%x: f32[B,N,8], %w: f32[8,24], %other: f32[B,N,24]) {
  %flat = const() {value=[-1, 8]} : i64[2]
  %last = const() {value=[24]} : i64[1]
  %rows = reshape(%x, %flat)
  %y = matmul(%rows, %w)
  %two = shape(%x) {end=2}
  %target = concat(%two, %last) {axis=0}
  %z = reshape(%y, %target)
  USE
  return(%r)
}
"""


def shapes_of(text: str) -> Function:
    module = parse_module(text)
    PassManager(PassContext()).run(Pipeline.parse("shapes"), module)
    return module.main


def shape_of(function: Function, name: str) -> object:
    return next(r.shape for op in function.walk() for r in op.results if r.name == name)


def test_a_sum_that_would_not_broadcast_proves_a_dim() -> None:
    function = shapes_of(FLATTENED.replace("USE", "%r = add(%z, %other)"))
    assert function.positive[N] is True
    assert shape_of(function, "z") == (B, N, 24)


@pytest.mark.parametrize(
    "use",
    [
        "%r = relu(%z)",  # N = B = 0 gives (0, 24, 24)
        "%one = const() {value=[[[1.0]]]} : f32[1,1,1]\n  %r = add(%z, %one)",
    ],
)
def test_without_a_failure_nothing_is_known(use: str) -> None:
    function = shapes_of(FLATTENED.replace("USE", use))
    assert function.positive[N] is False
    assert shape_of(function, "z") == (B, None, 24)


def test_a_failure_in_a_branch_proves_nothing() -> None:
    use = """%r = if(%k) {
    %s = add(%z, %other)
    yield(%s)
  } {
    %t = relu(%z)
    yield(%t)
  }"""
    text = FLATTENED.replace("USE", use).replace("(%x: f32", "(%k: bool[], %x: f32")
    function = shapes_of(text)
    assert function.positive[N] is False


def test_a_sum_of_dims_is_positive_when_all_of_them_being_0_fails() -> None:
    function = shapes_of(
        """
func @main(%x: f32[B,2,P+N,4], %mask: f32[B,1,N,P+N], %q: f32[B,6,N,4]) {
  %one = const() {value=[2]} : i64[1]
  %times = const() {value=[1, 1, 3, 1, 1]} : i64[5]
  %six = const() {value=[6]} : i64[1]
  %u = unsqueeze(%x, %one)
  %e = expand(%u, %times)
  %b = shape(%x) {end=1}
  %t = shape(%x) {start=2}
  %target = concat(%b, %six, %t) {axis=0}
  %k = reshape(%e, %target)
  %h = transpose(%k) {perm=[0, 1, 3, 2]}
  %s = matmul(%q, %h)
  %r = add(%s, %mask)
  return(%r)
}
"""
    )
    assert function.positive == {N + P: True}
    assert shape_of(function, "k") == (B, 6, N + P, 4)
    op = next(op for op in function.walk() if op.name == "matmul")
    ctx = InferContext(op)
    assert ctx.positive(N + P)
    assert ctx.positive(2 * N + P)
    assert not ctx.positive(N)
    assert not ctx.positive(B * (N + P))
