from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest

from lepton_ir import dims, dtypes
from lepton_ir.diagnostics import InvalidModelError, LeptonError
from lepton_ir.foreign import Foreign
from lepton_ir.infer import const_tensor
from lepton_ir.ir import AttrRef
from lepton_ir.tensors import DenseTensor, ElidedTensor, SplatTensor
from lepton_ir.text.files import read_lir, write_lir
from lepton_ir.text.generators import random_bits, uniform
from lepton_ir.text.parse import MAX_REGION_DEPTH, parse_module
from lepton_ir.text.print import print_bare, print_module
from lepton_ir.type_text import parse_type
from lepton_ir.types import (
    UNKNOWN,
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    StateType,
    TensorType,
    tensor,
)

FULL = (Path(__file__).parent / "data" / "full.lir").read_text("utf-8")


def body(text: str, params: str = "") -> str:
    return f"func @main({params}) {{\n{text}\n}}"


def one(literal: str):
    module = parse_module(body(f"%x = const() {{value={literal}}}\nreturn(%x)"))
    return const_tensor(module.main.outputs[0])


def test_every_construct_survives_a_round_trip_unchanged() -> None:
    module = parse_module(FULL)
    assert print_module(module) == FULL
    main = module.main
    assert main.inputs[0].name == "input:0"
    assert main.inputs[0].declared is main.inputs[0].type
    assert main.output_names == ["z", "p:0", "output2"]
    assert main.overridable["w0"].numpy().tolist() == [0.5, -0.0]
    foo = next(op for op in module.walk() if op.name == "com.acme.Foo")
    assert foo.results[1].name == "p"
    assert foo.node_name == "foo"
    assert foo.loc.name == "n"
    assert foo.attrs["odd k"] == b'\xff"'
    assert foo.attrs["e"] == Foreign("x", b"\0")
    assert foo.attrs["beta"] == float(np.float32(0.1))
    fused = next(op for op in module.walk() if op.name == "if")
    assert fused.loc.flatten() == (("x", "y"), ("fuse/a", "b"))
    leaky = next(op for op in module.walk() if op.name == "leaky_relu")
    assert leaky.attrs["alpha"] == AttrRef("alpha", "float")
    assert leaky.has_attr_refs


def test_types_may_be_left_out() -> None:
    module = parse_module(
        body("%c = const() {value=2.0}\n%y = mul(%x, %c)\nreturn(%y)", "%x: f32[N,3]")
    )
    assert str(module.main.outputs[0].type) == "f32[N,3]"  # type: ignore[union-attr]


def test_written_types_stand_when_less_is_said_than_is_known() -> None:
    text = "func @main(%x: f32[N]) -> (?) {\n  %y = exp(%x) : ?\n  return(%y)\n}\n"
    assert print_bare(parse_module(text)) == text


@pytest.mark.parametrize(
    "kind",
    [
        UNKNOWN,
        TensorType(None, None),
        TensorType(dtypes.F32, None),
        tensor(dtypes.BF16),
        tensor(dtypes.I4, 1, None, dims.sym("N")),
        tensor(dtypes.F32, dims.sym("a,b]"), dims.sym('q"\n\\'), dims.sym("min")),
        tensor(dtypes.F32, dims.minimum(dims.sym("A"), dims.sym("B") + 1), 3),
        TensorType(dtypes.U8, (4,), 'blocked "x]"'),
        SequenceType(OptionalType(tensor(dtypes.STRING, dims.sym("N")))),
        MapType(dtypes.I64, SequenceType(tensor(dtypes.F32))),
        SparseType(tensor(dtypes.F64, 3, 3)),
        StateType(UNKNOWN),
        *(tensor(d, 2) for d in dtypes.ALL),
    ],
    ids=str,
)
def test_every_type_reads_back_to_the_same_object(kind) -> None:
    assert parse_type(str(kind)) is kind
    text = f"func @main(%x: {kind}) -> ({kind}) {{\n  return(%x)\n}}\n"
    assert print_bare(parse_module(text)) == text


