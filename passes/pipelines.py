"""Named pipelines."""

from __future__ import annotations

O1 = "shapes,adapt,channels_first,fold{exact},canonicalize{exact},cse,dce"
"""Exact rewrites on proven facts only: results are bit-identical."""

O2 = (
    "shapes,adapt,channels_first,fold,cse,canonicalize,cse,fuse,layout,fold,canonicalize,cse,"
    "fuse_attention{contrib_only},merge_parallel,fuse_ort,dce,strip{doc=false metadata=false}"
)
"""The default: everything that keeps results within rounding."""

TFLITE = (
    "fuse_tflite,channels_last,layout{deep},fold,canonicalize,cse,"
    "legalize{keep},fuse_products,layout{deep},fold,canonicalize,cse,dce"
)
"""What goes behind O2 for a TFLite file: channels last, and only operations that TFLite has."""

O3 = (
    "shapes,adapt,channels_first,fold,cse,canonicalize,cse,fuse,layout,fold,canonicalize,cse,"
    "fuse_attention,merge_parallel,fuse_ort,dce,strip{doc=false metadata=false}"
)
"""O2, and whole attention blocks as one operation also in ONNX, from opset 23."""
