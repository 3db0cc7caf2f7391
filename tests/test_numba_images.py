"""Convolutions and pooling in blocked layout, with everything that keeps or leaves that layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir.backends.numba.kernels import conv
from lepton_ir.backends.numba.kernels.tiles import tile_widths
from lepton_ir.backends.numba.kernels.winograd_form import Form
from lepton_ir.backends.numba.plan import Row
from lepton_ir.diagnostics import LeptonError
from lepton_ir.interp import run_list
from lepton_ir.text.parse import parse_module
from tests.test_numba_kernels import TARGETS, check, normal


def conv_text(weights: tuple[int, ...], attrs: str, bias: bool = True, tail: str = "") -> str:
    sizes = ",".join(map(str, weights))
    text = f"  %w = const() {{value=rand(1)}} : f32[{sizes}]\n"
    text += f"  %b = const() {{value=rand(2)}} : f32[{weights[0]}]\n" if bias else ""
    text += f"  %y = conv(%x, %w{', %b' if bias else ''}) {{{attrs}}}\n"
    return text + (tail or "  return(%y)")


CONVOLUTIONS = [
    ((1, 32, 14, 14), (32, 32, 3, 3), "pads=[1,1,1,1]"),
    ((2, 20, 9, 11), (40, 20, 3, 3), "pads=[1,1,1,1]"),
    ((1, 24, 9, 35), (8, 24, 1, 1), ""),
    ((1, 24, 9, 35), (56, 24, 3, 3), "strides=[2,2], pads=[0,1,1,0]"),
    ((1, 24, 9, 35), (17, 24, 3, 2), "dilations=[2,3], pads=[2,0,1,3]"),
    ((1, 19, 1, 1), (33, 19, 1, 1), ""),
    ((1, 3, 33, 40), (24, 3, 7, 7), "strides=[2,2], pads=[3,3,3,3]"),
    ((1, 3, 20, 33), (20, 3, 3, 5), "strides=[1,3], dilations=[1,2], pads=[1,4,1,4]"),
    ((1, 2, 9, 20), (9, 2, 2, 4), "strides=[2,2], dilations=[1,2]"),
    ((2, 1, 15, 16), (8, 1, 3, 3), "pads=[1,1,1,1]"),
    ((2, 40, 15, 16), (40, 1, 3, 3), "group=40, pads=[1,1,1,1]"),
    ((1, 33, 15, 17), (33, 1, 5, 5), "group=33, pads=[2,2,2,2], strides=[2,2]"),
    ((1, 8, 9, 9), (8, 1, 3, 3), "group=8, dilations=[2,2], auto_pad=SAME_UPPER"),
    ((1, 64, 8, 8), (64, 16, 3, 3), "group=4, pads=[1,1,1,1]"),
    ((1, 12, 6, 6), (12, 3, 3, 3), "group=4"),
    ((2, 48, 9, 17), (48, 24, 3, 3), "group=2, pads=[1,1,1,1]"),
    ((1, 40, 9, 17), (40, 8, 3, 3), "group=5, pads=[1,1,1,1], strides=[2,2]"),
    ((2, 36, 9, 17), (36, 4, 3, 3), "group=9, pads=[1,1,1,1], dilations=[1,2]"),
    ((1, 20, 7, 7), (20, 2, 1, 1), "group=10"),
    ((1, 6, 9, 9), (18, 1, 3, 3), "group=6"),
    ((2, 34, 9, 9), (136, 1, 3, 3), "group=34, pads=[1,1,1,1]"),
    ((1, 5, 9, 9), (80, 1, 3, 3), "group=5, pads=[1,1,1,1]"),
    ((1, 12, 9, 11), (24, 2, 3, 3), "group=6, strides=[2,2]"),
    ((1, 18, 20, 13), (18, 1, 9, 9), "group=18, pads=[4,4,4,4]"),
    ((1, 6, 40), (6, 1, 31), "group=6, pads=[15,15]"),
    ((1, 12, 40), (24, 12, 5), "pads=[2,2]"),
    ((2, 3, 5, 9, 8), (20, 3, 3, 3, 3), "pads=[1,1,1,1,1,1]"),
    ((1, 20, 6, 9, 8), (33, 20, 3, 1, 1), "pads=[2,0,0,1,0,0], strides=[2,1,1]"),
    ((1, 8, 6, 9, 8), (16, 8, 2, 3, 2), "dilations=[3,1,2], strides=[1,2,2]"),
    ((1, 24, 4, 9, 8), (24, 1, 3, 3, 3), "group=24, pads=[1,1,1,1,1,1]"),
    ((1, 24, 2, 5, 6), (16, 24, 1, 1, 1), ""),
    ((1, 12, 40), (24, 12, 5), "auto_pad=SAME_LOWER, strides=[3]"),
    ((1, 12, 40), (12, 1, 3), "group=12, pads=[2,0]"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("x", "w", "attrs"), CONVOLUTIONS)
def test_convolutions(x, w, attrs, bias, target):
    check(conv_text(w, attrs, bias), target, rtol=1e-5, x=normal(*x))


WINOGRAD = [
    # batch, input channels, output channels, rows, columns, attributes
    (1, 64, 48, 14, 14, "pads=[1,1,1,1]"),
    (2, 20, 40, 9, 11, "pads=[1,1,1,1]"),
    (3, 33, 17, 13, 22, "pads=[0,1,2,0]"),
    (1, 48, 48, 9, 6, ""),
    (1, 24, 56, 4, 71, "auto_pad=SAME_UPPER"),
    (5, 16, 80, 7, 7, "pads=[1,1,1,1]"),
    (2, 20, 40, 5, 5, "pads=[1,1,1,1]"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("tile", [4, 2])
@pytest.mark.parametrize(("n", "c", "k", "rows", "columns", "attrs"), WINOGRAD)
def test_windows_of_three_by_three_in_transformed_tiles(
    n, c, k, rows, columns, attrs, tile, threads, target, monkeypatch
):
    monkeypatch.setattr(conv, "form_that_pays", lambda *_: Form(tile))
    tail = "  %r = relu(%y)\n  return(%r)"
    text = f"func @main(%x: f32[{n},{c},{rows},{columns}]) {{\n"
    module = parse_module(text + conv_text((k, c, 3, 3), attrs, tail=tail) + "\n}\n")
    session = lepton_ir.compile(module, target, threads)
    x = normal(n, c, rows, columns)
    spoiled = np.full_like(x, np.nan)
    first = session.run(None, {"x": x})
    session.run(None, {"x": spoiled})  # scratch memory is full of NaN now
    (found,) = session.run(None, {"x": x})
    kernels = {str(s.kernel.family) for s in session.segments()[0].steps if isinstance(s, Row)}
    assert "winograd" in kernels
    np.testing.assert_array_equal(found, first[0])
    (expected,) = run_list(module, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("precision", "tile"), [("fast", 4), ("standard", 2), ("high", None)])
def test_precision_chooses_the_tiles(precision, tile):
    text = conv_text((64, 400, 3, 3), "pads=[1,1,1,1]", bias=False)
    module = parse_module(f"func @main(%x: f32[1,400,14,14]) {{\n{text}\n}}\n")
    x = normal(1, 400, 14, 14)
    session = lepton_ir.compile(module, threads=1, precision=precision)
    (found,) = session.run(None, {"x": x})
    kernels = [s.kernel for s in session.segments()[0].steps if isinstance(s, Row)]
    tiles = [k.params[0].form.tile for k in kernels if k.family == "winograd"]
    assert tiles == ([tile] if tile else [])
    assert tiles or "conv" in {k.family for k in kernels}
    (expected,) = run_list(module, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_an_unknown_precision_is_refused():
    text = conv_text((8, 3, 3, 3), "")
    module = parse_module(f"func @main(%x: f32[1,3,8,8]) {{\n{text}\n}}\n")
    with pytest.raises(LeptonError, match="no precision is called 'low'"):
        lepton_ir.compile(module, precision="low")


def test_transformed_tiles_round_little_more_than_direct_sums(monkeypatch):
    text = conv_text((64, 256, 3, 3), "pads=[1,1,1,1]", bias=False)
    module = parse_module(f"func @main(%x: f32[1,256,14,14]) {{\n{text}\n}}\n")
    x = np.maximum(normal(1, 256, 14, 14), 0)
    w = next(op for op in module.walk() if op.name == "const").attrs["value"].numpy()
    wide = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    exact = sum(
        np.einsum(
            "kc,nchw->nkhw", w[:, :, i, j].astype(np.float64), wide[:, :, i : i + 14, j : j + 14]
        )
        for i in range(3)
        for j in range(3)
    )
    errors = []
    for form in (Form(4), Form(2), None):
        monkeypatch.setattr(conv, "form_that_pays", lambda *_, form=form: form)
        (found,) = lepton_ir.compile(module, threads=1).run(None, {"x": x})
        errors.append(np.sqrt(np.mean((found - exact) ** 2)))
    assert errors[0] < 2.6 * errors[2]
    assert errors[1] < 2.0 * errors[2]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_residual_block_is_fused_and_pooled(batch, target):
    tail = """  %w2 = const() {value=rand(3)} : f32[32,32,3,3]
  %z = conv(%y, %w2) {pads=[1,1,1,1]}
  %s = add(%z, %x)
  %r = relu(%s)
  %m = max_pool(%r) {kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]}
  %a = average_pool(%r) {kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]}
  %g = global_average_pool(%m)
  return(%m, %a, %g, %r)"""
    text = conv_text((32, 32, 3, 3), "pads=[1,1,1,1]", tail=tail)
    check(text, target, x=normal(batch, 32, 10, 11))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("channels", [24, 32])
def test_squeeze_and_excite_and_concatenation(channels, target):
    tail = f"""  %ax = const() {{value=[2,3]}} : i64[2]
  %g = reduce_mean(%y, %ax)
  %w2 = const() {{value=rand(3)}} : f32[8,{channels},1,1]
  %h = conv(%g, %w2)
  %r = relu(%h)
  %w3 = const() {{value=rand(4)}} : f32[{channels},8,1,1]
  %k = conv(%r, %w3)
  %s = sigmoid(%k)
  %o = mul(%y, %s)
  %c = concat(%o, %y) {{axis=1}}
  %w4 = const() {{value=rand(5)}} : f32[16,{2 * channels},3,3]
  %v = conv(%c, %w4) {{pads=[1,1,1,1]}}
  return(%o, %c, %v)"""
    text = conv_text((channels, channels, 3, 3), "pads=[1,1,1,1]", tail=tail)
    check(text, target, x=normal(2, channels, 10, 10))


TRANSPOSED = [
    ((1, 32, 7, 9), (32, 20, 3, 3), "strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]"),
    ((2, 20, 7, 9), (20, 33, 4, 4), "strides=[2,2], pads=[1,1,1,1]"),
    ((1, 20, 7, 9), (20, 40, 4, 4), "strides=[2,2]"),
    ((1, 20, 7, 9), (20, 17, 2, 2), "strides=[2,2]"),
    ((1, 20, 7, 9), (20, 17, 5, 3), "strides=[3,1], pads=[2,0,1,1]"),
    ((1, 3, 7, 9), (3, 1, 8, 8), "strides=[4,4], pads=[2,2,2,2]"),
    ((1, 20, 7, 9), (20, 17, 3, 3), "strides=[2,2], auto_pad=SAME_LOWER"),
    ((1, 20, 7, 9), (20, 17, 3, 3), "strides=[2,2], output_shape=[14,18]"),
    ((1, 20, 7, 9), (20, 17, 7, 7), "pads=[6,6,6,6]"),
    ((1, 20, 1, 1), (20, 17, 4, 4), ""),
    ((2, 20, 13), (20, 24, 5), "strides=[2], pads=[2,1]"),
    ((1, 20, 13), (20, 24, 16), "strides=[8], pads=[4,4]"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("x", "w", "attrs"), TRANSPOSED)
def test_transposed_convolutions(x, w, attrs, bias, target):
    sizes = ",".join(map(str, w))
    text = f"  %w = const() {{value=rand(1)}} : f32[{sizes}]\n"
    text += f"  %b = const() {{value=rand(2)}} : f32[{w[1]}]\n" if bias else ""
    text += f"  %y = conv_transpose(%x, %w{', %b' if bias else ''}) {{{attrs}}}\n"
    check(text + "  return(%y)", target, x=normal(*x))


@pytest.mark.parametrize("target", TARGETS)
def test_a_transposed_convolution_with_what_follows_it(target):
    text = """  %a = const() {value=rand(1)} : f32[24,20,3,3]
  %b = const() {value=rand(2)} : f32[24]
  %x = conv(%z, %a, %b) {pads=[1,1,1,1]}
  %w = const() {value=rand(3)} : f32[24,20,4,4]
  %v = conv_transpose(%x, %w) {strides=[2,2], pads=[1,1,1,1]}
  %s = add(%v, %r)
  %y = relu(%s)
  %c = const() {value=rand(4)} : f32[8,20,3,3]
  %o = conv(%y, %c) {pads=[1,1,1,1]}
  return(%o, %y)"""
    check(text, target, z=normal(1, 20, 6, 7), r=normal(1, 20, 12, 14))


POOLS = [
    "max_pool(%x) {kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]}",
    "max_pool(%x) {kernel_shape=[2,3], strides=[2,1], dilations=[2,2], ceil_mode=true}",
    "max_pool(%x) {kernel_shape=[2,2], auto_pad=SAME_UPPER}",
    "average_pool(%x) {kernel_shape=[2,3], count_include_pad=true, pads=[1,0,0,2], strides=[2,2]}",
    "average_pool(%x) {kernel_shape=[3,3], pads=[1,1,1,1], ceil_mode=true, strides=[2,2]}",
    "average_pool(%x) {kernel_shape=[4,4], count_include_pad=true, ceil_mode=true, "
    "strides=[3,3], pads=[1,1,1,1]}",
    "global_average_pool(%x)",
    "global_max_pool(%x)",
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("channels", [3, 32, 37])
def test_pools(pool, channels, target):
    x = normal(2, channels, 11, 14) - 5  # all negative: no zero of the padding may win
    check(f"  %y = {pool}\n  return(%y)", target, x=x)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "pool",
    [
        "max_pool(%x) {kernel_shape=[3,3,2], strides=[2,2,1], pads=[1,1,0,1,1,1]}",
        "max_pool(%x) {kernel_shape=[2,2,2], dilations=[2,1,2], ceil_mode=true}",
        "average_pool(%x) {kernel_shape=[3,2,3], pads=[1,0,1,1,1,1], strides=[2,1,2]}",
        "average_pool(%x) {kernel_shape=[2,3,3], count_include_pad=true, ceil_mode=true, "
        "strides=[2,2,2], pads=[1,1,1,1,1,1]}",
        "average_pool(%x) {kernel_shape=[2,2,2], auto_pad=SAME_UPPER}",
    ],
)
def test_pools_over_three_axes(pool, target):
    x = normal(2, 5, 7, 8, 9) - 5
    check(f"  %y = {pool}\n  return(%y)", target, x=x)


def test_a_nan_in_a_window_is_its_maximum():
    x = normal(1, 16, 6, 6)
    x[0, 3, 2, 2] = np.nan
    check("  %y = max_pool(%x) {kernel_shape=[3,3]}\n  return(%y)", "host", x=x)


def test_memory_behind_the_last_channel_never_reaches_a_result():
    # 1/0 and 0*inf fill the lanes behind channel 20 with NaN; later kernels must not read them.
    tail = """  %one = const() {value=1.0} : f32[]
  %inv = div(%one, %y)
  %w2 = const() {value=rand(3)} : f32[20,20,3,3]
  %z = conv(%inv, %w2) {pads=[1,1,1,1]}
  %g = global_average_pool(%z)
  return(%z, %g)"""
    text = conv_text((20, 20, 1, 1), "", tail=tail)
    check(text, "host", rtol=1e-4, x=np.abs(normal(1, 20, 7, 7)) + 3)


def test_images_of_many_sizes_through_one_session():
    text = conv_text((16, 3, 3, 3), "pads=[1,1,1,1], strides=[2,2]")
    module = parse_module(f"func @main(%x: f32[N,3,H,W]) {{\n{text}\n}}\n")
    session = lepton_ir.compile(module, threads=1)
    for n, h, w in ((1, 8, 8), (2, 9, 30), (1, 64, 3), (1, 8, 8)):
        (y,) = session.run(None, {"x": normal(n, 3, h, w)})
        assert y.shape == (n, 16, (h + 1) // 2, (w + 1) // 2)


@pytest.mark.parametrize("columns", range(1, 60))
def test_tiles_cover_a_row_exactly(columns):
    tiles = tile_widths(columns, 14)
    assert sum(w * n for w, n in tiles) == columns
    assert all(0 < w <= 14 for w, n in tiles if n)


def test_between_convolutions_nothing_is_converted():
    tail = """  %w2 = const() {value=rand(3)} : f32[32,32,3,3]
  %r = relu(%y)
  %z = conv(%r, %w2) {pads=[1,1,1,1]}
  %e = exp(%z)
  %w3 = const() {value=rand(3)} : f32[32,32,1,1]
  %v = conv(%e, %w3)
  return(%v)"""
    text = conv_text((32, 32, 3, 3), "pads=[1,1,1,1]", tail=tail)
    module = parse_module(f"func @main(%x: f32[1,32,12,12]) {{\n{text}\n}}\n")
    session = lepton_ir.compile(module, threads=1)
    session.run(None, {"x": normal(1, 32, 12, 12)})
    (segment,) = session.segments()
    kinds = [s.kernel.family for s in segment.steps if isinstance(s, Row)]
    assert kinds.count("to_blocked") == kinds.count("from_blocked") == 1


def test_the_layout_is_only_for_f32() -> None:
    x: Any = np.ones((1, 4, 5, 5), np.float64)
    module = parse_module(
        "func @main(%x: f64[1,4,5,5]) {\n  %w = const() {value=rand(1)} : f64[4,4,3,3]\n"
        "  %y = conv(%x, %w)\n  return(%y)\n}\n"
    )
    (y,) = lepton_ir.compile(module, threads=1).run(None, {"x": x})
    assert y.dtype == np.float64
