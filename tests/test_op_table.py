"""Walks the op table: inference, meaning and decomposition of every operation agree."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lepton_ir import dims, dtypes, opdef
from lepton_ir.builder import Builder, create
from lepton_ir.dims import DimExpr
from lepton_ir.infer import const_array
from lepton_ir.ir import Block, Module, Op, Value
from lepton_ir.ops import TABLE
from lepton_ir.tensors import DenseTensor
from lepton_ir.types import (
    UNKNOWN,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    join,
    meet,
)
from tests import op_cases

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.op_cases import Case

NO_CASE = {"const", "call", "return", "yield"}
TOLERANCE = {8: 1e-9, 4: 2e-5, 2: 4e-3, 1: 0.26}


def _load() -> tuple[dict[str, opdef.OpDef], dict[str, list[Case]]]:
    """Return the table, and the cases by operation."""
    for module in TABLE.values():
        importlib.import_module(module)
    opdef._loaded = True
    cases: dict[str, list[Case]] = {}
    for family in pkgutil.iter_modules(op_cases.__path__):
        rows = importlib.import_module(f"{op_cases.__name__}.{family.name}").CASES
        for name, found in rows.items():
            cases.setdefault(name, []).extend(found)
    return dict(opdef._REGISTRY), cases


OPS, CASES = _load()
ROWS = [
    pytest.param(name, case, id=f"{name}-{index}")
    for name, rows in sorted(CASES.items())
    for index, case in enumerate(rows)
]


# -- running ---------------------------------------------------------------------------------------


def _frozen(value: Any) -> Any:
    """Return a read-only copy: constants are read-only, and no meaning may change its operands."""
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.flags.writeable = False
        return value
    return [_frozen(v) for v in value] if isinstance(value, (list, tuple)) else value


def _run(definition: opdef.OpDef, case: Case) -> tuple[Any, ...]:
    """Return the results of the meaning, or what the case expects of an opaque operation."""
    if definition.meaning is None:
        return case.expected or ()
    attrs = {n: s.default for n, s in definition.attrs.items()} | case.attrs
    operands = [_frozen(v) for v in case.operands]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = definition.meaning(*operands, **attrs)
    for before, after in zip(case.operands, operands, strict=True):
        _assert_close(after, before, exact=True)
    results = found if isinstance(found, tuple) else (found,)
    count = definition.min_results if case.results is None else case.results
    assert len(results) >= count
    return results[:count]


def _assert_close(got: Any, want: Any, *, exact: bool = False) -> None:
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            _assert_close(g, w, exact=exact)
        return
    if not isinstance(want, np.ndarray):
        assert got is want or got == want
        return
    assert isinstance(got, np.ndarray), f"a result is a {type(got).__name__}, not an array"
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    kind = dtypes.from_numpy(want.dtype)
    if exact or not (kind.is_float or kind.kind == "complex"):
        same = got.tobytes() == want.tobytes() if want.dtype != object else np.all(got == want)
        assert same, f"{got} is not {want}"
        return
    bound = TOLERANCE.get(kind.bits // (16 if kind.kind == "complex" else 8), 0.26)
    wide = np.complex128 if kind.kind == "complex" else np.float64
    np.testing.assert_allclose(got.astype(wide), want.astype(wide), rtol=bound, atol=bound)


def _type_of(value: Any) -> Type:
    if isinstance(value, np.ndarray):
        return TensorType(dtypes.from_numpy(value.dtype), value.shape)
    if isinstance(value, (list, tuple)):
        found = [_type_of(v) for v in value]
        elem = found[0] if found else UNKNOWN
        for other in found[1:]:
            elem = join(elem, other)
        return SequenceType(elem)
    return UNKNOWN


# -- inference -------------------------------------------------------------------------------------

Env = dict[str, int]


def _static(type_: TensorType, index: int, env: Env) -> Type:
    return type_


def _unknown_dims(type_: TensorType, index: int, env: Env) -> Type:
    assert type_.shape is not None
    return type_.with_shape((None,) * len(type_.shape))


def _symbols(type_: TensorType, index: int, env: Env) -> Type:
    """One symbol a dim, but equal odd sizes share theirs."""
    assert type_.shape is not None
    names = [
        f"{'s' if size % 2 else f'd{index}_{axis}_'}{size}" for axis, size in enumerate(type_.shape)
    ]
    env.update(zip(names, type_.static_shape or (), strict=True))
    return type_.with_shape(map(dims.sym, names))


def _distinct_symbols(type_: TensorType, index: int, env: Env) -> Type:
    assert type_.shape is not None
    names = [f"d{index}_{axis}" for axis in range(len(type_.shape))]
    env.update(zip(names, type_.static_shape or (), strict=True))
    return type_.with_shape(map(dims.sym, names))


def _mixed_dims(type_: TensorType, index: int, env: Env) -> Type:
    """Known, unknown and symbolic dims in turn."""
    assert type_.shape is not None
    symbolic = _distinct_symbols(type_, index, env).shape  # type: ignore[attr-defined]
    choices = zip(type_.shape, symbolic, (None,) * len(symbolic), strict=True)
    return type_.with_shape(c[(index + axis) % 3] for axis, c in enumerate(choices))


def _unknown_rank(type_: TensorType, index: int, env: Env) -> Type:
    return type_.with_shape(None)


def _unknown_dtype(type_: TensorType, index: int, env: Env) -> Type:
    return type_.with_dtype(None)


def _unknown(type_: TensorType, index: int, env: Env) -> Type:
    return UNKNOWN


BLURS = {
    f.__name__.lstrip("_"): f
    for f in (
        *(_static, _unknown_dims, _symbols, _distinct_symbols, _mixed_dims),
        *(_unknown_rank, _unknown_dtype, _unknown),
    )
}


def _blurred(type_: Type, index: int, env: Env, blur: Callable[..., Type]) -> Type:
    if isinstance(type_, TensorType):
        return blur(type_, index, env)
    if isinstance(type_, SequenceType):
        elem = type_.elem
        static = isinstance(elem, TensorType) and elem.is_static
        return SequenceType(blur(elem, index, env)) if static else type_
    return type_


def _build(
    definition: opdef.OpDef, case: Case, env: Env, blur: Callable[..., Type], *, consts: bool = True
) -> tuple[Op, dict[Value, Any]]:
    """Return the case's operation, inferred, and the values of its block's arguments."""
    block = Module("test").add_function("main").block
    builder = Builder(block)
    bound: dict[Value, Any] = {}
    values: list[Value | None] = []
    for index, data in enumerate(case.operands):
        if data is None:
            values.append(None)
        elif consts and index in case.const and isinstance(data, np.ndarray):
            values.append(builder.const(DenseTensor(data, dtypes.from_numpy(data.dtype))))
        else:
            type_ = _blurred(_type_of(data), index, env, blur)
            value = block.add_arg(type_)
            bound[value] = data
            values.append(value)
    made = create(definition.name, values, dict(case.attrs), case.results)
    return builder.insert(made), bound


def _known(dim: Any, env: Env) -> Any:
    """Return the dim's true size, ``None`` for unknown ones and symbols inference made up."""
    if isinstance(dim, DimExpr):
        return dims.evaluate(dim, env) if dims.symbols(dim) <= env.keys() else None
    return dim


