"""Named pipelines."""

from __future__ import annotations

O1 = "shapes,fold{exact},canonicalize{exact},cse,dce"
"""Exact rewrites on proven facts only: results are bit-identical."""

O2 = "shapes,fold,canonicalize,cse,fuse,layout,fold,canonicalize,cse,fuse_ort,merge_parallel,dce"
"""The default: everything that keeps results within rounding."""

O3 = (
    "shapes,fold,canonicalize,cse,fuse,layout,fold,canonicalize,cse,"
    "fuse_attention,fuse_ort,merge_parallel,dce"
)
"""O2, and whole attention blocks as one operation where the target has it."""
