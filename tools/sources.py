"""The model a command is given: which frontend reads it, with which options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lepton_ir import api, plugins
from lepton_ir.diagnostics import LeptonError, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.ir import Module
    from lepton_ir.tools.options import Options

_TAKES: dict[str, tuple[str, ...]] = {
    "keep_overridable": ("onnx", "pt2", "saved_model"),
    "signature": ("tflite", "saved_model", "pb", "pbtxt"),
    "custom_layers": ("keras", "h5", "hdf5"),
}
"""Options of frontends, and which have them."""

_OPTION = {
    "keep_overridable": "--keep-overridable",
    "signature": "--signature",
    "custom_layers": "--custom-layer",
}


def format_of(options: Options) -> str:
    """Return the name of the frontend that reads the model.

    Raises:
        LeptonError: ``--frontend`` names none.
    """
    if not options.frontend:
        return api.format_of(options.model)
    known = [n for n in plugins.names("frontends") if not n.startswith("live-")]
    if options.frontend not in known:
        raise LeptonError(
            f"no frontend is called {shorten(options.frontend)}",
            code="option",
            where="--frontend",
            hint=f"there are {', '.join(known)}",
        )
    return options.frontend


def load(options: Options) -> Module:
    """Read the model.

    Raises:
        LeptonError: the model cannot be read, or its frontend has no such option.
    """
    found = format_of(options)
    given: dict[str, Any] = {
        "keep_overridable": options.keep_overridable,
        "signature": options.signature,
        "custom_layers": _custom_layers(options.custom_layers),
    }
    extra = {name: value for name, value in given.items() if value}
    for name in list(extra):
        if found in _TAKES[name]:
            continue
        if name != "keep_overridable":
            raise LeptonError(
                f"is for {' and '.join(_TAKES[name][:1])} models, this is {found}",
                code="option",
                where=_OPTION[name],
            )
        del extra[name]  # inputs of other formats have no defaults
    module = api.load(options.model, format=found, **extra)
    if found not in ("onnx", "lir") and "" not in module.opsets:
        _choose_opset(module)
    return module


def _choose_opset(module: Module) -> None:
    """Set the first opset, from the usual one on, that has all operations of a model.

    Models of other formats have none; what a later one alone has would be refused.
    """
    target: Any = api.target("onnx")
    found = target.lowest_opset(module)
    if found is not None:
        module.opsets[""] = found


def _custom_layers(items: Sequence[str]) -> dict[str, Any]:
    """Return the functions of ``Name=module:function``, the user's own code.

    Raises:
        LeptonError: one cannot be imported.
    """
    import importlib
    import sys

    found: dict[str, Any] = {}
    for item in items:
        name, _, place = item.partition("=")
        module, _, function = place.partition(":")
        if not name or not module or not function:
            raise LeptonError(
                f"expected Name=module:function, got {shorten(item)}",
                code="option",
                where="--custom-layer",
            )
        folder = os.getcwd()
        sys.path.insert(0, folder)
        try:
            found[name] = getattr(importlib.import_module(module), function)
        except Exception as error:
            raise LeptonError(
                f"cannot import {shorten(place)}: {shorten(str(error))}",
                code="option",
                where="--custom-layer",
            ) from error
        finally:
            sys.path.remove(folder)
    return found
