"""Files that are cut short, flipped, of another format, or not files at all."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import socket
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bad_input.case import Case, small_net, tensor, unary

TRUNCATIONS = 24
FLIPS = 40


def _cut(part: int) -> Case:
    def build(_: Path) -> bytes:
        data = small_net().SerializeToString()
        return data[: len(data) * part // TRUNCATIONS]

    return Case("truncated", f"{part:02d}-of-{TRUNCATIONS}", "refuse", build)


def truncated() -> Iterator[Case]:
    """A sound model, cut at even distances and around its last fields."""
    yield from map(_cut, range(TRUNCATIONS))
    for missing in (1, 2, 3, 4, 5, 8):
        yield Case(
            "truncated",
            f"last-{missing}-bytes-missing",
            "refuse",
            lambda _, n=missing: small_net().SerializeToString()[:-n],
        )


def _flip(seed: int) -> Case:
    def build(_: Path) -> bytes:
        rng = random.Random(seed)
        data = bytearray(small_net().SerializeToString())
        for _flip_number in range(1 + seed % 4):
            # Weights fill most of the file: half of the flips aim at the structure around them.
            span = 400 if seed % 2 else len(data)
            at = rng.randrange(span)
            data[at if seed % 3 else len(data) - 1 - at] ^= 1 << rng.randrange(8)
        return bytes(data)

    return Case("bitflip", f"seed-{seed:02d}", "either", build)


def bitflip() -> Iterator[Case]:
    """A sound model with damaged bits, ranges and copies."""
    yield from map(_flip, range(FLIPS))

    def zeroed(at: float, length: int) -> bytes:
        data = bytearray(small_net().SerializeToString())
        start = int(len(data) * at)
        data[start : start + length] = bytes(length)
        return bytes(data)

    for at in (0.0, 0.05, 0.9):
        yield Case("bitflip", f"zeroed-at-{at}", "either", lambda _, a=at: zeroed(a, 64))
    data = small_net().SerializeToString
    yield Case("bitflip", "trailing-zeros", "refuse", lambda _: data() + bytes(16))
    yield Case("bitflip", "trailing-garbage", "refuse", lambda _: data() + b"\xff" * 32)
    yield Case("bitflip", "leading-garbage", "refuse", lambda _: b"\x00\x01\x02\x03" + data())
    # Concatenated messages merge: every node and initializer is there twice.
    yield Case("bitflip", "twice-the-file", "refuse", lambda _: data() * 2)


class Canary:
    """Unpickling this creates a file: a loader that does so has run the stranger's code."""

    def __init__(self, path: Path) -> None:
        """Remember which file to create."""
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Make the unpickler open the file for writing."""
        return open, (str(self.path), "w")


def _zip(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


def _other_formats() -> dict[str, bytes]:
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\x02\0\0\0\x90wS\xde"
    net = small_net()
    return {
        "empty": b"",
        "one-zero-byte": b"\0",
        "one-newline": b"\n",
        "png": png,
        "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(64),
        "zip": _zip({"a.txt": b"hello"}),
        "text": b"This is not a model.\n" * 20,
        "html": b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n",
        "json": json.dumps({"ir_version": 8, "graph": {}}).encode(),
        "git-lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "utf-16": "model".encode("utf-16") * 8,
        "safetensors": _safetensors(),
        "gguf": b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 1 << 40),
        "npz": _zip({"w.npy": _npy(np.ones(3))}),
        "npy": _npy(np.ones((4, 4))),
        "tflite": b"\x1c\0\0\0TFL3" + bytes(64),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(64),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(64),
        "onnx-gzip": gzip.compress(net.SerializeToString(), mtime=0),
        "onnx-zip": _zip({"model.onnx": net.SerializeToString()}),
        "graph-proto-alone": net.graph.SerializeToString(),
        "tensor-proto-alone": tensor("w", np.ones((2, 2))).SerializeToString(),
        "random-bytes": random.Random(3).randbytes(4096),
        "zeros": bytes(1 << 20),
        "all-ones": b"\xff" * 4096,
    }


def _pickled(folder: Path, wrap: str) -> bytes:
    payload = pickle.dumps(Canary(folder / "unpickled"))
    if wrap == "torch":
        return _zip({"archive/data.pkl": payload, "archive/version": b"3\n"})
    if wrap == "npy":
        return _npy(np.array([Canary(folder / "unpickled")], dtype=object))
    return payload


def formats() -> Iterator[Case]:
    """Other formats under the name of a model, and models under other names."""
    for name in _other_formats():
        yield Case("format", name, "refuse", lambda _, n=name: _other_formats()[n])
    for wrap in ("plain", "torch", "npy"):
        yield Case("format", f"pickle-{wrap}", "refuse", lambda d, w=wrap: _pickled(d, w))
        name = {"plain": "model.pkl", "torch": "model.pt", "npy": "model.npy"}[wrap]
        yield Case(
            "format",
            f"pickle-{wrap}-own-suffix",
            "refuse",
            lambda d, w=wrap: _pickled(d, w),
            filename=name,
        )

    def sparse(folder: Path) -> Path:
        path = folder / "model.onnx"
        with path.open("wb") as file:
            file.truncate(3 << 30)
        return path

    yield Case("format", "three-sparse-gigabytes", "refuse", sparse)
    for suffix in ("txt", "lir", "tflite", "pb", "noext", "ONNX"):
        filename = "model" if suffix == "noext" else f"model.{suffix}"
        yield Case("format", f"onnx-as-{suffix}", "either", lambda _: unary(), filename=filename)


def _saved(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(unary().SerializeToString())
    return path


def _directory(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.mkdir()
    (path / "model.onnx").write_bytes(unary().SerializeToString())
    return path


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


def _socket(folder: Path) -> Path:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))
    return path


def _link(folder: Path, target: str) -> Path:
    path = folder / "model.onnx"
    path.symlink_to(target)
    return path


def _hard_link(folder: Path) -> Path:
    path = _saved(folder, "model.onnx")
    os.link(path, folder / "same.onnx")
    return path


def _aliased(folder: Path) -> Path:
    path = _saved(folder, "model.onnx")
    (folder / "alias.onnx").symlink_to("model.onnx")
    return path


def paths() -> Iterator[Case]:
    """Directories, FIFOs, devices, links, missing files, odd names, and bad places to write to."""
    refuse = {
        "directory": _directory,
        "empty-directory": lambda d: d,
        "fifo": _fifo,
        "socket": _socket,
        "missing": lambda d: d / "no-such-model.onnx",
        "missing-folder": lambda d: d / "no" / "such" / "model.onnx",
        "dangling-link": lambda d: _link(d, "nowhere.onnx"),
        "link-to-itself": lambda d: _link(d, "model.onnx"),
        "link-to-dev-zero": lambda d: _link(d, "/dev/zero"),
        "dev-zero": lambda _: "/dev/zero",
        "dev-urandom": lambda _: "/dev/urandom",
        "dev-null": lambda _: "/dev/null",
        "proc-self-mem": lambda _: "/proc/self/mem",
        "proc-self-maps": lambda _: "/proc/self/maps",
        "name-too-long": lambda d: d / ("m" * 300 + ".onnx"),
        "path-too-long": lambda d: str(d) + "/m" * 3000,
        "file-as-folder": lambda d: f"{_saved(d, 'model.onnx')}/model.onnx",
        "trailing-slash": lambda d: f"{_saved(d, 'model.onnx')}/",
        "empty-path": lambda _: "",
    }
    for name, build in refuse.items():
        yield Case("path", name, "refuse", build)
    odd = {
        "spaces": "my model.onnx",
        "newline": "my\nmodel.onnx",
        "unicode": "modèle-模型-🙂.onnx",
        "percent": "%s%n{0}.onnx",
        "brackets": "[bold red]model[bold].onnx",
        "two-dots": "model..onnx",
        "hidden": ".onnx",
    }
    for name, filename in odd.items():
        yield Case("path", f"named-{name}", "keep", lambda _: unary(), filename=filename)
    yield Case("path", "link-to-model", "keep", lambda d: _link(d, _saved(d, "real.onnx").name))
    yield from _outputs()


def _outputs() -> Iterator[Case]:
    saved = lambda d: _saved(d, "model.onnx")  # noqa: E731
    targets = {
        "output-is-input": (saved, "{dir}/model.onnx"),
        "output-is-input-dotted": (saved, "{dir}/./model.onnx"),
        "output-links-to-input": (_aliased, "{dir}/alias.onnx"),
        "output-in-missing-folder": (saved, "{dir}/no/such/out.onnx"),
        "output-is-folder": (saved, "{dir}"),
        "output-below-file": (saved, "{dir}/model.onnx/out.onnx"),
        "output-name-too-long": (saved, "{dir}/" + "o" * 300 + ".onnx"),
    }
    for name, (build, target) in targets.items():
        yield Case("path", name, "refuse", build, args=("-o", target))
    yield Case("path", "output-hard-link", "either", _hard_link, args=("-o", "{dir}/same.onnx"))


def cases() -> Iterator[Case]:
    """Every case of this module."""
    yield from truncated()
    yield from bitflip()
    yield from formats()
    yield from paths()
