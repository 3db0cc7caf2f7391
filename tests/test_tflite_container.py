"""TFLite files: what is read is what was written, and hostile files get one clear error."""

from __future__ import annotations

import importlib
import io
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_ir.diagnostics import InvalidModelError, LeptonError, UnsupportedError
from lepton_ir.formats.tflite.archive import find_archive
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.reader import read_bytes, read_file
from lepton_ir.formats.tflite.schema import enums, options, tables
from lepton_ir.formats.tflite.validate import validate
from lepton_ir.formats.tflite.writer import ALIGNMENT, SMALL, write, write_file

Edit = Callable[[Node], Node]


def _real() -> list[Any]:
    root = Path(__file__).resolve().parents[2] / "shared" / "models" / "real"
    return [pytest.param(p, id=p.stem) for p in sorted(root.rglob("*.tflite"))]


def _op(name: str) -> int:
    return enums()["BuiltinOperator"].members[name]


def _tensor(name: str, shape: list[int], **values: Any) -> Node:
    return Node("Tensor", name=name, shape=shape, **values)


def small_model() -> Node:
    """A convolution and a loop over a second and third subgraph, with all kinds of fields."""
    weights = np.arange(18, dtype="<f4").tobytes()
    per_axis = Node("QuantizationParameters", scale=[0.5, 0.25], zero_point=[0, 0])
    tensors = (
        _tensor("x", [1, 4, 4, 1], shape_signature=[-1, 4, 4, 1]),
        _tensor("w", [2, 3, 3, 1], buffer=1),
        _tensor("y", [1, 2, 2, 2]),
        _tensor("z", [1, 2, 2, 2], type=9, quantization=per_axis.replace(quantized_dimension=3)),
        _tensor("naïve \udcff", []),
    )
    conv = Node(
        "Operator",
        inputs=[0, 1, -1],
        outputs=[2],
        builtin_options=Node("Conv2DOptions", padding=1, stride_w=2, dilation_w_factor=3),
    )
    custom = Node(
        "Operator", opcode_index=1, inputs=[2], outputs=[3], custom_options=b"\x01\x02\x03"
    )
    loop = Node(
        "Operator",
        opcode_index=2,
        inputs=[3],
        outputs=[4],
        builtin_options=Node("WhileOptions", cond_subgraph_index=1, body_subgraph_index=2),
        mutating_variable_inputs=[True],
    )
    entry = Node("TensorMap", name="input", tensor_index=0)
    return Node(
        "Model",
        version=3,
        description="hand-made",
        operator_codes=(
            Node("OperatorCode", builtin_code=_op("CONV_2D"), deprecated_builtin_code=3),
            Node("OperatorCode", builtin_code=_op("CUSTOM"), custom_code="Mine", version=2),
            Node("OperatorCode", builtin_code=_op("WHILE")),
        ),
        subgraphs=(
            Node(
                "SubGraph",
                name="main",
                tensors=tensors,
                inputs=[0],
                outputs=[4],
                operators=(conv, custom, loop),
            ),
            Node("SubGraph", tensors=(_tensor("c", []),), inputs=[0], outputs=[0]),
            Node("SubGraph", tensors=(_tensor("b", []),), inputs=[0], outputs=[0]),
        ),
        buffers=(Node("Buffer"), Node("Buffer", data=weights), Node("Buffer", data=b"2.18.0")),
        metadata=(Node("Metadata", name="min_runtime_version", buffer=2),),
        signature_defs=(Node("SignatureDef", signature_key="serve", inputs=(entry,)),),
    )


def _bytes(model: Node, **how: int) -> bytes:
    out = io.BytesIO()
    write(model, out, **how)
    return out.getvalue()


def _check(data: bytes) -> None:
    validate(read_bytes(data, "bad.tflite"), "bad.tflite")


def _refused(data: bytes) -> str:
    with pytest.raises(InvalidModelError) as caught:
        _check(data)
    text = caught.value.render()
    assert "\n" not in text
    assert "bad.tflite" in text
    return text


# ----- there and back


