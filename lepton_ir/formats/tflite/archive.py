"""The zip archive behind a TFLite model: labels and the like, which the model's metadata names."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

from lepton_ir.diagnostics import UnsupportedError

_END = struct.Struct("<4s4H2IH")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_MAX_COMMENT = 0xFFFF
_MAX_OFFSET = 0xFFFFFFFE


def find_archive(data: bytes | mmap.mmap | memoryview) -> bytes | None:
    """Return the archive at the end of a model file, its offsets made to start at its own start.

    ``None`` when there is none; what is no well-formed archive is no part of a model. Archives
    are copied, never unpacked.
    """
    view = memoryview(data).cast("B")
    end = _find_end(view)
    if end is None:
        return None
    _, _, _, _, count, size, offset, _ = _END.unpack_from(view, end)
    base = end - size - offset
    places = list(_entries(view[end - size : end])) if size <= end else []
    starts = [base + place for _, place in places]
    if base < 0 or not places or len(places) != count:
        return None
    if any(s < 0 or bytes(view[s : s + 4]) != b"PK\x03\x04" for s in starts):
        return None
    return move_archive(bytes(view[min(starts) :]), base - min(starts))


def move_archive(archive: bytes, by: int) -> bytes:
    """Return the archive with all its offsets moved.

    Raises:
        UnsupportedError: they would be above 4 GiB.
    """
    out = bytearray(archive)
    end = _find_end(memoryview(archive))
    if end is None:
        raise ValueError("these bytes do not end in a zip archive")
    size, offset = struct.unpack_from("<2I", archive, end + 12)
    if offset + by > _MAX_OFFSET:
        raise UnsupportedError("the archive behind the model would be above 4 GiB")
    struct.pack_into("<I", out, end + 16, offset + by)
    for at, place in _entries(memoryview(archive)[end - size : end]):
        struct.pack_into("<I", out, end - size + at + 42, place + by)
    return bytes(out)


def _find_end(view: memoryview) -> int | None:
    """Return where the record at the end of an archive is, whose comment ends with the file."""
    first = max(0, len(view) - _END.size - _MAX_COMMENT)
    tail = bytes(view[first:])
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        if at + _END.size <= len(tail):
            comment = _END.unpack_from(tail, at)[-1]
            if at + _END.size + comment == len(tail):
                return first + at
        at = tail.rfind(b"PK\x05\x06", 0, at)
    return None


def _entries(directory: memoryview) -> Iterator[tuple[int, int]]:
    """Yield each entry's place in the central directory, and the offset that it states."""
    at = 0
    while at + _ENTRY.size <= len(directory):
        entry = _ENTRY.unpack_from(directory, at)
        if entry[0] != b"PK\x01\x02":
            return
        yield at, entry[-1]
        at += _ENTRY.size + sum(entry[10:13])
