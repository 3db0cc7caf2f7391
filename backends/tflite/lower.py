"""Lowerings: operations that TFLite lacks, or has in another form, as others that it has."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from lepton_ir.backends.tflite import (
    lower_attention,
    lower_index,
    lower_loop,
    lower_math,
    lower_nn,
    lower_quant,
    lower_rnn,
    lower_sample,
    lower_shape,
    lower_tensor,
)
from lepton_ir.backends.tflite.table import rows
from lepton_ir.backends.tflite.widen import ARITHMETIC, MOVEMENT, widened
from lepton_ir.opdef import lookup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@functools.cache
def lowerings() -> Mapping[str, Callable[[Any, Any], Any]]:
    """Return the lowering of each operation that has one."""
    own = {
        **lower_math.LOWERINGS,
        **lower_nn.LOWERINGS,
        **lower_shape.LOWERINGS,
        **lower_index.LOWERINGS,
        **lower_tensor.LOWERINGS,
        **lower_loop.LOWERINGS,
        **lower_rnn.LOWERINGS,
        **lower_quant.LOWERINGS,
        **lower_sample.LOWERINGS,
        **lower_attention.LOWERINGS,
    }
    wide = {
        n: widened(rows(), n, own.get(n) or _table(n))
        for n in (ARITHMETIC | MOVEMENT) & rows().keys()
    }
    return own | wide


def _table(name: str) -> Callable[[Any, Any], Any] | None:
    """Return the op table's own decomposition."""
    definition = lookup(name)
    return None if definition is None else definition.decompose
