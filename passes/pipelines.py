"""Named pipelines."""

from __future__ import annotations

O1 = "shapes,fold{exact},canonicalize{exact},cse,dce"
"""Exact rewrites on proven facts only: results are bit-identical."""

O2 = (
    "shapes,fold,cse,canonicalize,cse,fuse,layout,fold,canonicalize,cse,"
    "fuse_attention{contrib_only},merge_parallel,fuse_ort,dce,strip{doc=false metadata=false}"
)
"""The default: everything that keeps results within rounding."""

TFLITE = "legalize,fold,canonicalize,cse,dce"
"""What goes behind O2 for a TFLite file: only operations that TFLite has are left."""

O3 = (
    "shapes,fold,cse,canonicalize,cse,fuse,layout,fold,canonicalize,cse,"
    "fuse_attention,merge_parallel,fuse_ort,dce,strip{doc=false metadata=false}"
)
"""O2, and whole attention blocks as one operation also in ONNX, from opset 23."""
