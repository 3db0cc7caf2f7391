"""Damaged and hostile models of TensorFlow: refused in one line, with nothing executed or left."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lepton_ir import load
from lepton_ir.diagnostics import LeptonError
from lepton_ir.frontends.tensorflow.bundle import crc32c, masked, read_table
from lepton_ir.frontends.tensorflow.protos import message_class, parse
from lepton_ir.frontends.tensorflow.snappy import uncompress
from lepton_ir.infer import const_tensor
from lepton_ir.tensors import FileTensor
from tests.test_tensorflow import CASES, unpack

F32, I32, STRING, RESOURCE = 1, 3, 7, 20


# -- graphs ----------------------------------------------------------------------------------------


def graph(*nodes: tuple[Any, ...], functions: Any = ()) -> Any:
    """Return a GraphDef of ``(name, op, inputs, attrs)``; each attr sets a field of AttrValue."""
    made = message_class("GraphDef")()
    for node in nodes:
        name, op, inputs, *attrs = node
        add(made.node, name, op, inputs, **(attrs[0] if attrs else {}))
    for name, args, results, inner in functions:
        function = made.library.function.add()
        function.signature.name = name
        for arg in args:
            function.signature.input_arg.add(name=arg, type=F32)
        for result, ref in results.items():
            function.signature.output_arg.add(name=result, type=F32)
            function.ret[result] = ref
        for node in inner:
            name, op, inputs, *attrs = node
            add(function.node_def, name, op, inputs, **(attrs[0] if attrs else {}))
    return made


def add(nodes: Any, name: str, op: str, inputs: tuple[str, ...] = (), **attrs: Any) -> None:
    node = nodes.add(name=name, op=op)
    node.input.extend(inputs)
    for key, value in attrs.items():
        if callable(value):
            value(node.attr[key])
        elif isinstance(value, int):
            node.attr[key].type = value
        else:
            node.attr[key].func.name = value


X = ("x", "Placeholder", (), {"dtype": F32})


def tensor(dtype: int, *dims: int, content: bytes = b"", **values: Any) -> Callable[[Any], None]:
    def fill(attr: Any) -> None:
        attr.tensor.dtype = dtype
        for size in dims:
            attr.tensor.tensor_shape.dim.add(size=size)
        attr.tensor.tensor_content = content
        for key, value in values.items():
            getattr(attr.tensor, key).extend(value)

    return fill


def unary(**attrs: Any) -> Any:
    """Return a graph that adds a constant with the given attributes to its input."""
    made = graph()
    add(made.node, "x", "Placeholder", dtype=F32)
    add(made.node, "c", "Const", **attrs)
    add(made.node, "y", "AddV2", ("x", "c"))
    return made


def of(*nodes: tuple[Any, ...], **more: Any) -> Any:
    made = graph()
    add(made.node, "x", "Placeholder", dtype=F32)
    for name, op, inputs, *attrs in nodes:
        add(made.node, name, op, inputs, **(attrs[0] if attrs else {}))
    made.MergeFrom(graph(**more))
    return made


def call(name: str) -> dict[str, Any]:
    return {"f": name}


def deep(count: int) -> Any:
    """Return functions that each call the next one twice."""
    functions = [
        (
            f"f{i}",
            ["a"],
            {"r": "s:z:0"},
            [
                ("p", f"f{i + 1}", ("a",)),
                ("q", f"f{i + 1}", ("a",)),
                ("s", "AddV2", ("p:r:0", "q:r:0")),
            ],
        )
        for i in range(count)
    ]
    last = (f"f{count}", ["a"], {"r": "n:y:0"}, [("n", "Neg", ("a",))])
    return of(("y", "f0", ("x",)), functions=[*functions, last])


def chain(count: int) -> Any:
    """Return a graph of many nodes in a row."""
    made = of()
    for i in range(count):
        add(made.node, f"n{i}", "Neg", (f"n{i - 1}" if i else "x",))
    return made


def frame(*nodes: tuple[Any, ...]) -> Any:
    name = {"frame_name": lambda a: setattr(a, "s", b"f")}
    return of(("e", "Enter", ("x",), name), *nodes)


GRAPHS: dict[str, tuple[Callable[[], Any], str]] = {
    "no nodes": (graph, "no nodes|empty"),
    "unknown operator": (lambda: of(("y", "Mystery", ("x",))), "Mystery is not supported"),
    "lookup table": (lambda: of(("y", "LookupTableFindV2", ("x",))), "lookup table"),
    "strings": (lambda: of(("y", "StringLower", ("x",))), "strings"),
    "dataset": (lambda: of(("y", "IteratorGetNext", ("x",))), "source of data"),
    "python": (lambda: of(("y", "PyFunc", ("x",))), "outside of the model"),
    "file": (lambda: of(("y", "ReadFile", ("x",))), "not supported"),
    "missing input": (lambda: of(("y", "Neg", ("z",))), "nothing defines z"),
    "missing port": (lambda: of(("y", "Neg", ("x:7",))), "no result 7"),
    "port of no number": (lambda: of(("y", "Neg", ("x:one",))), "names no result"),
    "huge port": (lambda: of(("y", "Neg", ("x:99999999999",))), "names no result"),
    "twice": (lambda: of(("x", "Neg", ("x",))), "two nodes"),
    "cycle": (
        lambda: of(("a", "Neg", ("b",)), ("b", "Neg", ("a",)), ("y", "Neg", ("b",))),
        "needs itself",
    ),
    "self": (lambda: of(("a", "Neg", ("a",)), ("y", "Neg", ("a",))), "needs itself"),
    "too many operands": (lambda: of(("y", "Neg", ("x", "x", "x"))), "do not fit"),
    "too few operands": (lambda: of(("y", "AddV2", ("x",))), "do not fit"),
    "no attribute": (lambda: unary(), "without a tensor"),
    "empty attribute": (lambda: unary(value=lambda a: a.SetInParent()), "without a tensor|nothing"),
    "wrong attribute": (lambda: unary(value=F32), "without a tensor"),
    "huge tensor": (lambda: unary(value=tensor(F32, 1 << 40, 1 << 40)), "no memory holds"),
    "negative size": (lambda: unary(value=tensor(F32, -5)), "shape"),
    "unknown size": (lambda: unary(value=tensor(F32, -1)), "no static shape"),
    "short content": (lambda: unary(value=tensor(F32, 4, content=b"abc")), "3 bytes"),
    "long content": (lambda: unary(value=tensor(F32, 1, content=b"a" * 64)), "64 bytes"),
    "too many values": (lambda: unary(value=tensor(F32, 1, float_val=[1, 2, 3])), "3 values"),
    "values to repeat": (
        lambda: unary(value=tensor(F32, 1 << 40, float_val=[1, 2])),
        "repeats a value",
    ),
    "texts to repeat": (
        lambda: unary(value=tensor(STRING, 1 << 40, string_val=[b"a"])),
        "texts",
    ),
    "handles": (lambda: unary(value=tensor(RESOURCE)), "handles"),
    "unknown type": (lambda: unary(value=tensor(99)), "element type 99"),
    "shape that is a text": (
        lambda: graph(
            ("x", "Placeholder", (), {"dtype": F32, "shape": lambda a: setattr(a, "s", b"a")}),
            ("y", "Neg", ("x",)),
        ),
        "contradicts itself",
    ),
    "string input": (
        lambda: graph(
            (
                "x",
                "Placeholder",
                (),
            ),
            ("y", "Identity", ("x",)),
        ),
        "handle|strings|dtype|None",
    ),
    "variable": (
        lambda: of(("v", "VarHandleOp", ()), ("y", "ReadVariableOp", ("v",))),
        "no content",
    ),
    "handle as output": (
        lambda: of(("v", "VarHandleOp", ()), ("y", "Identity", ("v",))),
        "variable",
    ),
    "handle as tensor": (lambda: of(("v", "VarHandleOp", ()), ("y", "Neg", ("v",))), "a variable"),
    "no function": (lambda: of(("y", "PartitionedCall", ("x",), call("f"))), "no function f"),
    "calls itself": (
        lambda: of(
            ("y", "PartitionedCall", ("x",), call("f")),
            functions=[("f", ["a"], {"r": "n:output:0"}, [("n", "f", ("a",))])],
        ),
        "calls itself|no result",
    ),
    "call each other": (
        lambda: of(
            ("y", "f", ("x",)),
            functions=[
                ("f", ["a"], {"r": "n:r:0"}, [("n", "g", ("a",))]),
                ("g", ["a"], {"r": "n:r:0"}, [("n", "f", ("a",))]),
            ],
        ),
        "calls itself",
    ),
    "loop calls itself": (
        lambda: of(
            ("y", "While", ("x",), {"cond": "c", "body": "f"}),
            functions=[
                ("c", ["a"], {"r": "n:z:0"}, [("n", "Less", ("a", "a"))]),
                (
                    "f",
                    ["a"],
                    {"r": "n:output:0"},
                    [("n", "f", ("a",))],
                ),
            ],
        ),
        "calls itself|no result",
    ),
    "calls without end": (lambda: deep(40), "more than"),
    "operands of a function": (
        lambda: of(
            ("y", "f", ("x", "x")),
            functions=[("f", ["a"], {"r": "n:y:0"}, [("n", "Neg", ("a",))])],
        ),
        "takes 1 operands",
    ),
    "result of a function": (
        lambda: of(
            ("y", "f", ("x",)),
            functions=[("f", ["a"], {"r": "m:y:0"}, [("n", "Neg", ("a",))])],
        ),
        "nothing defines m",
    ),
    "branches differ": (
        lambda: of(
            ("y", "If", ("x", "x"), {"then_branch": "f", "else_branch": "g"}),
            functions=[
                ("f", ["a"], {"r": "n:y:0"}, [("n", "Neg", ("a",))]),
                ("g", ["a"], {"r": "n:y:0", "s": "n:y:0"}, [("n", "Neg", ("a",))]),
            ],
        ),
        "results|rank",
    ),
    "loop without end": (
        lambda: of(("y", "While", ("x",), {"cond": "f"})),
        "is no function|no function",
    ),
    "exit alone": (lambda: of(("a", "Exit", ("x",)), ("y", "Neg", ("a",))), "leaves no loop"),
    "merge alone": (lambda: of(("a", "Merge", ("x", "x")), ("y", "Neg", ("a",))), "two sides"),
    "next alone": (
        lambda: of(("a", "NextIteration", ("x",)), ("y", "Neg", ("a",))),
        "outside of its loop",
    ),
    "frame without condition": (
        lambda: frame(
            ("m", "Merge", ("e", "n")),
            ("s", "Switch", ("m", "x")),
            ("n", "NextIteration", ("s:1",)),
            ("o", "Exit", ("s",)),
            ("y", "Neg", ("o",)),
        ),
        "leaves no loop",
    ),
    "no list": (lambda: of(("a", "TensorListLength", ("x",)), ("y", "Neg", ("a",))), "no list"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph(name: str, tmp_path: Path) -> None:
    make, message = GRAPHS[name]
    path = tmp_path / "model.pb"
    path.write_bytes(make().SerializeToString())
    refused(path, message, "pb")


def refused(path: Path, message: str, format: str = "") -> None:
    """Demand that a model is refused in one line, and nothing new is in its folder."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(LeptonError, match=message) as caught:
        load(path, format=format)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 600
    assert sorted(path.parent.rglob("*")) == before


