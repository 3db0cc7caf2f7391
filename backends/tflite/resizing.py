"""Which resizes TFLite's two operators do: over the plane of a channels-last tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dims
from lepton_ir.infer import const_array

if TYPE_CHECKING:
    from lepton_ir.dims import Dim
    from lepton_ir.ir import Op

_FLAGS = {
    ("linear", "asymmetric", ""): (False, False),
    ("linear", "align_corners", ""): (True, False),
    ("linear", "half_pixel", ""): (False, True),
    ("nearest", "asymmetric", "floor"): (False, False),
    ("nearest", "half_pixel", "round_prefer_ceil"): (False, True),
    ("nearest", "align_corners", "round_prefer_ceil"): (True, False),
}
"""``align_corners`` and ``half_pixel_centers`` by mode, coordinates and rounding."""


def _kind(op: Op) -> tuple[str, str, str]:
    mode, way = op.attr("mode"), op.attr("coordinate_transformation_mode")
    x = op.operands[0]
    assert x is not None
    pairs = zip(x.shape or (), op.results[0].shape or (), strict=True)
    large = all(_above_one(new) for old, new in pairs if old != new)
    if way == "pytorch_half_pixel" and large:
        way = "half_pixel"
    return mode, way, op.attr("nearest_mode") if mode == "nearest" else ""


def _above_one(dim: Dim | None) -> bool:
    return dim is not None and dims.prove_ge(dim, 2) is True


def resize_options(op: Op) -> tuple[str, dict[str, Any]]:
    """Return the operator and its options."""
    align, half = _FLAGS.get(_kind(op), (False, False))
    builtin = "RESIZE_BILINEAR" if op.attr("mode") == "linear" else "RESIZE_NEAREST_NEIGHBOR"
    return builtin, {"align_corners": align, "half_pixel_centers": half}


def resized(op: Op) -> str:
    """Return why no operator does this resize; ``""`` when one does."""
    x, y = op.operands[0], op.results[0]
    assert x is not None
    old, new = x.shape or (), y.shape or ()
    if len(old) != 4 or (old[0] is not new[0] and old[0] != new[0]) or old[3] != new[3]:
        return "TFLite resizes the two middle axes of four"
    kind = _kind(op)
    if kind not in _FLAGS:
        return f"no operator resizes like {' '.join(filter(None, kind))}"
    if op.attr("antialias") or op.attr("exclude_outside"):
        return "no operator does so with antialias"
    if op.attr("keep_aspect_ratio_policy") != "stretch":
        return "no operator keeps the aspect ratio"
    return _exact(op)


def fits_plane(op: Op) -> bool:
    """Return whether TFLite does a resize of (N, C, H, W) once the channels are last."""
    x, y = op.operands[0], op.results[0]
    assert x is not None
    old, new = x.shape or (), y.shape or ()
    axes = op.attr("axes")
    if len(old) != 4 or old[:2] != new[:2] or old[2:] == new[2:]:
        return False
    if _kind(op) not in _FLAGS:
        return False
    if axes is not None and {a % 4 for a in axes} - {2, 3}:
        return False
    if op.attr("antialias") or op.attr("exclude_outside"):
        return False
    return op.attr("keep_aspect_ratio_policy") == "stretch" and not _exact(op)


def _exact(op: Op) -> str:
    """Return ``""`` when each scale is the ratio of the sizes, which is what TFLite takes."""
    scales = op.operands[2] if len(op.operands) > 2 else None
    if scales is None or scales.shape == (0,):
        return ""
    known = const_array(scales)
    x, y = op.operands[0], op.results[0]
    assert x is not None
    if known is None:
        return "the scales are not constants"
    if not known.size:
        return ""
    axes = range(4) if op.attr("axes") is None else op.attr("axes")
    for axis, scale in zip(axes, known.reshape(-1).tolist(), strict=True):
        before, after = (x.shape or ())[axis], (y.shape or ())[axis]
        if not isinstance(before, int) or not isinstance(after, int):
            if scale != int(scale):
                return "a scale may not be the ratio of the sizes"
        elif before * scale != after:
            return "a scale is not the ratio of the sizes"
    return ""
