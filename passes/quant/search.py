"""Finding out which units of a model to leave in float, with as few measurements as it takes.

Losses are thought of as sums: of the squared distance, every unit adds a part while it is
quantized. Where units alone add more than all together, the sum saturates: the squared distance is
``most * (1 - exp(-sum / most))``. What a unit adds alone is where this begins; each measurement of
a choice corrects it, by Bayesian linear regression. The next choice is the one that is expected to
save the most operations: what it saves times its chance to hold the limit. A look at a few samples
says enough on the way; what comes out is measured on all.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Array = np.ndarray[Any, Any]
Choice = frozenset[int]

NOISE = 0.15
"""Relative deviation of a squared distance from a sum of parts."""

FULL = 0.98
"""Share of the most from which on a distance says no more than that it is large."""

HOPELESS = 0.1
"""Operations below which another measurement is not worth what it is expected to save."""

SLACK = 0.02
"""Share of the limit within which a look at a few samples decides nothing."""

POOL = 12
"""Units that may come back, and units that may go in their place, in one step."""

BEGINNINGS = 128
"""Beginnings of the order of what units add that are thought of in one step."""

TRIES = 20
"""Choices whose costs are found out in one step."""

CHECKS = 16.0
"""Measurements of choices, where nothing else is said."""

FIRST = 0.6
"""Share of the budget within which a beginning of the order is looked for."""


class Belief:
    """What units are thought to add to the squared distance.

    The covariance is a diagonal less a square for each measurement, so that it grows with the
    number of units and not with its square.

    Args:
        gains: what each adds alone.
        total: what all add together.
    """

    def __init__(self, gains: Array, total: float) -> None:
        self.most = _most(gains, total)
        known, everything = self.part(gains), float(self.part(np.array(total)))
        self.mean = known * (everything / max(float(known.sum()), 1e-60))
        self._known: list[Array] = []
        self._own = np.square(self.mean + 0.1 * everything / max(len(gains), 1))

    def part(self, squared: Array) -> Array:
        """Return what adds up, of squared distances."""
        return _part(squared, self.most)

    def predict(self, quantized: Array) -> tuple[Array, Array]:
        """Return the mean and the standard deviation for rows of 0 and 1, one a choice."""
        mean = quantized @ self.mean
        spread = np.square(quantized) @ self._own
        for known in self._known:
            spread = spread - np.square(quantized @ known)
        return mean, np.sqrt(np.maximum(spread, 0.0) + np.square(NOISE * np.maximum(mean, 0.0)))

    def update(self, quantized: Array, distance: float) -> None:
        """Take in the distance of a choice (the update of a Kalman filter)."""
        reach = self._own * quantized - sum(
            (known * float(known @ quantized) for known in self._known), np.zeros(len(quantized))
        )
        squared = float(self.part(np.array(distance**2)))
        miss = squared - float(quantized @ self.mean)
        if miss < 0 and distance**2 >= FULL * self.most:
            return  # It is this or more.
        variance = float(quantized @ reach) + (NOISE * squared) ** 2 + 1e-30
        self.mean = self.mean + reach * (miss / variance)
        self._known.append(reach / math.sqrt(variance))

    def deviation(self) -> Array:
        """Return the standard deviation of each unit's part."""
        rest = self._own - sum(np.square(known) for known in self._known)
        return np.sqrt(np.maximum(rest, 0.0))


def _part(squared: Array, most: float) -> Array:
    if not math.isfinite(most):
        return np.asarray(squared, np.float64)
    return -most * np.log1p(-np.minimum(squared / most, FULL))


def _most(gains: Array, total: float) -> float:
    """Return the squared distance that no choice exceeds, by bisection."""
    if float(gains.sum()) <= total or total <= 0:
        return math.inf
    low, high = max(total, float(gains.max())) / FULL, 1e3 * float(gains.sum())
    for _ in range(60):
        middle = math.sqrt(low * high)
        exceeds = float(_part(gains, middle).sum()) > float(_part(np.array(total), middle))
        low, high = (low, middle) if exceeds else (middle, high)
    return low


