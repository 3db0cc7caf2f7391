"""Every operation that TFLite out writes: LiteRT's numbers against the operation's meaning.

The cases are those of the op table, with operands as inputs and, again, all but the first as
constants. What is refused is refused by name before anything is written.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir import dtypes
from lepton_ir.backends.tflite.lower import lowerings
from lepton_ir.backends.tflite.table import rows
from lepton_ir.builder import Builder
from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.interp import run_list
from lepton_ir.ir import Module
from lepton_ir.tensors import DenseTensor
from lepton_ir.types import TensorType
from tests.litert import run_files
from tests.op_cases import Case
from tests.test_op_table import CASES

TOLERANCE = {4: 3e-5, 2: 8e-3}
"""Relative to the largest element, by the size of an element."""

FEW = 3
"""Cases of an operation that are run every time; all are in the slow test."""

SPECIAL = {
    "numbers that are not finite, which XNNPACK's kernels treat as they like": (
        "exp log sin cos sqrt max min reduce_max reduce_min reduce_log_sum_exp gelu swiglu relu "
        "pow reciprocal div mul sub add sum mean clip tan acos asin acosh atanh asinh sigmoid tanh "
        "softplus mish selu celu elu erf swish hard_swish round floor ceil sign is_nan is_inf "
        "abs atan cosh sinh softsign prelu leaky_relu thresholded_relu shrink neg floor_div "
        "floor_mod mod rsqrt atan2 fake_quant hard_sigmoid where equal less greater cast"
    )
}
"""Operations whose cases with such numbers are left out, and why."""


def _finite(case: Case) -> bool:
    arrays = [np.asarray(x) for x in case.operands if x is not None]
    with np.errstate(all="ignore"):
        wide = [a.astype(np.float64) for a in arrays if a.dtype.kind in "fV"]
    return all(np.isfinite(a).all() and (not a.size or np.abs(a).max() < 60) for a in wide)


def _module(name: str, case: Case, constant: bool) -> tuple[Module, dict[str, Any]]:
    module = Module("net")
    module.opsets[""] = 21
    main = module.add_function("main")
    b = Builder(main.block)
    feeds: dict[str, Any] = {}
    operands: list[Any] = []
    for i, x in enumerate(case.operands):
        if x is None:
            operands.append(None)
        elif i in case.const or (constant and i > 0):
            operands.append(b.const(DenseTensor(np.asarray(x))))
        else:
            array = np.asarray(x)
            kind = TensorType(dtypes.from_numpy(array.dtype), array.shape)
            operands.append(main.block.add_arg(kind, f"x{i}"))
            feeds[f"x{i}"] = array
    op = b.build(name, *operands, results=case.results, **case.attrs)
    results = list(op.results)
    main.output_names = [f"y{i}" for i in range(len(results))]
    for label, value in zip(main.output_names, results, strict=True):
        value.name = label
    b.build("return", *results, results=0)
    return module, feeds


def _calls(most: int) -> Iterator[tuple[str, Case, bool]]:
    known = {*rows(), *lowerings()}
    special = set(" ".join(SPECIAL.values()).split())
    for name, cases in sorted(CASES.items()):
        if name not in known and not any(d in name for d in ("normalization", "hardmax")):
            continue
        kept = [c for c in cases if not any(isinstance(x, (list, tuple)) for x in c.operands)]
        kept = [c for c in kept if name not in special or _finite(c)]
        for case in kept[:most]:
            yield name, case, False
            if len(case.operands) > 1:
                yield name, case, True


def _written(folder: Path, most: int) -> dict[str, tuple[str, list[Any]]]:
    """Write a file for each call that can be expressed; return what each should give."""
    found: dict[str, tuple[str, list[Any]]] = {}
    for name, case, constant in _calls(most):
        try:
            module, feeds = _module(name, case, constant)
            expected = run_list(module, feeds)
        except (LeptonError, ValueError):
            continue
        arrays = [*feeds.values(), *map(np.asarray, expected)]
        if not feeds or any(a.dtype.kind == "V" for a in arrays):  # Python reads no bf16
            continue
        try:
            for pipeline in ("shapes,tflite", "legalize"):
                lepton_ir.run_passes(module, pipeline, target="tflite")
            number = str(len(found))
            lepton_ir.save(module, folder / f"{number}.tflite")
        except UnsupportedError as error:
            nameless = not error.where
            if nameless:
                pytest.fail(f"{name} is refused without a place: {error}")
            continue
        np.savez(folder / f"{number}.in0.npz", **feeds)
        how = "constants" if constant else "inputs"
        shapes = [None if x is None else np.asarray(x).shape for x in case.operands]
        found[number] = (f"{name} {shapes} {case.attrs} {how}", expected)
    return found


def _difference(expected: Any, found: Any) -> str:
    a = np.asarray(expected)
    if a.shape != found.shape or a.dtype != found.dtype:
        return f"{found.dtype}{found.shape} for {a.dtype}{a.shape}"
    if a.dtype.kind != "f":
        return (
            "" if np.array_equal(a, found) else f"{found.reshape(-1)[:8]} for {a.reshape(-1)[:8]}"
        )
    wide, other = a.astype(np.float64), found.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    tolerance = TOLERANCE[a.dtype.itemsize] * max(finite.max(initial=0), 1e-3)
    same = np.isclose(other, wide, rtol=TOLERANCE[a.dtype.itemsize], atol=tolerance, equal_nan=True)
    return "" if same.all() else f"{(~same).sum()} of {same.size} differ: {other[~same][:3]}"


def _check(folder: Path, most: int, least: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = _written(folder, most)
    assert len(expected) >= least
    found = run_files(folder, list(expected), timeout=1500)
    wrong = []
    for number, (what, wanted) in expected.items():
        given = found[number]
        if isinstance(given, str):
            wrong.append(f"{what}: {given[-150:]}")
            continue
        reasons = [_difference(a, c) for a, c in zip(wanted, given[0], strict=True)]
        if any(reasons):
            wrong.append(f"{what}: {next(filter(None, reasons))}")
    assert not wrong, "\n".join(wrong)


def test_operations_run_as_they_mean(tmp_path: Path) -> None:
    _check(tmp_path, FEW, 300)


@pytest.mark.slow
def test_all_cases_run_as_they_mean(tmp_path: Path) -> None:
    _check(tmp_path, 10_000, 900)
