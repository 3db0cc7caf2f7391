"""Writing another opset than the source's: the same numbers, or a reason why not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_models import F32, I64, X4, Y, info, load_proto, model, node, run

import lepton_ir
from lepton_ir.backends.onnx.target import ONNX, ORT
from lepton_ir.backends.onnx.writer import to_proto
from lepton_ir.diagnostics import Location, UnsupportedError

# -- opset conversion ------------------------------------------------------------------------------


CONVERSIONS: dict[str, tuple[onnx.ModelProto, tuple[int, ...]]] = {
    "squeeze": (
        model(
            [node("Unsqueeze", ["x"], ["u"], axes=[0, 2]), node("Squeeze", ["u"], ["y"], axes=[2])],
            X4,
            Y,
            11,
        ),
        (9, 13, 18),
    ),
    "reduce_sum": (
        model([node("ReduceSum", ["x"], ["y"], axes=[1], keepdims=0)], X4, Y, 11),
        (13, 9),
    ),
    "reduce_mean": (
        model([node("ReduceMean", ["x", "a"], ["y"])], X4, Y, 18, {"a": np.array([-1])}),
        (11, 13, 20),
    ),
    "reduce_all": (model([node("ReduceMax", ["x"], ["y"])], X4, Y, 11), (18, 9)),
    "clip": (model([node("Clip", ["x"], ["y"], min=-0.5, max=0.25)], X4, Y, 7), (11, 13)),
    "clip_up": (
        model([node("Clip", ["x", "", "hi"], ["y"])], X4, Y, 13, {"hi": np.float32(0.25)}),
        (11, 7),
    ),
    "pad": (
        model([node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 3, 0], value=1.5)], X4, Y, 7),
        (11, 18),
    ),
    "slice": (
        model([node("Slice", ["x"], ["y"], starts=[1, -3], ends=[9, 7], axes=[1, 3])], X4, Y, 7),
        (10, 13),
    ),
    "split": (model([node("Split", ["x"], ["a", "y"], axis=1)], X4, Y, 11), (13, 18)),
    "split_sizes": (
        model([node("Split", ["x"], ["a", "y"], axis=1, split=[1, 3])], X4, Y, 11),
        (9, 13, 18),
    ),
    "top_k": (model([node("TopK", ["x"], ["y", "i"], k=3)], X4, Y, 9), (10, 11)),
    "softmax": (model([node("Softmax", ["x"], ["y"])], X4, Y, 11), (9, 7)),
    "softmax_13": (model([node("Softmax", ["x"], ["y"])], X4, Y, 13), (18,)),
    "dropout": (model([node("Dropout", ["x"], ["y"], ratio=0.25)], X4, Y, 10), (12, 7)),
    "upsample": (
        model([node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 3.0])], X4, Y, 7),
        (9, 10, 11, 18),
    ),
    "upsample_linear": (
        model(
            [node("Upsample", ["x", "s"], ["y"], mode="linear")],
            X4,
            Y,
            9,
            {"s": np.array([1, 1, 2, 2], np.float32)},
        ),
        (7, 10, 11, 13),
    ),
    "grid_sample": (
        model(
            [node("GridSample", ["x", "g"], ["y"], mode="bicubic")],
            [*X4, info("g", F32, [2, 3, 3, 2])],
            Y,
            16,
        ),
        (20,),
    ),
    "batch_normalization": (
        model(
            [node("BatchNormalization", ["x", "c", "c", "c", "c"], ["y"])],
            X4,
            Y,
            8,
            {"c": np.ones(4, np.float32)},
        ),
        (9, 14, 15, 7),
    ),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_conversion_keeps_the_numbers(name: str):
    source, targets = CONVERSIONS[name]
    rng = np.random.default_rng(7)
    feeds = {
        i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype("f")
        for i in source.graph.input
    }
    expected = run(source, feeds)
    for target in (*targets, source.opset_import[0].version):
        result = to_proto(load_proto(source), opset=target)
        onnx.checker.check_model(result)
        assert result.opset_import[0].version == target
        assert [n.op_type for n in result.graph.node if n.op_type != "Identity"]
        np.testing.assert_allclose(expected[0], run(result, feeds)[0], rtol=1e-6)
        again = to_proto(load_proto(result), opset=source.opset_import[0].version)
        np.testing.assert_allclose(expected[0], run(again, feeds)[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("source", "opset", "reason"),
    [
        (
            model([node("Squeeze", ["x", "a"], ["y"])], [*X4, info("a", I64, [1])], Y, 13),
            11,
            "axes is an attribute in opset 11 but not a constant",
        ),
        (
            model([node("Gelu", ["x"], ["y"], approximate="tanh", name="G")], X4, Y, 20),
            17,
            "approx",
        ),
        (model([node("Softmax", ["x"], ["y"], axis=1)], X4, Y, 13), 11, "coerce_2d=false"),
        (model([node("Softmax", ["x"], ["y"])], X4, Y, 11), 13, "coerce_2d=true"),
        (model([node("Mish", ["x"], ["y"])], X4, Y, 18), 17, "mish does not exist in opset 17"),
        (model([node("Relu", ["x"], ["y"])], X4, Y, 18), 40, "opset 40 cannot be written"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(source: onnx.ModelProto, opset: int, reason: str):
    with pytest.raises(UnsupportedError, match=reason):
        to_proto(load_proto(source), opset=opset)


def test_targets_agree_with_the_writer():
    module = load_proto(model([node("Relu", ["x"], ["y"])], X4, Y, 17))
    assert ORT.has("gelu", module, {})
    assert not ONNX.has("gelu", module, {})
    assert not ORT.has("gelu", module, {"approximate": "tanh"})
    assert ONNX.has("clip", module, {})
    assert ONNX.has("softmax", module, {"axis": 1})
    assert not ONNX.has("softmax", module, {"coerce_2d": True})
    builder = lepton_ir.Builder(module.main.block, module.main.block.terminator, Location("n"))
    for op in (builder.build("gelu", module.main.inputs[0]), next(module.main.block.ops)):
        legal = ORT.legal(op)
        assert legal is True
    gelu = next(o for o in module.main.block.ops if o.name == "gelu")
    assert "com.microsoft" in str(ONNX.legal(gelu))
    gelu.set_attr("approximate", "tanh")
    assert ORT.legal(gelu) is not True
    with pytest.raises(UnsupportedError):
        to_proto(module)
