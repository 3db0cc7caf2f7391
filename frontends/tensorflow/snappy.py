"""Numbers of variable length, and blocks compressed by Snappy."""

from __future__ import annotations


def varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number and the position behind it.

    Raises:
        IndexError: the data ends before.
        ValueError: it has more than 64 bits.
    """
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            return value, position
        shift += 7
        if shift > 63:
            break
    raise ValueError("a number has more than 64 bits")


def uncompress(data: bytes, limit: int) -> bytes:
    """Return what a block holds.

    Raises:
        IndexError: it ends too early.
        ValueError: it is damaged, or larger than ``limit``.
    """
    size, position = varint(data, 0)
    if size > limit:
        raise ValueError(f"a block of {size} bytes")
    out = bytearray()
    while position < len(data):
        tag = data[position]
        position += 1
        kind, count = tag & 3, (tag >> 2) + 1
        if kind == 0:
            if count > 60:
                width = count - 60
                count = int.from_bytes(data[position : position + width], "little") + 1
                position += width
            if position + count > len(data):
                raise ValueError("a literal goes beyond the block")
            out += data[position : position + count]
            position += count
        else:
            if kind == 1:
                count, back = (tag >> 2 & 7) + 4, tag >> 5 << 8 | data[position]
                position += 1
            else:
                width = 2 if kind == 2 else 4
                back = int.from_bytes(data[position : position + width], "little")
                position += width
            if not 0 < back <= len(out):
                raise ValueError("a copy from before the block")
            start = len(out) - back
            while count > 0:  # copies may overlap what they write
                part = out[start : start + min(count, back)]
                out += part
                count -= len(part)
                start += len(part)
        if len(out) > size:
            raise ValueError("a block is larger than it says")
    if len(out) != size:
        raise ValueError("a block is smaller than it says")
    return bytes(out)
