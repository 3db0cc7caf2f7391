"""The op table, one module a family; each definition is the one place about its operation."""

from __future__ import annotations

TABLE: dict[str, str] = {
    name: f"lepton_ir.ops.{name}"
    for name in (
        "core",
        "elementwise",
        "reduce",
        "cast",
        "shape",
        "window",
        "create",
        "indexing",
        "select",
        "linalg",
        "conv",
        "pool",
        "channels_last",
        "norm",
        "softmax",
        "attention",
        "rnn",
        "quant",
        "image",
        "detection",
        "signal",
        "random",
        "control",
        "sequence",
        "loss",
        "contrib",
        "tf_arithmetic",
        "tf_movement",
        "tf_products",
        "tf_misc",
        "tf_recurrent",
    )
}
"""Family name to module, read by :mod:`lepton_ir.plugins` like a third party's table."""


def load_families() -> None:
    """Import the built-in families."""
    from lepton_ir.opdef import families

    families(TABLE.values())


def load_plugins() -> None:
    """Import the families that plugins registered."""
    from lepton_ir import plugins

    for name in plugins.names("ops"):
        if name not in TABLE:
            plugins.load("ops", name)
