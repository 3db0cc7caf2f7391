"""Files around a run: where the result goes, scratch folders, and what may not be overwritten."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from lepton_ir import api
from lepton_ir.diagnostics import LeptonError, shorten
from lepton_ir.tensors import ExternalTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.ir import Module
    from lepton_ir.tools.options import Options

EMITTED_SUFFIX = {"onnx": ".onnx", "tflite": ".tflite", "lir": ".lir"}


def default_output(model: str, emit: str) -> str:
    """Return ``model.opt.onnx`` for ``model.onnx``."""
    base = os.path.splitext(model.rstrip("/"))[0]
    return f"{base}.opt{EMITTED_SUFFIX[emit]}"


def output_path(options: Options) -> str | None:
    """Return where the result goes.

    Raises:
        LeptonError: the place cannot be written, or is the model itself.
    """
    if options.emit == "none":
        return None
    if options.output == "":
        raise LeptonError("the output has no name", code="output", where="-o")
    path = options.output or default_output(options.model, options.emit)
    check_output(path, options.model)
    return path


def check_output(path: str, model: str) -> None:
    """Refuse a place where no result can go.

    Raises:
        LeptonError: the place cannot be written, or is the model itself.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise LeptonError(
            "the folder of the output does not exist", code="output", where=shorten(path, 200)
        )
    if os.path.isdir(path):
        raise LeptonError(
            "the output is a folder",
            code="output",
            where=shorten(path, 200),
            hint="give a file name",
        )
    if same_file(path, model):
        raise LeptonError(
            "the output would overwrite the model",
            code="output",
            where=shorten(path, 200),
            hint="give another name with -o",
        )
    if os.path.lexists(path) and not os.path.isfile(path):
        raise LeptonError("the output is no regular file", code="output", where=shorten(path, 200))


def same_file(path: str, other: str) -> bool:
    """Return whether both paths are one file."""
    with contextlib.suppress(OSError, ValueError):
        return os.path.samefile(path, other)
    return False


@contextlib.contextmanager
def scratch_folder(path: str | None) -> Iterator[str]:
    """Yield a folder on the file system of ``path``, removed afterwards whatever happens."""
    parent = None if path is None else os.path.dirname(os.path.abspath(path))
    try:
        folder = tempfile.mkdtemp(prefix=".lepton-", dir=parent)
    except OSError as error:
        raise LeptonError(
            f"cannot write there: {error.strerror}",
            code="output",
            where=parent or "",
            hint="give a writable place with -o",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_place(folder: str, path: str, sources: list[str]) -> int:
    """Move what was written into place, the model last; return its size in bytes.

    Raises:
        LeptonError: a file of the result has the name of one of ``sources``; nothing was moved.
    """
    target = os.path.dirname(os.path.abspath(path))
    names = sorted(os.listdir(folder), key=lambda n: n == os.path.basename(path))
    for name in names:
        protect(os.path.join(target, name), sources)
    total = 0
    for name in names:
        total += os.path.getsize(os.path.join(folder, name))
        os.replace(os.path.join(folder, name), os.path.join(target, name))
    return total


def model_bytes(model: str) -> int:
    """Return the bytes of a model file and, before it is read, of what may be its external data."""
    folder, name = os.path.split(os.path.abspath(model))
    stem = os.path.splitext(name)[0]
    with contextlib.suppress(OSError, ValueError), os.scandir(folder) as entries:
        beside = [e for e in entries if e.name.startswith(stem) and e.is_file()]
        return sum(e.stat().st_size for e in beside)
    return 0


def data_files(module: Module) -> list[str]:
    """Return the files that the constants of a module lie in."""
    data = {
        op.attrs["value"].path
        for op in module.walk()
        if op.name == "const" and isinstance(op.attrs.get("value"), ExternalTensor)
    }
    return sorted(data)


def protect(path: str, sources: list[str]) -> None:
    """Refuse an output that would overwrite what the model is read from.

    Raises:
        LeptonError: it would.
    """
    if any(same_file(path, source) for source in sources):
        raise LeptonError(
            "the output would overwrite the model or its data",
            code="output",
            where=shorten(path, 200),
            hint="give another name with -o",
        )


def write_model(module: Module, path: str, model: str, source: Module) -> int:
    """Write ``module`` to ``path``, whole or not at all; return the bytes written.

    Args:
        module: what to write; ``.lir`` writes text, anything else ONNX.
        path: the file.
        model: the file it was made from, which stays.
        source: that file's module, whose data files stay.

    Raises:
        LeptonError: the place cannot be written, or holds the model or its data.
    """
    check_output(path, model)
    with scratch_folder(path) as folder:
        api.save(module, os.path.join(folder, os.path.basename(path)))
        return move_into_place(folder, path, [model, *data_files(source)])


def files_size(model: str, module: Module) -> int:
    """Return the bytes of a model, which may be a folder, and of the external data it uses."""
    with contextlib.suppress(OSError):
        if os.path.isdir(model):
            inner = (os.path.join(place, n) for place, _, names in os.walk(model) for n in names)
            return sum(map(os.path.getsize, inner))
        return sum(os.path.getsize(p) for p in (model, *data_files(module)))
    return 0
