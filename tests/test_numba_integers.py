"""Integer kernels: exactly what the operations mean, and within one step of onnxruntime."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir.backends.numba.profile import Profile
from lepton_ir.interp import run_list
from lepton_ir.text.parse import parse_module

TARGETS = ["host", "x86-64-v4", "x86-64-v3", "generic"]
KINDS = {
    "float32": "f32",
    "int32": "i32",
    "uint8": "u8",
    "int8": "i8",
    "uint16": "u16",
    "int16": "i16",
}


def check(
    body: str, target: str = "host", *, roads: str = "a", rtol: float = 0.0, **inputs: Any
) -> list[Any]:
    """Run a body on arrays; results are those of the interpreter, exactly unless ``rtol`` says."""
    arguments = ", ".join(
        f"%{n}: {KINDS[a.dtype.name]}[{','.join(map(str, a.shape))}]" for n, a in inputs.items()
    )
    module = parse_module(f"func @main({arguments}) {{\n{body}\n}}\n")
    session = lepton_ir.compile(module, target, 1)
    session.profile = Profile()
    found = session.run(None, inputs)
    assert set(session.profile.by_road()) <= set(roads.split()), session.profile.render()
    for f, e in zip(found, run_list(module, inputs), strict=True):
        assert f.dtype == e.dtype
        np.testing.assert_allclose(f, e, rtol=rtol, atol=rtol * np.abs(e).max(initial=0.0))
    return found


def codes(dtype: str, *shape: int, seed: int = 0) -> Any:
    """Return bytes of the whole range, the ends among them."""
    made = np.random.default_rng([seed, *shape]).integers(0, 256, shape, dtype=np.uint8)
    made.reshape(-1)[:2] = (0, 255)[: made.size]
    return made if dtype == "u8" else (made ^ 0x80).view(np.int8)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


# -- products --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("right", ["u8", "i8"])
@pytest.mark.parametrize("left", ["u8", "i8"])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 1, 1), (1, 70, 5), (2, 64, 9), (5, 33, 40), (6, 64, 18), (7, 65, 33), (13, 100, 603)],
)
def test_products_are_exact(m, n, k, left, right, target):
    a, b = codes(left, m, k), codes(right, k, n, seed=1)
    low, high = (0, 255) if left == "u8" else (-128, 127)
    body = "  %y = matmul_integer(%a, %b, %p)\n  return(%y)"
    check(body, target, a=a, b=b, p=np.array(high, a.dtype))
    fixed = f"  %b = const() {{value={b.tolist()}}} : {right}[{k},{n}]\n"
    point = f"  %p = const() {{value={low}}} : {left}[]\n"
    check(fixed + point + body, target, a=a)
    zeros = f"  %q = const() {{value={codes(right, n, seed=2).tolist()}}} : {right}[{n}]\n"
    check(fixed + zeros + body.replace("%p)", "%p, %q)"), target, a=a, p=np.array(3, a.dtype))


@pytest.mark.parametrize("target", ["host", "generic"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 5, 7), (3, 7, 9)),
        ((3, 1, 7), (3, 7, 9)),
        ((2, 3, 5, 8), (2, 3, 8, 9)),
        ((2, 3, 5, 7), (7, 9)),
        ((1, 4, 7), (1, 7, 70)),
    ],
)
def test_batches_of_products(a, b, target):
    point = "  %p = const() {value=200} : u8[]\n  %q = const() {value=-7} : i8[]\n"
    body = point + "  %y = matmul_integer(%a, %b, %p, %q)\n  return(%y)"
    check(body, target, a=codes("u8", *a), b=codes("i8", *b))


@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
@pytest.mark.parametrize("right", ["u8", "i8"])
def test_operands_through_transpositions(right, target):
    body = "  %t = transpose(%b) {perm=[0, 2, 1, 3]}\n  %s = transpose(%c) {perm=[0, 2, 3, 1]}\n"
    body += "  %y = matmul_integer(%t, %s)\n  return(%y)"
    check(body, target, b=codes("u8", 2, 5, 3, 9), c=codes(right, 2, 67, 3, 9))


def test_empty_products():
    body = "  %y = matmul_integer(%a, %b)\n  return(%y)"
    check(body, roads="a c", a=codes("u8", 0, 5), b=codes("i8", 5, 3))
    check(body, roads="a c", a=np.zeros((2, 0), np.uint8), b=np.zeros((0, 3), np.int8))


@pytest.mark.parametrize("target", ["host", "generic"])
def test_quantized_matmul_saturates(target):
    w = codes("i8", 40, 33, seed=1)
    body = (
        f"  %b = const() {{value={w.tolist()}}} : i8[40,33]\n"
        + """
  %s = const() {value=0.5} : f32[]
  %z = const() {value=131} : u8[]
  %t = const() {value=rand(3)} : f32[33]
  %o = const() {value=splat(0)} : i8[33]
  %u = const() {value=splat(60.0)} : f32[]
  %y = qlinear_matmul(%a, %s, %z, %b, %t, %o, %u, %z)
  return(%y)"""
    )
    (y,) = check(body, target, a=codes("u8", 7, 40))
    assert y.min() == 0
    assert y.max() == 255


# -- quantizing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "zero"), [("u8", 3), ("i8", -5), ("u16", 65535), ("i16", -300)])
@pytest.mark.parametrize("known", [True, False])
def test_codes_of_any_number(dtype, zero, known, target):
    x = normal(100, 33) * 100
    x[0, :6] = [np.nan, np.inf, -np.inf, 1e30, 0.25, -0.25]
    numpy = {v: k for k, v in KINDS.items()}[dtype]
    head = ""
    given: dict[str, Any] = {"s": np.array(0.5, np.float32), "z": np.array(zero, numpy)}
    if known:
        head = "  %s = const() {value=0.5} : f32[]\n"
        head += f"  %z = const() {{value={zero}}} : {dtype}[]\n"
        given = {}
    body = "  %y = quantize_linear(%x, %s, %z)\n  %w = dequantize_linear(%y, %s, %z)\n"
    check(head + body + "  return(%y, %w)", target, x=x, **given)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (17, 33), (128, 384)])
@pytest.mark.parametrize("sign", [1, 0, -1])
def test_dynamic_ranges(shape, sign, target):
    x = normal(*shape) if sign == 1 else np.abs(normal(*shape)) * np.float32(sign)
    body = "  %y, %s, %z = dynamic_quantize_linear(%x)\n  return(%y, %s, %z)"
    check(body, target, x=np.asarray(x, np.float32))


def test_sums_of_quantized_tensors_are_one_kernel():
    body = """
  %s = const() {value=0.5} : f32[]
  %t = const() {value=0.3} : f32[]
  %z = const() {value=128} : u8[]
  %y = ms_qlinear_add(%a, %s, %z, %b, %t, %z, %s, %z)
  return(%y)"""
    check(body, a=codes("u8", 2, 100), b=codes("u8", 2, 100, seed=1))


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_perceptron_agrees_with_onnxruntime(mode, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    sizes = [50, 65, 65, 10]
    lines, x = [], "%x"
    for i, (k, n) in enumerate(itertools.pairwise(sizes)):
        lines.append(f"  %w{i} = const() {{value=rand({i + 1})}} : f32[{k},{n}]")
        lines.append(f"  %b{i} = const() {{value=rand({i + 9})}} : f32[{n}]")
        lines += [f"  %m{i} = matmul({x}, %w{i})", f"  %a{i} = add(%m{i}, %b{i})"]
        lines.append(f"  %r{i} = relu(%a{i})")
        x = f"%r{i}"
    text = "func @main(%x: f32[N,50]) {\n" + "\n".join(lines) + f"\n  return({x})\n}}\n"
    module = parse_module(text)
    feed = {"x": normal(32, 50)}
    np.savez(tmp_path / "calib.npz", **feed)
    extra = f" calib={tmp_path / 'calib.npz'}" if mode == "static" else ""
    passes = f"fuse,quant{{mode={mode} min_bytes=0{extra}}}"
    lepton_ir.run_passes(module, passes)
    path = tmp_path / "model.onnx"
    lepton_ir.save(module, str(path))
    session = lepton_ir.compile(str(path), threads=1)
    session.profile = Profile()
    (found,) = session.run(None, feed)
    assert set(session.profile.by_road()) == {"a"}
    assert "integer_gemm" in session.profile.render()
    (expected,) = ort.InferenceSession(str(path)).run(None, feed)
    step = np.abs(expected).max() / 255
    assert np.abs(found - expected).max() <= 1.01 * step


# -- images ----------------------------------------------------------------------------------------

IMAGES = [
    ((1, 3, 9, 11), (5, 3, 3, 3), "pads=[1, 1, 1, 1]"),
    ((2, 3, 20, 21), (20, 3, 7, 7), "pads=[3, 3, 3, 3], strides=[2, 2]"),
    ((1, 16, 7, 7), (33, 16, 1, 1), "strides=[1, 1]"),
    ((2, 24, 7, 9), (20, 24, 3, 3), "pads=[1, 1, 1, 1]"),
    ((1, 40, 14, 15), (64, 40, 3, 3), "pads=[1, 0, 1, 2], strides=[2, 1]"),
    ((1, 64, 8, 8), (64, 32, 3, 3), "pads=[1, 1, 1, 1], group=2"),
    ((1, 20, 9, 31), (20, 1, 3, 3), "pads=[1, 1, 1, 1], group=20"),
    ((2, 33, 9, 12), (33, 1, 5, 5), "pads=[2, 2, 2, 2], group=33, strides=[2, 2]"),
    ((1, 16, 9, 12), (16, 1, 3, 3), "pads=[2, 2, 2, 2], group=16, dilations=[2, 2]"),
    ((1, 5, 12), (7, 5, 3), "pads=[1, 1]"),
    ((1, 32, 9, 12), (40, 32, 1, 1), "strides=[2, 2]"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize(("x", "w", "attrs"), IMAGES)
def test_convolutions_are_exact(x, w, attrs, dtype, target):
    zero = {"u8": 131, "i8": -128}[dtype]
    ones = ",1" * (len(w) - 2)
    body = f"""
  %w = const() {{value={codes("i8", *w).tolist()}}} : i8[{",".join(map(str, w))}]
  %z = const() {{value={zero}}} : {dtype}[]
  %y = conv_integer(%x, %w, %z) {{{attrs}}}
