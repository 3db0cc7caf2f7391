"""External data that lies outside the model's folder, outside the file, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from bad_input.case import Case, Expect, model, node, value

Setup = Callable[[Path], None]
SECRET = np.arange(1, 7, dtype=np.float32).tobytes()


def external(dims: list[int], elem: int = TensorProto.FLOAT, **entries: Any) -> onnx.ModelProto:
    """`y = x + w` with `w` stored outside, described by `entries` as they are."""
    w = TensorProto(name="w", data_type=elem, dims=dims)
    w.data_location = TensorProto.EXTERNAL
    for key, text in entries.items():
        w.external_data.add(key=key, value=str(text))
    add = node("Add", "x,w", "y", name="adder")
    x, y = value("x", [2, 3], elem), value("y", None, elem)
    return model([add], [x], [y], [w])


def _sound(folder: Path) -> None:
    (folder / "w.bin").write_bytes(bytes(64) + SECRET + bytes(64))


def _outside(folder: Path) -> None:
    (folder.parent / f"{folder.name}.secret").write_bytes(SECRET)


def _links_out(folder: Path) -> None:
    _outside(folder)
    (folder / "w.bin").symlink_to(f"../{folder.name}.secret")


def _folder_links_out(folder: Path) -> None:
    _outside(folder)
    (folder / "sub").symlink_to("..")


def _hard_link(folder: Path) -> None:
    _outside(folder)
    os.link(folder.parent / f"{folder.name}.secret", folder / "w.bin")


def _links_inside(folder: Path) -> None:
    (folder / "real.bin").write_bytes(SECRET)
    (folder / "w.bin").symlink_to("real.bin")


def _sparse_file(folder: Path) -> None:
    with (folder / "w.bin").open("wb") as file:
        file.truncate(1 << 42)


def _sub(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(SECRET)


def _nothing(_: Path) -> None:
    pass


def _case(name: str, expect: Expect, setup: Setup, dims: list[int], **entries: Any) -> Case:
    def build(folder: Path) -> onnx.ModelProto:
        setup(folder)
        filled = {
            key: str(text).format(dir=folder, up=f"../{folder.name}.secret")
            for key, text in entries.items()
        }
        return external(dims, **filled)

    says = (r"\bw\b",) if expect == "refuse" else ()
    return Case("external", name, expect, build, says=says)


def places() -> Iterator[Case]:
    """Locations that are not regular files below the model's folder."""
    dims = [2, 3]
    yield _case("parent", "refuse", _outside, dims, location="{up}")
    yield _case("parent-hidden", "refuse", _outside, dims, location="./a/../{up}")
    yield _case("parent-through-sub", "refuse", _folder_links_out, dims, location="sub/{up}")
    yield _case("absolute", "refuse", _outside, dims, location="{dir}.secret")
    yield _case("absolute-inside", "refuse", _sound, dims, location="{dir}/w.bin")
    yield _case("etc-passwd", "refuse", _nothing, dims, location="/etc/passwd")
    yield _case("dev-zero", "refuse", _nothing, dims, location="/dev/zero")
    yield _case("file-url", "refuse", _outside, dims, location="file://{dir}.secret")
    yield _case("http-url", "refuse", _nothing, dims, location="http://localhost:9/w.bin")
    yield _case("home", "refuse", _nothing, dims, location="~/w.bin")
    yield _case("variable", "refuse", _nothing, dims, location="$HOME/w.bin")
    yield _case("backslashes", "refuse", _outside, dims, location="..\\w.bin")
    yield _case("symlink-out", "refuse", _links_out, dims, location="w.bin")
    yield _case("symlink-inside", "either", _links_inside, dims, location="w.bin")
    yield _case("hard-link", "either", _hard_link, dims, location="w.bin")
    yield _case("subfolder", "keep", _sub, dims, location="sub/w.bin")
    yield _case("dotted", "either", _sub, dims, location="./sub/./w.bin")
    yield _case("folder", "refuse", lambda d: (d / "w.bin").mkdir(), dims, location="w.bin")
    yield _case("the-folder-itself", "refuse", _nothing, dims, location=".")
    yield _case("fifo", "refuse", lambda d: os.mkfifo(d / "w.bin"), dims, location="w.bin")
    device: Setup = lambda d: (d / "w.bin").symlink_to("/dev/zero")  # noqa: E731
    yield _case("symlink-to-device", "refuse", device, dims, location="w.bin")
    ring: Setup = lambda d: (d / "w.bin").symlink_to("w.bin")  # noqa: E731
    yield _case("symlink-to-itself", "refuse", ring, dims, location="w.bin")
    yield _case("missing", "refuse", _nothing, dims, location="w.bin")
    yield _case("location-empty", "refuse", _sound, dims, location="")
    yield _case("location-nul", "refuse", _sound, dims, location="w.bin\0.txt")
    yield _case("location-long", "refuse", _sound, dims, location="w" * 100_000)
    yield _case("location-absent", "refuse", _sound, dims, offset="0", length="24")
    yield _case("no-entries", "refuse", _sound, dims)
    yield _case("model-itself", "either", _nothing, dims, location="model.onnx", length="24")


