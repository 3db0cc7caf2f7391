"""What TFLite can be given: the target ``tflite``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.backends.tflite.lower import lowerings
from lepton_ir.backends.tflite.table import STRUCTURE, reason_against, rows

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from lepton_ir.ir import Module, Op


_LAYERS = ("lstm", "gru", "rnn")


class TfliteTarget:
    """TFLite files for LiteRT's builtin operators."""

    name = "tflite"
    families = ("lepton_ir.ops.tf_",)

    @property
    def lowerings(self) -> Mapping[str, Callable[[Any, Op], Any]]:
        """Return what takes operations apart into those that the target has, by name."""
        return lowerings()

    def legal(self, op: Op) -> bool | str:
        """Return ``True``, or the reason why ``op`` cannot be written as one operator."""
        return reason_against(op) or True

    def has(self, name: str, module: Module, attrs: dict[str, Any]) -> bool:
        """Return whether an operation called ``name`` has an operator, or a loop of its own.

        Recurrent layers become loops that state their lengths, which loops of others may not.
        """
        return name in rows() or name in STRUCTURE or name in _LAYERS

    def quant(self, key: str) -> Any:
        """Return a preference for quantization, ``None`` if there is none.

        Activations are i8, whole graphs are computed in integers, and some kernels give their
        results parameters of their own.
        """
        if key == "fixed":
            from lepton_ir.backends.tflite.integers import fixed_operations

            return fixed_operations()
        return _QUANT.get(key)

    def save(self, module: Module, path: str | os.PathLike[str], **options: Any) -> None:
        """Write ``module`` as a TFLite file."""
        from lepton_ir.backends.tflite.writer import save

        save(module, path, **options)


_QUANT: dict[str, Any] = {
    "activation_dtype": dtypes.I8,
    "weight_dtype": dtypes.I8,
    "weight_symmetric": True,
    "per_channel": True,
    "format": "qdq",
    "whole": True,
}

TFLITE = TfliteTarget()
