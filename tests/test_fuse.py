"""The fuse, decompose and legalize passes: what they make and leave, and that it is equal."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lepton_ir import dims, dtypes
from lepton_ir.builder import Builder
from lepton_ir.clone import clone_module
from lepton_ir.context import PassContext
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.interp import run_list
from lepton_ir.ir import Module, Value
from lepton_ir.passes.canonicalize import Canonicalize
from lepton_ir.passes.cse import Cse
from lepton_ir.passes.dce import Dce
from lepton_ir.passes.decompose import Decompose
from lepton_ir.passes.fold import Fold
from lepton_ir.passes.fuse import Fuse
from lepton_ir.passes.legalize import Legalize
from lepton_ir.pipeline import PipelineError
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.ir import Op
    from lepton_ir.pipeline import Pass

    Build = Callable[..., Any]

RTOL = {"f64": 1e-10, "f32": 2e-5, "f16": 2e-2, "bf16": 1e-1}


class Graph:
    """A module under construction."""

    def __init__(self, build: Build, *inputs: TensorType, seed: int = 0) -> None:
        self.module = Module("test")
        self.module.opsets[""] = 24
        self.rng = np.random.default_rng(seed)
        function = self.module.add_function("main")
        args = [function.block.add_arg(t, f"x{i}") for i, t in enumerate(inputs)]
        self.b = Builder(function.block)
        found = build(self, *args)
        outputs = list(found) if isinstance(found, (tuple, list)) else [found]
        function.output_names = [f"y{i}" for i in range(len(outputs))]
        self.b.build("return", *outputs)

    def weight(self, *shape: int, dtype: str = "f32") -> Value:
        data = self.rng.normal(size=shape)
        return self.b.const(data, dtypes.dtype(dtype))

    def positive(self, *shape: int, dtype: str = "f32") -> Value:
        return self.b.const(self.rng.uniform(0.5, 2.0, size=shape), dtypes.dtype(dtype))

    def bn(self, x: Value, channels: int, dtype: str = "f32", **attrs: Any) -> Value:
        vectors = [self.weight(channels, dtype=dtype) for _ in range(3)]
        return self.b.batch_normalization(
            x, *vectors, self.positive(channels, dtype=dtype), **attrs
        )


def t(dtype: str, *shape: int | str | None) -> TensorType:
    sizes = [dims.sym(d) if isinstance(d, str) else d for d in shape]
    return TensorType(dtypes.dtype(dtype), sizes)


def run_passes(module: Module, *passes: Pass, ctx: PassContext | None = None) -> PassContext:
    ctx = ctx or PassContext()
    for item in passes:
        ctx.pass_name = item.name
        item.run(module, ctx)
    return ctx


def ops(module: Module) -> Counter[str]:
    return Counter(op.name for op in module.walk() if op.name not in ("const", "return", "yield"))


def feeds(module: Module, bindings: dict[str, int], seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    found = {}
    for value in module.main.inputs:
        assert isinstance(value.type, TensorType)
        assert value.type.shape is not None
        assert value.type.dtype is not None
        shape = [d if isinstance(d, int) else bindings.get(str(d), 3) for d in value.type.shape]
        if value.type.dtype.is_integer:
            data = rng.integers(0, 20, size=shape)
        else:
            data = rng.normal(size=shape) * 2
        found[str(value.name)] = data.astype(value.type.dtype.numpy)
    return found


def assert_same(before: Module, after: Module, rtol: float | None = None, **sizes: int) -> None:
    given = feeds(before, sizes)
    for want, got in zip(run_list(before, given), run_list(after, given), strict=True):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
        bound = rtol if rtol is not None else RTOL.get(dtypes.from_numpy(want.dtype).name, 0)
        scale = np.abs(want.astype(np.float64)).max(initial=1.0)
        np.testing.assert_allclose(
            got.astype(np.float64), want.astype(np.float64), rtol=bound, atol=bound * scale
        )


def fused(
    build: Build, *inputs: TensorType, ctx: PassContext | None = None, **sizes: int
) -> dict[str, int]:
    """Build, fuse, compare through the interpreter; return the operations that are left."""
    module = Graph(build, *inputs).module
    before = clone_module(module)
    run_passes(
        module, Fold(), Canonicalize(), Cse(), Fuse(), Fold(), Canonicalize(), Dce(), ctx=ctx
    )
    assert_same(before, module, **sizes)
    return dict(ops(module))


def untouched(build: Build, *inputs: TensorType, **sizes: int) -> list[str]:
    """Like ``fused``, for graphs in which nothing may happen; return the missed remarks."""
    ctx = PassContext(want_remarks=frozenset())
    module = Graph(build, *inputs).module
    before = clone_module(module)
    run_passes(module, Fuse(), ctx=ctx)
    assert ops(module) == ops(before)
    assert not ctx.rule_hits
    assert_same(before, module, **sizes)
    return [r.message for r in ctx.remarks]


IMAGE = t("f32", "N", 4, 7, 5)


# -- convolutions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_bn_into_conv(dtype: str, group: int, bias: bool) -> None:
    def build(g: Graph, x: Value) -> Value:
        b = g.weight(8, dtype=dtype) if bias else None
        y = g.b.conv(
            x, g.weight(8, 4 // group, 3, 2, dtype=dtype), b, group=group, pads=(1, 0, 1, 1)
        )
        return g.bn(y, 8, dtype)

    assert fused(build, t(dtype, "N", 4, 7, 5)) == {"conv": 1}


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_bn_into_conv_transpose(dtype: str, group: int) -> None:
    def build(g: Graph, x: Value) -> Value:
        w = g.weight(4, 3, 3, 2, dtype=dtype)
        y = g.b.conv_transpose(x, w, group=group, strides=(2, 1), output_padding=(1, 0))
        return g.bn(y, 3 * group, dtype)

    assert fused(build, t(dtype, 2, 4, 3, 5)) == {"conv_transpose": 1}


def test_bn_with_f32_statistics_into_f16_conv() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.bn(g.b.conv(x, g.weight(8, 4, 1, 1, dtype="f16")), 8, "f32")

    assert fused(build, t("f16", 1, 4, 3, 3)) == {"conv": 1}


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1, 1, 1), (), (1,), (1, 1, 1, 1)])
@pytest.mark.parametrize("name", ["add", "sub", "rsub", "mul", "div"])
def test_affine_into_conv(shape: tuple[int, ...], name: str) -> None:
    def build(g: Graph, x: Value) -> Value:
        y = g.b.conv(x, g.weight(6, 4, 3, 3), g.weight(6))
        c = g.positive(*shape)
        return g.b.sub(c, y) if name == "rsub" else getattr(g.b, name)(y, c)

    assert fused(build, IMAGE) == {"conv": 1}


def test_chains_of_affine_operations_fold_into_one_conv() -> None:
    def build(g: Graph, x: Value) -> Value:
        y = g.b.conv(x, g.weight(6, 4, 3, 3))
        y = g.b.add(g.b.mul(g.bn(y, 6), g.positive(6, 1, 1)), g.weight(1, 6, 1, 1))
        return g.bn(y, 6)

    assert fused(build, IMAGE) == {"conv": 1}


@pytest.mark.parametrize(
    "shape", [(5,), (7, 1), (1, 1, 7, 1), (2, 1, 1, 1), (2, 6, 1, 1), (1, 1, 6, 1, 1), (6, 7, 5)]
)
def test_other_constants_stay_behind_conv(shape: tuple[int, ...]) -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.add(g.b.conv(x, g.weight(6, 4, 1, 1)), g.weight(*shape))

    reasons = untouched(build, t("f32", 1, 4, 7, 5))
    assert any("not a finite constant a channel" in r for r in reasons)


def test_one_channel_that_broadcasts_is_left() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.add(g.b.conv(x, g.weight(1, 4, 1, 1)), g.weight(3, 1, 1))

    untouched(build, IMAGE)


def test_conv_with_another_user_stays() -> None:
    def build(g: Graph, x: Value) -> tuple[Value, Value]:
        y = g.b.conv(x, g.weight(6, 4, 1, 1))
        return g.bn(y, 6), y

    assert any("other users" in r for r in untouched(build, IMAGE))


def test_weight_that_is_computed_stays() -> None:
    def build(g: Graph, x: Value, w: Value) -> Value:
        return g.bn(g.b.conv(x, w), 6)

    assert any("not a constant" in r for r in untouched(build, IMAGE, t("f32", 6, 4, 1, 1)))


def test_training_bn_stays() -> None:
    def build(g: Graph, x: Value) -> Any:
        return g.bn(g.b.conv(x, g.weight(6, 4, 1, 1)), 6, training_mode=True, results=3)

    assert any("it trains" in r for r in untouched(build, IMAGE))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_bn_with_impossible_statistics_stays(bad: float) -> None:
    def build(g: Graph, x: Value) -> Value:
        y = g.b.conv(x, g.weight(2, 4, 1, 1))
        v = g.b.const([1.0, bad], dtypes.F32)
        return g.b.batch_normalization(y, g.weight(2), g.weight(2), g.weight(2), v)

    module = Graph(build, IMAGE).module
    run_passes(module, Fuse())
    assert ops(module) == {"conv": 1, "batch_normalization": 1}


def test_weights_that_are_not_finite_stay() -> None:
    def build(g: Graph, x: Value) -> Value:
        w = g.b.const(np.array([[[[np.inf]]] * 4] * 2), dtypes.F32)
        return g.b.mul(g.b.conv(x, w), g.positive(2, 1, 1))

    module = Graph(build, IMAGE).module
    run_passes(module, Fuse())
    assert ops(module) == {"conv": 1, "mul": 1}


def test_shared_weight_is_copied() -> None:
    def build(g: Graph, x: Value) -> tuple[Value, Value]:
        w = g.weight(6, 4, 1, 1)
        return g.bn(g.b.conv(x, w), 6), g.b.conv(x, w, strides=(2, 2))

    assert fused(build, IMAGE) == {"conv": 2}


@pytest.mark.parametrize("group", [1, 2])
def test_affine_before_conv_without_padding(group: int) -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.conv(g.bn(x, 4), g.weight(6, 4 // group, 3, 2), g.weight(6), group=group)

    assert fused(build, IMAGE) == {"conv": 1}


def test_scale_before_padded_conv_but_no_shift() -> None:
    def scale(g: Graph, x: Value) -> Value:
        return g.b.conv(g.b.mul(x, g.positive(4, 1, 1)), g.weight(6, 4, 3, 3), pads=(1, 1, 1, 1))

    def shift(g: Graph, x: Value) -> Value:
        return g.b.conv(g.bn(x, 4), g.weight(6, 4, 3, 3), pads=(1, 1, 1, 1))

    assert fused(scale, IMAGE) == {"conv": 1}
    assert any("pads with zeros" in r for r in untouched(shift, IMAGE))


def test_affine_before_conv_that_broadcasts_stays() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.conv(g.b.mul(x, g.positive(4, 1, 1)), g.weight(6, 4, 1, 1))

    untouched(build, t("f32", "N", 1, 7, 5))
    untouched(build, t("f32", 4, 7, 5) if False else t("f32", 2, 1, 3, 3))


def test_affine_into_bn() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.add(g.b.mul(g.bn(g.bn(x, 4), 4), g.positive(4, 1, 1)), g.weight(1))

    assert fused(build, IMAGE) == {"batch_normalization": 1}


@pytest.mark.parametrize("name", ["conv", "conv_transpose", "gemm"])
def test_zero_bias_goes(name: str) -> None:
    def build(g: Graph, x: Value) -> Value:
        zero = g.b.const(np.zeros(4), dtypes.F32)
        if name == "gemm":
            return g.b.gemm(x, g.weight(4, 4), zero)
        return getattr(g.b, name)(x, g.weight(4, 4, 1, 1), zero)

    module = Graph(build, t("f32", 3, 4) if name == "gemm" else IMAGE).module
    run_passes(module, Fuse())
    (op,) = [o for o in module.walk() if o.name == name]
    assert len(op.operands) == 2


# -- pads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [None, (2, 3), (-1, -2)])
def test_pad_into_conv(axes: tuple[int, ...] | None) -> None:
    def build(g: Graph, x: Value) -> Value:
        pads = [1, 2, 0, 1] if axes else [0, 0, 1, 2, 0, 0, 0, 1]
        y = g.b.pad(x, pads, g.b.const(0.0, dtypes.F32), list(axes) if axes else None)
        return g.b.conv(y, g.weight(6, 4, 3, 2), pads=(0, 1, 1, 0))

    assert fused(build, IMAGE) == {"conv": 1}


@pytest.mark.parametrize(
    ("pads", "value", "attrs"),
    [
        ([0, 1, 0, 0, 0, 0, 0, 0], 0.0, {}),
        ([0, 0, -1, 0, 0, 0, 0, 0], 0.0, {}),
        ([0, 0, 1, 0, 0, 0, 0, 0], 1.0, {}),
        ([0, 0, 1, 1, 0, 0, 0, 0], 0.0, {"auto_pad": "SAME_UPPER"}),
        ([0, 0, 1, 1, 0, 0, 0, 0], 0.0, {"mode": "edge"}),
    ],
)
def test_other_pads_stay(pads: list[int], value: float, attrs: dict[str, str]) -> None:
    def build(g: Graph, x: Value) -> Value:
        mode = attrs.get("mode", "constant")
        y = g.b.pad(x, pads, g.b.const(value, dtypes.F32), mode=mode)
        more = {k: v for k, v in attrs.items() if k != "mode"}
        return g.b.conv(y, g.weight(6, 5 if pads[1] else 4, 2, 2), strides=(2, 2), **more)

    assert untouched(build, IMAGE)


def test_pad_into_average_pool() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.average_pool(g.b.pad(x, [0, 0, 1, 1, 0, 0, 1, 0]), kernel_shape=(3, 2))

    def own(g: Graph, x: Value) -> Value:
        y = g.b.pad(x, [0, 0, 1, 1, 0, 0, 1, 0])
        return g.b.average_pool(y, kernel_shape=(3, 3), pads=(1, 1, 1, 1))

    assert fused(build, IMAGE) == {"average_pool": 1}
    assert any("out of the mean" in r for r in untouched(own, IMAGE))


def test_pad_into_max_pool() -> None:
    def lowest(g: Graph, x: Value) -> Value:
        y = g.b.pad(x, [0, 0, 1, 1, 0, 0, 1, 1], g.b.const(-np.inf, dtypes.F32))
        return g.b.max_pool(y, kernel_shape=(3, 3))

    def after_relu(g: Graph, x: Value) -> Value:
        return g.b.max_pool(g.b.pad(g.b.relu(x), [0, 0, 1, 1, 0, 0, 1, 1]), kernel_shape=(3, 3))

    def zero(g: Graph, x: Value) -> Value:
        return g.b.max_pool(g.b.pad(x, [0, 0, 1, 1, 0, 0, 1, 1]), kernel_shape=(3, 3))

    assert fused(lowest, IMAGE) == {"max_pool": 1}
    assert fused(after_relu, IMAGE) == {"relu": 1, "max_pool": 1}
    assert untouched(zero, IMAGE)


def test_pad_with_the_zero_point_into_integer_conv() -> None:
    def build(g: Graph, x: Value, fill: int) -> Value:
        y = g.b.pad(x, [0, 0, 1, 1, 0, 0, 1, 1], g.b.const(fill, dtypes.U8))
        w = g.b.const(g.rng.integers(0, 9, (2, 4, 3, 3)), dtypes.U8)
        return g.b.conv_integer(y, w, g.b.const(7, dtypes.U8))

    image = t("u8", 1, 4, 5, 5)
    assert fused(lambda g, x: build(g, x, 7), image) == {"conv_integer": 1}
    assert untouched(lambda g, x: build(g, x, 0), image)


# -- matrix products -------------------------------------------------------------------------------

MATRIX = t("f32", "N", 5)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1,), ()])
@pytest.mark.parametrize("first", [True, False])
def test_matmul_add_to_gemm(shape: tuple[int, ...], first: bool) -> None:
    def build(g: Graph, x: Value) -> Value:
        y, c = g.b.matmul(x, g.weight(5, 3)), g.weight(*shape)
        return g.b.add(y, c) if first else g.b.add(c, y)

    assert fused(build, MATRIX) == {"gemm": 1}


def test_matmul_add_to_gemm_of_a_residual() -> None:
    def build(g: Graph, x: Value, c: Value) -> Value:
        return g.b.add(g.b.matmul(x, g.weight(5, 3)), c)

    assert fused(build, MATRIX, t("f32", "N", 3)) == {"gemm": 1}
    untouched(build, t("f32", 1, 5), t("f32", "N", 3))
    untouched(build, MATRIX, t("f32", "M", 3), M=3, N=3)
    untouched(build, MATRIX, t("f32", 2, "N", 3))


def test_batched_or_unranked_matmul_stays() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.add(g.b.matmul(x, g.weight(5, 3)), g.weight(3))

    assert any("proven to be matrices" in r for r in untouched(build, t("f32", "B", 2, 5)))
    module = Graph(build, TensorType(dtypes.F32, None)).module
    run_passes(module, Fuse())
    assert ops(module) == {"matmul": 1, "add": 1}


def test_integer_matmul_stays() -> None:
    def build(g: Graph, x: Value) -> Value:
        w = g.b.const(g.rng.integers(0, 9, (5, 3)), dtypes.I32)
        return g.b.add(g.b.matmul(x, w), g.b.const([1, 2, 3], dtypes.I32))

    untouched(build, t("i32", 2, 5))


def test_gemm_takes_transposes_biases_and_scales() -> None:
    def build(g: Graph, x: Value, w: Value) -> Value:
        a, b = g.b.transpose(x, perm=(1, 0)), g.b.transpose(w)
        y = g.b.add(g.b.gemm(a, b, alpha=0.5), g.weight(3))
        return g.b.mul(y, 2.0)

    assert fused(build, t("f32", 5, "N"), t("f32", 3, 5)) == {"gemm": 1}


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1), ()])
def test_affine_into_gemm(trans: bool, shape: tuple[int, ...]) -> None:
    def build(g: Graph, x: Value) -> Value:
        w = g.weight(3, 5) if trans else g.weight(5, 3)
        y = g.b.gemm(x, w, g.weight(3), transB=trans, alpha=2.0, beta=0.5)
        return g.b.div(g.b.sub(g.b.mul(y, g.positive(*shape)), g.weight(*shape)), 3.0)

    assert fused(build, MATRIX) == {"gemm": 1}


@pytest.mark.parametrize("name", ["gemm", "matmul"])
def test_bn_into_gemm_and_matmul(name: str) -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.bn(getattr(g.b, name)(x, g.weight(5, 3)), 3)

    assert fused(build, MATRIX) == {"gemm": 1}


def test_gemm_that_a_constant_enlarges_stays() -> None:
    def rows(g: Graph, x: Value) -> Value:
        return g.b.add(g.b.gemm(x, g.weight(5, 3), g.weight(3)), g.weight(4, 1))

    def rank(g: Graph, x: Value) -> Value:
        return g.b.mul(g.b.gemm(x, g.weight(5, 3)), g.weight(1, 1, 3))

    untouched(rows, t("f32", 4, 5))
    untouched(rank, MATRIX)


def test_scales_around_matmul() -> None:
    def after(g: Graph, x: Value) -> Value:
        return g.b.div(g.b.mul(g.b.matmul(x, g.weight(5, 3)), g.positive(3)), 4.0)

    def before(g: Graph, x: Value) -> Value:
        return g.b.matmul(g.b.div(x, 8.0), g.weight(5, 3))

    def attention(g: Graph, x: Value, y: Value) -> Value:
        return g.b.div(g.b.matmul(x, y), 4.0)

    batch = t("f32", "B", 2, 5)
    assert fused(after, batch) == {"matmul": 1}
    assert fused(before, batch) == {"matmul": 1}
    assert untouched(attention, batch, t("f32", "B", 5, 2))


# -- clamps ----------------------------------------------------------------------------------------


def _clamp_cases() -> dict[str, tuple[Build, dict[str, int]]]:
    return {
        "relu clip": (lambda g, x: g.b.relu(g.b.clip(x, -1.0, 2.0)), {"clip": 1}),
        "clip relu": (lambda g, x: g.b.clip(g.b.relu(x), 0.0, 6.0), {"clip": 1}),
        "clip clip": (lambda g, x: g.b.clip(g.b.clip(x, -1.0, 2.0), 0.0, 1.0), {"clip": 1}),
        "disjoint": (lambda g, x: g.b.clip(g.b.clip(x, 1.0, 2.0), 3.0, 4.0), {"clip": 1}),
        "min max": (lambda g, x: g.b.min(g.b.max(x, -1.0), 2.0), {"clip": 1}),
        "max min": (lambda g, x: g.b.max(g.b.const(-1.0, x.dtype), g.b.min(x, 2.0)), {"clip": 1}),
        "min min": (lambda g, x: g.b.min(g.b.min(x, 2.0), 1.0), {"min": 1}),
        "max max": (lambda g, x: g.b.max(g.b.max(x, 0.5), 1.0), {"max": 1}),
        "relu max": (lambda g, x: g.b.relu(g.b.max(x, -1.0)), {"relu": 1}),
        "relu relu": (lambda g, x: g.b.relu(g.b.relu(x)), {"relu": 1}),
        "relu6 relu": (lambda g, x: g.b.relu(g.b.clip(x, 0.0, 6.0)), {"clip": 1}),
        "half open": (lambda g, x: g.b.clip(g.b.clip(x, 0.5), None, 2.0), {"clip": 1}),
    }


@pytest.mark.parametrize("case", list(_clamp_cases()))
def test_clamps_merge(case: str) -> None:
    build, expected = _clamp_cases()[case]
    assert fused(build, t("f32", "N", 9)) == expected
    assert fused(build, t("f16", 30)) == expected


def test_integer_clamps_merge() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.min(g.b.max(x, g.b.const(3, dtypes.I32)), g.b.const(12, dtypes.I32))

    assert fused(build, t("i32", 50)) == {"clip": 1}


def test_other_clamps_stay() -> None:
    def vector(g: Graph, x: Value) -> Value:
        return g.b.min(g.b.max(x, g.b.const([0.0, 1.0], dtypes.F32)), 2.0)

    def empty_interval(g: Graph, x: Value) -> Value:
        return g.b.relu(g.b.clip(x, 3.0, 1.0))

    def raises_rank(g: Graph, x: Value) -> Value:
        return g.b.min(g.b.max(x, g.b.const([[1.0]], dtypes.F32)), 2.0)

    def shared(g: Graph, x: Value) -> tuple[Value, Value]:
        y = g.b.max(x, -1.0)
        return g.b.min(y, 1.0), y

    for build in (vector, empty_interval, raises_rank, shared):
        untouched(build, t("f32", 2))


def test_leaky_relu_from_max() -> None:
    assert fused(lambda g, x: g.b.max(x, g.b.mul(x, 0.1)), MATRIX) == {"leaky_relu": 1}
    untouched(lambda g, x: g.b.max(x, g.b.mul(x, 1.5)), MATRIX)
    untouched(lambda g, x: g.b.max(x, g.b.mul(x, 0.1)), t("f64", 4))


# -- activations -----------------------------------------------------------------------------------

ROOT_HALF, TANH = math.sqrt(0.5), math.sqrt(2 / math.pi)


def _erf(g: Graph, x: Value, divide: bool = False) -> Value:
    inner = g.b.div(x, math.sqrt(2)) if divide else g.b.mul(x, ROOT_HALF)
    return g.b.add(g.b.erf(inner), 1.0)


def _curve(g: Graph, x: Value, cube: Value) -> Value:
    inner = g.b.mul(g.b.add(x, g.b.mul(cube, 0.044715)), TANH)
    return g.b.add(g.b.tanh(inner), 1.0)


def _polynomial(g: Graph, x: Value) -> Value:
    line = g.b.add(g.b.mul(g.b.mul(x, x), 0.044715), 1.0)
    return g.b.add(g.b.tanh(g.b.mul(g.b.mul(x, TANH), line)), 1.0)


GELUS: dict[str, Build] = {
    "erf 1": lambda g, x: g.b.mul(g.b.mul(x, 0.5), _erf(g, x)),
    "erf 2": lambda g, x: g.b.mul(x, g.b.mul(_erf(g, x, True), 0.5)),
    "erf 3": lambda g, x: g.b.mul(g.b.mul(x, _erf(g, x, True)), 0.5),
    "erf 4": lambda g, x: g.b.div(g.b.mul(_erf(g, x), x), 2.0),
    "erf 5": lambda g, x: g.b.mul(g.b.add(g.b.mul(g.b.erf(g.b.mul(x, ROOT_HALF)), 0.5), 0.5), x),
    "tanh pow": lambda g, x: g.b.mul(g.b.mul(x, 0.5), _curve(g, x, g.b.pow(x, 3.0))),
    "tanh mul": lambda g, x: g.b.mul(_curve(g, x, g.b.mul(g.b.mul(x, x), x)), g.b.mul(x, 0.5)),
    "tanh polynomial": lambda g, x: g.b.mul(g.b.mul(x, 0.5), _polynomial(g, x)),
}


@pytest.mark.parametrize("spelling", list(GELUS))
@pytest.mark.parametrize("dtype", ["f32", "f16", "f64"])
def test_gelu(spelling: str, dtype: str) -> None:
    found = fused(GELUS[spelling], t(dtype, "N", 2, 7))
    assert found == {"gelu": 1}


def test_what_is_almost_gelu_stays() -> None:
    def factor(g: Graph, x: Value) -> Value:
        return g.b.mul(g.b.mul(x, 0.6), _erf(g, x))

    def other(g: Graph, x: Value, y: Value) -> Value:
        return g.b.mul(g.b.mul(y, 0.5), _erf(g, x))

    def shared(g: Graph, x: Value) -> tuple[Value, Value]:
        e = _erf(g, x)
        return g.b.mul(g.b.mul(x, 0.5), e), e

    untouched(factor, MATRIX)
    untouched(other, MATRIX, MATRIX)
    untouched(shared, MATRIX)


HARD: dict[str, tuple[Build, str]] = {
    "sigmoid div": (lambda g, x: g.b.div(g.b.clip(g.b.add(x, 3.0), 0.0, 6.0), 6.0), "hard_sigmoid"),
    "sigmoid mul": (
        lambda g, x: g.b.mul(g.b.min(g.b.relu(g.b.add(x, 3.0)), 6.0), 1 / 6),
        "hard_sigmoid",
    ),
    "sigmoid line": (
        lambda g, x: g.b.clip(g.b.add(g.b.mul(x, 0.2), 0.5), 0.0, 1.0),
        "hard_sigmoid",
    ),
    "swish 1": (
        lambda g, x: g.b.mul(x, g.b.div(g.b.clip(g.b.add(x, 3.0), 0.0, 6.0), 6.0)),
        "hard_swish",
    ),
    "swish 2": (
        lambda g, x: g.b.div(g.b.mul(x, g.b.clip(g.b.add(x, 3.0), 0.0, 6.0)), 6.0),
        "hard_swish",
    ),
    "swish 3": (lambda g, x: g.b.mul(x, g.b.hard_sigmoid(x, alpha=1 / 6, beta=0.5)), "hard_swish"),
}


@pytest.mark.parametrize("spelling", list(HARD))
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_hard_activations(spelling: str, dtype: str) -> None:
    build, name = HARD[spelling]
    assert fused(build, t(dtype, "N", 40)) == {name: 1}


def test_hard_activations_stay_where_attributes_round() -> None:
    untouched(HARD["sigmoid div"][0], t("f64", 9))
    untouched(lambda g, x: g.b.div(g.b.clip(g.b.add(x, 3.0), 0.0, 5.0), 6.0), MATRIX)


def test_swish_and_mish() -> None:
    def mish(g: Graph, x: Value) -> Value:
        return g.b.mul(x, g.b.tanh(g.b.log(g.b.add(g.b.exp(x), 1.0))))

    assert fused(lambda g, x: g.b.mul(x, g.b.sigmoid(x)), MATRIX) == {"swish": 1}
    assert fused(lambda g, x: g.b.mul(g.b.sigmoid(g.b.mul(x, 1.702)), x), MATRIX) == {"swish": 1}
    assert fused(mish, MATRIX) == {"mish": 1}
    assert fused(lambda g, x: g.b.mul(x, g.b.tanh(g.b.softplus(x))), MATRIX) == {"mish": 1}
    untouched(lambda g, x, y: g.b.mul(x, g.b.sigmoid(y)), MATRIX, MATRIX)


# -- reductions and normalizations -----------------------------------------------------------------


def test_reductions() -> None:
    def mean(g: Graph, x: Value) -> Value:
        return g.b.div(g.b.reduce_sum(x, [1, 2]), 20.0)

    def softmax(g: Graph, x: Value) -> Value:
        e = g.b.exp(g.b.sub(x, g.b.reduce_max(x, [-1])))
        return g.b.div(e, g.b.reduce_sum(e, [2]))

    def naive(g: Graph, x: Value) -> Value:
        e = g.b.exp(x)
        return g.b.div(e, g.b.reduce_sum(e, [2]))

    x = t("f32", "N", 4, 5)
    assert fused(mean, x) == {"reduce_mean": 1}
    assert fused(softmax, x) == {"softmax": 1}
    assert fused(lambda g, x: g.b.log(g.b.softmax(x)), x) == {"log_softmax": 1}
    untouched(mean, t("f32", "N", 4, 6))
    untouched(mean, t("f32", "N", 4, "K"))
    assert any("largest" in r for r in untouched(naive, x))


def _layer_norm(
    g: Graph, x: Value, square: str = "pow", quotient: str = "div", axes: list[int] | None = None
) -> Value:
    axes = [-1] if axes is None else axes
    d = g.b.sub(x, g.b.reduce_mean(x, axes))
    v = g.b.reduce_mean(g.b.pow(d, 2.0) if square == "pow" else g.b.mul(d, d), axes)
    s = g.b.add(v, 1e-5)
    if quotient == "div":
        return g.b.div(d, g.b.sqrt(s))
    if quotient == "reciprocal":
        return g.b.mul(d, g.b.reciprocal(g.b.sqrt(s)))
    if quotient == "one":
        return g.b.mul(g.b.div(g.b.const(1.0, x.dtype), g.b.sqrt(s)), d)
    return g.b.mul(d, g.b.pow(s, -0.5))


@pytest.mark.parametrize("square", ["pow", "mul"])
@pytest.mark.parametrize("quotient", ["div", "reciprocal", "one", "pow"])
@pytest.mark.parametrize("axes", [[-1], [2], [-2, -1]])
def test_layer_norm(square: str, quotient: str, axes: list[int]) -> None:
    def build(g: Graph, x: Value) -> Value:
        shape = (5, 6)[-len(axes) :]
        y = g.b.mul(_layer_norm(g, x, square, quotient, axes), g.weight(*shape))
        return g.b.add(g.weight(*shape), y)

    assert fused(build, t("f32", "N", 5, 6)) == {"layer_normalization": 1}


def test_layer_norm_with_casts() -> None:
    def build(g: Graph, x: Value) -> Value:
        y = g.b.cast(_layer_norm(g, g.b.cast(x, to=dtypes.F32)), to=dtypes.F16)
        return g.b.add(g.b.mul(y, g.weight(6, dtype="f16")), g.weight(6, dtype="f16"))

    assert fused(build, t("f16", "N", 6)) == {"layer_normalization": 1}


def test_layer_norm_keeps_other_scales() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.mul(_layer_norm(g, x), g.weight(4, 1))

    assert fused(build, t("f32", "N", 4, 6)) == {"layer_normalization": 1, "mul": 1}


def test_what_is_almost_layer_norm_stays() -> None:
    untouched(lambda g, x: _layer_norm(g, x, axes=[1]), t("f32", 2, "K", 6))
    untouched(lambda g, x: _layer_norm(g, x), t("f32", 2, "K"))
    untouched(lambda g, x: _layer_norm(g, x), t("f64", 2, 6))

    def shared(g: Graph, x: Value) -> tuple[Value, Value]:
        d = g.b.sub(x, g.b.reduce_mean(x, [-1]))
        v = g.b.reduce_mean(g.b.mul(d, d), [-1])
        return g.b.div(d, g.b.sqrt(g.b.add(v, 1e-5))), v

    assert any("used elsewhere" in r for r in untouched(shared, t("f32", 2, 6)))


@pytest.mark.parametrize("quotient", ["div", "reciprocal", "pow"])
def test_rms_norm(quotient: str) -> None:
    def build(g: Graph, x: Value) -> Value:
        s = g.b.add(g.b.reduce_mean(g.b.pow(x, 2.0), [-1]), 1e-6)
        if quotient == "div":
            y = g.b.div(x, g.b.sqrt(s))
        elif quotient == "reciprocal":
            y = g.b.mul(x, g.b.reciprocal(g.b.sqrt(s)))
        else:
            y = g.b.mul(x, g.b.pow(s, -0.5))
        return g.b.mul(g.weight(6), y)

    assert fused(build, t("f32", "N", 5, 6)) == {"rms_normalization": 1}


# -- what a target allows --------------------------------------------------------------------------


NORMS = ("layer_normalization", "rms_normalization")


class Old:
    """A target of few operations."""

    name = "old"

    def __init__(self, *missing: str) -> None:
        self.missing = set(missing)

    def has(self, name: str, module: Module, attrs: dict[str, Any]) -> bool:
        return name not in self.missing

    def legal(self, op: Op) -> bool | str:
        return True if op.name not in self.missing else f"there is no {op.name}"

    def quant(self, key: str) -> Any:
        return None


def test_only_what_the_target_has_is_made() -> None:
    ctx = PassContext(target=Old("gelu", *NORMS, "hard_swish", "swish"))
    for build in (GELUS["erf 1"], lambda g, x: _layer_norm(g, x)):
        module = Graph(build, t("f32", 2, 6)).module
        before = ops(module)
        run_passes(module, Fuse(), ctx=ctx)
        assert ops(module) == before
    found = fused(HARD["swish 2"][0], t("f32", 6), ctx=ctx)
    assert found == {"mul": 1, "hard_sigmoid": 1}


# -- decompose, legalize ---------------------------------------------------------------------------


def test_decompose() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.gelu(g.b.layer_normalization(x, g.weight(6), g.weight(6)))

    for names, kept in (((), set()), (("gelu",), {"layer_normalization"})):
        module = Graph(build, t("f32", "N", 6)).module
        before = clone_module(module)
        run_passes(module, Decompose(ops=names), Dce())
        assert_same(before, module)
        assert {"gelu", "layer_normalization"} & set(ops(module)) == kept


def test_decompose_refuses_what_is_no_composite() -> None:
    with pytest.raises(ValueError, match="not a composite"):
        Decompose(ops=("conv",))
    with pytest.raises(ValueError, match="no operation"):
        Decompose(ops=("convv",))
    assert PipelineError


def test_legalize_takes_apart_what_is_illegal() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.hard_swish(g.b.gelu(x))

    module = Graph(build, t("f32", "N", 6)).module
    before = clone_module(module)
    run_passes(module, Legalize(), ctx=PassContext(target=Old("hard_swish", "hard_sigmoid")))
    assert_same(before, module)
    assert ops(module)["gelu"] == 1
    assert not {"hard_swish", "hard_sigmoid"} & set(ops(module))


def test_legalize_says_what_stays_illegal() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.gelu(x)

    module = Graph(build, t("f32", "N", 6)).module
    with pytest.raises(UnsupportedError, match="there is no erf"):
        run_passes(module, Legalize(), ctx=PassContext(target=Old("gelu", "erf")))
