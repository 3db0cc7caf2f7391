"""``.lepton`` files: a module made ready for this backend, in one file, without machine code.

Layout: a magic line with the version, the length of a JSON text (8 bytes, little-endian), the text,
and behind it the data of the constants, each on a cache line of its own. The text holds functions
as lists of operations; values are numbers. Kernels are rebuilt, or come from this machine's cache.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from lepton_ir import dtypes, opdef
from lepton_ir.backends.numba.prepare import prepare
from lepton_ir.diagnostics import InvalidModelError, Location, UnsupportedError
from lepton_ir.infer import describe, infer_function
from lepton_ir.ir import AttrRef, Block, Function, Module, Op, Value
from lepton_ir.tensors import DataFile, DenseTensor, FileTensor, SplatTensor, Tensor
from lepton_ir.type_text import parse_type
from lepton_ir.types import UNKNOWN, Type
from lepton_ir.verify import verify_module

if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"LEPTON 1\n"
_ALIGNMENT = 64
_MAX_TEXT = 1 << 30
_UNKNOWN_TEXT = str(UNKNOWN)


def save(module: Module, path: str | os.PathLike[str], *, passes: str = "integers") -> None:
    """Write ``module`` as a ``.lepton`` file, which appears whole or not at all.

    Args:
        module: what to write; left as it is.
        path: the file.
        passes: pipeline that runs first.

    Raises:
        UnsupportedError: an attribute has no form in the file; names the operation.
    """
    path = os.fspath(path)
    ready = prepare(module, passes)
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".lepton-")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(file, ready)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _write(file: BinaryIO, module: Module) -> None:
    tensors: list[Tensor] = []
    main = module.main
    data: dict[str, Any] = {
        "name": module.name,
        "function": {
            "outputs": main.output_names,
            "symbols": sorted(main.used_symbols),
            "body": _Writer(tensors).block(main.block),
        },
    }
    starts, position = [], 0
    for tensor in tensors:
        starts.append(position)
        position += _padded(tensor.nbytes)
    data["starts"] = starts
    text = json.dumps(data, separators=(",", ":")).encode()
    head = MAGIC + len(text).to_bytes(8, "little") + text
    file.write(head.ljust(_padded(len(head)), b"\0"))
    for tensor in tensors:
        for chunk in tensor.chunks():
            file.write(chunk)
        file.write(bytes(_padded(tensor.nbytes) - tensor.nbytes))


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


class _Writer:
    """Turns blocks into JSON; collects the constants."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.numbers: dict[Value, int] = {}
        self.known: dict[int, int] = {}

    def block(self, block: Block) -> dict[str, Any]:
        """Return a block."""
        return {"args": [self.value(a) for a in block.args], "ops": [*map(self.op, block.ops)]}

    def value(self, value: Value) -> list[Any]:
        """Number a new value; return its type and name."""
        self.numbers[value] = len(self.numbers)
        return [str(value.type), value.name]

    def op(self, op: Op) -> dict[str, Any]:
        """Return an operation; its regions come before its results are numbered."""
        found: dict[str, Any] = {
            "op": op.name,
            "in": [None if v is None else self.numbers[v] for v in op.operands],
        }
        if op.attrs:
            found["attrs"] = {k: self.attr(v, op) for k, v in op.attrs.items()}
        if op.regions:
            found["regions"] = [self.block(r.block) for r in op.regions]
        found["out"] = [self.value(r) for r in op.results]
        name = op.node_name or next(iter(op.loc.flatten(1)[0]), None)
        if name:
            found["node"] = name
        if op.symbols:
            found["symbols"] = op.symbols
        return found

    def attr(self, value: Any, op: Op) -> Any:
        """Return an attribute; what JSON does not have is a list that starts with its kind."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, tuple | list):
            return ["list", *(self.attr(v, op) for v in value)]
        if isinstance(value, bytes):
            return ["bytes", base64.b64encode(value).decode()]
        if isinstance(value, dtypes.DType):
            return ["dtype", value.name]
        if isinstance(value, Type):
            return ["type", str(value)]
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, np.generic):
            return value.item()
        kind = "a parameter" if isinstance(value, AttrRef) else type(value).__name__
        raise UnsupportedError(f"an attribute is {kind}", code="lepton-file", where=describe(op))

    def tensor(self, tensor: Tensor) -> list[Any]:
        """Return a reference to a constant's data."""
        name, shape = tensor.dtype.name, list(tensor.shape)
        if tensor.dtype is dtypes.STRING:
            items = [x if isinstance(x, str) else bytes(x).decode() for x in tensor.numpy().flat]
            return ["strings", shape, items]
        index = self.known.setdefault(id(tensor), len(self.tensors))
        if index == len(self.tensors):
            self.tensors.append(tensor)
        return ["tensor", name, shape, index]