@pytest.mark.parametrize("path", _real())
def test_real_files_come_back_equal(path: Path, tmp_path: Path) -> None:
    model = read_file(str(path))
    validate(model, path.name)
    target = tmp_path / "b.tflite"
    write_file(model, str(target))
    assert read_file(str(target)) == model
    outside = _bytes(model, limit=max(500_000, path.stat().st_size // 2))
    assert read_bytes(outside) == model


def test_shared_models_are_there(shared_models: Path) -> None:
    assert len(_real()) >= 40


def test_small_model_comes_back_equal() -> None:
    model = small_model()
    validate(model)
    data = _bytes(model)
    assert read_bytes(data) == model
    assert _bytes(read_bytes(data)) == data == _bytes(small_model())
    graph = read_bytes(data).subgraphs[0]
    assert graph.tensors[4].name == "naïve \udcff"
    assert graph.operators[0].builtin_options.stride_h == 0
    assert graph.operators[0].builtin_options.dilation_h_factor == 1
    assert bytes(graph.operators[1].custom_options) == b"\x01\x02\x03"


def test_bytes_do_not_depend_on_the_process() -> None:
    code = "import sys; from tests.test_tflite_container import _bytes, small_model as m; "
    code += "sys.stdout.buffer.write(_bytes(m()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert run.stdout == _bytes(small_model())


def test_defaults_and_values_equal_to_them() -> None:
    assert Node("SoftmaxOptions", beta=0.0) == Node("SoftmaxOptions")
    minus = Node("SoftmaxOptions", beta=-0.0)
    assert minus != Node("SoftmaxOptions")
    op = Node("Operator", builtin_options=minus)
    graph = Node("SubGraph", operators=(op,))
    again = read_bytes(_bytes(Node("Model", subgraphs=(graph,)))).subgraphs[0].operators[0]
    assert again == op
    assert Node("Buffer", data=b"") != Node("Buffer")
    assert (
        read_bytes(_bytes(Node("Model", buffers=(Node("Buffer", data=b""),)))).buffers[0].data
        == b""
    )


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no table Nope"):
        Node("Nope")
    with pytest.raises(ValueError, match="no field nope"):
        Node("Tensor", nope=1)
    with pytest.raises(AttributeError, match="no field nope"):
        _ = Node("Tensor").nope


@pytest.mark.parametrize("outside", [False, True])
def test_weights_are_aligned(outside: bool) -> None:
    marks = [bytes([65 + i]) * (SMALL + i) for i in range(5)]
    model = Node("Model", version=3, buffers=tuple(Node("Buffer", data=m) for m in marks))
    data = _bytes(model, limit=3000 if outside else 1 << 20)
    assert read_bytes(data) == model
    for mark in marks:
        assert data.index(mark) % ALIGNMENT == 0
    assert (SMALL).to_bytes(4, "little") + marks[0] in data or outside


def test_large_custom_options_outside_are_understood() -> None:
    op = Node("Operator", large_custom_options_offset=1 << 40, large_custom_options_size=4)
    data = bytearray(_bytes(Node("Model", subgraphs=(Node("SubGraph", operators=(op,)),))))
    at = data.index(struct.pack("<Q", 1 << 40))
    data[at : at + 8] = struct.pack("<Q", len(data))
    found = read_bytes(bytes(data) + b"abcd").subgraphs[0].operators[0]
    assert found == Node("Operator", custom_options=b"abcd")


def test_too_many_tables_for_a_flatbuffer() -> None:
    with pytest.raises(UnsupportedError, match="besides its large weights"):
        write(small_model(), io.BytesIO(), limit=100)


def test_a_file_may_be_written_over_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    write_file(small_model(), str(path))
    first = path.read_bytes()
    write_file(read_file(str(path)), str(path))
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(b"old")
    with pytest.raises(UnsupportedError):
        write_file(small_model(), str(path), limit=100)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


class _Count(io.RawIOBase):
    """A stream that only counts."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)


def test_weights_are_neither_copied_nor_limited_to_two_gigabytes() -> None:
    block = memoryview(np.zeros(96 << 20, np.uint8))
    model = Node("Model", version=3, buffers=tuple(Node("Buffer", data=block) for _ in range(24)))
    out = _Count()
    tracemalloc.start()
    try:
        write(model, out)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert out.size > 24 * (96 << 20)
    assert peak < 8 << 20


def _zip(prefix: bytes, *, absolute: bool) -> bytes:
    """A file that ends in an archive, as `cat` and as an archiver that appends leave it."""
    out = io.BytesIO(prefix if absolute else b"")
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", "cat\ndog\n" * 50)
        archive.writestr("more/scores.txt", b"\x00\x01")
        archive.comment = b"two files"
    return out.getvalue() if absolute else prefix + out.getvalue()


@pytest.mark.parametrize("absolute", [False, True])
def test_an_archive_behind_the_model_moves_with_it(absolute: bool) -> None:
    found = find_archive(_zip(b"TFL3 and so on", absolute=absolute))
    assert found is not None
    out = io.BytesIO()
    write(small_model(), out, archive=found)
    assert read_bytes(out.getvalue()) == small_model()
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["labels.txt", "more/scores.txt"]
        # readers other than Python's take the offsets literally
        assert archive.infolist()[0].header_offset == len(_bytes(small_model()))
    assert find_archive(out.getvalue()) == found


def test_what_is_no_archive_is_none() -> None:
    assert find_archive(_bytes(small_model())) is None
    assert find_archive(b"") is None
    data, draw = _zip(b"TFL3", absolute=True), random.Random(7)
    for size in range(len(data)):
        find_archive(data[:size])
    for _ in range(2000):
        at = draw.randrange(len(data) - 4)
        find_archive(data[:at] + draw.randbytes(4) + data[at + 4 :])


@pytest.mark.parametrize("path", _real())
def test_archives_of_real_files_are_kept(path: Path) -> None:
    data = path.read_bytes()
    found = find_archive(data)
    filled = zipfile.is_zipfile(path) and bool(zipfile.ZipFile(path).namelist())
    assert (found is not None) == filled
    if found is not None:
        out = io.BytesIO()
        write(read_bytes(data), out, archive=found)
        with zipfile.ZipFile(out) as mine, zipfile.ZipFile(path) as theirs:
            assert mine.namelist() == theirs.namelist()
            assert all(mine.read(n) == theirs.read(n) for n in mine.namelist())


# ----- hostile files: models that are well-formed but wrong


def _graph(**values: Any) -> Edit:
    return lambda m: m.replace(subgraphs=(m.subgraphs[0].replace(**values), *m.subgraphs[1:]))


def _changed(items: tuple[Node, ...], index: int, **values: Any) -> tuple[Node, ...]:
    return tuple(n.replace(**values) if i == index else n for i, n in enumerate(items))


def _operator(index: int, **values: Any) -> Edit:
    return lambda m: _graph(operators=_changed(m.subgraphs[0].operators, index, **values))(m)


def _with_tensor(index: int, **values: Any) -> Edit:
    return lambda m: _graph(tensors=_changed(m.subgraphs[0].tensors, index, **values))(m)


def _code(index: int, **values: Any) -> Edit:
    return lambda m: m.replace(operator_codes=_changed(m.operator_codes, index, **values))


def _quantized(**values: Any) -> Edit:
    return _with_tensor(3, quantization=Node("QuantizationParameters", **values))


def _signature(**values: Any) -> Edit:
    return lambda m: m.replace(signature_defs=(Node("SignatureDef", **values),))


def _sparse(**values: Any) -> Edit:
    return _with_tensor(1, sparsity=Node("SparsityParameters", **values))


def _loop(cond: int, body: int) -> Edit:
    node = Node("WhileOptions", cond_subgraph_index=cond, body_subgraph_index=body)
    return _operator(2, builtin_options=node)


WRONG: dict[str, tuple[Edit, str]] = {
    "version": (lambda m: m.replace(version=2), "version is 2"),
    "no subgraph": (lambda m: m.replace(subgraphs=()), "no subgraph"),
    "no subgraphs": (lambda m: m.replace(subgraphs=None), "no subgraph"),
    "no operator codes": (lambda m: m.replace(operator_codes=None), "operator code is 0"),
    "no buffers": (lambda m: m.replace(buffers=None), "buffer is 1"),
    "operator code": (_operator(0, opcode_index=3), "operator code is 3"),
    "huge operator code": (_operator(0, opcode_index=2**32 - 1), "operator code is 4294967295"),
    "builtin": (_code(0, builtin_code=210), "no builtin operator 210"),
    "negative builtin": (
        _code(0, builtin_code=-1, deprecated_builtin_code=-1),
        "no builtin operator -1",
    ),
    "placeholder": (_code(0, builtin_code=127), "no builtin operator 127"),
    "custom without name": (_code(1, custom_code=None), "no name"),
    "operator version": (_code(0, version=0), "version is 0"),
    "input": (_operator(0, inputs=[0, 5]), "inputs is 5"),
    "negative input": (_operator(0, inputs=[-2]), "inputs is -2"),
    "output": (_operator(0, outputs=[2**31 - 1]), "outputs is 2147483647"),
    "intermediate": (_operator(0, intermediates=[9]), "intermediates is 9"),
    "mutated": (_operator(0, mutating_variable_inputs=[True] * 7), "7 flags"),
    "subgraph input": (_graph(inputs=[5]), "inputs is 5"),
    "subgraph output": (_graph(outputs=[-1]), "outputs is -1"),
    "made twice": (_operator(1, outputs=[2]), "also a result of operator 0"),
    "made and given": (_operator(0, outputs=[0]), "is an input of the subgraph"),
    "order": (_operator(0, inputs=[3]), "which operator 1 makes"),
    "reads itself": (_operator(1, inputs=[3]), "which operator 1 makes"),
    "option union": (_operator(0, builtin_options=Node("AddOptions")), "AddOptions instead"),
    "second option union": (
        _operator(0, builtin_options_2=Node("DilateOptions")),
        "DilateOptions instead of Conv2DOptions",
    ),
    "called subgraph": (_loop(1, 3), "it runs is 3"),
    "negative subgraph": (_loop(-1, 2), "it runs is -1"),
    "recursion": (_loop(0, 2), "runs itself"),
    "tensor type": (_with_tensor(0, type=23), "no tensor type 23"),
    "shape": (_with_tensor(0, shape=[1, -4]), "the shape is"),
    "signature's rank": (_with_tensor(0, shape_signature=[1]), "its signature another"),
    "buffer": (_with_tensor(0, buffer=3), "buffer is 3"),
    "size of weights": (_with_tensor(1, shape=[2, 3, 3, 2]), "buffer has 72 bytes"),
    "huge shape": (_with_tensor(1, shape=[2**31 - 1] * 6), "buffer has 72 bytes"),
    "type of weights": (_with_tensor(1, type=17), "INT4"),
    "zero points": (_quantized(scale=[1.0, 1.0, 1.0], zero_point=[1, 2]), "2 zero points"),
    "scales": (_quantized(scale=[1.0] * 3), "3 scales"),
    "quantized dimension": (
        _quantized(scale=[1.0] * 2, quantized_dimension=4),
        "quantized dimension is 4",
    ),
    "traversal order": (_sparse(traversal_order=[9]), "traversal order is 9"),
    "traversal twice": (
        _sparse(traversal_order=[0, 0], dim_metadata=(Node("DimensionMetadata"),) * 2),
        "no order",
    ),
    "block map": (_sparse(block_map=[4]), "block map is 4"),
    "signature's subgraph": (_signature(subgraph_index=3), "subgraph is 3"),
    "signature's tensor": (
        _signature(inputs=(Node("TensorMap", name="a", tensor_index=5),)),
        "tensor 'a' is 5",
    ),
    "metadata": (
        lambda m: m.replace(metadata=(Node("Metadata", name="m", buffer=3),)),
        "buffer is 3",
    ),
    "old metadata": (lambda m: m.replace(metadata_buffer=[-1]), "metadata buffers is -1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_models_are_refused(name: str) -> None:
    edit, message = WRONG[name]
    assert message in _refused(_bytes(edit(small_model())))


def test_subgraphs_that_run_each_other() -> None:
    model = small_model()
    options_ = Node("WhileOptions", cond_subgraph_index=1)
    call = Node("Operator", opcode_index=2, builtin_options=options_)
    body = model.subgraphs[2].replace(operators=(call,))
    assert "runs itself" in _refused(_bytes(model.replace(subgraphs=(*model.subgraphs[:2], body))))


# ----- hostile files: bytes


def _root(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 0)[0])


def _slot(data: bytes, field: str, table: str = "Model") -> int:
    """Where a field of the root table lies."""
    root = _root(data)
    vtable = root - int(struct.unpack_from("<i", data, root)[0])
    at = tables()[table].fields[field].id
    return root + int(struct.unpack_from("<H", data, vtable + 4 + 2 * at)[0])


def _patched(data: bytes, at: int, form: str, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(form, out, at, value)
    return bytes(out)


def _vector(data: bytes, field: str) -> int:
    at = _slot(data, field)
    return at + int(struct.unpack_from("<I", data, at)[0])


BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "not a TFLite file"),
    "short": (lambda d: d[:7], "not a TFLite file"),
    "identifier": (lambda d: _patched(d, 4, "<I", 0), "not a TFLite file"),
    "root past the end": (lambda d: _patched(d, 0, "<I", len(d)), "points to"),
    "root is itself": (lambda d: _patched(d, 0, "<I", 0), "points to"),
    "vtable before": (lambda d: _patched(d, _root(d), "<i", 1 << 30), "reads at byte"),
    "vtable after": (lambda d: _patched(d, _root(d), "<i", -(1 << 30)), "reads at byte"),
    "vtable is the table": (lambda d: _patched(d, _root(d), "<i", 0), ""),
    "odd vtable": (
        lambda d: _patched(d, _root(d) - struct.unpack_from("<i", d, _root(d))[0], "<H", 5),
        "has a size of 5",
    ),
    "long vtable": (
        lambda d: _patched(d, _root(d) - struct.unpack_from("<i", d, _root(d))[0], "<H", 65534),
        "has a size of 65534",
    ),
    "long table": (
        lambda d: _patched(d, _root(d) - struct.unpack_from("<i", d, _root(d))[0] + 2, "<H", 65535),
        "has a size of 65535",
    ),
    "short table": (
        lambda d: _patched(d, _root(d) - struct.unpack_from("<i", d, _root(d))[0] + 2, "<H", 4),
        "of a table of 4 bytes",
    ),
    "offset to itself": (lambda d: _patched(d, _slot(d, "buffers"), "<I", 0), "points to"),
    "offset past the end": (
        lambda d: _patched(d, _slot(d, "subgraphs"), "<I", 2**32 - 1),
        "points to",
    ),
    "many tables": (
        lambda d: _patched(d, _vector(d, "subgraphs"), "<I", 2**32 - 1),
        "4294967295 elements",
    ),
    "long text": (
        lambda d: _patched(d, _vector(d, "description"), "<I", 2**31),
        "2147483648 bytes",
    ),
    "table is itself": (
        lambda d: _patched(d, _vector(d, "buffers") + 4, "<I", 0),
        "points to",
    ),
}


@pytest.mark.parametrize("name", BYTES)
def test_hostile_bytes_are_refused(name: str) -> None:
    edit, message = BYTES[name]
    assert message in _refused(edit(_bytes(small_model())))


def test_unknown_and_missing_unions() -> None:
    op = Node("Operator", builtin_options=Node("ReshapeOptions"))
    data = _bytes(Node("Model", subgraphs=(Node("SubGraph", operators=(op,)),)))
    number = enums()["BuiltinOptions"].members["ReshapeOptions"]
    texts = set()
    for at in [i for i, b in enumerate(data) if b == number]:
        try:
            _check(_patched(data, at, "<B", 127))
        except InvalidModelError as error:
            texts.add(error.message)
    assert "BuiltinOptions has no member 127" in texts


@pytest.mark.parametrize(("offset", "size"), [(1 << 40, 8), (64, 1 << 40), (2**64 - 1, 2**64 - 1)])
def test_data_outside_past_the_end(offset: int, size: int) -> None:
    model = small_model()
    data = _bytes(model.replace(buffers=(Node("Buffer", data=bytes(5000)),) * 3), limit=3000)
    placed = data.index(struct.pack("<Q", 5000))
    lengths = _patched(data, placed, "<Q", size)
    assert "past the end" in _refused(lengths if size > 8 else _offset(data, offset))


def _offset(data: bytes, value: int) -> bytes:
    first = data.index(bytes(5000))
    first = -(-first // ALIGNMENT) * ALIGNMENT
    return _patched(data, data.index(struct.pack("<Q", first)), "<Q", value)


def test_truncations_are_refused() -> None:
    data = _bytes(small_model())
    for size in range(len(data)):
        _refused(data[:size])


def _error(data: bytes) -> LeptonError | None:
    """The one kind of exception that any bytes may cause."""
    try:
        _check(data)
    except LeptonError as error:
        return error
    return None


def test_flipped_bytes_are_read_or_refused() -> None:
    data = _bytes(small_model())
    flips = [(i, v) for i, b in enumerate(data) for v in (0, 0xFF, b ^ 0x80, b ^ 1)]
    errors = [e for at, v in flips if (e := _error(_patched(data, at, "<B", v))) is not None]
    assert len(errors) > len(data)
    assert not any("\n" in error.render() for error in errors)


def test_random_damage_is_read_or_refused() -> None:
    data, draw = _bytes(small_model()), random.Random(5)
    errors = []
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(draw.randrange(1, 8)):
            at = draw.randrange(0, len(data) - 4)
            damaged[at : at + 4] = draw.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\4\0\0\0", draw.randbytes(4))
            )
        errors.append(_error(bytes(damaged)))
    assert not any("\n" in error.render() for error in errors if error is not None)


def test_shared_tables_do_not_explode() -> None:
    """Many references to one subgraph with many operators: a small file, an endless model."""
    count = 20_000
    many = Node("SubGraph", operators=(Node("Operator"),) * count)
    model = Node("Model", version=3, subgraphs=(many, *(Node("SubGraph"),) * count))
    data = bytearray(_bytes(model))
    vector = _vector(bytes(data), "subgraphs")
    places = [vector + 4 + 4 * i for i in range(count + 1)]
    target = places[0] + struct.unpack_from("<I", data, places[0])[0]
    last = max(p + struct.unpack_from("<I", data, p)[0] for p in places)
    assert last < len(data)
    for place in places:
        if place < target:
            struct.pack_into("<I", data, place, target - place)
    start = time.perf_counter()
    assert "more tables and texts" in _refused(bytes(data))
    assert time.perf_counter() - start < 60


def test_more_tables_than_runtimes_load() -> None:
    """A vector of five million offsets to one table: 20 MB, but gigabytes in memory."""
    model = Node("Model", version=3, subgraphs=(Node("SubGraph"),), buffers=(Node("Buffer"),))
    data, count = bytearray(_bytes(model)), 5_000_000
    place = _slot(bytes(data), "subgraphs")
    vector = len(data)
    struct.pack_into("<I", data, place, vector - place)
    offsets = np.arange(4 * count, 0, -4, dtype="<u4")
    tail = struct.pack("<hhi", 4, 4, 4)  # an empty vtable and a table with it
    data += struct.pack("<I", count) + (offsets + 4).tobytes() + tail
    start = time.perf_counter()
    assert "more tables and texts" in _refused(bytes(data))
    assert time.perf_counter() - start < 60


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path in (tmp_path, tmp_path / "missing", tmp_path / "empty"):
        with pytest.raises(InvalidModelError):
            read_file(str(path))


# ----- the schema


def test_schema_is_consistent() -> None:
    for table in tables().values():
        for field in table.fields.values():
            assert field.id < table.slots
            if field.kind == "table":
                assert field.of in tables()
    for union in ("BuiltinOptions", "BuiltinOptions2", "SparseIndexVector", "QuantizationDetails"):
        assert set(enums()[union].members) - {"NONE"} <= set(tables())
    assert set(options()) <= set(enums()["BuiltinOperator"].members)
    assert set(options().values()) <= set(tables())


def test_schema_agrees_with_the_runtime() -> None:
    pytest.importorskip("ai_edge_litert")
    theirs = importlib.import_module("ai_edge_litert.schema_py_generated")
    for name, enum in enums().items():
        mine, known = enum.members, vars(getattr(theirs, name))
        values = {v for k, v in known.items() if not k.startswith("_") and isinstance(v, int)}
        assert set(mine.values()) == values, name
    for name, table in tables().items():
        made = vars(getattr(theirs, f"{name}T")())
        wanted: list[tuple[str, Any]] = []
        for field in sorted(table.fields.values(), key=lambda f: f.id):
            key = field.name.replace("_", "")
            if field.kind == "union":
                wanted.append((key + "type", 0))
            plain = field.kind == "scalar" and not field.vector
            wanted.append((key, field.default if plain else None))
        assert [(k.replace("_", "").lower(), v) for k, v in made.items()] == wanted, name