"""
    tail = f"""
  %b = const() {{value=rand(2)}} : i32[{w[0]}{ones}]
  %s = const() {{value=rand(3)}} : f32[{w[0]}{ones}]
  %a = add(%y, %b)
  %c = cast(%a) {{to=f32}}
  %m = mul(%c, %s)
  %o = const() {{value=900.0}} : f32[]
  %p = const() {{value=100}} : u8[]
  %q = quantize_linear(%m, %o, %p)
  return(%q)"""
    given = codes(dtype, *x, seed=1)
    check(body + "  return(%y)", target, x=given)
    check(body + tail, target, x=given)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("channels", [5, 16, 20])
def test_blocked_bytes_between_convolutions(channels, target):
    c = channels
    body = f"""
  %s = const() {{value=0.125}} : f32[]
  %z = const() {{value=7}} : u8[]
  %u = const() {{value=0.001}} : f32[]
  %w = const() {{value={codes("i8", c, 3, 3, 3).tolist()}}} : i8[{c},3,3,3]
  %v = const() {{value={codes("i8", 9, c, 3, 3).tolist()}}} : i8[9,{c},3,3]
  %y = conv_integer(%x, %w, %z) {{pads=[1, 1, 1, 1]}}
  %f = cast(%y) {{to=f32}}
  %g = mul(%f, %u)
  %q = quantize_linear(%g, %s, %z)
  %m = max_pool(%q) {{kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]}}
  %d = dequantize_linear(%m, %s, %z)
  %e = add(%d, %d)
  %h = quantize_linear(%e, %s, %z)
  %k = concat(%h, %m) {{axis=1}}
  %n = conv_integer(%h, %v, %z) {{pads=[1, 1, 1, 1]}}
  return(%n, %q, %k)"""
    check(body, target, x=codes("u8", 2, 3, 17, 19))


def test_images_that_come_plain():
    body = """
  %w = const() {value=rand(1)} : i8[17,40,3,3]
  %z = const() {value=-3} : i8[]
  %t = transpose(%x) {perm=[0, 3, 1, 2]}
  %y = conv_integer(%t, %w, %z) {pads=[1, 1, 1, 1]}
  return(%y)"""
    check(body, x=codes("i8", 2, 9, 33, 40))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize(("x", "w", "attrs"), IMAGES)
def test_convolutions_with_a_zero_point_from_data(x, w, attrs, dtype, target):
    body = f"""
  %w = const() {{value={codes("i8", *w).tolist()}}} : i8[{",".join(map(str, w))}]
  %y = conv_integer(%x, %w, %z) {{{attrs}}}
  %c = cast(%y) {{to=f32}}
  return(%y, %c)"""
    given = codes(dtype, *x, seed=1)
    for zero in (given.min(), given.max(), given.dtype.type(17)):
        check(body, target, x=given, z=np.array(zero))


def test_dynamically_quantized_convolutions_take_no_other_road():
    body = """
  %q, %s, %z = dynamic_quantize_linear(%x)
  %w = const() {value=rand(1)} : i8[24,20,3,3]
  %v = const() {value=rand(2)} : i8[8,20,5,5]
  %a = conv_integer(%q, %w, %z) {pads=[1, 1, 1, 1]}
  %b = conv_integer(%q, %v, %z) {pads=[2, 2, 2, 2]}
  return(%a, %b, %q)"""
    for scale in (0.1, 3.0):
        check(body, x=(scale * normal(2, 20, 9, 13) + 0.3 * scale).astype(np.float32))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize(
    ("x", "w", "attrs"),
    [
        ((1, 4, 9), (4, 2, 3), "group=2"),
        ((2, 24, 7, 9), (24, 3, 3, 3), "pads=[1, 1, 1, 1], group=8"),
        ((1, 64, 6, 7), (32, 4, 3, 3), "pads=[1, 1, 1, 1], group=16, strides=[2, 2]"),
        ((1, 16, 6, 7), (32, 1, 3, 3), "pads=[1, 1, 1, 1], group=16"),
        ((1, 20, 21), (20, 1, 60), "pads=[30, 30], group=20"),
    ],
)
def test_groups_of_some_channels_are_joined(x, w, attrs, dtype, target):
    body = f"""
  %w = const() {{value={codes("i8", *w).tolist()}}} : i8[{",".join(map(str, w))}]
  %z = const() {{value=3}} : {dtype}[]
  %y = conv_integer(%x, %w, %z) {{{attrs}}}
  return(%y)"""
    check(body, target, x=codes(dtype, *x, seed=1))


@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_weights_less_their_zero_points(dtype):
    w = codes(dtype, 18, 5, 3, 3) // 2 + (50 if dtype == "u8" else 0)
    low = int(w.astype(int).min())
    for zero in ([low + 3], [low + 3 + i % 40 for i in range(18)]):
        shape = str(len(zero)) if len(zero) > 1 else ""
        body = f"""
  %w = const() {{value={w.tolist()}}} : {dtype}[18,5,3,3]
  %p = const() {{value={zero if shape else zero[0]}}} : {dtype}[{shape}]
  %z = const() {{value=9}} : u8[]
  %y = conv_integer(%x, %w, %z, %p) {{pads=[1, 1, 1, 1]}}
  return(%y)"""
        check(body, x=codes("u8", 1, 5, 8, 9, seed=1))


def test_convolutions_without_kernels_are_refused_with_a_reason():
    body = """
  %w = const() {value=[[[0, 255]]]} : u8[1,1,2]
  %p = const() {value=3} : u8[]
  %y = conv_integer(%x, %w, %z, %p)
  return(%y)"""
    check(body, roads="c", x=codes("u8", 1, 1, 9), z=np.array(0, np.uint8))


def test_residual_network_agrees_with_onnxruntime(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    text = """func @main(%x: f32[N,3,33,30]) {
  %w0 = const() {value=rand(1)} : f32[16,3,3,3]
  %w1 = const() {value=rand(2)} : f32[16,1,3,3]
  %w2 = const() {value=rand(3)} : f32[16,16,1,1]
  %w3 = const() {value=rand(4)} : f32[10,16]
  %b0 = const() {value=rand(5)} : f32[16]
  %y0 = conv(%x, %w0, %b0) {pads=[1, 1, 1, 1], strides=[2, 2]}
  %r0 = relu(%y0)
  %y1 = conv(%r0, %w1) {pads=[1, 1, 1, 1], group=16}
  %r1 = relu(%y1)
  %y2 = conv(%r1, %w2)
  %a = add(%y2, %r0)
  %r2 = relu(%a)
  %p = global_average_pool(%r2)
  %f = flatten(%p)
  %o = gemm(%f, %w3) {transB=true}
  return(%o)
}"""
    module = parse_module(text)
    feed = {"x": normal(4, 3, 33, 30)}
    np.savez(tmp_path / "calib.npz", **feed)
    passes = f"fuse,quant{{mode=static min_bytes=0 islands calib={tmp_path / 'calib.npz'}}}"
    lepton_ir.run_passes(module, passes)
    path = tmp_path / "model.onnx"
    lepton_ir.save(module, str(path))
    session = lepton_ir.compile(str(path), threads=1)
    session.profile = Profile()
    (found,) = session.run(None, feed)
    assert set(session.profile.by_road()) == {"a"}
    assert "integer_depthwise" in session.profile.render()
    (expected,) = ort.InferenceSession(str(path)).run(None, feed)
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()


# -- weights of few bits ---------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("zeros", ["none", "codes", "floats"])
@pytest.mark.parametrize(
    ("bits", "block", "k", "n"),
    [(4, 32, 96, 70), (4, 16, 50, 5), (8, 32, 100, 64), (2, 16, 64, 33), (8, 16, 37, 9)],
)
def test_weights_in_blocks(bits, block, k, n, zeros, target):
    blocks, nbytes = -(-k // block), block * bits // 8
    numbers = np.random.default_rng(bits)
    packed = numbers.integers(0, 256, (n, blocks, nbytes)).tolist()
    wide = -(-blocks * bits // 8)
    head, zero = "", "_"
    if zeros != "none":
        zero = "%z"
        points = numbers.integers(0, 256, (n, wide)).tolist()
        head = f"  %z = const() {{value={points}}} : u8[{n},{wide}]\n"
    if zeros == "floats":
        head = f"  %z = const() {{value=rand(4)}} : f32[{n},{blocks}]\n"
    body = f"""{head}
  %b = const() {{value={packed}}} : u8[{n},{blocks},{nbytes}]
  %s = const() {{value=rand(3)}} : f32[{n},{blocks}]
  %c = const() {{value=rand(5)}} : f32[{n}]
  %y = ms_matmul_nbits(%a, %b, %s, {zero}, _, %c) {{K={k}, N={n}, bits={bits}, block_size={block}}}
  %r = relu(%y)
  return(%r)"""
    for m in (1, 2, 3, 7, 30):
        a = normal(m, k)
        a[0, -1] = 0.0
        check(body, target, rtol=2e-6, a=a)


def test_weights_stored_in_bytes_are_made_floats_once():
    body = """
  %w = const() {value=rand(1)} : i8[32,20,3,3]
  %s = const() {value=rand(2)} : f32[32]
  %d = dequantize_linear(%w, %s) {axis=0}
  %y = conv(%x, %d) {pads=[1, 1, 1, 1]}
  return(%y)"""
    check(body, rtol=1e-5, x=normal(1, 20, 8, 8))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_functions_of_bytes_are_tables(dtype, target):
    body = f"""
  %s = const() {{value=0.0625}} : f32[]
  %z = const() {{value=17}} : {dtype}[]
  %t = const() {{value=0.00390625}} : f32[]
  %n = const() {{value={0 if dtype == "u8" else -128}}} : {dtype}[]
  %d = dequantize_linear(%x, %s, %z)
  %g = sigmoid(%d)
  %q = quantize_linear(%g, %t, %n)
  %e = dequantize_linear(%q, %t, %n)
  %c = dequantize_linear(%x, %s, %z)
  %m = mul(%c, %e)
  %y = quantize_linear(%m, %s, %z)
  return(%y)"""
    given = codes(dtype, 3, 115)
    check(body, target, x=given)
    module = parse_module(f"func @main(%x: {dtype}[3,115]) {{\n{body}\n}}\n")
    session = lepton_ir.compile(module, target, 1)
    session.run(None, {"x": given})
    (plan,) = session._plans.plans.values()
    (step,) = plan.steps
    assert [s.op for s in step.kernel.params[0].steps] == ["lookup"]


def test_tables_in_epilogues():
    body = """
  %w = const() {value=rand(1)} : i8[20,16,3,3]
  %s = const() {value=0.0625} : f32[]
  %z = const() {value=100} : u8[]
  %t = const() {value=0.00390625} : f32[]
  %n = const() {value=0} : u8[]
  %k = const() {value=0.001} : f32[]
  %a = conv_integer(%x, %w, %z)
  %f = cast(%a) {to=f32}
  %u = mul(%f, %k)
  %one = const() {value=1.0} : f32[]
  %p = quantize_linear(%u, %one, %z)
  %d = dequantize_linear(%p, %s, %z)
  %g = sigmoid(%d)
  %q = quantize_linear(%g, %t, %n)
  %e = dequantize_linear(%q, %t, %n)
  %c = dequantize_linear(%p, %s, %z)
  %m = mul(%c, %e)
  %y = quantize_linear(%m, %s, %z)
  return(%y)"""
    check(body, x=codes("u8", 2, 16, 9, 8))
    check(body, "generic", x=codes("u8", 2, 16, 9, 8))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("bits", "block", "k", "n"), [(4, 32, 96, 70), (4, 16, 50, 5), (8, 128, 300, 64)]
)
def test_activations_in_bytes_where_the_model_allows_it(bits, block, k, n, zeros):
    blocks, nbytes = -(-k // block), block * bits // 8
    numbers = np.random.default_rng(bits)
    packed = numbers.integers(0, 256, (n, blocks, nbytes)).tolist()
    head = f"  %z = const() {{value=rand(4)}} : f32[{n},{blocks}]\n" if zeros else ""
    attrs = f"K={k}, N={n}, bits={bits}, block_size={block}, accuracy_level=4"
    body = f"""{head}
  %b = const() {{value={packed}}} : u8[{n},{blocks},{nbytes}]
  %s = const() {{value=rand(3)}} : f32[{n},{blocks}]
  %y = ms_matmul_nbits(%a, %b, %s, {"%z" if zeros else "_"}) {{{attrs}}}
  return(%y)"""
    for m in (1, 2, 5, 9):
        check(body, rtol=0.03, a=normal(m, k))
        # Whole numbers up to 127 in every block are kept as they are.
        a = numbers.integers(-127, 128, (m, k)).astype(np.float32)
        a[:, ::block] = 127
        a[0, :block] = 0
        check(body, rtol=2e-6, a=a)
