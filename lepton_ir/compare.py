"""Comparing numbers: drawing inputs for a model, and judging two lists of outputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

RTOL = 1e-3
"""Largest difference that counts as equal, as a share of an output's largest magnitude."""

HALF_RTOL = 2e-2
"""The same for outputs of 16-bit floats and models that compute in them."""

MOVEMENT_SHARE = 0.05
"""A difference must also be small against how far outputs move between two inputs: a net that
hardly reacts to its input would hide a wrong rewrite."""

FLOOR = 1e-2
"""Magnitude below which outputs are compared absolutely."""

EPSILONS = 256
"""Rounding steps of an output's magnitude that are always granted."""

TIE_SHARE = 0.01
"""Share of integer elements that may differ where ties can fall either way."""

EQUAL, MISMATCH, INCONCLUSIVE = "equal", "mismatch", "inconclusive"


@dataclass
class Verdict:
    """Outcome of a comparison.

    Attributes:
        status: ``equal``, ``mismatch`` or ``inconclusive``.
        reason: why, for the last two.
        output: name of the worst output.
        largest: its largest absolute difference.
        relative: the largest difference as a share of the output's magnitude.
        draws: how many sets of inputs were compared.
        sqnr: by output, signal-to-noise ratio in dB (lossy pipelines).
    """

    status: str
    reason: str = ""
    output: str = ""
    largest: float = 0.0
    relative: float = 0.0
    draws: int = 0
    sqnr: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as a JSON-ready dict."""
        return asdict(self)


def draw(
    inputs: list[tuple[str, str, list[Any]]], seed: int, sizes: dict[str, int] | int
) -> dict[str, np.ndarray[Any, Any]]:
    """Draw seeded random feeds.

    Args:
        inputs: (name, NumPy dtype name, shape) per input; a dim is an int, a symbol's name or None.
        seed: of the generator.
        sizes: size of each symbol, or one for all.

    Raises:
        ValueError: an element type that cannot be drawn.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for position, (name, dtype_name, shape) in enumerate(inputs):
        resolved = []
        for axis, d in enumerate(shape):
            if isinstance(d, int) and d >= 0:
                resolved.append(d)
            elif isinstance(sizes, int):
                resolved.append(sizes)
            else:
                resolved.append(sizes.get(d or f"{position}.{axis}", 2))
        feeds[name] = _draw_one(rng, dtype_name, resolved)
    return feeds


def _draw_one(rng: np.random.Generator, dtype_name: str, shape: list[int]) -> Any:
    if dtype_name.startswith(("float", "bfloat")):
        if dtype_name not in ("float16", "float32", "float64"):
            import ml_dtypes

            return rng.standard_normal(shape).astype(getattr(ml_dtypes, dtype_name))
        return rng.standard_normal(shape).astype(dtype_name)
    if dtype_name == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype_name.startswith(("int", "uint")):
        high = 256 if dtype_name == "uint8" else 2
        return rng.integers(0, high, shape).astype(dtype_name)
    raise ValueError(f"cannot draw inputs of {dtype_name}")


def compare_outputs(
    names: list[str],
    expected: list[Any],
    found: list[Any],
    *,
    movement: list[float | None] | None = None,
    ties: bool = False,
    rtol: float = RTOL,
    slack: list[float | None] | None = None,
) -> Verdict:
    """Judge one list of outputs against another.

    Args:
        names: output names.
        expected: results of the source.
        found: results to judge.
        movement: by output, how far it moves between two inputs (``None`` unknown).
        ties: the model has operations whose integer results depend on ties (ArgMax, TopK, ...).
        rtol: relative tolerance.
        slack: by output, a difference that is allowed in any case.
    """
    if len(expected) != len(found):
        return Verdict(MISMATCH, f"{len(found)} outputs instead of {len(expected)}")
    worst = Verdict(EQUAL, draws=1)
    for i, (name, a, b) in enumerate(zip(names, expected, found, strict=True)):
        moved = None if movement is None else movement[i]
        verdict = _compare(name, a, b, moved, ties, rtol)
        room = None if slack is None else slack[i]
        if verdict.status == MISMATCH and room is not None and 0 < verdict.largest <= room:
            verdict.status, verdict.reason = EQUAL, ""
        if verdict.status == MISMATCH:
            return verdict
        if verdict.status == INCONCLUSIVE or (
            worst.status == EQUAL and verdict.relative >= worst.relative
        ):
            worst = verdict
    worst.draws = 1
    return worst


