"""Rows of resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepton_ir.frontends.torch.lowering import Lowering
from lepton_ir.frontends.torch.table import torch_op
from lepton_ir.ir import Value


def _upsample(mode: str, count: int, exact: bool = False) -> Callable[..., Any]:
    def row(
        b: Lowering,
        self: Value | None = None,
        output_size: Any = None,
        align_corners: bool = False,
        scale_factors: Any = None,
        input: Value | None = None,
        **scales: Any,
    ) -> Any:
        x = self if self is not None else input
        assert x is not None
        how = _coordinates(mode, align_corners, exact)
        given = [v for _, v in sorted(scales.items()) if isinstance(v, float)]
        factors = list(scale_factors) if scale_factors is not None else given
        if len(factors) == count:  # they, and not the sizes, say where samples lie
            wanted = np.asarray([1.0, 1.0, *factors], np.float32)
            return b.resize(x, None, b.const(wanted), None, **how)
        sizes = [b.size_of(x, 0), b.size_of(x, 1), *output_size]
        return b.resize(x, None, None, b.ints(sizes), **how)

    return row


def _coordinates(mode: str, align_corners: bool, exact: bool) -> dict[str, Any]:
    if mode == "nearest":
        if exact:
            return {
                "mode": mode,
                "coordinate_transformation_mode": "half_pixel",
                "nearest_mode": "round_prefer_ceil",
            }
        return {
            "mode": mode,
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
    how = "align_corners" if align_corners else "half_pixel"
    found: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": how}
    if mode == "cubic":
        found["cubic_coeff_a"] = -0.75
    return found


for _n, _linear in ((1, "linear"), (2, "bilinear"), (3, "trilinear")):
    torch_op(f"upsample_nearest{_n}d")(_upsample("nearest", _n))
    torch_op(f"_upsample_nearest_exact{_n}d")(_upsample("nearest", _n, exact=True))
    torch_op(f"upsample_{_linear}{_n}d")(_upsample("linear", _n))
torch_op("upsample_bicubic2d")(_upsample("cubic", 2))

_SAMPLING = ("linear", "nearest", "cubic")
_PADDING = ("zeros", "border", "reflection")


@torch_op("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(
    b: Lowering,
    input: Value,
    grid: Value,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
) -> Any:
    return b.grid_sample(
        input,
        grid,
        mode=_SAMPLING[interpolation_mode],
        padding_mode=_PADDING[padding_mode],
        align_corners=align_corners,
    )


@torch_op("affine_grid_generator")
def affine_grid(b: Lowering, theta: Value, size: Sequence[Any], align_corners: bool) -> Any:
    return b.affine_grid(theta, b.ints(list(size)), align_corners=align_corners)
