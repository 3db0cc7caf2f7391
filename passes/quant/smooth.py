"""SmoothQuant: large channels of activations are made smaller, and rows of weights larger.

``x @ w == (x / s) @ (s * w)`` for positive ``s`` per channel. With ``s = a^f / b^(1 - f)``, where
``a`` is the size of a channel of ``x`` and ``b`` that of its row of ``w``, both fit 8 bits better.
For the result of a layer normalization ``a`` is known without data: ``|bias| + 3 |scale|``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.passes.quant.common import float_constant

if TYPE_CHECKING:
    from lepton_ir.ir import Value

Array = np.ndarray[Any, Any]

DEVIATIONS = 3.0
"""Standard deviations that a normalized value reaches."""

LIMIT = 100.0
"""Largest factor, and one over the smallest."""


def factors(x: Value, share: float) -> Array | None:
    """Return ``s`` for all products that read ``x``, f32; ``None`` where nothing is known.

    Args:
        x: input of products with constant weights.
        share: ``f``, between 0 (nothing moves) and 1.
    """
    size = _normalized_size(x)
    if size is None:
        return None
    row = np.zeros(size.size)
    for user in x.users:
        weight = float_constant(user, 1) if user.name in ("matmul", "gemm") else None
        if weight is None or len(weight.shape) != 2 or user.operands[0] is not x:
            continue
        data = np.abs(weight.numpy())
        top = data.max(0) if user.attrs.get("transB") else data.max(1)
        if top.size != row.size:
            return None
        row = np.maximum(row, top)
    if not (row > 0).any() or not np.isfinite(row).all():
        return None
    size = np.maximum(size, size.max() * 1e-6)
    row = np.maximum(row, row.max() * 1e-6)
    s = size**share / row ** (1 - share)
    s /= np.exp(np.mean(np.log(s)))
    return np.asarray(np.clip(s, 1 / LIMIT, LIMIT), np.float32)


def _normalized_size(x: Value) -> Array | None:
    op = x.op
    if op is None or op.name != "layer_normalization" or x is not op.results[0]:
        return None
    scale = float_constant(op, 1)
    if scale is None or len(scale.shape) != 1:
        return None
    size = DEVIATIONS * np.abs(scale.numpy().astype(np.float64))
    if len(op.operands) > 2 and op.operands[2] is not None:
        bias = float_constant(op, 2)
        if bias is None or bias.shape != scale.shape:
            return None
        size = size + np.abs(bias.numpy())
    return size if size.max(initial=0.0) > 0 and np.isfinite(size).all() else None
