"""The op table, one module a family; modules whose name starts with ``_`` hold what families share."""

from __future__ import annotations

import pkgutil

from lepton_ir import plugins

# Family -> the module that defines its ops when imported. Read from the folder: a new family is a new file.
TABLE: dict[str, str] = {
    info.name: f"lepton_ir.ops.{info.name}"
    for info in pkgutil.iter_modules(__path__)
    if not info.name.startswith("_")
}


def load_families() -> None:
    """Import every family, Lepton's own and those of plugins; their ops register themselves.

    Raises:
        PluginError: if a plugin's family cannot be imported.
    """
    for family in plugins.names("ops"):
        plugins.load("ops", family)
