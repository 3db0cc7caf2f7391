"""Kernel families against the reference interpreter: shapes off every grid, host and generic."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir.backends.numba import kernels, lowering
from lepton_ir.backends.numba.profile import Profile
from lepton_ir.diagnostics import LeptonError
from lepton_ir.interp import run_list
from lepton_ir.text.parse import parse_module

TARGETS = ["host", "x86-64-v3", "generic"]


def shape_text(shape: tuple[int, ...]) -> str:
    return f"f32[{','.join(map(str, shape))}]"


def check(
    body: str, target: str, *, roads: str = "a", rtol: float = 1e-5, **inputs: Any
) -> list[Any]:
    """Run a body on arrays; compare with the interpreter and the roads that were taken."""
    kinds = {"float32": "f32", "int64": "i64", "int32": "i32", "bool": "bool"}
    arguments = ", ".join(
        f"%{n}: {kinds[a.dtype.name]}[{','.join(map(str, a.shape))}]" for n, a in inputs.items()
    )
    module = parse_module(f"func @main({arguments}) {{\n{body}\n}}\n")
    session = lepton_ir.compile(module, target, 1)
    session.profile = Profile()
    found = session.run(None, inputs)
    assert set(session.profile.by_road()) <= set(roads.split()), session.profile.render()
    for f, e in zip(found, run_list(module, inputs), strict=True):
        assert f.shape == e.shape
        scale = float(np.abs(e[np.isfinite(e)]).max(initial=0.0)) or 1.0
        np.testing.assert_allclose(f, e, rtol=rtol, atol=rtol * scale + 1e-40)
    return found


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


# -- products --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 1, 1), (1, 70, 5), (2, 64, 9), (5, 33, 40), (6, 64, 17), (7, 65, 33), (13, 100, 600)],
)
def test_matrices_of_any_size(m, n, k, constant, target):
    if constant:
        body = f"  %b = const() {{value=rand(1)}} : f32[{k},{n}]\n"
        check(body + "  %y = matmul(%a, %b)\n  return(%y)", target, a=normal(m, k))
    else:
        check("  %y = matmul(%a, %b)\n  return(%y)", target, a=normal(m, k), b=normal(k, n))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 3, 5, 7), (2, 3, 7, 9)),
        ((2, 3, 5, 7), (7, 9)),
        ((2, 1, 5, 7), (1, 3, 7, 9)),
        ((4, 1, 7), (4, 7, 5)),
        ((7,), (7, 5)),
        ((3, 7), (7,)),
        ((3, 5, 7), (7,)),
        ((7,), (7,)),
    ],
)
def test_batches_are_broadcast_and_vectors_are_matrices(a, b, target):
    check("  %y = matmul(%a, %b)\n  return(%y)", target, a=normal(*a), b=normal(*b))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("c", [(1,), (33,), (20, 1), (20, 33)])
@pytest.mark.parametrize(("ta", "tb"), list(itertools.product(("false", "true"), repeat=2)))
def test_gemm_with_transposes_scales_and_an_epilogue(ta, tb, c, target):
    a = (30, 20) if ta == "true" else (20, 30)
    b = (33, 30) if tb == "true" else (30, 33)
    body = f"  %y = gemm(%a, %b, %c) {{transA={ta}, transB={tb}, alpha=0.5, beta=2.0}}\n"
    body += "  %z = relu(%y)\n  %w = add(%z, %c)\n  return(%w)"
    check(body, target, a=normal(*a), b=normal(*b), c=normal(*c))


@pytest.mark.parametrize("target", TARGETS)
def test_operands_are_read_through_transpositions(target):
    body = "  %t = transpose(%a) {perm=[0,2,1,3]}\n  %u = transpose(%b) {perm=[0,2,3,1]}\n"
    body += "  %y = matmul(%t, %u)\n  %z = transpose(%y) {perm=[0,2,1,3]}\n  return(%z)"
    check(body, target, a=normal(2, 19, 3, 40), b=normal(2, 21, 3, 40))


@pytest.mark.parametrize("target", TARGETS)
def test_nan_and_infinity_go_where_they_belong(target):
    a, b = normal(9, 20), normal(20, 40)
    a[2, 3], b[4, 5] = np.nan, np.inf
    check("  %y = matmul(%a, %b)\n  return(%y)", target, a=a, b=b)


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 16), (2, 17), (3, 64), (2, 3, 131)])
@pytest.mark.parametrize("axis", [-1, 0])
def test_softmax(name, shape, axis, target):
    x = normal(*shape) * 20
    check(f"  %y = {name}(%x) {{axis={axis}}}\n  return(%y)", target, x=x)


def test_softmax_of_masked_rows():
    x = normal(4, 40)
    x[0, :], x[1, 3:], x[2, 7] = -np.inf, -np.inf, np.nan
    (found,) = check("  %y = softmax(%x)\n  return(%y)", "host", x=x)
    assert np.isnan(found[0]).all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [1, 7, 16, 65, 768])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_normalizations_are_safe_for_large_means(size, offset, target):
    x = normal(3, 5, size) + np.float32(offset)
    s, b = normal(size, seed=1), normal(size, seed=2)
    body = "  %y = layer_normalization(%x, %s, %b)\n  %z = rms_normalization(%x, %s)\n"
    check(body + "  return(%y, %z)", target, rtol=2e-4 if offset else 1e-5, x=x, s=s, b=b)


@pytest.mark.parametrize("target", TARGETS)
def test_instance_normalization(target):
    body = "  %y = instance_normalization(%x, %s, %b)\n  return(%y)"
    check(body, target, x=normal(2, 3, 5, 7), s=normal(3, seed=1), b=normal(3, seed=2))


# -- reductions ------------------------------------------------------------------------------------

REDUCTIONS = ["sum", "mean", "max", "min", "prod", "l1", "l2", "sum_square"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axes", ["[3]", "[0]", "[1, 2]", "[0, 3]", "[0, 1, 2, 3]", "[-1, -2]"])
@pytest.mark.parametrize("keep", ["true", "false"])
def test_reductions_over_any_axes(name, axes, keep, target):
    body = f"  %a = const() {{value={axes}}} : i64[{axes.count(',') + 1}]\n"
    body += f"  %y = reduce_{name}(%x, %a) {{keepdims={keep}}}\n  return(%y)"
    check(body, target, x=normal(3, 4, 5, 37))


@pytest.mark.parametrize("name", ["max", "min", "sum"])
def test_reductions_keep_nan(name):
    x = normal(3, 70)
    x[1, 69], x[2, 3] = np.nan, np.inf
    body = "  %a = const() {value=[1]} : i64[1]\n"
    check(body + f"  %y = reduce_{name}(%x, %a)\n  return(%y)", "host", x=x)


# -- views and copies ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))))
def test_transpositions(perm, target):
    body = f"  %y = transpose(%x) {{perm={list(perm)}}}\n  %z = exp(%y)\n  return(%y, %z)"
    check(body, target, x=normal(3, 18, 35))


def test_slices_forwards_backwards_and_of_slices():
    body = "  %s = const() {value=[1, -1]} : i64[2]\n  %e = const() {value=[7, -100]} : i64[2]\n"
    body += "  %a = const() {value=[0, 1]} : i64[2]\n  %p = const() {value=[2, -3]} : i64[2]\n"
    body += "  %y = slice(%x, %s, %e, %a, %p)\n  %z = add(%y, %y)\n"
    check(body + "  return(%y, %z)", "host", x=normal(9, 20))


def test_split_concat_pad_expand_and_reshape_of_views():
    body = "  %a, %b = split(%x) {num_outputs=2, axis=1}\n  %c = concat(%b, %a) {axis=1}\n"
    body += "  %t = transpose(%c) {perm=[1,0]}\n  %s = const() {value=[4, -1]} : i64[2]\n"
    body += "  %r = reshape(%t, %s)\n  %p = const() {value=[1, 0, 2, 3]} : i64[4]\n"
    body += "  %q = pad(%r, %p)\n  %w = const() {value=[3, 1, 1]} : i64[3]\n"
    body += "  %e = expand(%q, %w)\n  return(%c, %r, %q, %e)"
    check(body, "host", x=normal(6, 10))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode):
    body = f"  %y = depth_to_space(%x) {{blocksize=2, mode={mode}}}\n  return(%y)"
    check(body, "host", x=normal(2, 12, 3, 5))


# -- gather ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather(axis, dtype):
    indices = np.array([[0, 2, -1], [1, -3, 0]], dtype)
    body = f"  %y = gather(%x, %i) {{axis={axis}}}\n  return(%y)"
    check(body, "host", x=normal(3, 4, 5), i=indices)
    check(body, "host", x=np.arange(60).reshape(3, 4, 5), i=indices)


@pytest.mark.parametrize("bad", [3, -4, 1 << 40, -(1 << 60)])
def test_an_index_out_of_range_is_reported_with_the_node(bad):
    module = parse_module(
        "func @main(%x: f32[3,4], %i: i64[2]) {\n"
        '  %y = gather(%x, %i) loc("Gather_7")\n  %z = exp(%y)\n  return(%z)\n}\n'
    )
    session = lepton_ir.compile(module, threads=1)
    x = normal(3, 4)
    with pytest.raises(LeptonError, match="out of range for an axis of 3") as caught:
        session.run(None, {"x": x, "i": np.array([0, bad])})
    assert "Gather_7" in str(caught.value)
    assert str(bad) in str(caught.value)
    (z,) = session.run(None, {"x": x, "i": np.array([0, 2])})
    np.testing.assert_allclose(z, np.exp(x[[0, 2]]), rtol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("constant", [False, True])
def test_products_of_16_bit_floats_are_summed_in_f32(dtype, constant, target):
    from lepton_ir import dtypes

    kind = dtypes.dtype(dtype).numpy
    a, b = normal(5, 700).astype(kind), normal(700, 33).astype(kind)
    arguments = f"%a: {dtype}[5,700]" + ("" if constant else f", %b: {dtype}[700,33]")
    head = f"  %b = const() {{value=rand(1)}} : {dtype}[700,33]\n" if constant else ""
    module = parse_module(
        f"func @main({arguments}) {{\n{head}  %y = matmul(%a, %b)\n  return(%y)\n}}\n"
    )
    feeds = {"a": a} if constant else {"a": a, "b": b}
    session = lepton_ir.compile(module, target, 1)
    session.profile = Profile()
    (found,) = session.run(None, feeds)
    assert set(session.profile.by_road()) == {"a"}
    (expected,) = run_list(module, feeds)
    assert found.dtype == kind
    scale = float(np.abs(expected.astype(np.float64)).max())
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    assert difference <= scale * (2.0**-7 if dtype == "bf16" else 2.0**-10)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_padding_with_elements_of_the_tensor(mode):
    body = "  %p = const() {value=[0,1,2,0,2,3]} : i64[6]\n"
    body += f"  %y = pad(%x, %p) {{mode={mode}}}\n  return(%y)"
    check(body, "host", x=normal(3, 4, 5))
    check(body, "host", x=np.arange(60).reshape(3, 4, 5))
    body = "  %p = const() {value=[2,3]} : i64[2]\n  %a = const() {value=[-2]} : i64[1]\n"
    body += f"  %y = pad(%x, %p, _, %a) {{mode={mode}}}\n  return(%y)"
    check(body, "host", x=normal(3, 4, 5))


def test_tiles_and_columns_side_by_side():
    body = "  %r = const() {value=[2,1,3]} : i64[3]\n  %t = tile(%x, %r)\n"
    body += "  %c = concat(%x, %z, %x) {axis=2}\n  return(%t, %c)"
    check(body, "host", x=normal(2, 5, 1), z=normal(2, 5, 1, seed=1))


def test_products_with_many_batch_axes():
    body = "  %a = transpose(%x) {perm=[0,1,3,5,2,4]}\n  %b = transpose(%z) {perm=[0,1,3,5,4,2]}\n"
    body += "  %y = matmul(%a, %b)\n  return(%y)"
    check(body, "host", x=normal(2, 3, 4, 5, 6, 7), z=normal(2, 3, 4, 5, 6, 7, seed=1))


EINSUMS = [
    ("ij->ji", (4, 5), None),
    ("bhwc,hkc->bhwk", (2, 7, 6, 9), (7, 5, 9)),
    ("ibnd,jbnd->bnij", (5, 2, 3, 8), (6, 2, 3, 8)),
    ("bnij,jbnd->ibnd", (2, 3, 5, 6), (6, 2, 3, 8)),
    ("ibh,hnd->ibnd", (5, 2, 12), (12, 3, 8)),
    ("ibnd,hnd->ibh", (5, 2, 3, 8), (12, 3, 8)),
    ("i,j->ji", (4,), (5,)),
    ("i,i->", (40,), (40,)),
    ("ij,j", (4, 50), (50,)),
    ("abc,abc->ab", (4, 5, 6), (4, 5, 6)),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("equation", "x", "z"), EINSUMS)
def test_einsum(equation, x, z, constant, target):
    inputs, body = {"x": normal(*x)}, ""
    if z is not None and constant:
        body = f"  %z = const() {{value=rand(1)}} : {shape_text(z)}\n"
    elif z is not None:
        inputs["z"] = normal(*z, seed=1)
    body += f'  %y = einsum(%x{"" if z is None else ", %z"}) {{equation="{equation}"}}\n'
    check(body + "  return(%y)", target, **inputs)


# -- recurrent and transposed ----------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("steps", "batch", "inputs", "hidden"), [(5, 1, 7, 16), (4, 3, 40, 33)])
@pytest.mark.parametrize("extra", [False, True])
def test_lstm(steps, batch, inputs, hidden, direction, extra, target):
    d = 2 if direction == "bidirectional" else 1
    body = f"  %w = const() {{value=rand(1)}} : f32[{d},{4 * hidden},{inputs}]\n"
    body += f"  %r = const() {{value=rand(2)}} : f32[{d},{4 * hidden},{hidden}]\n"
    body += f"  %b = const() {{value=rand(3)}} : f32[{d},{8 * hidden}]\n" if extra else ""
    rest = "%b, _, %h, %c" if extra else "_, _, _, _"
    body += f"  %y, %yh, %yc = lstm(%x, %w, %r, {rest}) "
    body += f"{{hidden_size={hidden}, direction={direction}}}\n  return(%y, %yh, %yc)"
    states = {"h": normal(d, batch, hidden), "c": normal(d, batch, hidden, seed=1)}
    check(body, target, x=normal(steps, batch, inputs), **states)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("steps", "batch", "inputs", "hidden"), [(5, 1, 7, 16), (4, 3, 40, 33)])
@pytest.mark.parametrize(("kind", "columns"), [("i8", False), ("u8", False), ("u8", True)])
def test_lstm_of_bytes(kind, columns, steps, batch, inputs, hidden, direction, target):
    d = 2 if direction == "bidirectional" else 1
    count = (d, 4 * hidden) if columns else (d,)
    shape = ",".join(map(str, count))
    body = f"  %w = const() {{value=rand(1)}} : {kind}[{d},{inputs},{4 * hidden}]\n"
    body += f"  %r = const() {{value=rand(2)}} : {kind}[{d},{hidden},{4 * hidden}]\n"
    body += f"  %b = const() {{value=rand(3)}} : f32[{d},{8 * hidden}]\n"
    for i, name in enumerate("wr"):
        scales = np.random.default_rng(i).uniform(0.001, 0.004, count).round(6).tolist()
        body += f"  %{name}s = const() {{value={scales}}} : f32[{shape}]\n"
        body += f"  %{name}z = const() {{value=rand({i})}} : {kind}[{shape}]\n"
    body += "  %y, %yh, %yc = ms_dynamic_quantize_lstm(%x, %w, %r, %b, _, %h, %c, _, %ws, %wz, "
    body += f"%rs, %rz) {{hidden_size={hidden}, direction={direction}}}\n  return(%y, %yh, %yc)"
    states = {"h": normal(d, batch, hidden), "c": normal(d, batch, hidden, seed=1)}
    check(body, target, x=normal(steps, batch, inputs), **states)


CELLS = [
    ("gru", 3, "linear_before_reset=true"),
    ("gru", 3, ""),
    ("rnn", 1, 'activations=["Tanh","Relu"]'),
    ("rnn", 1, 'activations=["Relu","Sigmoid"]'),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("steps", "batch", "inputs", "hidden"), [(5, 1, 7, 16), (4, 3, 40, 33)])
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize(("cell", "gates", "attrs"), CELLS)
def test_gru_and_rnn(cell, gates, attrs, steps, batch, inputs, hidden, direction, extra, target):
    d = 2 if direction == "bidirectional" else 1
    body = f"  %w = const() {{value=rand(1)}} : f32[{d},{gates * hidden},{inputs}]\n"
    body += f"  %r = const() {{value=rand(2)}} : f32[{d},{gates * hidden},{hidden}]\n"
    body += f"  %b = const() {{value=rand(3)}} : f32[{d},{2 * gates * hidden}]\n" if extra else ""
    body += f"  %n = const() {{value=[{','.join([str(steps)] * batch)}]}} : i32[{batch}]\n"
    body += f"  %y, %yh = {cell}(%x, %w, %r, {'%b, %n, %h' if extra else '_, _, _'}) "
    attrs = f"{attrs}, " if attrs else ""
    body += f"{{{attrs}hidden_size={hidden}, direction={direction}}}\n  return(%y, %yh)"
    check(body, target, x=normal(steps, batch, inputs), h=normal(d, batch, hidden))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("x", "w"), [((1, 8, 5, 7), (8, 6, 2, 2)), ((2, 24, 5, 7), (24, 17, 2, 3))]
)
def test_transposed_convolutions_without_overlap(x, w, bias, target):
    body = f"  %w = const() {{value=rand(1)}} : f32[{','.join(map(str, w))}]\n"
    body += f"  %b = const() {{value=rand(2)}} : f32[{w[1]}]\n" if bias else ""
    body += f"  %y = conv_transpose(%x, %w{', %b' if bias else ''}) {{strides=[{w[2]},{w[3]}]}}\n"
    check(body + "  return(%y)", target, x=normal(*x))


def test_the_table_of_families_says_what_each_module_lowers():
    for module in kernels.MODULES:
        importlib.import_module(module)
    for name, candidates in lowering._LOWERINGS.items():
        found = {c.lower.__module__ for c in candidates}
        assert found == set(kernels.lowered_by(name)), name
