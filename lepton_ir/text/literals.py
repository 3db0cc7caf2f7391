"""How single values look in text: strings, names, numbers of every element type."""

from __future__ import annotations

import json
import math
import re
import struct
from functools import lru_cache
from typing import Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.dtypes import DType

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
# Control characters, and what cannot stand in a line of UTF-8 text.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CANONICAL_NAN = 0x7FF8000000000000


def quoted(text: str) -> str:
    """Return a double-quoted literal with JSON's escapes, always one line of valid UTF-8."""
    out = json.dumps(text, ensure_ascii=False)
    if out.isascii() and "\x7f" not in out:
        return out
    return _UNSAFE.sub(lambda m: f"\\u{ord(m[0]):04x}", out)


def unquoted(literal: str) -> str:
    """Return the text of a double-quoted literal.

    Raises:
        ValueError: a bad escape.
    """
    if "\\" not in literal:
        return literal[1:-1]
    text: str = json.loads(literal, strict=False)
    return text


def bytes_literal(data: bytes) -> str:
    r"""Return ``b"..."`` with ``\xNN`` for everything that is not printable ASCII."""
    plain = "".join(chr(c) if 32 <= c < 127 and c not in (34, 92) else f"\\x{c:02x}" for c in data)
    return f'b"{plain}"'


def bytes_value(literal: str) -> bytes:
    r"""Return the bytes of ``b"..."``; escapes are ``\xNN``, ``\"`` and ``\\``.

    Raises:
        ValueError: another escape, or a character outside ASCII.
    """
    out = bytearray()
    for m in re.finditer(r"\\x([0-9a-fA-F]{2})|\\([\"\\])|([^\\])|(\\)", literal[2:-1]):
        if m[4]:
            raise ValueError(r"byte strings know the escapes \xNN, \" and \\ only")
        out += bytes([int(m[1], 16)]) if m[1] else (m[2] or m[3]).encode("ascii")
    return bytes(out)


@lru_cache(maxsize=1 << 16)
def value_name(name: str) -> str:
    """Return ``%name``, quoted where the name is not an identifier (dots are allowed)."""
    return f"%{name}" if _NAME.match(name) else f"%{quoted(name)}"


def symbol(mark: str, name: str) -> str:
    """Return a name after ``@``, ``#`` or ``$``, quoted where needed."""
    return f"{mark}{name}" if _NAME.match(name) else f"{mark}{quoted(name)}"


def key(name: str) -> str:
    """Return the key of a dict, quoted where it is not an identifier."""
    return name if _KEY.match(name) else quoted(name)


def float_text(value: float) -> str:
    """Return a Python float exactly; ``0.1f`` is the f32 number nearest to 0.1."""
    if math.isnan(value):
        (bits,) = struct.unpack("<Q", struct.pack("<d", value))
        return "nan" if bits == _CANONICAL_NAN else f"nan(0x{bits:016x})"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    exact = repr(value)
    if len(exact) > 8:
        with np.errstate(over="ignore"):
            single = np.float32(value)
        if float(single) == value:
            short = _pointed(str(single))
            if len(short) + 1 < len(exact):
                return short + "f"
    return _pointed(exact)


def _pointed(text: str) -> str:
    return text if any(c in text for c in ".en") else f"{text}.0"


def float_value(text: str) -> float:
    """Return the number of a float literal.

    Raises:
        ValueError: a single-precision literal too large for f32.
    """
    if text.endswith("f") and text != "-inf":
        with np.errstate(over="ignore"):
            value = float(np.float32(float(text[:-1])))
        if math.isinf(value):
            raise ValueError(f"{text} is too large for f32")
        return value
    return float(text)


def nan_from_bits(bits: int) -> float:
    """Return the f64 NaN with these bits.

    Raises:
        ValueError: the bits are not a NaN.
    """
    if not 0 <= bits < 1 << 64:
        raise ValueError("nan(...) takes 64 bits")
    (value,) = struct.unpack("<d", struct.pack("<Q", bits))
    if not math.isnan(value):
        raise ValueError(f"0x{bits:x} is not the bit pattern of a NaN")
    return float(value)


