"""Named pipelines."""

from __future__ import annotations

O1 = "shapes,fold{exact},canonicalize{exact},cse,dce"
"""Exact rewrites on proven facts only: results are bit-identical."""

O2 = "shapes,fold,canonicalize,cse,fuse,fold,canonicalize,cse,dce"
"""The default: everything that keeps results within rounding."""
