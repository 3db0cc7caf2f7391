"""``.lepton`` files: a module made ready for this backend, in one file, without machine code.

Layout: a magic line with the version, the length of a JSON text (8 bytes, little-endian), the text,
and behind it the data of the constants, each on a cache line of its own. The text holds functions
as lists of operations; values are numbers. Kernels are rebuilt, or come from this machine's cache.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from lepton_ir import dtypes, opdef
from lepton_ir.backends.numba.prepare import prepare
from lepton_ir.diagnostics import InvalidModelError, Location, UnsupportedError
from lepton_ir.infer import describe, infer_function
from lepton_ir.ir import AttrRef, Block, Function, Module, Op, Value
from lepton_ir.opdef import families_of
from lepton_ir.tensors import (
    DataFile,
    DenseTensor,
    ExternalTensor,
    FileTensor,
    RawTensor,
    SplatTensor,
    Tensor,
)
from lepton_ir.type_text import parse_type
from lepton_ir.types import UNKNOWN, Type
from lepton_ir.verify import verify_module

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
            write(file, ready)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write(file: BinaryIO, module: Module, sources: list[DataFile] | None = None) -> None:
    """Write ``module``; data that lies in files is referred to when ``sources`` collects these."""
    tensors: list[Tensor] = []
    main = module.main
    writer = _Writer(tensors, sources)
    data: dict[str, Any] = {
        "name": module.name,
        "function": {
            "outputs": main.output_names,
            "symbols": sorted(main.used_symbols),
            "body": writer.block(main.block),
        },
        "families": families_of(writer.names),
        "sources": [[f.path, *f.identity] for f in sources or ()],
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

    def __init__(self, tensors: list[Tensor], sources: list[DataFile] | None) -> None:
        self.tensors = tensors
        self.sources = sources
        self.names: set[str] = set()
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
        self.names.add(op.name)
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
        if self.sources is not None and isinstance(tensor, FileTensor | ExternalTensor):
            return ["source", name, shape, self.source(tensor), tensor.offset]
        index = self.known.setdefault(id(tensor), len(self.tensors))
        if index == len(self.tensors):
            self.tensors.append(tensor)
        return ["tensor", name, shape, index]

    def source(self, tensor: FileTensor | ExternalTensor) -> int:
        """Return the number of the file that holds a constant."""
        assert self.sources is not None
        path = tensor.file.path if isinstance(tensor, FileTensor) else os.path.realpath(tensor.path)
        for index, file in enumerate(self.sources):
            if file.path == path:
                return index
        self.sources.append(tensor.file if isinstance(tensor, FileTensor) else DataFile(path))
        return len(self.sources) - 1


def load(path: str) -> Module:
    """Read a ``.lepton`` file.

    Raises:
        InvalidModelError: it is none, or it is damaged.
    """
    try:
        data = DataFile(path)
        head = _bytes(data, 0, len(MAGIC) + 8)
        length = int.from_bytes(head[len(MAGIC) :], "little")
        if head[: len(MAGIC)] != MAGIC or length > _MAX_TEXT:
            raise InvalidModelError(
                "not a .lepton file of this version", code="lepton-file", where=path
            )
        text = _bytes(data, len(head), length)
        module = _Reader(data, _padded(len(head) + length), json.loads(text)).module()
    except OSError as error:
        raise InvalidModelError(str(error), code="lepton-file", where=path) from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InvalidModelError(
            f"the file is damaged: {error}", code="lepton-file", where=path
        ) from error
    verify_module(module)
    return module


def load_copy(blob: bytes) -> Module | None:
    """Read what :func:`write` made of a model of other files; ``None`` when one of these changed.

    Only for data that this program has written itself: it names other files.
    """
    start = len(MAGIC) + 8
    length = int.from_bytes(blob[len(MAGIC) : start], "little")
    data = json.loads(blob[start : start + length])
    sources = []
    for path, *identity in data["sources"]:
        try:
            sources.append(DataFile(path))
        except OSError:
            return None
        if [*sources[-1].identity] != identity:
            return None
    return _Reader(blob, _padded(start + length), data, sources).module()


def _bytes(file: DataFile, start: int, count: int) -> bytes:
    count = min(count, file.size - start)
    if count < 0:
        raise ValueError("it ends too early")
    found = np.empty(count, np.uint8)
    file.read_into(found, start)
    return found.tobytes()


class _Reader:
    """Builds a module from the JSON text.

    Args:
        file: holds the data of the constants.
        start: where that begins.
        data: the text.
        sources: other files that hold constants; none for files of strangers.
    """

    def __init__(
        self,
        file: DataFile | bytes,
        start: int,
        data: dict[str, Any],
        sources: Sequence[DataFile] = (),
    ) -> None:
        self.file = file
        self.start = start
        self.data = data
        self.sources = sources
        self.size = len(file) if isinstance(file, bytes) else file.size
        self.values: list[Value] = []
        self.tensors: dict[int, Tensor] = {}
        self.types: dict[str, Type] = {_UNKNOWN_TEXT: UNKNOWN}

    def module(self) -> Module:
        """Return the module, its types inferred again."""
        opdef.load_some(self.data.get("families", ()))
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
            "source": self.outside,
        }
        return kinds[value[0]](*value[1:])

    def tensor(self, name: str, shape: list[int], index: int) -> Tensor:
        """Return a constant; its data stays in the file until it is read."""
        found = self.tensors.get(index)
        if found is None:
            dtype = dtypes.dtype(name)
            offset = self.start + int(self.data["starts"][index])
            sizes = tuple(int(d) for d in shape)
            nbytes = dtype.nbytes(math.prod(sizes))
            if min(sizes, default=0) < 0 or not self.start <= offset <= self.size - nbytes:
                raise ValueError("a constant lies outside the file")
            if isinstance(self.file, bytes):
                found = RawTensor(memoryview(self.file)[offset : offset + nbytes], dtype, sizes)
            else:
                found = FileTensor(self.file, offset, dtype, sizes)
            if found.size == 1:
                found = SplatTensor(found.numpy().reshape(-1)[0], dtype, found.shape)
            self.tensors[index] = found
        return found

    def outside(self, name: str, shape: list[int], index: int, offset: int) -> Tensor:
        """Return a constant in another file."""
        return FileTensor(self.sources[index], offset, dtypes.dtype(name), tuple(shape))


def _strings(shape: list[int], items: list[str]) -> Tensor:
    return DenseTensor(np.array(items, object).reshape(shape), dtypes.STRING)
