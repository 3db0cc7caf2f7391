"""Lowerings: operations that TFLite lacks, or has in another form, as others that it has."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from lepton_ir.backends.tflite import lower_math, lower_nn, lower_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@functools.cache
def lowerings() -> Mapping[str, Callable[[Any, Any], Any]]:
    """Return the lowering of each operation that has one."""
    return {**lower_math.LOWERINGS, **lower_nn.LOWERINGS, **lower_shape.LOWERINGS}
