"""The Python API: load a model, run passes over it, save it.

>>> import lepton_ir
>>> module = lepton_ir.load("model.onnx")                       # doctest: +SKIP
>>> report = lepton_ir.run_passes(module, "fuse,quant")         # doctest: +SKIP
>>> lepton_ir.save(module, "model.opt.onnx")                    # doctest: +SKIP
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_ir import plugins
from lepton_ir.diagnostics import LeptonError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module
    from lepton_ir.pipeline import Instrument, PassRecord, Pipeline
    from lepton_ir.target import Target

DEFAULT_FORMAT = "onnx"
TEXT_SUFFIX = ".lir"

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (4, b"TFL3", "tflite"),
    (0, b"\x89HDF\r\n\x1a\n", "h5"),
)
_SAVED_MODEL = b"\x08\x01\x12"
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Report:
    """What a run of a pipeline did.

    Attributes:
        pipeline: text of the pipeline that ran, implied passes included.
        records: one record per pass.
        context: remarks, rewrites and statistics of the run.
    """

    pipeline: str
    records: list[PassRecord]
    context: PassContext

    @property
    def changed(self) -> bool:
        """Whether any pass changed the module."""
        return any(r.changed for r in self.records)


def format_of(path: str) -> str:
    """Return the name of the frontend for a file: by its suffix, else by its first bytes.

    Files that say nothing about themselves are taken for ONNX, whose reader says what they are.
    """
    known = plugins.names("frontends")
    suffix = os.path.splitext(path)[1].lstrip(".").lower()
    if suffix in known and suffix != "pb":  # ONNX files have this suffix as well
        return suffix
    if os.path.isdir(path):
        return "saved_model"
    if os.path.isfile(path):
        try:
            with open(path, "rb") as file:
                head = file.read(16)
        except OSError:
            return DEFAULT_FORMAT
        return _zip_format(path) if head.startswith(_ZIP) else _format_of_bytes(head)
    return DEFAULT_FORMAT


def _zip_format(path: str) -> str:
    """Return the format of a zip archive, by the names in it."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            keras = "config.json" in archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        keras = False
    return "keras" if keras else "pt2"


def _format_of_bytes(head: bytes) -> str:
    known = plugins.names("frontends")
    if "pb" in known and (head.startswith(_SAVED_MODEL) or _is_graph(head)):
        return "pb"
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic and name in known:
            return name
    return DEFAULT_FORMAT


def _is_graph(head: bytes) -> bool:
    """Return whether bytes begin with a node of TensorFlow: a length, and its name."""
    if head[:1] != b"\n":
        return False
    end = next((i for i, byte in enumerate(head[1:], 1) if byte < 128), len(head)) + 1
    if head[end : end + 1] != b"\n":
        return False
    size = head[end + 1] if len(head) > end + 1 else 0
    name, rest = head[end + 2 : end + 2 + size], head[end + 2 + size :]
    return bool(size) and all(32 < c < 127 for c in name) and rest[:1] in (b"", b"\x12")


def load(path: str | os.PathLike[str] | bytes, *, format: str = "", **options: Any) -> Module:
    """Read a model.

    Args:
        path: a file, or the bytes of one.
        format: name of a frontend; found out when empty. ``.lir`` files are Lepton's own text.
        options: options of the frontend, such as ``keep_overridable`` for ONNX.

    Raises:
        InvalidModelError: the file is malformed.
        UnsupportedError: the file is valid, but this version cannot read it.
    """
    if not isinstance(path, bytes):
        path = os.fspath(path)
        if not format and path.endswith(TEXT_SUFFIX):
            return _load_text(path)
    name = format or (_format_of_bytes(path[:16]) if isinstance(path, bytes) else format_of(path))
    reader: Any = plugins.load("frontends", name)
    module: Module = reader(path, **options)
    return module


def from_torch(
    module: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    **options: Any,
) -> Module:
    """Return the module of a live ``torch.nn.Module``, by way of ``torch.export``.

    Args:
        module: in evaluation mode; or a program that ``torch.export.export`` returned.
        args: example operands, as the module is called.
        kwargs: those by name.
        dynamic_shapes: which sizes may vary, as for ``torch.export.export``.
        options: of the reader of ``.pt2`` archives.

    Raises:
        LeptonError: torch is not installed.
        UnsupportedError: torch cannot export the module, or it uses an operator without a row.
    """
    export: Any = plugins.load("frontends", "live-torch")
    found: Module = export(module, args, kwargs, dynamic_shapes, **options)
    return found


