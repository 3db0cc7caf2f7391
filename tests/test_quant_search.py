"""The search for units to leave in float, on losses made up."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lepton_ir.passes.quant.search import Belief, Search

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 12


def adding(gains: np.ndarray, most: float = np.inf) -> Callable[[frozenset[int]], float]:
    """Return a loss whose squares add up, to at most ``most``."""

    def loss(left_out: frozenset[int]) -> float:
        total = sum(g for i, g in enumerate(gains) if i not in left_out)
        return float(np.sqrt(total if most == np.inf else most * -np.expm1(-total / most)))

    return loss


def best_cost(loss: Callable[[frozenset[int]], float], costs: np.ndarray, limit: float) -> int:
    every = (
        frozenset(c) for n in range(COUNT + 1) for c in itertools.combinations(range(COUNT), n)
    )
    return min(int(costs[list(c)].sum()) for c in every if loss(c) <= limit)


def search(gains, costs, loss, *, glance=None, budget=30.0) -> Search:
    def cost(left_out):
        return int(costs[list(left_out)].sum())

    return Search(gains, cost, loss, glance=glance, prices=(2.0, 0.6), budget=budget)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("most", [np.inf, 2.0])
def test_units_of_little_cost_are_found_where_losses_add_up(seed, most):
    rng = np.random.default_rng(seed)
    gains, costs = rng.uniform(0.0, 1.0, COUNT) ** 3, rng.integers(1, 6, COUNT)
    loss = adding(gains, most)
    limit = loss(frozenset()) * 0.6
    found = search(gains, costs, loss, glance=lambda c: 1.1 * loss(c))
    kept = found.reduce(limit)
    assert loss(kept) <= limit
    assert found.cost(kept) <= best_cost(loss, costs, limit) + 2


@pytest.mark.parametrize("seed", range(4))
def test_what_units_add_alone_may_be_wrong(seed):
    rng = np.random.default_rng(seed)
    gains, costs = rng.uniform(0.0, 1.0, COUNT) ** 3, rng.integers(1, 6, COUNT)
    loss = adding(gains)
    limit = loss(frozenset()) * 0.5
    found = search(gains * rng.uniform(0.2, 5.0, COUNT), costs, loss, glance=loss, budget=60.0)
    kept = found.reduce(limit)
    assert loss(kept) <= limit
    assert found.cost(kept) <= best_cost(loss, costs, limit) + 3


def test_a_glance_that_misleads_costs_operations_but_not_the_limit():
    gains, costs = np.arange(1.0, COUNT + 1), np.ones(COUNT, int)
    loss = adding(gains)
    limit = loss(frozenset()) * 0.5
    # Few samples that say the same of everything hold the limit in any case.
    kept = search(gains, costs, loss, glance=lambda c: 0.1 if c else 1.0).reduce(limit)
    assert loss(kept) <= limit


def test_nothing_is_left_out_if_the_limit_holds():
    gains = np.ones(COUNT)
    assert search(gains, np.ones(COUNT, int), adding(gains)).reduce(10.0) == frozenset()


def test_without_a_glance_every_choice_is_measured_on_all_samples():
    gains, costs = np.arange(COUNT, dtype=float), np.ones(COUNT, int)
    loss = adding(gains)
    found = search(gains, costs, loss)
    kept = found.reduce(loss(frozenset()) * 0.7)
    assert kept in found.measured
    assert len(found.measured) <= 16  # what the budget affords


def test_everything_is_left_out_if_nothing_else_holds():
    gains = np.ones(COUNT)
    kept = search(gains, np.ones(COUNT, int), adding(gains)).reduce(0.0)
    assert kept == frozenset(range(COUNT))


def test_units_that_add_nothing_alone_do_not_stop_the_search():
    gains, costs = np.zeros(COUNT), np.ones(COUNT, int)
    loss = adding(np.arange(COUNT, dtype=float))
    limit = loss(frozenset()) * 0.5
    kept = search(gains, costs, loss, glance=loss).reduce(limit)
    assert loss(kept) <= limit


def test_a_belief_learns_what_was_measured():
    belief = Belief(np.array([1.0, 1.0, 1.0]), 3.0)
    for _ in range(8):
        belief.update(np.array([1.0, 1.0, 0.0]), np.sqrt(0.5))
    mean, deviation = belief.predict(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    assert mean[0] == pytest.approx(0.5, rel=0.1)
    assert deviation[0] < deviation[1]


def test_parts_that_exceed_the_whole_saturate():
    belief = Belief(np.full(10, 0.5), 1.0)
    assert 1.0 < belief.most < 1.2
    assert Belief(np.full(10, 0.05), 1.0).most == np.inf
