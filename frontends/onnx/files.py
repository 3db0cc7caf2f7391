"""Reading the model file: what it is, whether it may be read, and the protobuf message in it."""

from __future__ import annotations

import os
import stat

import onnx
from google.protobuf.message import DecodeError

from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten
from lepton_ir.frontends.onnx.ranges import Range, without_weights
from lepton_ir.tensors import DataFile

MAX_BYTES = 2 << 30
"""A protobuf message may not be larger; bigger models keep their weights in another file."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"PK\x03\x04", "a zip archive (a .keras, .pt2, .pt or .npz file, perhaps)"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (0, b"BZh", "a bzip2 archive; unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive; unpack it first"),
    (0, b"\x89HDF", "an HDF5 file (Keras weights, perhaps)"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x7fELF", "an ELF program"),
    (0, b"\x80\x02", "a Python pickle (a PyTorch checkpoint, perhaps)"),
    (0, b"\x80\x03", "a Python pickle"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"\x80\x05", "a Python pickle"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file itself (git lfs pull)"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in onnxruntime's ORT format; convert it back to ONNX"),
    (9, b'"__metadata__"', "a safetensors file"),
    (8, b'{"', "a safetensors file"),
)


def read_file(path: str) -> bytes:
    """Return the bytes of a regular file of acceptable size.

    Raises:
        InvalidModelError: missing, not a regular file, empty, unreadable.
        UnsupportedError: larger than a protobuf message may be.
    """
    shown = shorten(path, 200)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise InvalidModelError("this is a folder, not a model file", where=shown)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModelError("this is not a regular file", where=shown)
        if status.st_size > MAX_BYTES:
            raise UnsupportedError(
                f"the file has {status.st_size} bytes; an ONNX file has at most 2 GiB",
                where=shown,
                hint="save the model with external data",
            )
        with open(path, "rb") as file:
            data = file.read(status.st_size)  # a larger number would be allocated at once
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidModelError(f"cannot read the file: {reason}", where=shown) from error
    if not data:
        raise InvalidModelError("the file is empty", where=shown)
    return data


def read_without_weights(
    path: str, where: str
) -> tuple[onnx.ModelProto, dict[int, Range]] | tuple[None, None]:
    """Return the message of a file, its large weights left there; ``None`` to read all of it."""
    if not os.path.isfile(path) or os.path.getsize(path) > MAX_BYTES:
        return None, None
    try:
        found = without_weights(DataFile(path))
    except OSError:
        found = None
    return (None, None) if found is None else (parse_model(found[0], where), found[1])


def parse_model(data: bytes, where: str) -> onnx.ModelProto:
    """Return the message in ``data``.

    Raises:
        InvalidModelError: not an ONNX model; says what else it looks like.
    """
    other = describe_content(data)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError) as error:
        hint = "the file is truncated, damaged, or nested too deeply for protobuf"
        raise InvalidModelError(
            f"this is {other}, not an ONNX model" if other else "not a valid ONNX file (protobuf)",
            where=where,
            code="onnx-parse",
            hint="" if other else hint,
        ) from error
    if not model.HasField("graph"):
        raise InvalidModelError(
            f"this is {other}, not an ONNX model" if other else "the file has no graph",
            where=where,
            code="onnx-parse",
            hint="" if other else "is it an ONNX model?",
        )
    return model


def describe_content(data: bytes) -> str | None:
    """Return what the first bytes look like if that is not ONNX, else ``None``."""
    for offset, magic, what in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return what
    head = data[:256]
    if head and all(32 <= b < 127 or b in b"\t\r\n" for b in head):
        return "a text file"
    return None