def _load_text(path: str) -> Module:
    from lepton_ir.text.files import read_lir

    return read_lir(path)


def target(name: str) -> Target:
    """Return the target of a backend.

    Raises:
        PluginError: there is none of this name.
    """
    found: Any = plugins.load("backends", name)
    return found  # type: ignore[no-any-return]


def save(module: Module, path: str | os.PathLike[str], *, format: str = "", **options: Any) -> None:
    """Write a module; the file appears whole or not at all.

    Args:
        module: what to write.
        path: the file; ``.lir`` writes Lepton's text, with large constants beside it.
        format: name of a backend; by default that of the suffix, ``onnx`` when there is none.
        options: options of the backend, such as ``opset`` for ONNX.

    Raises:
        UnsupportedError: the backend cannot write an operation; names it and says why.
    """
    path = os.fspath(path)
    if not format and path.endswith(TEXT_SUFFIX):
        _save_text(module, path)
        return
    suffix = os.path.splitext(path)[1].lstrip(".").lower()
    name = format or (suffix if suffix in plugins.names("backends") else DEFAULT_FORMAT)
    backend: Any = plugins.load("backends", name)
    if not hasattr(backend, "save"):
        raise LeptonError(f"backend {name} writes no files", code="save")
    backend.save(module, path, **options)


def compile(
    model: Module | str | os.PathLike[str] | bytes,
    target: str = "host",
    threads: int | None = None,
    *,
    passes: str = "O2,integers",
    precision: str = "standard",
    backend: str = "numba",
) -> Any:
    """Make a model ready to run on this machine; return a session.

    The session has onnxruntime's habits: ``run(output_names, feeds)``, ``get_inputs()``,
    ``get_outputs()``.

    Args:
        model: a module (left as it is), a file or the bytes of one.
        target: the machine: ``host``, or a level such as ``generic`` or ``x86-64-v3``.
        threads: threads that run kernels; all cores by default.
        passes: pipeline that runs first, ``""`` for none. Without ``integers`` quantized models are
            computed as they say, in floats.
        precision: ``standard``: rounding errors like those of plain sums; ``fast``: also algorithms
            that round two to five times as much; ``high``: plain sums only.
        backend: what runs the model.

    Raises:
        LeptonError: no target or precision has this name.
        UnsupportedError: the backend cannot run an operation; names it and says why.
    """
    chosen: Any = plugins.load("backends", backend)
    if not hasattr(chosen, "compile"):
        raise LeptonError(f"backend {backend} runs no models", code="compile")
    return chosen.compile(model, target=target, threads=threads, passes=passes, precision=precision)


def _save_text(module: Module, path: str) -> None:
    from lepton_ir.text.files import write_lir

    write_lir(module, path)


def run_passes(
    module: Module,
    pipeline: str | Pipeline,
    *,
    target: str | Target | None = DEFAULT_FORMAT,
    instruments: Sequence[Instrument] = (),
    **options: Any,
) -> Report:
    """Run a pipeline over a module, in place.

    Args:
        module: what to rewrite.
        pipeline: pipeline text such as ``"fuse,quant"``, or a parsed pipeline. What its passes
            need before and after them is put in.
        target: what the result will run on, a backend or its name; ``None`` for anything.
        instruments: watch the run.
        options: fields of :class:`~lepton_ir.context.PassContext`, such as ``exact``.

    Raises:
        PipelineError: the pipeline text cannot be parsed.
    """
    from lepton_ir.context import PassContext
    from lepton_ir.pipeline import PassManager, Pipeline

    parsed = Pipeline.parse(pipeline) if isinstance(pipeline, str) else pipeline
    parsed = parsed.with_implied()
    chosen: Any = plugins.load("backends", target) if isinstance(target, str) else target
    ctx = PassContext(target=chosen, **options)
    records = PassManager(ctx, instruments).run(parsed, module)
    return Report(str(parsed), records, ctx)