@pytest.mark.parametrize(
    "text",
    ["f32", "f33[2]", "f32[2", "f32[-1]", "f32[1/2]", "seq<f32[2]", "f32[2]>", "", "f32[*]x"],
)
def test_bad_types_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_type(text)


_SPECIAL = [0.0, -0.0, 1.5, -2.0, math.inf, -math.inf, math.nan, 0.1]


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_elements_of_every_type_keep_their_bits(dtype) -> None:
    if dtype.kind == "string":
        array = np.array(["", 'a"\n', "ü\u2028", b"\xff\0"], object)
    elif dtype.kind == "bool":
        array = np.array([True, False])
    elif dtype.is_integer:
        low = -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0
        array = np.array([low, 0, 1, low + (1 << dtype.bits) - 1], object).astype(dtype.numpy)
    else:
        with np.errstate(all="ignore"):
            array = np.array(_SPECIAL).astype(dtype.numpy)
    for part in (array, array[:0], array[1]):
        module = parse_module(body("%x = const() {value=1}\nreturn(%x)"))
        op = module.main.block.first
        op.attrs["value"] = DenseTensor(np.asarray(part, dtype.numpy), dtype)
        op.result.type = op.attrs["value"].type
        text = print_module(module)
        back = parse_module(text)
        assert print_module(back) == text
        found = const_tensor(back.main.outputs[0]).numpy()
        assert found.dtype == dtype.numpy
        same = found.tolist() == np.asarray(part).tolist()
        assert same if dtype.kind == "string" else found.tobytes() == np.asarray(part).tobytes()


@pytest.mark.parametrize("bits", [0x7FC00001, 0xFFC00000, 0x7FC00000, 0xFFC12345])
def test_nan_payloads_survive(bits: int) -> None:
    assert one(f"f32[] nan(0x{bits:x})").numpy().tobytes() == struct.pack("<I", bits)


@pytest.mark.parametrize(
    "value", [0.1, 1e-5, float(np.float32(1e-5)), 3e38, 5e-324, -0.0, math.inf]
)
def test_floats_of_attributes_are_exact(value: float) -> None:
    module = parse_module(body("%y = a.B(%x) {v=1.0} : ?\nreturn(%y)", "%x: ?"))
    op = module.main.block.first
    op.attrs["v"] = value
    back = parse_module(print_module(module)).main.block.first.attrs["v"]
    assert struct.pack("<d", back) == struct.pack("<d", value)


def test_formulas_take_no_memory_until_they_are_read() -> None:
    text = body(
        "%a = const() {value=rand(1)} : f32[1000000,1000000]\n"
        "%b = const() {value=arange()} : i64[1000000,1000000]\n"
        "%c = const() {value=splat(1)} : i8[1000000,1000000,1000000]\n"
        "return(%a, %b, %c)"
    )
    module = parse_module(text)
    assert isinstance(const_tensor(module.main.outputs[2]), SplatTensor)


def test_rand_is_fixed_for_all_time() -> None:
    assert random_bits(0, 2).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]  # SplitMix64(0)
    numbers = uniform(7, (1000,))
    assert -1 <= numbers.min() < -0.9
    assert 0.9 < numbers.max() < 1
    assert one("i8[50] rand(3)").numpy().max() == 9
    assert one("u4[50] rand(3, 3)").numpy().astype(int).max() == 2


def test_elided_constants_print_alike_and_raise_by_name() -> None:
    module = parse_module(body("%w = const() {value=arange()} : f32[100]\nreturn(%w)"))
    op = module.main.block.first
    op.attrs["value"] = DenseTensor(op.attrs["value"].numpy())
    text = print_module(module)
    assert '#w = elided(100, "' in text
    back = parse_module(text)
    assert print_module(back) == text
    elided = const_tensor(back.main.outputs[0])
    assert isinstance(elided, ElidedTensor)
    with pytest.raises(LeptonError, match="#w"):
        elided.numpy()