def large(*dims: int, twice: bool = False) -> Any:
    """Return a graph that adds a constant of 128 kB to its input."""
    content = struct.pack("<f", 2.0) * (32 << 10)
    made = unary(value=tensor(F32, *dims, content=content))
    if twice:
        add(made.node, "d", "Mystery", value=tensor(F32, *dims, content=content))
    return made


def test_large_constants_stay_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pb"
    path.write_bytes(large(4, 8 << 10).SerializeToString())
    module = load(path)
    (found,) = (
        t
        for op in module.walk()
        if (t := const_tensor(op.results[0] if op.results else None)) is not None
    )
    assert isinstance(found, FileTensor)
    assert found.shape == (4, 8 << 10)
    assert (found.numpy() == 2.0).all()


def test_large_constants_of_other_nodes_are_parsed(tmp_path: Path) -> None:
    path = tmp_path / "model.pb"
    path.write_bytes(large(32 << 10, twice=True).SerializeToString())
    refused(path, "Mystery is not supported")


@pytest.mark.parametrize("dims", [(5,), (1 << 62, 4), (-1,)])
def test_large_constants_of_wrong_size(dims: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "model.pb"
    path.write_bytes(large(*dims).SerializeToString())
    refused(path, "needs|memory|static", "pb")


def test_long_chains_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pb"
    path.write_bytes(chain(5000).SerializeToString())
    assert sum(1 for _ in load(path).walk()) == 5001


BYTES = {
    "empty": b"",
    "text": b"hello, world\n" * 20,
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "endless number": b"\x0a" + b"\xff" * 40,
    "length beyond": b"\x0a\xff\xff\xff\x7f" + b"a" * 20,
    "nested": b"\x0a\x02" * 500,
    "pickle": b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pb"
    path.write_bytes(BYTES[name])
    refused(path, ".", "pb")
    refused(path, ".")
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(BYTES[name])
    refused(folder, ".")


@pytest.mark.parametrize("text", ["", "node {", "node { name: 1 }", "\x00\xff", "no { " * 3000])
def test_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pbtxt"
    path.write_bytes(text.encode("latin-1"))
    refused(path, ".")


@pytest.mark.parametrize("cut", range(1, 12))
def test_truncated_graph(cut: int, tmp_path: Path) -> None:
    data = CASES.files()["v1_while.pb"]
    path = tmp_path / "model.pb"
    path.write_bytes(data[: len(data) * cut // 12])
    refused(path, ".", "pb")


# -- SavedModels -----------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return unpack("dense", tmp_path)


def edited(folder: Path, change: Callable[[Any], None]) -> None:
    path = folder / "saved_model.pb"
    message = parse("SavedModel", path.read_bytes(), "")
    change(message)
    path.write_bytes(message.SerializeToString())


def test_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, "no saved_model.pb")


def test_no_graph(saved: Path) -> None:
    edited(saved, lambda m: m.ClearField("meta_graphs"))
    refused(saved, "no graph")


def test_two_graphs(saved: Path) -> None:
    edited(saved, lambda m: m.meta_graphs.add().CopyFrom(m.meta_graphs[0]))
    refused(saved, "several graphs")


def test_no_signature(saved: Path) -> None:
    edited(saved, lambda m: m.meta_graphs[0].signature_def.clear())
    refused(saved, "signature")


def test_unknown_signature(saved: Path) -> None:
    with pytest.raises(LeptonError, match="no signature other; there are: serving_default"):
        load(saved, signature="other")


def test_sparse_input(saved: Path) -> None:
    def change(message: Any) -> None:
        info = message.meta_graphs[0].signature_def["serving_default"].inputs["x"]
        info.name = ""
        info.coo_sparse.SetInParent()

    edited(saved, change)
    refused(saved, "not a dense tensor")


def test_no_variables(saved: Path) -> None:
    (saved / "variables" / "variables.index").unlink()
    refused(saved, "no content")


def test_missing_shard(saved: Path) -> None:
    (saved / "variables" / "variables.data-00000-of-00001").unlink()
    refused(saved, "no such file")


def test_truncated_shard(saved: Path) -> None:
    path = saved / "variables" / "variables.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:20])
    refused(saved, "lies")


@pytest.mark.parametrize("what", ["variables.index", "variables.data-00000-of-00001"])
def test_link_out_of_the_folder(what: str, saved: Path, tmp_path: Path) -> None:
    path = saved / "variables" / what
    other = tmp_path / "elsewhere"
    path.rename(other)
    path.symlink_to(other)
    refused(saved, "out of the model's folder")


@pytest.mark.parametrize("part", range(8))
def test_truncated_index(part: int, saved: Path) -> None:
    path = saved / "variables" / "variables.index"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * part // 8])
    refused(saved, "index is damaged")


@pytest.mark.parametrize("offset", range(0, 200, 20))
def test_damaged_index(offset: int, saved: Path) -> None:
    path = saved / "variables" / "variables.index"
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x55
    path.write_bytes(data)
    refused(saved, "index is damaged")


def index(entries: dict[bytes, bytes], compression: int = 0) -> bytes:
    """Return a table with one block of entries."""

    def varint(number: int) -> bytes:
        out = bytearray()
        while number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        return bytes([*out, number])

    def block(items: dict[bytes, bytes]) -> bytes:
        rows = [varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in items.items()]
        return b"".join(rows) + struct.pack("<II", 0, 1)

    def sealed(content: bytes, kind: int) -> bytes:
        whole = content + bytes([kind])
        return whole + struct.pack("<I", masked(crc32c(whole)))

    data = block(entries)
    if compression:
        literals = [data[i : i + 60] for i in range(0, len(data), 60)]
        data = varint(len(data)) + b"".join(bytes([len(p) - 1 << 2]) + p for p in literals)
    first = sealed(data, compression)
    handle = varint(0) + varint(len(data))
    second = sealed(block({b"~": handle}), 0)
    place = varint(len(first)) + varint(len(second) - 5)
    footer = (varint(0) + varint(0) + place).ljust(40, b"\0")
    return first + second + footer + struct.pack("<Q", 0xDB4775248B80FB57)


@pytest.mark.parametrize("compression", [0, 1])
def test_index_is_read(compression: int) -> None:
    entries = {b"": b"header", b"key": bytes(range(200))}
    assert read_table(index(entries, compression)) == entries


def test_unknown_compression() -> None:
    with pytest.raises(LeptonError, match="compression 7"):
        read_table(index({b"": b""}, 7))


@pytest.mark.parametrize(
    "change",
    [
        {"shard_id": 5},
        {"shard_id": -1},
        {"offset": -8},
        {"offset": 1 << 60},
        {"size": 1 << 60},
        {"size": 3},
        {"dtype": STRING},
        {"dtype": RESOURCE},
        {"dtype": 77},
        {"dims": [1 << 40, 1 << 40]},
        {"dims": [-1]},
        {"sliced": True},
        {"header": True},
        {"shards": 0},
    ],
    ids=str,
)
def test_damaged_entry(change: dict[str, Any], saved: Path) -> None:
    path = saved / "variables" / "variables.index"
    entries = read_table(path.read_bytes())
    header = parse("BundleHeaderProto", entries[b""], "")
    header.endianness = int("header" in change)
    header.num_shards = change.get("shards", header.num_shards)
    entries[b""] = header.SerializeToString()
    for key in entries:
        if not key.endswith(b"VARIABLE_VALUE"):
            continue
        entry = parse("BundleEntryProto", entries[key], "")
        for name in ("shard_id", "offset", "size", "dtype"):
            setattr(entry, name, change.get(name, getattr(entry, name)))
        if "dims" in change:
            del entry.shape.dim[:]
            for size in change["dims"]:
                entry.shape.dim.add(size=size)
        if "sliced" in change:
            entry.slices.add().extent.add(length=1)
        entries[key] = entry.SerializeToString()
    path.write_bytes(index(entries))
    refused(saved, ".")


def test_cyclic_objects(saved: Path) -> None:
    def change(message: Any) -> None:
        nodes = message.meta_graphs[0].object_graph_def.nodes
        nodes[1].children.add(node_id=0, local_name="up")
        nodes[0].children.add(node_id=999, local_name="nowhere")
        nodes[0].children.add(node_id=-3, local_name="below")

    edited(saved, change)
    load(saved)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 12,
        b"\x05\x00",
        b"\x04\x0cab",
        b"\x04\x01\x00",
        b"\x04\x00a\x01\x09",
        b"\xff\xff\xff\xff\x0f\x00a",
        b"\x01\x04ab",
        b"\x08\xf0",
    ],
)
def test_damaged_snappy(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        uncompress(data, 1 << 20)


def test_snappy_copies() -> None:
    assert uncompress(b"\x0a\x04ab\x1e\x02\x00", 100) == b"abababababab"[:10]
