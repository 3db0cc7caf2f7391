"""Models of one operator each, for every builtin operator that is read, with inputs to run.

Every module of this package adds the cases of a family to ``CASES``.
"""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.tflite_models import Array, Maker, T, one_operator

SAME, VALID = 0, 1


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        name: unique.
        operator: the builtin operator it is about.
        model: its bytes.
        feeds: one list of inputs for each run, state kept between them.
        tolerance: of floats, relative to the largest; steps of integers.
        fails: what LiteRT does with it is no answer (reading it must still work).
    """

    name: str
    operator: str
    model: bytes
    feeds: list[list[Array]]
    tolerance: float = 2e-6
    steps: int = 0


CASES: list[Case] = []


def draw(t: T, seed: int, low: float, high: float) -> Array:
    """Return an input for a tensor: numbers from ``low`` to ``high``, quantized ones of all."""
    rng = np.random.default_rng(seed)
    shape = [abs(d) if d != -1 else 2 for d in t.shape]
    if t.dtype == "bool":
        return rng.random(shape) < 0.5
    if t.scale is not None:
        info = np.iinfo(t.dtype)
        return rng.integers(info.min, info.max + 1, shape).astype(t.dtype)
    if t.dtype.startswith("float"):
        return np.asarray(rng.random(shape) * (high - low) + low, t.dtype)
    return np.asarray(rng.integers(int(low), int(high) + 1, shape), t.dtype)


def case(
    operator: str,
    operands: list[T | None],
    results: list[T],
    *,
    label: str = "",
    low: float = -3,
    high: float = 3,
    feeds: list[Any] | None = None,
    tolerance: float = 2e-6,
    steps: int = 0,
    version: int = 1,
    runs: int = 1,
    **options: Any,
) -> None:
    """Add a case; operands without data are drawn unless ``feeds`` gives them."""
    name = f"{operator}-{label or sum(c.operator == operator for c in CASES)}"
    inputs = [t for t in operands if t is not None and t.data is None and not t.extra]
    seed = zlib.crc32(name.encode())
    if feeds is None:
        found = [
            [draw(t, seed + i + 100 * r, low, high) for i, t in enumerate(inputs)]
            for r in range(runs)
        ]
    else:
        found = [[np.asarray(f, t.dtype) for f, t in zip(feeds, inputs, strict=True)]]
    model = one_operator(operator, operands, results, version, **options)
    CASES.append(Case(name, operator, model, found, tolerance, steps))


def q(
    shape: tuple[int, ...], scale: Any = 0.05, zero: int = 3, dtype: str = "int8", **how: Any
) -> T:
    """Return a quantized tensor."""
    return T(shape, dtype, scale=scale, zero=zero, **how)


def rand(*shape: int, seed: int = 0) -> Array:
    """Return numbers around 0, always the same."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*shape: int, seed: int = 0, low: int = -127, high: int = 127) -> Array:
    """Return integers between two bounds, always the same."""
    return np.random.default_rng(seed).integers(low, high + 1, shape)


def graph_case(
    operator: str, maker: Maker, feeds: list[list[Any]], label: str = "0", **more: Any
) -> None:
    """Add a case whose model was made by hand."""
    found = [[np.asarray(f) for f in run] for run in feeds]
    CASES.append(Case(f"{operator}-{label}", operator, maker.model(**more), found))


def load() -> list[Case]:
    """Return every case."""
    for family in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{family.name}")
    return CASES