def ranges() -> Iterator[Case]:
    """Offsets and lengths that do not lie in the file or are no numbers."""

    def at(name: str, expect: Expect, **entries: Any) -> Case:
        return _case(name, expect, _sound, [2, 3], location="w.bin", **entries)

    yield at("in-range", "keep", offset=64, length=24)
    yield at("offset-without-length", "either", offset=64)
    yield at("offset-beyond-end", "refuse", offset=1 << 20, length=24)
    yield at("offset-negative", "refuse", offset=-24, length=24)
    yield at("offset-overflow", "refuse", offset=(1 << 64) - 8, length=24)
    yield at("offset-enormous", "refuse", offset=10**400, length=24)
    yield at("offset-words", "refuse", offset="sixty-four", length=24)
    yield at("offset-float", "refuse", offset="64.0", length=24)
    yield at("offset-underscore", "either", offset="6_4", length=24)
    yield at("offset-hex", "refuse", offset="0x40", length=24)
    yield at("offset-empty", "either", offset="", length=24)
    yield at("length-beyond-end", "refuse", offset=140, length=24)
    yield at("length-too-short", "refuse", offset=64, length=20)
    yield at("length-too-long", "refuse", offset=64, length=28)
    yield at("length-negative", "refuse", offset=64, length=-1)
    yield at("length-zero", "either", offset=64, length=0)
    yield at("length-words", "refuse", offset=64, length="all")
    yield at("length-overflow", "refuse", offset=64, length=(1 << 64) - 32)
    yield at("length-digits", "refuse", offset=64, length="9" * 5000)
    yield at("unknown-key", "either", offset=64, length=24, colour="red")
    yield at("wrong-checksum", "either", offset=64, length=24, checksum="00")
    loc: dict[str, Any] = {"location": "w.bin"}
    yield _case("dims-terabyte", "refuse", _sound, [1 << 40], **loc)
    yield _case("dims-negative", "refuse", _sound, [-2, 3], **loc)
    yield _case("file-empty", "refuse", lambda d: (d / "w.bin").touch(), [2, 3], **loc)
    yield _case("zero-sized", "either", lambda d: (d / "w.bin").touch(), [0, 3], **loc)
    size = 1 << 42
    big = _case("sparse-file-whole", "either", _sparse_file, [1 << 40], length=size, **loc)
    yield Case(big.group, big.name, big.expect, big.build, judge="none")
    yield _case(
        "sparse-file-end", "either", _sparse_file, [2, 3], offset=size - 24, length=24, **loc
    )


def mixtures() -> Iterator[Case]:
    """External data together with other ways to hold data, and in odd holders."""

    def also_raw(folder: Path) -> onnx.ModelProto:
        _sound(folder)
        proto = external([2, 3], location="w.bin", offset=64, length=24)
        proto.graph.initializer[0].raw_data = bytes(24)
        return proto

    def strings(folder: Path) -> onnx.ModelProto:
        _sound(folder)
        return external([2, 3], TensorProto.STRING, location="w.bin", offset=64, length=24)

    def repeated(folder: Path) -> onnx.ModelProto:
        _sound(folder)
        proto = external([2, 3], location="w.bin", offset=64, length=24)
        proto.graph.initializer[0].external_data.add(key="offset", value="0")
        return proto

    def in_constant(folder: Path) -> onnx.ModelProto:
        _outside(folder)
        proto = external([2, 3], location=f"../{folder.name}.secret")
        constant = node("Constant", "", "w", name="w", value=proto.graph.initializer[0])
        del proto.graph.initializer[:]
        proto.graph.node.insert(0, constant)
        return proto

    def entries_only(folder: Path) -> onnx.ModelProto:
        _sound(folder)
        proto = external([2, 3], location="w.bin", offset=64, length=24)
        proto.graph.initializer[0].data_location = TensorProto.DEFAULT
        return proto

    yield Case("external", "also-raw-data", "either", also_raw)
    yield Case("external", "string-tensor", "refuse", strings)
    yield Case("external", "offset-twice", "either", repeated)
    yield Case("external", "outside-in-constant-node", "refuse", in_constant)
    yield Case("external", "entries-without-location-flag", "refuse", entries_only)


def cases() -> Iterator[Case]:
    """Every case of this module."""
    yield from places()
    yield from ranges()
    yield from mixtures()