def _evaluated(type_: Type, env: Env) -> Type:
    if isinstance(type_, TensorType) and type_.shape is not None:
        return type_.with_shape(_known(d, env) for d in type_.shape)
    if isinstance(type_, (SequenceType, OptionalType)):
        return type_.__class__(_evaluated(type_.elem, env))
    return type_


def _assert_inferred(op: Op, results: tuple[Any, ...], env: Env) -> None:
    for value, result in zip(op.results, results, strict=True):
        actual = _type_of(result)
        inferred = _evaluated(value.type, env)
        if not (isinstance(inferred, OptionalType) or actual is UNKNOWN):
            meet(inferred, actual)
        if value.content is not None and isinstance(result, np.ndarray):
            elements = result.reshape(-1).tolist()
            for dim, element in zip(value.content, elements, strict=True):
                known = _known(dim, env)
                assert known is None or known == element


def _case(name: str, case: Case) -> tuple[opdef.OpDef, tuple[Any, ...]]:
    definition = OPS.get(name)
    if definition is None:
        pytest.fail(f"cases of {name}, which is in no family")
    if definition.regions:
        pytest.skip(f"{name} has regions: its family has tests of its own")
    return definition, _run(definition, case)


# -- the tests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(OPS))
def test_row_is_complete(name: str) -> None:
    definition = OPS[name]
    impure = definition.effects != "none" or "terminator" in definition.traits
    if definition.meaning is None:
        strings = not definition.doc or "string" in definition.doc.lower()
        assert impure or strings, "neither a meaning nor an effect"
    assert definition.doc, "no documentation"
    composite = "composite" in definition.traits
    assert composite == (definition.decompose is not None), (
        "composite, but no decompose (or vice versa)"
    )
    if name not in NO_CASE and not definition.regions:
        assert CASES.get(name), "no sample case in tests/op_cases"


