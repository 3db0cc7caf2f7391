"""Kernel families: each module lowers operations to kernel calls and emits the kernels.

A new family is a new module and one row here; the engine needs no change.
"""

from __future__ import annotations

_FAMILIES = {
    "elementwise": "",
    "gemm": "matmul gemm",
    "views": "identity reshape flatten squeeze unsqueeze transpose expand slice split concat tile"
    " pad depth_to_space",
    "rows": "softmax log_softmax layer_normalization rms_normalization instance_normalization",
    "gather": "gather",
    "reduce": "reduce_sum reduce_mean reduce_max reduce_min reduce_prod reduce_l1 reduce_l2"
    " reduce_sum_square global_average_pool global_max_pool",
    "conv": "conv",
    "pool": "max_pool average_pool",
    "recurrent": "lstm",
    "dynamic_recurrent": "ms_dynamic_quantize_lstm",
    "transposed": "conv_transpose",
    "quads": "",
    "integer_gemm": "matmul_integer",
    "ranges": "dynamic_quantize_linear",
    "pixels": "",
    "integer_conv": "conv_integer",
    "resize": "resize",
    "gated": "gru rnn",
    "volumes": "conv max_pool average_pool",
    "einsum": "einsum",
    "elements": "gather_elements cum_sum",
    "block_sums": "",
    "blockwise": "ms_matmul_nbits",
}
"""Modules, and the operations that they lower; ``elementwise`` has all that are in no other row."""

_PREFIX = "lepton_ir.backends.numba.kernels."

MODULES: tuple[str, ...] = tuple(_PREFIX + name for name in _FAMILIES)
"""Modules that register lowerings and emitters when imported (see :mod:`..lowering`)."""

_LOWERED_BY: dict[str, list[str]] = {}
for _family, _names in _FAMILIES.items():
    for _name in _names.split():
        _LOWERED_BY.setdefault(_name, []).append(_PREFIX + _family)


def lowered_by(name: str) -> list[str]:
    """Return the modules that lower an operation, in the order in which they are imported."""
    return _LOWERED_BY.get(name, [_PREFIX + "elementwise"])
