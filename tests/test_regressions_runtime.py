"""Models that once came out wrong, each reduced to what was at fault."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

import lepton_ir
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.interp import run_list
from lepton_ir.rewrite import refines
from lepton_ir.types import UNKNOWN

pytest.importorskip("onnxruntime")

from lepton_ir.tools.fuzz import Session


def parsed(body: str, opset: int = 17, extra: str = "") -> onnx.ModelProto:
    head = f'<ir_version: 8, opset_import: ["" : {opset}{extra}]>\n'
    return onnx.parser.parse_model(head + body)


def optimized(model: onnx.ModelProto, tmp_path, passes: str = "O2") -> onnx.ModelProto:
    module = lepton_ir.load(model.SerializeToString())
    lepton_ir.run_passes(module, passes)
    lepton_ir.save(module, tmp_path / "out.onnx")
    result = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(result, full_check=True)
    return result


def same(before: onnx.ModelProto, after: onnx.ModelProto, **feeds: np.ndarray) -> None:
    pairs = zip(Session(before).run(feeds), Session(after).run(feeds), strict=True)
    for want, have in pairs:
        np.testing.assert_array_equal(have, want)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


X = np.arange(12, dtype=np.float32).reshape(2, 6)


@pytest.mark.parametrize("passes", ["O1", "O2"])
def test_constants_that_branches_return_stay_in_their_branch(passes, tmp_path):
    model = parsed(
        """g (bool c, float[2] x) => (float[2] y) {
          r = If (c) <
            then_branch = t () => (float[2] k) { k = Constant <value = float[2] {1, 2}> () },
            else_branch = e () => (float[2] k) { k = Constant <value = float[2] {3, 4}> () }
          >
          y = Add (r, x)
        }"""
    )
    result = optimized(model, tmp_path, passes)
    for c in (True, False):
        same(model, result, c=np.array(c), x=np.ones(2, np.float32))


def test_a_made_node_does_not_take_the_name_of_one_that_stays(tmp_path):
    model = parsed(
        """g (float[2,6] x) => (float[3,4] a, float[12] b) {
          s = Constant <value = int64[2] {3, 4}> ()
          t = Constant <value = int64[1] {12}> ()
          [first] a = Reshape (x, s)
          [second] b = Reshape (a, t)
        }"""
    )
    result = optimized(model, tmp_path, "O1")
    names = [node.name for node in result.graph.node if node.name]
    assert len(names) == len(set(names))
    same(model, result, x=X)


def test_two_unknown_types_are_not_proven_equal(tmp_path):
    assert not refines(UNKNOWN, UNKNOWN)
    model = parsed(
        """g (float[2,6] x) => (float z) {
          y = my.Op (x)
          s = Constant <value = int64[2] {-1, 1}> ()
          z = Reshape (y, s)
        }""",
        extra=', "my" : 1',
    )
    module = lepton_ir.load(model.SerializeToString())
    lepton_ir.run_passes(module, "O2")
    assert "reshape" in [op.name for op in module.main.walk()]


def test_an_old_dropout_whose_mask_nobody_reads_goes(tmp_path):
    model = parsed(
        """g (float[2,6] x) => (float[2,6] y) {
          a, mask = Dropout <ratio = 0.25> (x)
          y = Relu (a)
        }""",
        opset=9,
    )
    result = optimized(model, tmp_path)
    assert kinds(result) == ["Relu"]
    same(model, result, x=X)


def test_an_old_dropout_whose_mask_is_read_is_carried_through(tmp_path):
    model = parsed(
        """g (float[2,6] x) => (float[2,6] y, float[2,6] mask) {
          y, mask = Dropout <ratio = 0.25> (x)
        }""",
        opset=7,
    )
    result = optimized(model, tmp_path)
    assert result.graph.node[0] == model.graph.node[0]


def test_batch_normalization_before_opset_7_does_not_train(tmp_path):
    model = parsed(
        """g (float[2,6] x, float[6] s, float[6] b, float[6] m, float[6] v) => (float[2,6] y) {
          y = BatchNormalization <is_test = 1> (x, s, b, m, v)
        }""",
        opset=6,
    )
    result = optimized(model, tmp_path)
    assert result.opset_import[0].version == 14
    ones = np.ones(6, np.float32)
    y = Session(result).run({"x": X, "s": ones, "b": ones, "m": ones, "v": ones * 4})[0]
    np.testing.assert_allclose(y, (X - 1) / 2 + 1, rtol=1e-4)


def test_range_reads_scalars_once_its_operands_are_known_to_be_vectors(tmp_path):
    model = parsed(
        """g (int64[2] n) => (int64 y) {
          c = Constant <value = bool {1}> ()
          zero = Constant <value = int64 {0}> ()
          one = Constant <value = int64 {1}> ()
          limit = If (c) <then_branch = t () => (int64 a) { a, rest = Split <axis = 0> (n) },
                          else_branch = e () => (int64 b) { b = Identity (n) }>
          y = Range (zero, limit, one)
        }""",
        opset=13,
    )
    result = optimized(model, tmp_path, "O1")
    same(model, result, n=np.array([3, 5]))


@pytest.mark.parametrize("opset", [23, 24, 25])
def test_swish_is_not_made_where_onnxruntime_is_slower_or_lacks_it(opset, tmp_path):
    model = parsed(
        "g (float[2,6] x) => (float[2,6] y) { s = Sigmoid (x)  y = Mul (x, s) }", opset=opset
    )
    result = optimized(model, tmp_path)
    assert "Swish" not in kinds(result)
    want, have = (Session(m).run({"x": X})[0] for m in (model, result))
    np.testing.assert_allclose(have, want, rtol=1e-5)


@pytest.mark.parametrize(
    "node",
    [
        "k = Constant <value = int32[3] {2147483647, 2, 3}> ()  v = ReduceSum <keepdims = 0> (k)",
        "k = Constant <value = int32[3] {65536, 65536, 3}> ()  v = ReduceProd <keepdims = 0> (k)",
    ],
)
def test_integer_reductions_that_overflow_are_left_to_the_runtime(node, tmp_path):
    model = parsed(f"g (int32[2] x) => (int32[2] y) {{ {node}  y = Add (x, v) }}", opset=13)
    result = optimized(model, tmp_path)
    assert "Add" in kinds(result)
    assert len(kinds(result)) == 2
    same(model, result, x=np.zeros(2, np.int32))


def test_ranges_of_floats_are_folded_only_where_adding_up_gives_the_same(tmp_path):
    def made(step: float, limit: float) -> onnx.ModelProto:
        return parsed(
            f"""g (float[1] x) => (float[n] y) {{
              a = Constant <value = float {{0}}> ()
              b = Constant <value = float {{{limit}}}> ()
              c = Constant <value = float {{{step}}}> ()
              r = Range (a, b, c)
              y = Add (r, x)
            }}"""
        )

    for model, expected in ((made(0.1, 10.0), ["Range", "Add"]), (made(0.5, 4.0), ["Add"])):
        result = optimized(model, tmp_path)
        assert kinds(result) == expected
        same(model, result, x=np.zeros(1, np.float32))


def test_axes_are_written_in_order(tmp_path):
    model = parsed(
        "g (float[N,1,1] x) => (float[N] y) { y = Squeeze <axes = [2, 1]> (x) }",
        opset=9,
    )
    result = optimized(model, tmp_path, "canonicalize{exact}")
    axes = [list(a.ints) for n in result.graph.node for a in n.attribute if a.name == "axes"]
    assert axes == [[1, 2]]


def test_dropout_in_training_has_a_meaning_where_it_keeps_everything():
    body = """g (float[2,6] x, float r) => (float[2,6] y, bool[2,6] mask) {
      t = Constant <value = bool {1}> ()
      y, mask = Dropout (x, r, t)
    }"""
    module = lepton_ir.load(parsed(body).SerializeToString())
    y, mask = run_list(module, {"x": X, "r": np.float32(0)})
    np.testing.assert_array_equal(y, X)
    assert mask.all()
    with pytest.raises(UnsupportedError, match="random"):
        run_list(module, {"x": X, "r": np.float32(0.5)})
