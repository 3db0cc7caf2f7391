"""How much a changed model loses on the calibration data: of a metric, or in distance."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from lepton_ir.context import PassContext
from lepton_ir.diagnostics import LeptonError
from lepton_ir.passes.quant.distance import count_samples, distance, even
from lepton_ir.passes.quant.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lepton_ir.ir import Module
    from lepton_ir.passes.quant.feeds import Feeds

FEW = 8
"""Samples that say enough of a distance on the way; less are no saving."""

KEPT_BYTES = 256 << 20
"""Outputs that are kept to compare with; later samples do not count."""


def trial_context(ctx: PassContext) -> PassContext:
    """Return a context for trials, whose rewrites do not count."""
    trial = PassContext(
        target=ctx.target,
        exclude_rules=ctx.exclude_rules,
        keep_nodes=ctx.keep_nodes,
        progress=ctx.progress,
    )
    trial.pass_name = ctx.pass_name
    return trial


def load_metric(source: str) -> Callable[[list[Any], list[Any]], float]:
    """Return the user's ``module:function``, called with feeds and with dicts of outputs.

    Raises:
        LeptonError: it cannot be imported.
    """
    module, _, name = source.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name or "metric")
    except (ImportError, AttributeError) as error:
        raise LeptonError(
            f"cannot import it: {error}",
            code="metric",
            where=source,
            hint="MODULE:FUNCTION is called with a list of feeds and a list of outputs by name",
        ) from error
    finally:
        sys.path.remove(here)
    return found  # type: ignore[no-any-return]


class Judge:
    """Says how much is lost over all samples: of the metric, or the distance of the outputs.

    Args:
        module: a copy of the model as it is, to compare with.
        ctx: of the pass.
        feeds: the samples.
        metric: ``module:function`` of the user, empty for the distance.
        measure: the distance.
        glances: whether :meth:`glance` will be asked.

    Attributes:
        count: of samples.
        few: samples for a glance, none where they say nothing or are not wanted.

    Raises:
        LeptonError: the metric cannot be imported or fails.
    """

    def __init__(
        self,
        module: Module,
        ctx: PassContext,
        feeds: Feeds,
        metric: str,
        measure: Callable[[list[list[Any]], Iterator[list[Any]]], float] = distance,
        *,
        glances: bool = False,
    ) -> None:
        self.feeds = feeds
        self.measure = measure
        self.source = metric
        self.metric = load_metric(metric) if metric else None
        self.names = [n or "" for n in module.main.output_names]
        self.expected: list[list[Any]] = []
        self.best = 0.0
        self.count = max(count_samples(feeds, module.main), 1)
        self.few: list[dict[str, Any]] = []
        if glances and self.metric is None and self.count >= 2 * FEW:
            self.few = even(feeds, module.main, max(FEW, self.count // 8))
        size = 0
        with Probe(module, trial_context(ctx), "sensitivity", fast=True) as probe:
            for results in probe.run(feeds):
                size += sum(getattr(r, "nbytes", 0) for r in results)
                self.expected.append(results)
                if size > KEPT_BYTES and self.metric is None:
                    break
            self.expected_few = list(probe.run(self.few))
        if self.metric is not None:
            self.best = self._score(self.expected)

    def loss(self, outputs: Iterator[list[Any]]) -> float:
        """Return how much is lost with these outputs."""
        if self.metric is None:
            return self.measure(self.expected, outputs)
        return self.best - self._score(list(outputs))

    def glance(self, outputs: Iterator[list[Any]]) -> float:
        """Return how far these outputs are off, on the few samples."""
        return self.measure(self.expected_few, outputs)

    def _score(self, outputs: list[list[Any]]) -> float:
        assert self.metric is not None
        named = [dict(zip(self.names, item, strict=True)) for item in outputs]
        try:
            return float(self.metric(list(self.feeds), named))
        except Exception as error:
            raise LeptonError(
                f"it fails: {type(error).__name__}: {error}", code="metric", where=self.source
            ) from error