@pytest.mark.parametrize("kind", ["f32", "bf16", "i4", "f8e4m3fn", "bool", "f6e2m3", "c64", "str"])
def test_files_keep_large_constants(kind: str, tmp_path) -> None:
    dtype = dtypes.dtype(kind)
    data = np.arange(99).reshape(9, 11) % 2
    array = np.array([f"s{i}" for i in range(99)], object) if kind == "str" else data
    value = DenseTensor(array.reshape(9, 11).astype(dtype.numpy), dtype)
    module = parse_module(body("%w = const() {value=1}\nreturn(%w)"))
    op = module.main.block.first
    op.attrs["value"], op.result.type = value, value.type
    path = tmp_path / "m.lir"
    write_lir(module, path)
    back = const_tensor(read_lir(path).main.outputs[0])
    assert (back.numpy() == value.numpy()).all()
    first = (tmp_path / "m.lir.npz").read_bytes()
    write_lir(read_lir(path), path)
    assert (tmp_path / "m.lir.npz").read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.lir", "m.lir.npz"]
    inline = print_module(module, blobs="base64")
    assert (const_tensor(parse_module(inline).main.outputs[0]).numpy() == value.numpy()).all()


@pytest.mark.parametrize("file", ["../w.npz", "/etc/passwd", "missing.npz", "x\\u0000.npz", "dir"])
def test_archives_outside_the_folder_are_refused(file: str, tmp_path) -> None:
    inner = tmp_path / "inner"
    (inner / "dir").mkdir(parents=True)
    np.savez(tmp_path / "w.npz", w=np.zeros(9))
    (inner / "link.npz").symlink_to(tmp_path / "w.npz")
    head = body("%w = const() {value=#w} : f64[9]\nreturn(%w)")
    for name in (file, "link.npz"):
        with pytest.raises(InvalidModelError, match="not a file in the folder"):
            parse_module(head + f'\nblobs {{ #w = npz("{name}", "w") }}', folder=inner)


def test_archives_of_the_wrong_content_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "w.npz", w=np.zeros(8), o=np.array([{}], object))
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    head = body("%w = const() {value=#w} : f64[9]\nreturn(%w)")
    for place in ('"w.npz", "w"', '"w.npz", "o"', '"w.npz", "none"', '"bad.npz", "w"'):
        with pytest.raises(InvalidModelError, match=r"t.lir:\d+:\d+"):
            parse_module(
                head + f"\nblobs {{ #w = npz({place}) }}", folder=tmp_path, filename="t.lir"
            )