class Search:
    """Chooses units to leave out.

    Args:
        gains: what each unit adds alone, squared.
        cost: of leaving units out.
        loss: what is lost when units are left out.
        glance: the same on a few samples; ``None`` if these say nothing.
        prices: of ``loss`` and ``glance``.
        budget: what all measurements may cost together.
    """

    def __init__(
        self,
        gains: Array,
        cost: Callable[[Choice], int],
        loss: Callable[[Choice], float],
        *,
        glance: Callable[[Choice], float] | None = None,
        prices: tuple[float, float] = (1.0, 0.0),
        budget: float = CHECKS,
    ) -> None:
        self.gains = gains
        self.measured: dict[Choice, float] = {}
        self._cost, self._loss, self._glance = cost, loss, glance
        self._costs: dict[Choice, int] = {}
        self._prices, self._budget, self._left = prices, budget, budget
        self._ratio = 1.0
        self._glances: dict[Choice, float] = {}
        self._seen: set[Choice] = set()
        self._belief = Belief(gains, 1.0)

    def cost(self, left_out: Choice) -> int:
        """Return the cost of leaving units out; found out once."""
        if left_out not in self._costs:
            self._costs[left_out] = self._cost(left_out)
        return self._costs[left_out]

    def loss(self, left_out: Choice) -> float:
        """Return what is lost when units are left out; measured once."""
        if left_out not in self.measured:
            self._left -= self._prices[0]
            self.measured[left_out] = self._loss(left_out)
        return self.measured[left_out]

    def reduce(self, limit: float) -> Choice:
        """Return units that hold the limit when left out, of little cost.

        All of them if nothing less was found to.
        """
        nothing: Choice = frozenset()
        lost = self.loss(nothing)
        if lost <= limit:
            return nothing
        self._belief = Belief(self.gains, lost**2)
        if self._glance is not None:
            self._left -= self._prices[1]
            self._glances[nothing] = self._glance(nothing)
            self._measure(nothing)
        best = self._beginning(limit)
        accepted = [frozenset(range(len(self.gains))), best]
        while self._left >= 2 * self._prices[0]:
            choice = self._next(best, limit)
            if choice is None:
                break
            if self._holds(choice, limit):
                best = choice
                accepted.append(best)
        return next((c for c in reversed(accepted) if self.loss(c) <= limit), accepted[0])

    def _holds(self, left_out: Choice, limit: float) -> bool:
        """Return whether a choice seems to hold the limit, and learn from it."""
        lost = self._seems(left_out)
        if abs(lost - limit) <= SLACK * limit:
            lost = self._measure(left_out)
        self._belief.update(self._row(left_out), lost)
        self._seen.add(left_out)
        return lost <= limit

    def _seems(self, left_out: Choice) -> float:
        """Return what a look at a few samples says, in terms of all."""
        if self._glance is None or left_out in self.measured:
            return self.loss(left_out)
        if left_out not in self._glances:
            self._left -= self._prices[1]
            self._glances[left_out] = self._glance(left_out)
        return self._glances[left_out] * self._ratio

    def _measure(self, left_out: Choice) -> float:
        """Return the loss, and learn how far the few samples are off."""
        lost = self.loss(left_out)
        if left_out in self._glances:
            self._ratio = lost / max(self._glances[left_out], 1e-30)
        return lost

    def _row(self, left_out: Choice) -> Array:
        row = np.ones(len(self.gains))
        row[list(left_out)] = 0.0
        return row

    def _beginning(self, limit: float) -> Choice:
        """Return the shortest beginning of the order that holds the limit, by bisection.

        Those that add most are first, whatever they cost: where sums saturate, each of them is
        enough to exceed the limit. The first guess is where what units add alone says that it is.
        """
        order = [int(i) for i in np.argsort(-self.gains, kind="stable")]
        rest = np.append(np.cumsum(self._belief.mean[order][::-1])[::-1], 0.0)
        enough = float(self._belief.part(np.array(limit**2)))
        at = min(max(int(np.argmax(rest <= enough)), 1), max(len(order) - 1, 1))
        low, high = 0, len(order)
        while True:
            low, high = self._bisect(order, low, high, at, limit)
            found = frozenset(order[:high])
            if high == len(order) or self._measure(found) <= limit:
                return found
            low, high = high, len(order)
            at = (low + high) // 2

    def _bisect(
        self, order: list[int], low: int, high: int, at: int, limit: float
    ) -> tuple[int, int]:
        """Return the end of a beginning that does not hold the limit and of one that seems to."""
        step, count = max(high // 16, 1), high
        while high - low > 1 and self._left > (1 - FIRST) * self._budget:
            fits = self._holds(frozenset(order[:at]), limit)
            low, high = (low, at) if fits else (at, high)
            near = at - step if fits else at + step
            bounded = low > 0 and high < count
            at, step = near if low < near < high and not bounded else (low + high) // 2, 2 * step
        return low, high

    def _next(self, best: Choice, limit: float) -> Choice | None:
        """Return the choice to measure, cheaper than the best so far."""
        until = self.cost(best)
        saved, added = self._pools(best, until)
        choices = list(dict.fromkeys(self._neighbours(best, saved, added)))
        if not choices:
            return None
        about = np.array(
            [
                sum(saved.get(i, 1) for i in best - c) - sum(added.get(i, 1) for i in c - best)
                for c in choices
            ]
        )
        chances = self._chances(choices, limit)
        found: tuple[float, Choice] | None = None
        for k in np.argsort(-chances * np.maximum(about, 0), kind="stable")[:TRIES]:
            worth = float(chances[k]) * (until - self.cost(choices[k]))
            if worth > HOPELESS and (found is None or worth > found[0]):
                found = worth, choices[k]
        return None if found is None else self._closed(found[1])

    def _chances(self, choices: list[Choice], limit: float) -> Array:
        """Return the probabilities that choices hold the limit."""
        mean, deviation = self._belief.predict(np.stack([self._row(c) for c in choices]))
        z = (float(self._belief.part(np.array(limit**2))) - mean) / np.maximum(deviation, 1e-30)
        return np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in z])

    def _pools(self, best: Choice, until: int) -> tuple[dict[int, int], dict[int, int]]:
        """Return units that may come back and others that may go, and what that saves or costs."""
        mean, deviation = self._belief.mean, self._belief.deviation()
        least = sorted(sorted(best), key=lambda i: mean[i])[: 4 * POOL]
        saved = {i: until - self.cost(best - {i}) for i in least}
        inside = sorted(least, key=lambda i: mean[i] / max(saved[i], 0.5))[:POOL]
        others = [i for i in np.argsort(-(mean + deviation), kind="stable") if int(i) not in best]
        added = {int(i): self.cost(best | {int(i)}) - until for i in others[:POOL]}
        return {i: saved[i] for i in inside}, added

    def _neighbours(
        self, best: Choice, saved: dict[int, int], added: dict[int, int]
    ) -> Iterator[Choice]:
        """Yield choices not seen yet: exchanges of few units, and beginnings of orders."""
        back = [*itertools.combinations(saved, 1), *itertools.combinations(saved, 2)]
        away = [(), *itertools.combinations(added, 1), *itertools.combinations(added, 2)]
        for go, come in itertools.product(away, back):
            if len(go) + len(come) <= 3:
                yield from self._new((best - set(come)) | set(go))
        order = np.argsort(-self._belief.mean, kind="stable")
        for count in range(1, len(order), len(order) // BEGINNINGS + 1):
            yield from self._new(frozenset(int(i) for i in order[:count]))

    def _new(self, choice: Choice) -> Iterator[Choice]:
        if choice not in self._seen:
            yield choice

    def _closed(self, choice: Choice) -> Choice:
        """Return a choice with those units too that cost nothing any more."""
        mean = self._belief.mean
        for i in np.argsort(-mean, kind="stable")[: 2 * POOL]:
            more = choice | {int(i)}
            if mean[i] > 0 and more not in self._seen and self.cost(more) <= self.cost(choice):
                choice = more
        return choice