def load(path: str) -> Module:
    """Read a ``.lepton`` file.

    Raises:
        InvalidModelError: it is none, or it is damaged.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(len(MAGIC) + 8)
            length = int.from_bytes(head[len(MAGIC) :], "little")
            if head[: len(MAGIC)] != MAGIC or length > _MAX_TEXT:
                raise InvalidModelError(
                    "not a .lepton file of this version", code="lepton-file", where=path
                )
            text = file.read(length)
        module = _Reader(path, _padded(len(head) + length), json.loads(text)).module()
    except OSError as error:
        raise InvalidModelError(str(error), code="lepton-file", where=path) from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InvalidModelError(
            f"the file is damaged: {error}", code="lepton-file", where=path
        ) from error
    verify_module(module)
    return module


class _Reader:
    """Builds a module from the JSON text."""

    def __init__(self, path: str, start: int, data: dict[str, Any]) -> None:
        self.start = start
        self.data = data
        self.file = DataFile(path)
        self.values: list[Value] = []
        self.tensors: dict[int, Tensor] = {}
        self.types: dict[str, Type] = {_UNKNOWN_TEXT: UNKNOWN}

    def module(self) -> Module:
        """Return the module, its types inferred again."""
        module = Module(str(self.data["name"]))
        source = self.data["function"]
        main = module.add_function("main")
        main.used_symbols = set(source["symbols"])
        self.block(source["body"], main.block, main)
        main.output_names = [str(n) for n in source["outputs"]]
        infer_function(main)
        return module

    def block(self, source: dict[str, Any], block: Block, function: Function) -> None:
        """Fill a block."""
        block.function = function
        for text, name in source["args"]:
            self.values.append(block.add_arg(self.type(text), name))
        for item in source["ops"]:
            self.op(item, block, function)

    def op(self, item: dict[str, Any], block: Block, function: Function) -> None:
        """Append an operation."""
        name = str(item["op"])
        definition = opdef.lookup(name)
        if definition is None:
            raise ValueError(f"the operation {name} is not known")
        operands = [None if i is None else self.values[i] for i in item["in"]]
        attrs = {str(k): self.attr(v) for k, v in item.get("attrs", {}).items()}
        regions = item.get("regions", [])
        location = Location(item["node"]) if "node" in item else Location()
        op = Op(name, definition, operands, attrs, len(item["out"]), len(regions), location)
        op.node_name = item.get("node")
        op.symbols = item.get("symbols")
        for region, label, inner in zip(op.regions, definition.regions, regions, strict=True):
            region.name = label
            self.block(inner, region.block, function)
        for result, (text, hint) in zip(op.results, item["out"], strict=True):
            result.type, result.name = self.type(text), hint
            self.values.append(result)
        block.append(op)

    def type(self, text: str) -> Type:
        """Return the type of a text."""
        found = self.types.get(text)
        if found is None:
            found = self.types[text] = parse_type(text)
        return found

    def attr(self, value: Any) -> Any:
        """Return an attribute."""
        if not isinstance(value, list):
            return value
        kinds: dict[str, Callable[..., Any]] = {
            "list": lambda *items: tuple(map(self.attr, items)),
            "bytes": base64.b64decode,
            "dtype": dtypes.dtype,
            "type": parse_type,
            "strings": _strings,
            "tensor": self.tensor,
        }
        return kinds[value[0]](*value[1:])

    def tensor(self, name: str, shape: list[int], index: int) -> Tensor:
        """Return a constant; its data stays in the file until it is read."""
        found = self.tensors.get(index)
        if found is None:
            dtype = dtypes.dtype(name)
            offset = self.start + int(self.data["starts"][index])
            found = FileTensor(self.file, offset, dtype, tuple(int(d) for d in shape))
            if found.size < 0 or offset < self.start or offset + found.nbytes > self.file.size:
                raise ValueError("a constant lies outside the file")
            if found.size == 1:
                found = SplatTensor(found.numpy().reshape(-1)[0], dtype, found.shape)
            self.tensors[index] = found
        return found


def _strings(shape: list[int], items: list[str]) -> Tensor:
    return DenseTensor(np.array(items, object).reshape(shape), dtypes.STRING)
