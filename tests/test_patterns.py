"""The published patterns: their golden cases on special numbers and odd shapes, and their table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lepton_ir import dims, plugins
from lepton_ir.clone import clone_module
from lepton_ir.context import PassContext
from lepton_ir.diagnostics import LeptonError
from lepton_ir.interp import run_list
from lepton_ir.pipeline import PassManager, Pipeline
from lepton_ir.testing.golden import GoldenCase, read_golden
from lepton_ir.text.parse import parse_module
from lepton_ir.tools.docgen import own_passes
from lepton_ir.tools.rules import catalogue
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.ir import Module

GOLDEN = Path(__file__).parent / "golden" / "patterns"
FILES = sorted(GOLDEN.glob("*.lir"))
CASES = [(path.stem, case) for path in FILES for case in read_golden(path)[1]]

SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e-30, 3e38, -3e38, 1.0, -1.0, 20.5, -20.5, 100.0]
)
SOURCE_OVERFLOWS = {
    "PRelu from Relu and Abs": "x - |x| of infinity is NaN",
    "Gelu erf, 0.5 last": "2 * x overflows before it is halved",
    "Gelu tanh, keras": "2 * x overflows before it is halved",
    "HardSwish x * relu6(x + 3) / 6": "6 * x overflows before the division",
    "HardSwish from Max and Min": "6 * x overflows before the division",
    "LogSoftmax spelled with ReduceLogSumExp": "the logarithm of 3 is lost beside 3e38",
}
"""Cases whose source overflows where the result does not."""


def optimized(case: GoldenCase) -> tuple[Module, Module, PassContext]:
    """Return a case's module as it was and as its pipeline leaves it."""
    target = case.single("TARGET")
    chosen: Any = plugins.load("backends", target) if target else None
    ctx = PassContext(target=chosen)
    module = parse_module("\n".join(case.head))
    before = clone_module(module)
    PassManager(ctx).run(Pipeline.parse(str(case.single("RUN"))), module)
    return before, module, ctx


def feeds_of(
    module: Module, size: int, special: np.ndarray[Any, Any] | None = None
) -> dict[str, Any]:
    """Return inputs with ``size`` for every symbol; floats have special numbers in them."""
    rng = np.random.default_rng(size)
    found = {}
    for value in module.main.inputs:
        assert isinstance(value.type, TensorType)
        assert value.type.shape is not None
        assert value.type.dtype is not None
        env = {s: size for d in value.type.shape if d is not None for s in dims.symbols(d)}
        shape = tuple(0 if d is None else dims.evaluate(d, env) for d in value.type.shape)
        if value.type.dtype.is_float:
            data = rng.normal(size=shape) if special is None else rng.choice(special, size=shape)
        else:
            data = rng.integers(0, 2, size=shape)
        found[str(value.name)] = np.asarray(data).astype(value.type.dtype.numpy)
    return found


@pytest.mark.parametrize(
    "case", [c for stem, c in CASES if stem == "activation"], ids=lambda c: c.name
)
def test_special_numbers(case: GoldenCase) -> None:
    before, after, _ = optimized(case)
    moderate = SPECIAL[np.isnan(SPECIAL) | (np.abs(SPECIAL) <= 100)]
    given = feeds_of(before, 97, moderate if case.name in SOURCE_OVERFLOWS else SPECIAL)
    with np.errstate(all="ignore"):
        pairs = list(zip(run_list(before, given), run_list(after, given), strict=True))
    for want, got in pairs:
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("stem", "case"), CASES, ids=[f"{stem}-{case.name}" for stem, case in CASES]
)
@pytest.mark.parametrize("size", [0, 1, 7])
def test_odd_sizes(stem: str, case: GoldenCase, size: int) -> None:
    before, after, _ = optimized(case)
    given = feeds_of(before, size)
    rtol = 2e-2 if any(v.dtype == np.float16 for v in given.values()) else 1e-4
    try:
        wanted = run_list(before, given)
    except LeptonError:
        return  # the source does not take this size
    for want, got in zip(wanted, run_list(after, given), strict=True):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)


_UNTYPED = re.compile(r"const\(\) \{value=(-?[\d.e+-]*\.[\d.e+-]*|-?inf|\[[^\[\]]*\.[^\[\]]*\])\}$")


def in_dtype(text: str, dtype: str) -> str:
    """Return a case's text with other floats than f32."""

    def typed(line: str) -> str:
        found = _UNTYPED.search(line)
        if found is None:
            return line.replace("f32[", f"{dtype}[")
        size = found[1].count(",") + 1 if found[1].startswith("[") else ""
        return f"{line} : {dtype}[{size}]"

    return "\n".join(map(typed, text.split("\n")))


FLOAT_CASES = [
    (stem, case)
    for stem, case in CASES
    if case.single("TARGET") is None and "f16[" not in "".join(case.head)
]


@pytest.mark.parametrize("dtype", ["f64", "f16"])
@pytest.mark.parametrize(
    ("stem", "case"), FLOAT_CASES, ids=[f"{stem}-{case.name}" for stem, case in FLOAT_CASES]
)
def test_other_floats(stem: str, case: GoldenCase, dtype: str) -> None:
    text = in_dtype("\n".join(case.head), dtype)
    try:
        before = parse_module(text)
    except LeptonError:
        pytest.skip("the case mixes types")
    module = clone_module(before)
    PassManager(PassContext()).run(Pipeline.parse(str(case.single("RUN"))), module)
    given = feeds_of(before, 8)
    try:
        wanted = run_list(before, given)
    except LeptonError:
        return  # the source does not take this size
    rtol = 1e-6 if dtype == "f64" else 3e-2
    for want, got in zip(wanted, run_list(module, given), strict=True):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
        scale = np.nanmax(np.abs(want.astype(np.float64)), initial=1.0)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * scale)


# -- docs/patterns.md ------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "patterns.md"
ROWS = [
    [cell.strip() for cell in line[1:-1].split("|")]
    for line in PAGE.read_text("utf-8").split("\n")
    if line.startswith("| ") and not line.startswith(("| Pattern", "| ---"))
]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r[0])
def test_rows_name_rules_that_exist_or_say_why_there_is_none(row: list[str]) -> None:
    assert len(row) == 4
    _, _, rules, remark = row
    passes, _ = own_passes()
    known = {report.name for report in catalogue()} | set(passes)
    named = re.findall(r"`([^`]+)`", rules)
    assert set(named) <= known
    assert named or remark.strip()


def test_every_fusion_is_in_the_table() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text("utf-8")))
    for report in catalogue():
        if any(key.startswith(("fuse/", "fuse_ort/")) for key in report.keys):
            assert report.name in named, f"docs/patterns.md does not name {report.name}"
