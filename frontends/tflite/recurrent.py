"""Rows of recurrent kernels, which keep state in variable tensors."""

from __future__ import annotations
