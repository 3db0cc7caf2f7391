"""The convert pass: numbers, types, casts, ranges, and that the runtime takes the result."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

from lepton_ir import api, dtypes
from lepton_ir.builder import Builder
from lepton_ir.clone import clone_module
from lepton_ir.context import PassContext
from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.infer import const_array
from lepton_ir.interp import run_list
from lepton_ir.ir import Module, Value
from lepton_ir.passes.convert import Convert
from lepton_ir.passes.convert.correct import settled
from lepton_ir.passes.convert.payload import LIMITS, ConvertedTensor, converted, measure
from lepton_ir.passes.fold import Fold
from lepton_ir.passes.legalize import Legalize
from lepton_ir.tensors import DenseTensor, ExternalTensor, RawTensor, SplatTensor, Tensor
from lepton_ir.types import TensorType
from lepton_ir.verify import verify_module
from tests.test_fuse import Graph, ops, t
from tests.test_op_table import CASES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.op_cases import Case

ort = pytest.importorskip("onnxruntime")
ort.set_default_logger_severity(4)

RNG = np.random.default_rng(0)


def make(build: Callable[..., Any], *inputs: TensorType, opset: int = 17) -> Module:
    module = Graph(build, *inputs).module
    module.opsets[""] = opset
    for value, name in zip(module.main.outputs, module.main.output_names, strict=True):
        assert value is not None
        value.name = name
    return module


def convert(module: Module, options: Convert | None = None, **given: Any) -> PassContext:
    ctx = PassContext(target=api.target("onnx"), **given)
    ctx.pass_name = "convert"
    (options or Convert()).run(module, ctx)
    verify_module(module)
    return ctx


def session(module: Module, folder: Path) -> Any:
    path = folder / "m.onnx"
    api.save(module, path)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def notes(ctx: PassContext) -> str:
    return "\n".join(r.message for r in ctx.remarks if r.kind == "note")


def mlp(g: Graph, x: Value) -> Value:
    y = g.b.relu(g.b.add(g.b.matmul(x, g.weight(8, 16)), g.weight(16)))
    return g.b.softmax(g.b.matmul(y, g.weight(16, 4)))


X = t("f32", "N", 8)


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_io", [True, False])
def test_the_result_runs_and_is_close(tmp_path: Path, keep_io: bool) -> None:
    module = make(mlp, X)
    x = RNG.normal(size=(3, 8)).astype(np.float32)
    (want,) = run_list(module, {"x0": x})
    ctx = convert(module, Convert(keep_io=keep_io))
    runner = session(module, tmp_path)
    kind = "tensor(float)" if keep_io else "tensor(float16)"
    assert [v.type for v in (*runner.get_inputs(), *runner.get_outputs())] == [kind, kind]
    assert [v.name for v in (*runner.get_inputs(), *runner.get_outputs())] == ["x0", "y0"]
    feed = x if keep_io else x.astype(np.float16)
    (got,) = runner.run(None, {"x0": feed})
    np.testing.assert_allclose(got.astype(np.float32), want, atol=5e-3)
    assert ops(module)["cast"] == (2 if keep_io else 0)
    assert ctx.data["convert"]["bytes_after"] * 2 == ctx.data["convert"]["bytes_before"]


def test_options_of_the_run_leave_operations_out() -> None:
    for given in ({"stop_after": 1}, {"exclude_rules": frozenset({"f16-matmul"})}):
        module = make(mlp, X)
        before = clone_module(module)
        convert(module, **given)
        x = {"x0": RNG.normal(size=(2, 8)).astype(np.float32)}
        np.testing.assert_allclose(
            run_list(module, x)[0], run_list(before, x)[0], rtol=1e-2, atol=1e-3
        )
        matmuls = [op for op in module.walk() if op.name == "matmul"]
        assert any(op.result.dtype is dtypes.F32 for op in matmuls)


def test_nothing_is_left_of_constants_that_were_converted() -> None:
    module = make(mlp, X)
    convert(module)
    held = [op.result.dtype for op in module.walk() if op.name == "const"]
    assert held == [dtypes.F16] * 3


def test_provenance_and_types_are_kept() -> None:
    module = make(lambda g, x: g.b.conv(x, g.weight(2, 3, 1, 1)), t("f32", "N", 3, "H", "W"))
    (op,) = [op for op in module.walk() if op.name == "conv"]
    source = op.loc
    convert(module)
    assert source in op.loc.parents
    assert op.loc.rule == "convert/f16"
    assert str(op.result.type) == "f16[N,2,H,W]"
    assert str(module.main.outputs[0].type) == "f32[N,2,H,W]"  # type: ignore[union-attr]


# -- what stays ------------------------------------------------------------------------------------


def test_one_cast_serves_all_who_read_a_value() -> None:
    def build(g: Graph, x: Value) -> Any:
        a = g.b.matmul(x, g.weight(8, 8))
        return g.b.pow(a, 3.0), g.b.pow(a, 5.0), g.b.matmul(a, g.weight(8, 8))

    module = make(build, X)
    convert(module)
    assert ops(module)["cast"] == 3  # the input, the first product for both powers, the last


def test_light_operations_take_the_side_with_fewer_casts() -> None:
    def build(g: Graph, x: Value) -> Value:
        a = g.b.matmul(x, g.weight(8, 8))
        b = g.b.exp(g.b.add(g.b.mul(g.b.exp(a), 0.5), 0.25))
        return g.b.matmul(b, g.weight(8, 8))

    module = make(build, X)
    ctx = convert(module)
    assert ops(module)["cast"] == 4
    assert "loses accuracy" in notes(ctx)
    module = make(build, X)
    convert(module, Convert(convert=("exp",)))
    assert ops(module)["cast"] == 2


@pytest.mark.parametrize("pattern", ["matmul", "la*", "layer"])
def test_operations_stay_by_name(pattern: str) -> None:
    module = make(mlp, X)
    (first, _) = [op for op in module.walk() if op.name == "matmul"]
    first.node_name = "layer"
    convert(module, Convert(keep=(pattern,)))
    assert first.result.dtype is dtypes.F32


def test_a_mask_beyond_the_range_stays_with_what_it_reaches(tmp_path: Path) -> None:
    def build(g: Graph, x: Value, mask: Value) -> Value:
        scores = g.b.matmul(x, g.weight(8, 4))
        far = g.b.mul(g.b.sub(1.0, g.b.cast(mask, to=dtypes.F32)), np.float32(-3.4e38))
        p = g.b.softmax(g.b.add(scores, far))
        return g.b.matmul(p, g.weight(4, 4))

    module = make(build, X, t("i64", "N", 4))
    x = {"x0": RNG.normal(size=(2, 8)).astype(np.float32), "x1": np.eye(2, 4, dtype=np.int64)}
    x["x1"][1] = 0  # all is masked
    (want,) = run_list(module, x)
    ctx = convert(module)
    (got,) = session(module, tmp_path).run(None, x)
    np.testing.assert_allclose(got, want, rtol=1e-2, atol=5e-3)
    assert "outside the range" in notes(ctx)


def test_a_guarded_division_stays(tmp_path: Path) -> None:
    def build(g: Graph, x: Value) -> Value:
        a = g.b.matmul(x, g.weight(8, 8))
        s = g.b.sqrt(g.b.add(g.b.mul(a, a), np.float32(1e-12)))
        return g.b.matmul(g.b.div(a, s), g.weight(8, 8))

    module = make(build, X)
    convert(module)
    (got,) = session(module, tmp_path).run(None, {"x0": np.zeros((1, 8), np.float32)})
    assert (got == 0).all()


def test_calibration_finds_what_overflows(tmp_path: Path) -> None:
    def build(g: Graph, x: Value) -> Value:
        a = g.b.matmul(x, g.weight(8, 8))
        big = g.b.mul(a, g.b.mul(a, 300.0))
        return g.b.matmul(g.b.div(big, 1000.0), g.weight(8, 8))

    x = {"x0": np.full((1, 8), 20, np.float32)}
    module = make(build, X)
    (want,) = run_list(module, x)
    ctx = convert(module, feeds=[x])
    (got,) = session(module, tmp_path).run(None, x)
    np.testing.assert_allclose(got, want, rtol=5e-3, atol=1e-2 * float(np.abs(want).max()))
    assert ctx.data["convert"]["kept"]["numbers outside the range of 16 bits"] >= 2
    blind = make(build, X)
    ctx = convert(blind)
    assert "no calibration data" in notes(ctx)
    assert not np.isfinite(run_list(blind, x)[0]).all()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("one", [False, True])
def test_rounding_keeps_means(dtype: str, one: bool) -> None:
    rng = np.random.default_rng(3)
    rows = np.concatenate(
        [rng.normal(size=(8, 99)), np.zeros((8, 1))], axis=1, dtype=np.float32, casting="same_kind"
    )
    rows[0] *= 1e-6  # subnormal, or nothing, in f16
    rows[1, :8] = [0, -0.0, 65519, -65519, np.inf, 1, -1, 6e-8]
    means = rng.normal(size=(1 if one else 8, 100))
    wide = np.nan_to_num(rows, posinf=0).astype(np.float64)
    nearest = rows.astype(dtypes.dtype(dtype).numpy)

    def shift(codes: Any) -> Any:
        return np.sum((np.nan_to_num(codes.astype(np.float64), posinf=0) - wide) * means, axis=1)

    found = settled(rows, shift(nearest), means, dtypes.dtype(dtype))
    assert (np.abs(shift(found)) <= np.abs(shift(nearest))).all()
    usual = slice(2, None)
    assert np.abs(shift(found))[usual].mean() < 0.1 * np.abs(shift(nearest))[usual].mean()
    steps = found.view(np.int16).astype(int) - nearest.view(np.int16).astype(int)
    assert np.abs(steps).max() <= 1
    assert (found[rows == 0] == 0).all()
    assert np.isfinite(found[np.isfinite(rows)].astype(np.float32)).all() or dtype == "f16"


def _unstable(g: Graph, x: Value) -> Value:
    """A network whose outputs are small differences of large numbers, and parts that are none."""
    y = g.b.relu(g.b.matmul(x, g.weight(8, 64)))
    big = g.b.matmul(y, g.positive(64, 64))
    near = g.b.matmul(y, g.b.const(const_array(big.op.operands[1]) * np.float32(1.0003)))
    return g.b.matmul(g.b.sub(big, near), g.weight(64, 4))


@pytest.mark.parametrize(("opset", "kept"), [(17, 1), (18, 2), (19, 1)])
def test_what_processors_take_apart_stays_on_request(opset: int, kept: int) -> None:
    def build(g: Graph, x: Value) -> Value:
        y = g.b.relu(g.b.matmul(x, g.weight(8, 8)))
        return g.b.matmul(g.b.hard_swish(g.b.matmul(y, g.weight(8, 8))), g.weight(8, 4))

    ctx = convert(make(build, X, opset=opset), Convert(kernels="cpu"))
    assert ctx.data["convert"]["kept"] == {"the target cannot run it in 16 bits": kept}
    assert not convert(make(build, X, opset=opset)).data["convert"]["kept"]


def test_what_the_outputs_lose_too_much_by_stays(tmp_path: Path) -> None:
    feeds = [{"x0": RNG.normal(size=(16, 8)).astype(np.float32)} for _ in range(4)]
    module = make(_unstable, X)
    want = [run_list(module, feed)[0] for feed in feeds]
    ctx = convert(module, feeds=feeds, want_remarks=frozenset())
    got = [session(module, tmp_path).run(None, feed)[0] for feed in feeds]
    lost = float(np.linalg.norm(np.subtract(got, want)) / np.linalg.norm(want))
    row = ctx.data["convert"]
    assert lost <= 1.1 * row["lost"] <= 0.0055
    assert row["converted"] >= 2
    assert row["kept"]["moves the outputs too far in 16 bits"] >= 2
    missed = [r.message for r in ctx.remarks if r.kind == "missed"]
    assert any("cancellation: the terms of its sums are" in m for m in missed)
    rough = make(_unstable, X)
    ctx = convert(rough, Convert(max_drop=0), feeds=feeds)
    assert ctx.data["convert"]["lost"] is None
    assert not ctx.data["convert"]["kept"]


def test_a_limit_of_next_to_nothing_keeps_everything() -> None:
    feeds = [{"x0": RNG.normal(size=(16, 8)).astype(np.float32)} for _ in range(4)]

    def build(g: Graph, x: Value) -> Value:
        return g.b.matmul(g.b.exp(g.b.matmul(x, g.weight(8, 8))), g.weight(8, 4))

    ctx = convert(make(build, X), Convert(max_drop=1e-12), feeds=feeds)
    assert ctx.data["convert"]["converted"] == 0


def test_calibration_ignores_infinities_and_empty_tensors() -> None:
    def build(g: Graph, x: Value) -> Value:
        masked = g.b.where(g.b.greater(x, 0.0), x, np.float32(-np.inf))
        return g.b.matmul(g.b.softmax(masked), g.weight(8, 8))

    module = make(build, X)
    feeds = [{"x0": RNG.normal(size=(2, 8)).astype(np.float32)}, {"x0": np.ones((0, 8), "f4")}]
    ctx = convert(module, feeds=feeds)
    assert not ctx.data["convert"]["kept"]


def test_positions_stay_exact(tmp_path: Path) -> None:
    def build(g: Graph, x: Value, position: Value) -> Value:
        angle = g.b.mul(g.b.cast(position, to=dtypes.F32), g.positive(1, 8))
        return g.b.matmul(g.b.add(g.b.cos(angle), x), g.weight(8, 8))

    module = make(build, X, t("i64", "N", 1))
    x = {"x0": np.zeros((1, 8), np.float32), "x1": np.array([[40001]])}
    (want,) = run_list(module, x)
    convert(module)
    np.testing.assert_allclose(session(module, tmp_path).run(None, x)[0], want, atol=1e-2)


def test_control_flow_keeps_its_boundary() -> None:
    text = """func @main(%n: i64[], %c: bool[], %x: f32[2,2]) {
      %w = const() {value=[[1.0, 0.5], [0.25, 1.0]]} : f32[2,2]
      %y = loop(%n, %c, %x) (%i: i64[], %go: bool[], %s: f32[2,2]) {
        %t = matmul(%s, %w)
        yield(%go, %t)
      }
      return(%y)
    }"""
    from lepton_ir.text.parse import parse_module

    module = parse_module(text)
    module.opsets[""] = 17
    x = {"n": np.array(3), "c": np.array(True), "x": np.eye(2, dtype=np.float32)}
    (want,) = run_list(module, x)
    convert(module)
    np.testing.assert_allclose(run_list(module, x)[0], want, rtol=1e-2)
    assert Counter(op.name for op in module.walk())["cast"] == 2


def test_calls_keep_their_types() -> None:
    from lepton_ir.text.parse import parse_module

    module = parse_module("""
    func @main(%x: f32[2,2]) {
      %w = const() {value=[[1.0, 0.5], [0.25, 1.0]]} : f32[2,2]
      %a = matmul(%x, %w)
      %b = call(%a) {callee="f"} : f32[2,2]
      %y = matmul(%b, %w)
      return(%y)
    }
    func @f(%x: f32[2,2]) {
      %y = exp(%x)
      return(%y)
    }""")
    module.opsets[""] = 17
    x = {"x": np.eye(2, dtype=np.float32)}
    (want,) = run_list(module, x)
    convert(module)
    np.testing.assert_allclose(run_list(module, x)[0], want, rtol=1e-2)
    assert Counter(op.name for op in module.walk())["cast"] == 4


def test_means_follow_their_neighbours_unless_of_squares() -> None:
    def pooled(g: Graph, x: Value) -> Value:
        return g.b.matmul(g.b.reduce_mean(g.b.matmul(x, g.weight(8, 8))), g.weight(1, 8))

    def squared(g: Graph, x: Value) -> Value:
        a = g.b.matmul(x, g.weight(8, 8))
        return g.b.matmul(g.b.reduce_mean(g.b.mul(a, a)), g.weight(1, 8))

    for build, count in ((pooled, 0), (squared, 2)):
        module = make(build, X)
        ctx = convert(module)
        assert ctx.data["convert"]["kept"].get("loses accuracy in 16 bits", 0) == count


def test_f64_by_choice() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.matmul(x, g.weight(8, 8, dtype="f64"))

    x = {"x0": RNG.normal(size=(2, 8))}
    module = make(build, t("f64", "N", 8))
    (want,) = run_list(module, x)
    convert(module)
    assert "cast" not in ops(module)
    convert(module, Convert(f64=True))
    (got,) = run_list(module, x)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, atol=2e-2)


def test_quantized_models_keep_their_pairs() -> None:
    def build(g: Graph, x: Value) -> Value:
        scale, zero = g.b.const(np.float32(0.1)), g.b.const(np.uint8(128))
        q = g.b.dequantize_linear(g.b.quantize_linear(x, scale, zero), scale, zero)
        return g.b.matmul(q, g.weight(8, 4))

    module = make(build, X)
    convert(module)
    assert "cast" not in ops(module)


# -- bf16, storage ---------------------------------------------------------------------------------


def large(g: Graph, x: Value) -> Value:
    return g.b.relu(g.b.matmul(x, g.weight(8, 1024)))


@pytest.mark.parametrize("options", [Convert(to="bf16"), Convert(weights_only=True)])
def test_weights_are_stored_and_computed_with_in_f32(tmp_path: Path, options: Convert) -> None:
    module = make(large, X)
    x = {"x0": RNG.normal(size=(2, 8)).astype(np.float32)}
    (want,) = run_list(module, x)
    ctx = convert(module, options)
    assert ctx.data["convert"]["stored"] == 1
    ctx.pass_name = "fold"
    Fold().run(module, ctx)
    assert ops(module)["cast"] == 1
    (got,) = session(module, tmp_path).run(None, x)
    np.testing.assert_allclose(got, want, atol=0.05)
    assert (tmp_path / "m.onnx").stat().st_size < 8 * 1024 * 2 + 1000


def test_bf16_everywhere_for_other_runtimes() -> None:
    module = make(large, X, opset=21)
    convert(module, Convert(to="bf16", kernels="spec"))
    assert all(op.result.dtype is dtypes.BF16 for op in module.walk() if op.name == "matmul")


def test_bf16_needs_its_opset() -> None:
    with pytest.raises(UnsupportedError, match="cannot convert to bf16"):
        convert(make(large, X, opset=12), Convert(to="bf16"))


@pytest.mark.parametrize("bad", [{"to": "f8"}, {"kernels": "x"}, {"headroom": 0.5}])
def test_bad_options(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Convert(**bad)


def test_bad_calibration_data_is_named() -> None:
    with pytest.raises(LeptonError, match="x0"):
        convert(make(mlp, X), feeds=[{"a": np.ones(2), "b": np.ones(2)}])


# -- constants -------------------------------------------------------------------------------------


def tensors(folder: Path) -> Iterator[Tensor]:
    array = RNG.normal(size=(3, 70001)).astype(np.float32)
    path = folder / "data"
    path.write_bytes(b"123" + array.tobytes())
    yield DenseTensor(array)
    yield RawTensor(array.tobytes(), dtypes.F32, array.shape)
    yield ExternalTensor(str(path), 3, dtypes.F32, array.shape)


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_payloads_are_converted_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("lepton_ir.tensors.CHUNK", 4099)
    dtype = dtypes.BY_NAME[name]
    for tensor in tensors(tmp_path):
        low = converted(tensor, dtype)
        assert isinstance(low, ConvertedTensor)
        want = tensor.numpy().astype(dtype.numpy)
        assert low.numpy().tobytes() == want.tobytes() == b"".join(map(bytes, low.chunks()))
        held = measure(tensor, LIMITS[name])
        assert (held.low, held.high) == (tensor.numpy().min(), tensor.numpy().max())


def test_payloads_of_one_value_stay_one_value() -> None:
    low = converted(SplatTensor(0.1, dtypes.F32, (1 << 40,)), dtypes.F16)
    assert isinstance(low, SplatTensor)
    assert low.value == np.float16(0.1)


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_limits_are_those_of_the_type(name: str) -> None:
    limits, dtype = LIMITS[name], dtypes.BY_NAME[name].numpy
    info = ml_dtypes.finfo(dtype)
    assert limits.largest == float(info.max)
    assert limits.normal == float(info.smallest_normal)
    with np.errstate(over="ignore"):
        below = np.float64(np.nextafter(np.float32(limits.rounds_up), np.float32(0)))
        assert np.isinf(np.float32(limits.rounds_up).astype(dtype))
        assert np.isfinite(np.float32(below).astype(dtype))
        assert np.float32(limits.vanishes).astype(dtype) == 0
        assert np.nextafter(np.float32(limits.vanishes), np.float32(1)).astype(dtype) != 0


def test_what_vanishes_is_counted() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.b.matmul(x, g.b.const(np.array([[1e-9, 1.0]] * 8, np.float32)))

    assert "become 0 in f16: 8" in notes(convert(make(build, X)))


# -- never a model that the runtime refuses --------------------------------------------------------


def floats(case: Case) -> bool:
    return any(isinstance(o, np.ndarray) and o.dtype == np.float32 for o in case.operands)


def single(name: str, case: Case, opset: int) -> tuple[Module, dict[str, Any]]:
    module = Module("case")
    module.opsets.update({"": opset, "com.microsoft": 1})
    function = module.add_function("main")
    b = Builder(function.block)
    feeds: dict[str, Any] = {}
    values: list[Value | None] = []
    for i, item in enumerate(case.operands):
        if item is None or i in case.const:
            values.append(None if item is None else b.const(item))
            continue
        kind = TensorType(dtypes.from_numpy(item.dtype), item.shape)
        values.append(function.block.add_arg(kind, f"x{i}"))
        feeds[f"x{i}"] = item
    op = b.build(name, *values, results=case.results, **case.attrs)
    function.output_names = [f"y{i}" for i in range(len(op.results))]
    b.build("return", *op.results)
    return module, feeds


def runs(module: Module, feeds: dict[str, Any], folder: Path) -> bool:
    Legalize().run(module, PassContext(target=api.target("onnx")))
    runner = session(module, folder)
    given = {}
    for value in runner.get_inputs():
        array = np.ascontiguousarray(feeds[value.name])
        if value.type == "tensor(bfloat16)":
            low = array.astype(ml_dtypes.bfloat16).view(np.uint16)
            given[value.name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(low, 16)
        else:
            low = array.astype(np.float16) if value.type == "tensor(float16)" else array
            given[value.name] = ort.OrtValue.ortvalue_from_numpy(low)
    runner.run_with_ort_values([o.name for o in runner.get_outputs()], given)
    return True


OPS = sorted(n for n, rows in CASES.items() if any(map(floats, rows)))


@pytest.mark.parametrize("name", OPS)
def test_onnxruntime_takes_every_operation(name: str, tmp_path: Path) -> None:
    for case in [c for c in CASES[name] if floats(c)][:2]:
        if not all(o is None or isinstance(o, np.ndarray) for o in case.operands):
            continue
        for to, opset in (("f16", 15), ("f16", 21), ("bf16", 21)):
            module, feeds = single(name, case, opset)
            try:
                runs(clone_module(module), feeds, tmp_path)
            except Exception:
                continue
            with np.errstate(over="ignore"):
                convert(module, Convert(to=to, keep_io=False, convert=(name,)))
                assert runs(module, feeds, tmp_path), f"{to} in opset {opset}"
