"""Finding out which units of a model to leave in float.

What a unit adds alone is measured on a few samples. Those that add most for what they cost go
first, as few as a bisection shows to be enough; then some that do not matter beside the others come
back. Every choice is measured on all samples. Budgets are counted in runs over all samples, so that
the search takes no longer than a number of these.
"""

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

CHECKS = 16
"""Choices that are measured on all samples."""


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
    total = sum(1 for feed in feeds for _ in singles(feed, function))
    runs = max(ALONE * total, LEAST)
    count = max(min(MOST_SAMPLES, total, runs // max(units, 1)), 1)
    wanted = {i * total // count for i in range(count)}
    every = (sample for feed in feeds for sample in singles(feed, function))
    return [s for i, s in enumerate(every) if i in wanted], -(-units * count // runs)


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
        outputs: what the model gives when units are left out.
    """
    everything = frozenset(range(count))
    expected = list(outputs(everything))
    found: list[tuple[float, float]] = []
    for start in range(0, count, size):
        members = frozenset(range(start, min(start + size, count)))
        given, share = list(outputs(everything - members)), np.sqrt(len(members))
        lost = distance(expected, given) / share, typical(expected, given) / share
        found += [lost] * len(members)
    return found


class Search:
    """Chooses units to leave out.

    Args:
        gains: what each unit adds alone, squared.
        costs: of leaving each unit out alone.
        cost: of leaving units out.
        loss: what is lost when units are left out.
    """

    def __init__(
        self,
        gains: Array,
        costs: Array,
        cost: Callable[[frozenset[int]], int],
        loss: Callable[[frozenset[int]], float],
    ) -> None:
        self.gains, self.costs, self.cost = gains, costs, cost
        self.measured: dict[frozenset[int], float] = {}
        self._loss = loss

    def loss(self, left_out: frozenset[int]) -> float:
        """Return what is lost when units are left out; measured once."""
        if left_out not in self.measured:
            self.measured[left_out] = self._loss(left_out)
        return self.measured[left_out]

    def reduce(self, limit: float) -> frozenset[int]:
        """Return units that hold the limit when left out, of little cost.

        All of them if nothing less was found to.
        """
        if self.loss(frozenset()) <= limit:
            return frozenset()
        worth = [int(i) for i in np.argsort(-self.gains / self.costs, kind="stable")]
        found = self._prefix(worth, limit)
        found = self._shorter(
            found, [int(i) for i in np.argsort(-self.gains, kind="stable")], limit
        )
        for i in reversed(worth):
            if len(self.measured) >= CHECKS:
                break
            if i in found and self.cost(found - {i}) < self.cost(found):
                found = found - {i} if self.loss(found - {i}) <= limit else found
        return found

    def _prefix(self, order: list[int], limit: float) -> frozenset[int]:
        """Return the shortest beginning of ``order`` that holds the limit, by bisection.

        The first guess is where what units add alone says that it is.
        """
        rest = np.append(np.cumsum(self.gains[order][::-1])[::-1], 0.0)
        scale = np.square(self.loss(frozenset())) / max(float(rest[0]), 1e-30)
        low, high = 0, len(order)
        at = min(max(int(np.argmax(rest * scale <= limit**2)), 1), high - 1)
        step = max(high // 16, 1)
        while high - low > 1 and len(self.measured) < CHECKS:
            fits = self.loss(frozenset(order[:at])) <= limit
            low, high = (low, at) if fits else (at, high)
            near = at - step if fits else at + step
            bounded = low > 0 and high < len(order)
            at, step = near if low < near < high and not bounded else (low + high) // 2, 2 * step
        return frozenset(order[:high])

    def _shorter(self, found: frozenset[int], order: list[int], limit: float) -> frozenset[int]:
        """Return a beginning of another order if it holds the limit at less cost."""
        until = self.cost(found)
        count = int(np.searchsorted(np.cumsum(self.costs[order]), until))
        for at in (count, count - max(count // 8, 1)):
            other = frozenset(order[:at])
            if len(self.measured) >= CHECKS or not at > 0 or self.cost(other) >= until:
                continue
            if self.loss(other) > limit:
                break
            found, until = other, self.cost(other)
        return found
