"""Layout on graphs that golden files cannot hold: with operations that nothing reads."""

from __future__ import annotations

from lepton_ir.context import PassContext
from lepton_ir.passes.layout import Layout
from lepton_ir.passes.shapes import Shapes
from lepton_ir.text.parse import parse_module

_TIE = """
func @main(%h: f32[B,6,4], %c: f32[B,4,1], %w: f32[6,5]) {
  %t = transpose(%c) {perm=[0, 2, 1]}
  %m = mul(%h, %t)
  %u = transpose(%m) {perm=[0, 2, 1]}
  %r = matmul(%u, %w)
  %unread = transpose(%h) {perm=[0, 2, 1]}
  return(%r, %m)
}
"""


def test_a_transpose_that_nothing_reads_is_no_reader() -> None:
    """Counted as one, it makes the other order look better, which then makes the first one so."""
    module = parse_module(_TIE)
    ctx = PassContext()
    Shapes().run(module, ctx)
    Layout().run(module, ctx)
    names = [op.name for op in module.main.block.ops]
    assert names == ["transpose", "mul", "transpose", "matmul", "return"]
    assert not ctx.rewrites
