"""Loop nests over strided tensors: broadcasting, and merging of dims that are walked as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.plan import Tensor


def broadcast(t: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides with which ``t`` is read for every index of ``shape``."""
    missing = len(shape) - len(t.shape)
    strides = [
        0 if size == 1 and full != 1 else stride
        for size, stride, full in zip(t.shape, t.strides, shape[missing:], strict=True)
    ]
    return (0,) * missing + tuple(strides)


def collapse(
    shape: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[list[int], list[list[int]]]:
    """Drop dims of size 1 and merge neighbours that every tensor walks as one.

    Args:
        shape: sizes of the loops.
        strides: strides of each tensor.

    Returns:
        Sizes, and strides of each tensor; at least one dim.
    """
    sizes: list[int] = []
    kept: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        joins = sizes and all(k[-1] == s[axis] * size for k, s in zip(kept, strides, strict=True))
        if joins:
            sizes[-1] *= size
            for k, s in zip(kept, strides, strict=True):
                k[-1] = s[axis]
        else:
            sizes.append(size)
            for k, s in zip(kept, strides, strict=True):
                k.append(s[axis])
    if not sizes:
        return [1], [[1] for _ in strides]
    return sizes, kept
