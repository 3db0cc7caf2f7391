"""Resize against the reference interpreter: blocked and plain, every mode."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_ir
from lepton_ir.interp import run_list
from lepton_ir.text.parse import parse_module
from tests.test_numba_kernels import TARGETS, check, normal


def resize_text(attrs: str, scales: str = "", sizes: str = "") -> str:
    """Return a resize with one of scales and sizes."""
    count = (scales or sizes).count(",") + 1
    kind = f"f32[{count}]" if scales else f"i64[{count}]"
    given = "%none, %s" if scales else "%none, %none, %s"
    return (
        "  %none = const() {value=[]} : f32[0]\n"
        f"  %s = const() {{value=[{scales or sizes}]}} : {kind}\n"
        f"  %y = resize(%x, {given}) {{{attrs}}}\n"
    )


MODES = [
    'mode="nearest"',
    'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"',
    'mode="nearest", nearest_mode="round_prefer_ceil"',
    'mode="linear"',
    'mode="linear", coordinate_transformation_mode="align_corners"',
    'mode="linear", coordinate_transformation_mode="pytorch_half_pixel"',
    'mode="linear", antialias=true',
    'mode="cubic"',
    'mode="cubic", cubic_coeff_a=-0.5, exclude_outside=true',
    'mode="cubic", antialias=true, coordinate_transformation_mode="half_pixel_symmetric"',
]
SIZES = [("1.0, 1.0, 2.0, 2.0", ""), ("1.0,1.0,0.6,1.7", ""), ("", "2,37,1,23"), ("", "2,37,11,5")]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("scales", "sizes"), SIZES)
def test_images(scales, sizes, mode, target):
    text = resize_text(mode, scales, sizes)
    check(text + "  return(%y)", target, x=normal(2, 37, 7, 9))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("scales", "sizes"), SIZES)
def test_between_convolutions(scales, sizes, mode, target):
    head = "  %w = const() {value=rand(1)} : f32[37,37,1,1]\n  %x = conv(%z, %w)\n"
    tail = "  %v = const() {value=rand(2)} : f32[8,37,3,3]\n"
    tail += "  %c = conv(%y, %v) {pads=[1,1,1,1]}\n  return(%c, %y)"
    check(head + resize_text(mode, scales, sizes) + tail, target, z=normal(2, 37, 7, 9))


@pytest.mark.parametrize("mode", MODES)
def test_one_axis_of_rows_and_channels_last(mode):
    check(resize_text(mode, "1.0,1.0,2.5") + "  return(%y)", "host", x=normal(2, 20, 13))
    check(resize_text(mode, "1.0,3.0,1.5,1.0") + "  return(%y)", "host", x=normal(1, 6, 9, 3))
    check(
        resize_text(mode, "2.0,2.0,2.0,2.0,0.5") + "  return(%y)", "host", x=normal(1, 2, 3, 4, 5)
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.float16, np.float64])
def test_the_nearest_element_of_any_type(dtype):
    x = (normal(2, 3, 5, 7) * 10).astype(dtype)
    name = {"int8": "i8", "uint8": "u8", "int64": "i64", "float16": "f16", "float64": "f64"}
    text = resize_text('mode="nearest"', "1.0,1.0,2.0,1.5")
    kind = f"{name[x.dtype.name]}[2,3,5,7]"
    module = parse_module(f"func @main(%x: {kind}) {{\n{text}  return(%y)\n}}\n")
    (found,) = lepton_ir.compile(module, threads=1).run(None, {"x": x})
    np.testing.assert_array_equal(found, run_list(module, {"x": x})[0])


def test_a_nan_stays_where_the_meaning_has_it():
    x = normal(1, 32, 6, 6)
    x[0, 5, 2, 3] = np.nan
    x[0, 7, 5, 5] = np.inf
    for mode in MODES:
        check(resize_text(mode, "1.0,1.0,2.0,2.0") + "  return(%y)", "host", x=x)