# -- elements of tensors ---------------------------------------------------------------------------


def _bits(value: Any, dtype: DType) -> int:
    return int.from_bytes(np.asarray(value, dtype.numpy).tobytes(), "little")


def element_text(value: Any, dtype: DType) -> str:
    """Return one element of a tensor in the shortest form that reads back to the same bits."""
    if dtype.kind == "bool":
        return "true" if value else "false"
    if dtype.is_integer:
        return str(int(value))
    if dtype is dtypes.STRING:
        return bytes_literal(value) if isinstance(value, bytes) else quoted(str(value))
    if dtype.kind == "complex":
        part = dtypes.F32 if dtype is dtypes.C64 else dtypes.F64
        halves = np.asarray(value, dtype.numpy).reshape(1).view(part.numpy)
        return f"complex({element_text(halves[0], part)}, {element_text(halves[1], part)})"
    wide = float(value)
    if math.isnan(wide):
        bits = _bits(value, dtype)
        plain = bits == _bits(np.asarray(math.nan).astype(dtype.numpy), dtype)
        return "nan" if plain else f"nan(0x{bits:0{dtype.numpy.itemsize * 2}x})"
    if math.isinf(wide):
        return "inf" if wide > 0 else "-inf"
    if dtype in (dtypes.F64, dtypes.F32, dtypes.F16):
        return _pointed(str(value))
    for digits in range(1, 18):
        text = f"{wide:.{digits}g}"
        if dtype.numpy.type(float(text)) == value:
            return _pointed(text)
    return repr(wide)


class NanBits:
    """The literal ``nan(0x7fc00001)``, whose width depends on the type it is read for."""

    __slots__ = ("bits",)

    def __init__(self, bits: int) -> None:
        self.bits = bits


class ComplexParts:
    """The literal ``complex(re, im)``; the parts are literals of the half type."""

    __slots__ = ("imag", "real")

    def __init__(self, real: Any, imag: Any) -> None:
        self.real = real
        self.imag = imag


def element_value(item: Any, dtype: DType) -> Any:
    """Return one element from its literal, as a NumPy scalar of ``dtype`` (strings: str, bytes).

    Raises:
        ValueError: the literal does not fit the type.
    """
    if dtype is dtypes.STRING:
        if not isinstance(item, (str, bytes)):
            raise ValueError(f"expected a string, got {item!r:.40}")
        return item
    if isinstance(item, NanBits):
        return _nan_element(item.bits, dtype)
    if dtype.kind == "bool":
        if not isinstance(item, bool):
            raise ValueError(f"expected true or false, got {item!r:.40}")
        return np.bool_(item)
    if dtype.is_integer:
        if isinstance(item, bool) or not isinstance(item, int):
            raise ValueError(f"expected an integer of {dtype.name}, got {item!r:.40}")
        low = -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0
        if not low <= item < low + (1 << dtype.bits):
            raise ValueError(f"{item!s:.40} is outside {dtype.name}")
        return dtype.numpy.type(item)
    if dtype.kind == "complex":
        parts = item if isinstance(item, ComplexParts) else ComplexParts(item, 0)
        half = dtypes.F32 if dtype is dtypes.C64 else dtypes.F64
        halves = [element_value(parts.real, half), element_value(parts.imag, half)]
        return np.array(halves, half.numpy).view(dtype.numpy)[0]
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise ValueError(f"expected a number of {dtype.name}, got {item!r:.40}")
    with np.errstate(all="ignore"):
        return np.asarray(float(item)).astype(dtype.numpy)[()]


def _nan_element(bits: int, dtype: DType) -> Any:
    width = dtype.numpy.itemsize
    if not dtype.is_float or not 0 <= bits < 1 << (8 * width):
        raise ValueError(f"0x{bits:x} is not a NaN of {dtype.name}")
    value = np.frombuffer(bits.to_bytes(width, "little"), dtype.numpy)[0]
    if not math.isnan(float(value)):
        raise ValueError(f"0x{bits:x} is not a NaN of {dtype.name}")
    return value
