"""ONNX in and out: names, types, opsets, functions, external data, malformed files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx_models import F32, X4, Y, assert_same, info, load_proto, model, node, run

import lepton_ir
from lepton_ir import dims
from lepton_ir.backends.onnx.writer import save, to_proto
from lepton_ir.diagnostics import InvalidModelError, LeptonError, Location, UnsupportedError
from lepton_ir.frontends.onnx.reader import load
from lepton_ir.ir import AttrRef
from lepton_ir.provenance import NODE_KEY, RULES_KEY, SOURCES_KEY, TABLE_KEY, ProvenanceTable

# -- whole models ----------------------------------------------------------------------------------


def real_models() -> list[Path]:
    shared = os.environ.get("LEPTON_SHARED", Path(__file__).resolve().parents[2] / "shared")
    return sorted((Path(shared) / "models" / "real").glob("**/*.onnx"))


@pytest.mark.parametrize("path", real_models() or [None], ids=lambda p: p.stem if p else "absent")
def test_real_models_come_out_as_they_went_in(path: Path | None, tmp_path: Path):
    if path is None:
        pytest.skip("no real models here (set LEPTON_SHARED)")
    out = tmp_path / "out.onnx"
    save(load(path), out)
    before = onnx.load(path, load_external_data=False).graph
    after = onnx.load(out, load_external_data=False).graph
    old = [n for n in before.node if n.op_type != "Constant"]
    assert [(n.op_type, n.name, *n.output) for n in old] == [
        (n.op_type, n.name, *n.output) for n in after.node
    ]
    weights = {t.name for t in before.initializer}
    assert [i.name for i in after.input] == [i.name for i in before.input if i.name not in weights]
    assert [o.name for o in after.output] == [o.name for o in before.output]
    onnx.checker.check_model(str(out))
    save(load(out), tmp_path / "again.onnx")
    twice = (tmp_path / "again.onnx").read_bytes()
    if not (tmp_path / "out.onnx.data").exists():
        assert twice == out.read_bytes()


def backend_tests() -> list[Any]:
    kinds = ("node", "simple", "pytorch-converted", "pytorch-operator")
    return [t for kind in kinds for t in load_model_tests(kind=kind)]


def round_trip_failure(case: Any) -> str:
    """Return what was wrong with the round trip of one backend test, empty when nothing was."""
    path = Path(case.model_dir or "") / "model.onnx"
    source = case.model if case.model is not None else onnx.load(path)
    try:
        result = to_proto(load(source.SerializeToString()))
    except LeptonError as error:
        return str(error)
    try:
        onnx.checker.check_model(source)
    except onnx.checker.ValidationError:
        return ""
    try:
        onnx.checker.check_model(result)
    except onnx.checker.ValidationError as error:
        return str(error)
    if not case.data_sets or "random" in case.name or "bernoulli" in case.name:
        return ""
    feeds = dict(zip([i.name for i in source.graph.input], case.data_sets[0][0], strict=False))
    try:
        expected = run(source, feeds)
    except Exception:  # onnxruntime cannot run every test of ONNX
        return ""
    try:
        assert_same(expected, run(result, feeds))
    except Exception as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_sample_of_the_backend_tests_runs_the_same():
    failures = {c.name: round_trip_failure(c) for c in backend_tests()[::12]}
    assert {k: v for k, v in failures.items() if v} == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_all_backend_tests_run_the_same():
    failures = {c.name: round_trip_failure(c) for c in backend_tests()}
    assert {k: v for k, v in failures.items() if v} == {}


# -- names and types -------------------------------------------------------------------------------


def test_interface_names_docs_and_unnamed_dims_are_kept():
    proto = model(
        [node("Relu", ["x"], ["h"], name="r", doc_string="why"), node("Neg", ["h"], ["y"])],
        [info("x", F32, ["N", None, 4, "?"])],
        [info("y", F32, ["N", None, 4, "out"])],
        value_info=[info("h", F32, ["N", None, 4, None])],
    )
    proto.graph.input[0].doc_string = "pixels"
    helper.set_model_props(proto, {"author": "someone"})
    proto.producer_name = "me"
    module = load_proto(proto)
    (x,) = module.main.inputs
    assert x.shape[0] is dims.sym("N")
    assert x.shape[1] is not x.shape[3]
    result = to_proto(module)
    assert [str(i) for i in result.graph.input] == [str(i) for i in proto.graph.input]
    assert [str(o) for o in result.graph.output] == [str(o) for o in proto.graph.output]
    assert [v.name for v in result.graph.value_info] == ["h"]
    assert result.graph.node[0].doc_string == "why"
    assert result.graph.node[1].name == ""
    assert (result.producer_name, result.metadata_props[0].value) == ("me", "someone")
    assert not any(n.metadata_props for n in result.graph.node)


def test_outputs_that_are_inputs_or_constants_or_twice():
    proto = model(
        [node("Relu", ["x"], ["y"])],
        [info("x", F32, [2])],
        [info(n, F32, [2]) for n in ("y", "x", "c", "y")],
        constants={"c": np.ones(2, np.float32)},
    )
    result = to_proto(load_proto(proto))
    assert [o.name for o in result.graph.output] == ["y", "x", "c", "y"]
    assert [n.op_type for n in result.graph.node] == ["Relu"]


def sources_and_rules(proto, node):
    """What the table of a written model says of one of its nodes."""
    props = {p.key: p.value for p in proto.metadata_props}
    (entry,) = [p for p in node.metadata_props if p.key == NODE_KEY]
    return ProvenanceTable(props[TABLE_KEY]).look_up(entry.value)


def test_one_value_under_two_output_names_gets_an_identity():
    module = load_proto(
        model(
            [node("Relu", ["x"], ["a"], name="r"), node("Neg", ["x"], ["b"], name="n")],
            [info("x", F32, [2])],
            [info("a", F32, [2]), info("b", F32, [2])],
        )
    )
    relu, neg = (o for o in module.main.block.ops if o.results)
    neg.result.replace_all_uses(relu.result)
    neg.erase()
    result = to_proto(module)
    onnx.checker.check_model(result)
    assert [n.op_type for n in result.graph.node] == ["Relu", "Identity"]
    assert sources_and_rules(result, result.graph.node[1]) == (("r",), ("export",))
    x = np.array([-1, 2], np.float32)
    assert_same(run(result, {"x": x}), [np.maximum(x, 0)] * 2)


def test_new_nodes_say_where_they_came_from():
    module = load_proto(model([node("Relu", ["x"], ["y"], name="r")], X4, Y))
    (op, _) = module.main.block.ops
    op.loc = Location("", (op.loc, Location("other")), "fuse/rule")
    op.node_name = None
    proto = to_proto(module)
    (written,) = proto.graph.node
    assert sources_and_rules(proto, written) == (("r", "other"), ("fuse/rule",))
    assert written.name == "Relu_y"


@pytest.mark.parametrize("old", [False, True])
def test_provenance_of_an_earlier_run_stays(old: bool):
    proto = model([node("Relu", ["x"], ["h"], name="a"), node("Neg", ["h"], ["y"])], X4, Y)
    if old:  # as it was written before there was a table
        props = {SOURCES_KEY: '["r", "s"]', RULES_KEY: '["fuse/rule"]'}
    else:
        made = {"sources": ["q", "r", "s"], "rules": ["fuse/rule"], "made": "0:0 1-2:0"}
        helper.set_model_props(proto, {TABLE_KEY: json.dumps(made)})
        props = {NODE_KEY: "1"}
    for key, value in props.items():
        proto.graph.node[0].metadata_props.add(key=key, value=value)
    module = load_proto(proto)
    found = module.main.block.first.meta["metadata"]
    assert {k: json.loads(v) for k, v in found.items()} == {
        SOURCES_KEY: ["r", "s"],
        RULES_KEY: ["fuse/rule"],
    }
    result = to_proto(module)
    assert sources_and_rules(result, result.graph.node[0]) == (("r", "s"), ("fuse/rule",))
    assert [p.key for p in result.metadata_props] == [TABLE_KEY]
    assert to_proto(load_proto(result)) == result


@pytest.mark.parametrize(
    "made",
    ["", "[]", "{", '{"sources": [1], "rules": ["r"], "made": "0:0 0:0"}', "[" * 100000]
    + [f'{{"sources": ["a"], "rules": ["r"], "made": "0:0 {e}"}}' for e in ("5:0", "0-9:0", "x")]
    + ['{"sources": ["a"], "rules": ["r"], "made": "0:0 0-999999999:0"}'],
)
def test_a_broken_table_of_provenance_is_no_table(made: str):
    proto = model([node("Relu", ["x"], ["y"], name="a")], X4, Y)
    helper.set_model_props(proto, {TABLE_KEY: made})
    proto.graph.node[0].metadata_props.add(key=NODE_KEY, value="1")
    module = load_proto(proto)
    assert module.main.block.first.meta["metadata"] == {NODE_KEY: "1"}


def test_overridable_initializers():
    proto = model(
        [node("Add", ["x", "w"], ["y"])],
        [info("x", F32, [2]), info("w", F32, [2])],
        [info("y", F32, [2])],
        constants={"w": np.ones(2, np.float32)},
    )
    module = load_proto(proto)
    assert [v.name for v in module.main.inputs] == ["x"]
    assert "became constants" in str(module.remarks[0])
    kept = load_proto(proto, keep_overridable=True)
    assert [v.name for v in kept.main.inputs] == ["x", "w"]
    assert list(kept.main.overridable) == ["w"]
    result = to_proto(kept)
    assert [i.name for i in result.graph.input] == ["x", "w"]
    assert [t.name for t in result.graph.initializer] == ["w"]


def test_sibling_subgraphs_keep_equal_names():
    def branch(op_type: str) -> onnx.GraphProto:
        return helper.make_graph([node(op_type, ["x"], ["b"])], op_type, [], [info("b", F32, [2])])

    proto = model(
        [node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg"))],
        [info("c", TensorProto.BOOL, []), info("x", F32, [2])],
        [info("y", F32, [2])],
    )
    result = to_proto(load_proto(proto))
    onnx.checker.check_model(result)
    graphs = [a.g for a in result.graph.node[0].attribute]
    assert [g.output[0].name for g in graphs] == ["b", "b"]
    x = np.array([-1, 2], np.float32)
    assert_same(run(result, {"c": np.array(False), "x": x}), [-x])


# -- opaque nodes and functions --------------------------------------------------------------------


def test_unknown_operators_are_carried_through():
    attributes = {
        "i": 3,
        "f": 0.1,
        "s": b"\xff\xfe",
        "ints": [1, 2],
        "floats": [1.0, 2.0],
        "strings": ["a", "b"],
        "t": numpy_helper.from_array(np.arange(3, dtype=np.float32), "t"),
        "g": helper.make_graph([node("Relu", ["x"], ["r"])], "g", [], [info("r", F32, None)]),
    }
    foo = node("Foo", ["x", ""], ["y", ""], domain="com.acme", **attributes)
    empty = foo.attribute.add()
    empty.name, empty.type = "empty", onnx.AttributeProto.FLOATS
    proto = model([foo], [info("x", F32, [2])], Y, imports={"": 17, "com.acme": 3})
    module = load_proto(proto)
    (op, _) = module.main.block.ops
    assert (op.name, op.definition, op.version) == ("com.acme.Foo", None, 3)
    assert op.attrs["s"] == b"\xff\xfe"
    result = to_proto(module)
    assert {d.domain: d.version for d in result.opset_import} == {"": 17, "com.acme": 3}
    (written,) = result.graph.node
    by_name = {a.name: a for a in written.attribute}
    for attribute in proto.graph.node[0].attribute:
        mine = by_name[attribute.name]
        assert mine.type == attribute.type
        if attribute.name not in "tg":
            assert mine == attribute
    assert numpy_helper.to_array(by_name["t"].t).tolist() == [0, 1, 2]
    assert by_name["g"].g.node[0].op_type == "Relu"


def local_function() -> onnx.ModelProto:
    leaky = node("LeakyRelu", ["a"], ["l"])
    alpha = leaky.attribute.add()
    alpha.name, alpha.ref_attr_name, alpha.type = "alpha", "slope", onnx.AttributeProto.FLOAT
    constant = node("Constant", [], ["k"])
    value = constant.attribute.add()
    value.name, value.ref_attr_name = "value_float", "slope"
    value.type = onnx.AttributeProto.FLOAT
    body = [leaky, constant, node("Add", ["l", "k"], ["o"])]
    function = helper.make_function(
        "my", "Act", ["a"], ["o"], body, [helper.make_opsetid("", 17)], attributes=["slope"]
    )
    return model(
        [node("Act", ["x"], ["y"], domain="my", slope=0.25, name="call")],
        [info("x", F32, [3])],
        [info("y", F32, [3])],
        functions=[function],
        imports={"": 17, "my": 1},
    )


def test_local_functions_are_kept_with_their_parameters():
    proto = local_function()
    module = load_proto(proto)
    assert list(module.functions) == ["main", "my:Act"]
    (call, _) = module.main.block.ops
    assert call.attrs == {"callee": "my:Act", "slope": 0.25}
    leaky = next(module.functions["my:Act"].block.ops)
    assert leaky.attrs["alpha"] == AttrRef("slope", "float")
    result = to_proto(module)
    onnx.checker.check_model(result)
    x = np.array([-4, 0, 2], np.float32)
    assert_same(run(proto, {"x": x}), run(result, {"x": x}))


# -- external data ---------------------------------------------------------------------------------


def external_model(folder: Path, location: str = "w.bin", offset: int = 0) -> Path:
    proto = model(
        [node("Add", ["x", "w"], ["y"])],
        [info("x", F32, [1024])],
        [info("y", F32, [1024])],
        constants={"w": np.arange(1024, dtype=np.float32)},
    )
    tensor = proto.graph.initializer[0]
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(len(raw)))):
        tensor.external_data.add(key=key, value=value)
    (folder / "w.bin").write_bytes(b"\0" * offset + raw)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_stays_external(tmp_path: Path):
    module = load(external_model(tmp_path, offset=64))
    out = tmp_path / "out.onnx"
    save(module, out)
    result = onnx.load(out)
    assert numpy_helper.to_array(result.graph.initializer[0]).tolist() == list(range(1024))
    assert (tmp_path / "out.onnx.data").stat().st_size == 4096
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("model.onnx", "out.onnx", "out.onnx.data", "w.bin")
    ]
    with pytest.raises(UnsupportedError, match="overwrite"):
        save(load(out), out)


@pytest.mark.parametrize(
    "location", ["../w.bin", "/etc/passwd", "", "missing.bin", "a\0b", "link", "fifo", "folder"]
)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(b"\0" * 4096)
    (folder / "link").symlink_to(tmp_path / "w.bin")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    with pytest.raises(InvalidModelError, match=r"external-data"):
        load(external_model(folder, location))


def test_external_data_must_lie_inside_its_file(tmp_path: Path):
    path = external_model(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"\0" * 4095)
    with pytest.raises(InvalidModelError, match="4095 bytes"):
        load(path)


# -- malformed and odd files -----------------------------------------------------------------------


def declared(dim: Any) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], [info("x", F32, [dim])], Y)


def huge_header() -> onnx.ModelProto:
    proto = model([node("Add", ["x", "w"], ["y"])], [info("x", F32, [2])], Y)
    proto.graph.initializer.add(name="w", data_type=F32, dims=[1 << 40, 1 << 40])
    return proto


def recursive() -> onnx.ModelProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    functions = [
        helper.make_function("my", a, ["x"], ["y"], [node(b, ["x"], ["y"], domain="my")], imports)
        for a, b in (("A", "B"), ("B", "A"))
    ]
    call = node("A", ["x"], ["y"], domain="my")
    return model([call], X4, Y, functions=functions, imports={"": 17, "my": 1})


MALFORMED = {
    "cycle": (model([node("Add", ["x", "b"], ["a"]), node("Neg", ["a"], ["b"])], X4, Y), "cycle"),
    "undefined": (model([node("Add", ["x", "q"], ["y"])], X4, Y), '"q", which nothing defines'),
    "no output": (model([node("Relu", ["x"], ["z"])], X4, Y), '"y", which nothing defines'),
    "twice": (
        model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])], X4, Y),
        '"y" is defined twice',
    ),
    "unknown attribute": (model([node("Relu", ["x"], ["y"], q=1)], X4, Y), 'no attribute "q"'),
    "wrong kind": (model([node("Softmax", ["x"], ["y"], axis=1.5)], X4, Y), "should be int"),
    "too many": (model([node("Relu", ["x", "x"], ["y"])], X4, Y), "relu"),
    "no opset": (model([node("Relu", ["x"], ["y"])], X4, Y, imports={"my": 1}), "imports no opset"),
    "negative": (declared(-5), "size -5"),
    "huge header": (huge_header(), "sizes that no memory holds"),
    "recursion": (recursive(), "call themselves"),
    "shapes": (
        model(
            [node("Add", ["x", "w"], ["y"], name="bad")], X4, Y, constants={"w": np.ones(3, "f")}
        ),
        'node "bad"',
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_models_are_refused_in_one_sentence(name: str):
    proto, reason = MALFORMED[name]
    with pytest.raises(InvalidModelError) as caught:
        load_proto(proto)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_newer_opsets_are_refused():
    with pytest.raises(UnsupportedError, match="opset 99"):
        load_proto(model([node("Relu", ["x"], ["y"])], X4, Y, imports={"": 99}))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n", "PNG"),
        (b"PK\x03\x04xx", "zip"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"hello, this is text\n", "text file"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x80\x04\x95", "pickle"),
        (b"\xff" * 100, "protobuf"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, what: str):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidModelError, match=what):
        lepton_ir.load(path)


def test_truncated_files_are_refused_whole():
    data = local_function().SerializeToString()
    for cut in range(1, len(data), 7):
        message = ""
        try:
            load(data[:cut])
        except LeptonError as error:
            message = error.message
        assert "\n" not in message


def test_unsorted_nodes_are_sorted_with_a_remark():
    proto = model([node("Neg", ["h"], ["y"], name="n"), node("Relu", ["x"], ["h"])], X4, Y)
    module = load_proto(proto)
    assert [n.op_type for n in to_proto(module).graph.node] == ["Relu", "Neg"]
    assert "not in order" in str(module.remarks[-1])


def test_declared_types_that_contradict_are_remarked_and_not_trusted():
    proto = model(
        [node("Relu", ["x"], ["h"]), node("Neg", ["h"], ["y"])],
        [info("x", F32, [2, 3])],
        Y,
        value_info=[info("h", F32, [5, 3])],
    )
    module = load_proto(proto)
    assert "declared as f32[5,3], but it is f32[2,3]" in str(module.remarks[0])
    assert to_proto(module).graph.value_info[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_old_opsets_go_through_the_converter():
    proto = model(
        [node("PRelu", ["x", "w"], ["y"])],
        [*X4, info("w", F32, [4])],
        Y,
        6,
        {"w": np.arange(4, dtype=np.float32)},
    )
    module = load_proto(proto)
    assert "converted from opset 6" in str(module.remarks[0])
    x = -np.ones((2, 4, 6, 8), np.float32)
    assert run(to_proto(module), {"x": x})[0][0, :, 0, 0].tolist() == [0, -1, -2, -3]
