"""Sizes of symbolic dims with which the check tries to run a source.

A file does not say which sizes of its inputs fit together. Small, different ones come first; then
some in which one dim is the sum of two others (``total = past + new`` of a decoder with a cache),
then one size for all. A dim whose name is an expression of others (``past + 1``) follows them.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from lepton_ir import dims

if TYPE_CHECKING:
    from collections.abc import Iterator

Sizes = dict[str, int]

_SMALL: tuple[tuple[int, ...], ...] = (
    (2, 3, 5, 4, 7, 6),
    (1, 1, 1, 1, 1, 1),
    (3, 7, 2, 5, 4, 9),
)
"""Sizes in order of appearance, for the draws."""

_EQUAL = (4, 8, 16, 32, 64, 128, 224, 512, 1024, 16000)
"""Sizes tried for all symbols at once where the source fails with small, different ones."""

_MOST_SUMS = 60
"""Sums tried at most: those of six symbols."""


def symbols(inputs: list[Any]) -> list[str]:
    """Return the names of the symbolic dims of (name, dtype, shape) inputs, in order.

    A dim without a name is called after the position of its input and axis, ``0.1``.
    """
    names: dict[str, None] = {}
    for position, (_, _, shape) in enumerate(inputs):
        for axis, d in enumerate(shape):
            if not isinstance(d, int) or d < 0:
                names[d if isinstance(d, str) and d else f"{position}.{axis}"] = None
    return list(names)


def sizes_of(inputs: list[Any], feeds: dict[str, Any]) -> Sizes:
    """Return the sizes that the symbolic dims have in ``feeds``."""
    sizes: Sizes = {}
    for position, (name, _, shape) in enumerate(inputs):
        for axis, d in enumerate(shape):
            if not isinstance(d, int) or d < 0:
                key = d if isinstance(d, str) and d else f"{position}.{axis}"
                sizes[key] = feeds[name].shape[axis]
    return sizes


def groups(names: list[str], draws: int, fixed: Sizes) -> Iterator[list[Sizes]]:
    """Yield groups of sizes to try, until ``draws`` of them have run.

    Within a group of more than one beyond the first, sizes obey the same relation: where its first
    member fails, the others need not be tried.

    Args:
        names: of the symbolic dims.
        draws: how many runs are wanted.
        fixed: sizes that the user set.
    """
    if not names:
        yield [fixed]
        return
    computed = _computed(names)
    free = [n for n in names if n not in computed and n not in fixed]
    plain = [_plan(free, s, computed, fixed) for s in _SMALL]
    yield from ([p] for p in plain[:draws])
    yield from ([p] for p in plain[draws:])
    for total, parts in _sums(free):
        yield [_plan(free, s, computed, fixed, total, parts) for s in (*_SMALL[::2], _SMALL[1])]
    for size in _EQUAL:
        yield [_plan(free, (size,), computed, fixed)]


def _sums(free: list[str]) -> list[tuple[str, tuple[str, str]]]:
    """Return (total, its two parts): later dims as totals first, as files declare them so."""
    found = [
        (total, parts)
        for total in reversed(free)
        for parts in combinations([n for n in free if n != total], 2)
    ]
    return found[:_MOST_SUMS]


def _plan(
    free: list[str],
    sizes: tuple[int, ...],
    computed: dict[str, dims.Dim],
    fixed: Sizes,
    total: str = "",
    parts: tuple[str, ...] = (),
) -> Sizes:
    plan = {n: sizes[i % len(sizes)] for i, n in enumerate(free)}
    if total:
        plan[total] = sum(plan[p] for p in parts)
    plan |= fixed
    for name, dim in computed.items():
        if name not in fixed:
            plan[name] = max(dims.evaluate(dim, plan), 0)
    return plan


def _computed(names: list[str]) -> dict[str, dims.Dim]:
    """Return the dims whose names are expressions of other, plain ones."""
    found: dict[str, dims.Dim] = {}
    for name in names:
        try:
            dim = dims.parse(name)
        except ValueError:  # a name that only looks odd
            continue
        used = dims.symbols(dim)
        if used and name not in used and used <= set(names):
            found[name] = dim
    return {n: d for n, d in found.items() if not dims.symbols(d) & found.keys()}
