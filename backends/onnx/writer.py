"""ONNX out: `save` writes a file that appears whole or not at all, large weights streamed."""

from __future__ import annotations

import errno
import os
from typing import IO, TYPE_CHECKING

from onnx import TensorProto

from lepton_ir import dtypes
from lepton_ir.backends.onnx.emit import Emitter
from lepton_ir.diagnostics import LeptonError, UnsupportedError, shorten
from lepton_ir.frontends.onnx.table_values import fill_tensor
from lepton_ir.infer import describe
from lepton_ir.ir import Module
from lepton_ir.tensors import CHUNK, ExternalTensor, Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

Payload = tuple[TensorProto, Tensor, bool]
"""The header of a constant, its data, and whether the header stands in a subgraph already."""

INLINE_BYTES = 1024
"""Payloads up to this size always stay in the model file."""

MAX_MODEL_BYTES = int(1.9 * (1 << 30))
"""Models whose file would be larger get external data by themselves (protobuf ends at 2 GiB)."""

MAX_SUBGRAPHS = 31
"""Protobuf reads messages of at most 100 levels; a subgraph takes three, a type in it six."""

_ALIGN_SMALL, _ALIGN_LARGE = 64, 4096
_LARGE = 1 << 20

_GRAPH_FIELD, _INITIALIZER_FIELD, _RAW_DATA_FIELD = 7, 5, 9


class WriteError(LeptonError):
    """The output cannot be written."""


def to_proto(module: Module, opset: int | None = None) -> ModelProto:
    """Return the module as a message in memory, all weights inside.

    Args:
        module: what to write.
        opset: opset of the default domain; by default that of the module.

    Raises:
        UnsupportedError: an operation cannot be written in this opset; names it and says why.
    """
    return Emitter(module, opset).model()


def save(module: Module, path: str | os.PathLike[str], *, opset: int | None = None) -> None:
    """Write the module as an ONNX file; the file appears whole or not at all.

    Weights go to ``<path>.data`` beside it when the source had external data or the file would
    exceed what protobuf allows; they are copied in ranges, never held as a whole.

    Raises:
        UnsupportedError: an operation cannot be written in this opset, or the data file would
            overwrite the source's.
        WriteError: the file cannot be written.
    """
    target = os.path.abspath(os.fspath(path))
    _check_nesting(module)
    payloads: list[Payload] = []
    proto = Emitter(module, opset, lambda *payload: payloads.append(payload)).model()
    if os.path.exists(target) and not os.path.isfile(target):
        raise WriteError("the output is not a regular file", where=shorten(target, 200))
    external = any(isinstance(t, ExternalTensor) for _, t, _ in payloads)
    total = proto.ByteSize() + sum(t.nbytes for _, t, _ in payloads)
    try:
        if external or total > MAX_MODEL_BYTES:
            _save_external(proto, payloads, target)
        else:
            with _Replacement(target) as out:
                _write_model(proto, payloads, out.file)
                out.commit()
    except OSError as error:
        raise WriteError(
            f"cannot write: {error.strerror or error}", where=shorten(target, 200), code="write"
        ) from error


def _check_nesting(module: Module) -> None:
    for op in module.walk():
        if op.regions:
            depth, outer = 1, op.parent
            while outer is not None:
                depth, outer = depth + 1, outer.parent
            if depth > MAX_SUBGRAPHS:
                raise UnsupportedError(
                    f"subgraphs are nested deeper than {MAX_SUBGRAPHS} levels, which no ONNX file "
                    "can hold",
                    code="onnx-nesting",
                    where=describe(op),
                )