BAD = {
    "stray": (body("%y = relu(%x) }\nreturn(%x)", "%x: ?"), "return"),
    "undefined": (body("%y = relu(%z)\nreturn(%y)"), "%z is not defined"),
    "use before": (body("%y = relu(%z)\n%z = relu(%y)\nreturn(%z)"), "%z is not defined"),
    "twice": (body("%y = relu(%x)\n%y = relu(%x)\nreturn(%y)", "%x: ?"), "%y is defined twice"),
    "region scope": (
        body("%y = if(%c) { %a = neg(%c) yield(%a) } { yield(%a) }\nreturn(%y)", "%c: bool[]"),
        "%a is not defined",
    ),
    "no op": (body("%y = rellu(%x)\nreturn(%y)", "%x: ?"), "did you mean relu"),
    "operands": (body("%y = relu()\nreturn(%y)"), "misses x"),
    "too many": (body("%y = relu(%x, %x)\nreturn(%y)", "%x: ?"), "got 2 operands"),
    "attribute": (body("%y = relu(%x) {a=1}\nreturn(%y)", "%x: ?"), "no attribute 'a'"),
    "kind": (body('%y = softmax(%x) {axis="a"}\nreturn(%y)', "%x: ?"), "should be int"),
    "contradiction": (body("%y = relu(%x) : f32[3]\nreturn(%y)", "%x: f32[2]"), "contradicts"),
    "no return": (body("%y = relu(%x)", "%x: ?"), "ends with return"),
    "type": (body("return(%x)", "%x: f99[2]"), "unknown element type"),
    "blob": (body("%w = const() {value=#w} : f32[9]\nreturn(%w)"), "no blob is called #w"),
    "escape": (body('%y = relu(%"\\q")\nreturn(%y)'), "bad escape"),
    "range": (body("%y = const() {value=[300]} : i8[1]\nreturn(%y)"), "outside i8"),
    "count": (body("%y = const() {value=[1,2]} : i8[3]\nreturn(%y)"), "are given for"),
    "main": ("func @f() { return() }", "no function @main"),
    "two": (body("return()") + body("return()"), "defined twice"),
    "empty": ("", "no module"),
    "version": ("// lepton-ir 2\n", "format version 2"),
    "region count": (body("%y = if(%c)\nreturn(%y)", "%c: bool[]"), "2 regions"),
    "deep list": (body(f"a.B() {{v={'[' * 5000}1{']' * 5000}}}\nreturn()"), "nested deeper"),
    "deep type": (body("return(%x)", f"%x: {'seq<' * 500}?{'>' * 500}"), "nested deeper"),
    "many digits": (body(f"a.B() {{v={'1' * 9000}}}\nreturn()"), "too many digits"),
    "many digits in a list": (body(f"a.B() {{v=[{'1' * 9000}]}}\nreturn()"), "too many digits"),
    "op escape": (body('"\\q"()\nreturn()'), "bad escape"),
    "node facts": (body("a.B() node {symbols=3}\nreturn()"), "expected node"),
    "dtype attribute": (body('%y = cast(%x) {to="f32"}\nreturn(%y)', "%x: ?"), "should be dtype"),
    "unclosed": (body("return(") + '"', "unexpected"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_end_in_one_clear_error(name: str) -> None:
    text, message = BAD[name]
    with pytest.raises(LeptonError) as caught:
        parse_module(text, filename="bad.lir")
    shown = caught.value.render()
    assert message in shown
    assert "bad.lir" in shown
    assert len(shown) < 1500


def test_errors_have_line_column_and_caret() -> None:
    with pytest.raises(InvalidModelError) as caught:
        parse_module(body("  %y = relu(%x\n  return(%y)", "%x: ?"), filename="a.lir")
    error = caught.value
    assert error.where == "a.lir:3:3"
    assert error.notes == ("  return(%y)", "  ^")
    assert "expected ')', ','" in error.message or "expected ',', ')'" in error.message


def test_regions_nest_up_to_the_limit_and_no_further() -> None:
    def nested(depth: int) -> str:
        text = "yield(%c)"
        for _ in range(depth):
            text = f"%y = if(%c) {{ {text} }} {{ yield(%c) }} yield(%y)"
        return body(text.removesuffix("yield(%y)") + "return(%y)", "%c: bool[]")

    module = parse_module(nested(MAX_REGION_DEPTH - 1))
    assert print_module(parse_module(print_module(module))) == print_module(module)
    with pytest.raises(InvalidModelError, match="nested deeper"):
        parse_module(nested(3000))


def test_names_that_repeat_or_are_missing_stay_as_they_are() -> None:
    text = body(
        '%"a b" = relu(%x)\n%"a b"#1 = relu(%"a b")\n%0 = exp(%"a b"#1)\nreturn(%0)', "%x: ?"
    )
    module = parse_module(text)
    assert [op.results[0].name for op in module.main.block.ops if op.results] == [
        "a b",
        "a b",
        None,
    ]
    assert print_module(parse_module(print_module(module))) == print_module(module)