def _compare(name: str, a: Any, b: Any, movement: float | None, ties: bool, rtol: float) -> Verdict:
    if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)):
        if not (isinstance(a, (list, tuple)) and isinstance(b, (list, tuple))):
            return Verdict(MISMATCH, "a sequence became a tensor or back", name)
        if len(a) != len(b):
            return Verdict(MISMATCH, f"{len(b)} elements instead of {len(a)}", name)
        verdicts = [_compare(name, x, y, movement, ties, rtol) for x, y in zip(a, b, strict=True)]
        bad = [v for v in verdicts if v.status != EQUAL]
        return (
            bad[0]
            if bad
            else max(verdicts, key=lambda v: v.relative, default=Verdict(EQUAL, output=name))
        )
    if isinstance(a, dict) or isinstance(b, dict) or a is None or b is None:
        same = a == b
        return Verdict(EQUAL if same else MISMATCH, "" if same else "values differ", name)
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape:
        return Verdict(MISMATCH, f"shape {list(y.shape)} instead of {list(x.shape)}", name)
    if x.dtype != y.dtype:
        return Verdict(MISMATCH, f"dtype {y.dtype} instead of {x.dtype}", name)
    if x.size == 0:
        return Verdict(EQUAL, output=name)
    if _is_float(x):
        return _compare_floats(name, x, y, movement, rtol)
    differ = x != y
    if not differ.any():
        return Verdict(EQUAL, output=name)
    share = float(np.mean(differ))
    if ties and share <= TIE_SHARE:
        return Verdict(INCONCLUSIVE, f"{share:.2%} of {name} differ, where ties may fall", name)
    largest = 0.0
    if x.dtype.kind in "iu":
        largest = float(np.abs(x.astype(np.float64) - y.astype(np.float64)).max())
    return Verdict(MISMATCH, f"{share:.2%} of its elements differ", name, largest, 1.0)


def _is_float(x: np.ndarray[Any, Any]) -> bool:
    return x.dtype.kind in "fc" or x.dtype.name.startswith(("bfloat", "float"))


def _compare_floats(
    name: str,
    x: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
    movement: float | None,
    rtol: float,
) -> Verdict:
    half = x.dtype.itemsize <= 2
    wide = np.complex128 if x.dtype.kind == "c" else np.float64
    p, q = x.astype(wide), y.astype(wide)
    if (np.isnan(p) != np.isnan(q)).any():
        return Verdict(MISMATCH, "NaN in other places", name, float("nan"), 1.0)
    finite = np.isfinite(p) & np.isfinite(q)
    infinite = ~finite & ~np.isnan(p)
    if (p[infinite] != q[infinite]).any():
        return Verdict(MISMATCH, "infinities in other places", name, float("inf"), 1.0)
    if not finite.any():
        return Verdict(EQUAL, output=name)
    largest = float(np.abs(p[finite] - q[finite]).max())
    magnitude = float(np.abs(p[finite]).max())
    scale = max(magnitude, FLOOR)
    allowed = (max(rtol, HALF_RTOL) if half else rtol) * scale
    if movement is not None:
        eps = 2.0**-10 if half else 2.0**-23
        allowed = min(allowed, max(MOVEMENT_SHARE * movement, EPSILONS * eps * scale))
    status = EQUAL if largest <= allowed else MISMATCH
    reason = "" if status == EQUAL else f"it differs by up to {largest:.3g} of {magnitude:.3g}"
    return Verdict(status, reason, name, largest, largest / scale)


def movement_of(first: list[Any], second: list[Any]) -> list[float | None]:
    """Return how far each float output moved between two runs; ``None`` where not comparable."""
    out: list[float | None] = []
    for a, b in zip(first, second, strict=True):
        arrays = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
        if not (arrays and a.shape == b.shape and _is_float(a) and a.size):
            out.append(None)
            continue
        with np.errstate(all="ignore"):
            moved = np.abs(a.astype(np.float64) - b.astype(np.float64))
        moved = moved[np.isfinite(moved)]
        out.append(float(moved.max()) if moved.size else None)
    return out


def sqnr(expected: Any, found: Any) -> float:
    """Return the signal-to-quantization-noise ratio in dB: 10 log10(sum x^2 / sum (x - y)^2)."""
    x, y = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    noise = float(np.square(x - y).sum())
    signal = float(np.square(x).sum())
    if noise == 0.0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")
