"""Samples and distances: how far the outputs of a changed model are from the source's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lepton_ir.ir import Function

Array = np.ndarray[Any, Any]
Feed = dict[str, Any]

ALONE = 2
"""Runs over all samples that measuring units alone may take, of a model with switches."""

LEAST = 40
"""Runs of single samples that it may take in any case."""

MOST_SAMPLES = 16
"""Samples beyond which a distance gets no better."""


def singles(feed: Feed, function: Function) -> Iterator[Feed]:
    """Yield the samples of a feed, if the length of a batch is open; else the feed."""
    open_ = [v.name or "" for v in function.inputs if v.name in feed]
    shapes = [v.shape for v in function.inputs if v.name in feed]
    counts = {np.shape(feed[n])[:1] for n in open_}
    free = all(s and not isinstance(s[0], int) for s in shapes)
    if not free or len(counts) != 1 or counts == {(1,)} or counts == {()}:
        yield feed
        return
    ((count,),) = counts
    for i in range(count):
        yield {n: feed[n][i : i + 1] for n in open_}


def samples(feeds: Iterable[Feed], function: Function, units: int) -> tuple[list[Feed], int]:
    """Return a few samples, evenly from all, and how many units to measure together on them."""
    runs = max(ALONE * count_samples(feeds, function), LEAST)
    few = even(feeds, function, min(MOST_SAMPLES, runs // max(units, 1)))
    return few, -(-units * len(few) // runs)


def count_samples(feeds: Iterable[Feed], function: Function) -> int:
    """Return how many samples there are."""
    return sum(1 for feed in feeds for _ in singles(feed, function))


def even(feeds: Iterable[Feed], function: Function, count: int) -> list[Feed]:
    """Return some samples, at least one, evenly from all."""
    total = count_samples(feeds, function)
    count = max(min(count, total), 1)
    wanted = {i * total // count for i in range(count)}
    every = (sample for feed in feeds for sample in singles(feed, function))
    return [s for i, s in enumerate(every) if i in wanted]


def distance(expected: Iterable[list[Any]], outputs: Iterable[list[Any]]) -> float:
    """Return the worst output's ``sqrt(sum (x - y)^2 / sum x^2)`` over all samples."""
    signal: Any = 0.0
    noise: Any = 0.0
    for wanted, found in zip(expected, outputs, strict=False):
        pairs = [
            (np.asarray(x, np.float64), np.asarray(y, np.float64))
            for x, y in zip(wanted, found, strict=True)
            if np.asarray(x).dtype.kind == "f"
        ]
        signal = signal + np.array([np.square(x[np.isfinite(x)]).sum() for x, _ in pairs])
        noise = noise + np.array([_squares(x, y) for x, y in pairs])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(np.asarray(noise) > 0, noise / np.asarray(signal), 0.0)
    return float(np.sqrt(np.max(ratio, initial=0.0)))


def largest(expected: Iterable[list[Any]], outputs: Iterable[list[Any]]) -> float:
    """Return the worst of an output's ``max |x - y| / max |x|`` in one run, and ``distance``."""
    pairs = list(zip(expected, outputs, strict=False))
    worst = distance([x for x, _ in pairs], [y for _, y in pairs])
    for wanted, found in pairs:
        for x, y in zip(wanted, found, strict=True):
            wide = np.asarray(x)
            if wide.dtype.kind == "f" and wide.size:
                wide = np.where(np.isfinite(wide), wide, 0).astype(np.float64)
                other = np.asarray(y, np.float64)
                error = np.max(np.abs(wide - np.where(np.isfinite(other), other, wide)))
                worst = max(worst, float(error / max(np.max(np.abs(wide)), 1e-30)))
    return worst


def _squares(x: Array, y: Array) -> float:
    """Return ``sum (x - y)^2``, where NaN and infinities are as far as can be from all others."""
    other = (x != y) & ~(np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        total = float(np.square(x[other] - y[other]).sum())
    return np.inf if np.isnan(total) else total


def typical(expected: list[list[Any]], outputs: list[list[Any]]) -> float:
    """Return the geometric mean of the samples' distances.

    Which units matter does not hang on the one sample that reacts to everything.
    """
    found = [distance([x], [y]) for x, y in zip(expected, outputs, strict=True)]
    return float(np.exp(np.mean(np.log(np.maximum(found, 1e-12))))) if found else 0.0


def alone(
    count: int, size: int, outputs: Callable[[frozenset[int]], Iterator[list[Any]]]
) -> list[tuple[float, float]]:
    """Return distance and typical distance with each unit alone changed.

    Args:
        count: of units.
        size: how many neighbours are measured together, each with its share of what they add.
        outputs: what the model gives when only these units are changed.
    """
    expected = list(outputs(frozenset()))
    found: list[tuple[float, float]] = []
    for start in range(0, count, size):
        members = frozenset(range(start, min(start + size, count)))
        given, share = list(outputs(members)), np.sqrt(len(members))
        lost = distance(expected, given) / share, typical(expected, given) / share
        found += [lost] * len(members)
    return found
