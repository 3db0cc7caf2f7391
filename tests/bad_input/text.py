"""Bad `.lir` files: text that is cut, deep, enormous, or no text."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bad_input.case import Case, Expect
from bad_input.files import Canary

SOUND = """module @m {opset=17} {
  func @main(%x: f32[2,3]) -> (f32[2,3]) {
    %y = relu(%x) : f32[2,3]
    return(%y)
  }
}
"""


def _with(old: str, new: str) -> bytes:
    assert old in SOUND, old
    return SOUND.replace(old, new).encode()


def _blob(source: str) -> bytes:
    body = SOUND.replace(
        "%y = relu(%x)", "%w = const() {value=#w} : f32[2,3]\n    %y = add(%x, %w)"
    )
    return (body + "blobs {\n  #w = " + source + "\n}\n").encode()


def _npz(folder: Path, kind: str) -> bytes:
    arrays: dict[str, object] = {
        "pickle": np.array([Canary(folder / "unpickled")], dtype=object),
        "shape": np.zeros((9, 9), np.float32),
        "type": np.zeros((2, 3), np.int8),
    }
    if kind == "garbage":
        (folder / "w.npz").write_bytes(b"PK\x03\x04garbage")
    elif kind != "missing":
        np.savez(folder / "w.npz", w=arrays[kind])
    return _blob('npz("w.npz", "w")')


def _bomb_npz(folder: Path) -> bytes:
    import zipfile

    header = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    np.lib.format.write_array_header_1_0(header, claim)  # type: ignore[arg-type]
    with zipfile.ZipFile(folder / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", header.getvalue() + bytes(1 << 20))
    return _blob('npz("w.npz", "w")')


def texts() -> dict[str, bytes]:
    """Each bad text by its name."""
    deep = 50_000
    return {
        "empty": b"",
        "blank": b"\n  \n",
        "only-comment": b"// nothing here\n",
        "garbage": b"@@@ ??? !!!\n",
        "nul-bytes": _with("relu", "re\0lu"),
        "not-utf-8": SOUND.encode().replace(b"relu", b"\xff\xfe"),
        "cut-in-half": SOUND.encode()[: len(SOUND) // 2],
        "unclosed-module": SOUND.encode()[:-3],
        "closed-too-often": SOUND.encode() + b"}\n",
        "unknown-op": _with("relu", "no_such_op"),
        "undefined-value": _with("relu(%x)", "relu(%ghost)"),
        "value-twice": _with("return", "%y = abs(%x) : f32[2,3]\n    return"),
        "use-before-definition": _with("relu(%x)", "relu(%y)"),
        "function-twice": SOUND.replace("  func", SOUND[21:-2] + "  func").encode(),
        "no-return": _with("    return(%y)\n", ""),
        "return-arity": _with("return(%y)", "return(%y, %y)"),
        "return-type": _with("(f32[2,3]) {", "(i64[7]) {"),
        "result-type": _with(") : f32[2,3]", ") : f32[9,9]"),
        "result-type-unknown": _with(") : f32[2,3]", ") : f99[2,3]"),
        "dim-negative": _with("%x: f32[2,3]", "%x: f32[-2,3]"),
        "dim-not-finished": _with("%x: f32[2,3]", "%x: f32[2,"),
        "too-few-operands": _with("relu(%x)", "add(%x)"),
        "too-many-operands": _with("relu(%x)", "relu(%x, %x)"),
        "unknown-attribute": _with("relu(%x)", "relu(%x) {colour=1}"),
        "attribute-twice": _with("relu(%x)", "leaky_relu(%x) {alpha=1.0, alpha=2.0}"),
        "attribute-kind": _with("relu(%x)", 'leaky_relu(%x) {alpha="soft"}'),
        "string-unclosed": _with("@m", '@"m'),
        "opset-words": _with("opset=17", 'opset="seventeen"'),
        "opset-negative": _with("opset=17", "opset=-17"),
        "opset-enormous": _with("opset=17", "opset=" + "9" * 5000),
        "parentheses-deep": _with("%x: f32[2,3]", "%x: f32[" + "(" * deep + "N" + ")" * deep + "]"),
        "brackets-deep": _with("relu(%x)", "relu(%x) {alpha=" + "[" * deep + "]" * deep + "}"),
        "braces-deep": b"module @m " + b"{" * deep + b"}" * deep,
        "line-of-megabytes": b"module @m " + b"x" * (4 << 20),
        "name-of-megabytes": _with("%x)", "%" + "n" * (1 << 20) + ")"),
        "digits-of-megabytes": _with("opset=17", "opset=1" + "0" * (1 << 20)),
        "exponent-enormous": _with("relu(%x)", "leaky_relu(%x) {alpha=1e999999999999}x"),
        "blob-missing": _with("relu(%x)", "add(%x, %x) {value=#nowhere}"),
        "blob-elided": _blob('elided(6, "9f2c41d0")'),
        "blob-unknown-kind": _blob("fetch(17)"),
        "blob-outside": _blob('npz("../w.npz", "w")'),
        "blob-absolute": _blob('npz("/etc/passwd", "w")'),
        "blob-device": _blob('npz("/dev/zero", "w")'),
        "conflict-markers": b"<<<<<<< ours\n" + SOUND.encode() + b">>>>>>> theirs\n",
    }


def cases() -> Iterator[Case]:
    """Every case of this module."""

    def case(name: str, expect: Expect, build: object) -> Case:
        return Case("text", name, expect, build, filename="model.lir")  # type: ignore[arg-type]

    for name in texts():
        yield case(name, "refuse", lambda _, n=name: texts()[n])
    for kind in ("missing", "garbage", "pickle", "shape", "type"):
        yield case(f"npz-{kind}", "refuse", lambda d, k=kind: _npz(d, k))
    yield case("npz-terabyte", "refuse", _bomb_npz)
    bombs = {
        "splat-terabyte": "{value=splat(0.5)} : f32[1099511627776]",
        "rand-terabyte": "{value=rand(1)} : f32[1099511627776]",
        "arange-terabyte": "{value=arange()} : f32[1048576,1048576]",
    }
    for name, text in bombs.items():
        code = f"%w = const() {text}\n    %y = relu(%x)"
        yield case(name, "either", lambda _, c=code: _with("%y = relu(%x)", c))
    yield case("byte-order-mark", "either", lambda _: b"\xef\xbb\xbf" + SOUND.encode())
    yield case("windows-lines", "either", lambda _: SOUND.replace("\n", "\r\n").encode())
    yield case("dim-huge", "either", lambda _: _with("%x: f32[2,3]", "%x: f32[" + "9" * 40 + "]"))
    yield case("sound", "either", lambda _: SOUND.encode())