class _Replacement:
    """A file written under another name in the same folder, put in place at the end."""

    def __init__(self, target: str) -> None:
        self.target = target
        folder, name = os.path.split(target)
        self._temporary = os.path.join(folder, f".{name[:100]}.{os.getpid()}.tmp")
        self.file: IO[bytes]

    def __enter__(self) -> _Replacement:
        self.file = open(self._temporary, "wb")
        return self

    def commit(self) -> None:
        """Put the file in place."""
        self.file.close()
        os.replace(self._temporary, self.target)

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if os.path.exists(self._temporary):
            os.unlink(self._temporary)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, length: int) -> bytes:
    """Return the head of a length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(length)


def _write_model(proto: ModelProto, payloads: list[Payload], file: IO[bytes]) -> None:
    """Write the wire form, the initializers of the main graph streamed into it."""
    heads: list[tuple[bytes, Tensor | None]] = []
    length = 0
    for header, tensor, nested in payloads:
        if nested:
            _fill(header, tensor)
        elif tensor.dtype is dtypes.STRING or tensor.nbytes <= INLINE_BYTES:
            _fill(header, tensor)
            body = header.SerializeToString(deterministic=True)
            head = _field(_INITIALIZER_FIELD, len(body)) + body
            heads.append((head, None))
            length += len(head)
        else:
            body = header.SerializeToString(deterministic=True)
            raw = _field(_RAW_DATA_FIELD, tensor.nbytes)
            size = len(body) + len(raw) + tensor.nbytes
            head = _field(_INITIALIZER_FIELD, size) + body + raw
            heads.append((head, tensor))
            length += len(head) + tensor.nbytes
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    file.write(proto.SerializeToString(deterministic=True))
    file.write(_field(_GRAPH_FIELD, len(graph) + length))
    file.write(graph)
    for head, streamed in heads:
        file.write(head)
        if streamed is not None:
            copy_payload(streamed, file)


def _fill(header: TensorProto, tensor: Tensor) -> None:
    data = TensorProto()
    fill_tensor(tensor, data)
    if data.string_data:
        header.string_data.extend(data.string_data)
    elif tensor.dtype is not dtypes.STRING:
        header.raw_data = data.raw_data


def _save_external(proto: ModelProto, payloads: list[Payload], target: str) -> None:
    data_path = target + ".data"
    real = os.path.realpath(data_path)
    for _, tensor, _ in payloads:
        if isinstance(tensor, ExternalTensor) and os.path.realpath(tensor.path) == real:
            raise UnsupportedError(
                "the weights would overwrite the source's own data file",
                where=shorten(data_path, 200),
                hint="choose another output name",
            )
    with _Replacement(data_path) as data, _Replacement(target) as out:
        placed: dict[object, int] = {}
        for header, tensor, nested in payloads:
            if tensor.dtype is dtypes.STRING or tensor.nbytes <= INLINE_BYTES:
                _fill(header, tensor)
            else:
                offset = _place(tensor, data.file, placed)
                _refer(header, os.path.basename(data_path), offset, tensor.nbytes)
            if not nested:
                proto.graph.initializer.append(header)
        out.file.write(proto.SerializeToString(deterministic=True))
        out.file.close()
        data.commit()
        out.commit()


def _place(tensor: Tensor, file: IO[bytes], placed: dict[object, int]) -> int:
    """Write a payload to the data file, once; return its offset."""
    key: object = id(tensor)
    if isinstance(tensor, ExternalTensor):
        key = (tensor.path, tensor.offset, tensor.nbytes)
    if key not in placed:
        align = _ALIGN_LARGE if tensor.nbytes >= _LARGE else _ALIGN_SMALL
        offset = -(-file.tell() // align) * align
        file.write(b"\0" * (offset - file.tell()))
        copy_payload(tensor, file)
        placed[key] = offset
    return placed[key]


def _refer(header: TensorProto, location: str, offset: int, length: int) -> None:
    header.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = header.external_data.add()
        entry.key, entry.value = key, str(value)


def copy_payload(tensor: Tensor, file: IO[bytes]) -> None:
    """Append the bytes of a payload to a file, a piece at a time."""
    if isinstance(tensor, ExternalTensor) and hasattr(os, "copy_file_range"):
        file.flush()
        if _copy_range(tensor, file):
            return
    for chunk in tensor.chunks():
        file.write(chunk)


def _copy_range(tensor: ExternalTensor, file: IO[bytes]) -> bool:
    """Let the kernel copy the range; return False when it cannot between these files."""
    start, left = tensor.offset, tensor.nbytes
    position = file.tell()
    with open(tensor.path, "rb", buffering=0) as source:
        while left:
            try:
                count = os.copy_file_range(
                    source.fileno(), file.fileno(), min(left, 16 * CHUNK), start, position
                )
            except OSError as error:
                if left == tensor.nbytes and error.errno in _NO_COPY:
                    return False
                raise
            if count == 0:
                break
            start, position, left = start + count, position + count, left - count
    if left:
        raise WriteError(
            f"external data is {left} bytes short", where=tensor.path, code="external-data"
        )
    file.seek(position)
    return True


_NO_COPY = frozenset(
    {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)