@pytest.mark.parametrize(("name", "case"), ROWS)
def test_meaning_gives_what_is_expected(name: str, case: Case) -> None:
    definition, results = _case(name, case)
    if definition.meaning is None:
        assert case.expected is not None, "an opaque operation needs expected results"
    for result in results:
        assert isinstance(result, (np.ndarray, list)) or result is None
    if case.expected is not None:
        _assert_close(results, case.expected[: len(results)])


@pytest.mark.parametrize(("name", "case"), ROWS)
def test_inference_never_contradicts_the_meaning(name: str, case: Case) -> None:
    definition, results = _case(name, case)
    for label, blur in BLURS.items():
        for consts in (True, False):
            env: Env = {}
            try:
                op, _ = _build(definition, case, env, blur, consts=consts)
                _assert_inferred(op, results, env)
            except Exception as error:
                raise AssertionError(f"operands {label}, constants known: {consts}") from error


@pytest.mark.parametrize(("name", "case"), ROWS)
def test_inference_is_complete_on_static_types(name: str, case: Case) -> None:
    definition, results = _case(name, case)
    op, _ = _build(definition, case, {}, _static)
    for value, result in zip(op.results, results, strict=True):
        if isinstance(result, np.ndarray):
            type_ = value.type.elem if isinstance(value.type, OptionalType) else value.type
            assert isinstance(type_, TensorType), f"inferred {type_}"
            assert type_.dtype is not None, f"inferred {type_}"


@pytest.mark.parametrize(
    ("name", "case"), [r for r in ROWS if r.values[0] in OPS and OPS[r.values[0]].content]
)
def test_symbolic_contents_agree_with_the_meaning(name: str, case: Case) -> None:
    definition, results = _case(name, case)
    env: Env = {}
    op, bound = _build(definition, case, env, _static)
    for index, (value, data) in enumerate(bound.items()):
        if value.dtype in (dtypes.I64, dtypes.I32) and data.ndim <= 1:
            content: list[Any] = data.reshape(-1).tolist()
            for i, element in enumerate(content):
                if abs(element) >= 1 << 20:  # contents are sizes, whose arithmetic does not wrap
                    content[i] = None
                elif element >= 0:
                    content[i] = dims.sym(f"c{index}_{i}")
                    env[f"c{index}_{i}"] = element
            value.content = tuple(content)
    op = Builder(op.block).insert(  # type: ignore[arg-type]
        create(definition.name, op.operands, dict(case.attrs), case.results)
    )
    _assert_inferred(op, results, env)


def _evaluate(block: Block, stop: Op, values: dict[Value, Any]) -> None:
    """Evaluate the operations of ``block`` before ``stop`` into ``values``."""
    for op in block.ops:
        if op is stop:
            return
        if op.name == "const":
            array = const_array(op.result)
            assert array is not None
            values[op.result] = array
            continue
        assert op.definition is not None
        regions = {r.name: _callable(r.block, values) for r in op.regions}
        operands = [None if v is None else values[v] for v in op.operands]
        with np.errstate(all="ignore"):
            found = op.definition(*operands, **op.all_attrs(), **regions)
        results = found if isinstance(found, tuple) else (found,)
        for value, result in zip(op.results, results, strict=False):
            values[value] = result
            meet(value.type, _type_of(result)) if isinstance(result, np.ndarray) else None


def _callable(block: Block, outer: dict[Value, Any]) -> Callable[..., tuple[Any, ...]]:
    def body(*arguments: Any) -> tuple[Any, ...]:
        values = outer | dict(zip(block.args, arguments, strict=True))
        last = block.terminator
        assert last is not None
        _evaluate(block, last, values)
        return tuple(None if v is None else values[v] for v in last.operands)

    return body


@pytest.mark.parametrize("blur", [_static, _unknown_dims], ids=["static", "unknown_dims"])
@pytest.mark.parametrize(
    ("name", "case"), [r for r in ROWS if r.values[0] in OPS and OPS[r.values[0]].decompose]
)
def test_decomposition_computes_the_same(name: str, case: Case, blur: Callable[..., Type]) -> None:
    definition, results = _case(name, case)
    op, values = _build(definition, case, {}, blur)
    assert op.block is not None
    assert definition.decompose is not None
    try:
        parts = definition.decompose(Builder(op.block, before=op), op)
    except ValueError as reason:
        pytest.skip(f"does not decompose: {reason}")
    assert len(parts) == len(op.results)
    _evaluate(op.block, op, values)
    given = [(values[v], r) for v, r in zip(parts, results, strict=True) if v is not None]
    _assert_close(tuple(v for v, _ in given), tuple(r for _, r in given))
