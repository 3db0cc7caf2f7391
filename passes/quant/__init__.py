"""Quantization to 8 bits: dynamic, static (QDQ) and weight-only. See docs/quantization.md."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.pipeline import Pass

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.passes.quant.static import Prepared

MODES = ("auto", "dynamic", "static", "weights")

CALIBRATORS = ("minmax", "average", "percentile", "entropy", "mse")

_NO_DATA = """\
--calib=FILE.npz (arrays named like the model's inputs), a folder of .npz or .npy files, or \
MODULE:FUNCTION that yields dicts of arrays; quant{mode=dynamic} needs no data"""


@dataclass(frozen=True)
class Quant(Pass, name="quant"):
    """Quantize weights, and in dynamic and static mode also activations, to 8 bits.

    Attributes:
        mode: ``static`` (quantize/dequantize pairs with ranges from calibration data), ``dynamic``
            (ranges taken while the model runs), ``weights`` (float arithmetic, small file), or
            ``auto``: static when calibration data is given, else dynamic.
        calib: one source of calibration data, beside those of the command line's ``--calib``.
        bits: bits of a weight; 4 in weights mode, else 8.
        block: in weights mode, rows of a matrix that share a scale (a power of two from 16 on;
            0: whole columns in 8 bits, 32 rows in 4 bits).
        asymmetric: blocks with zero points.
        weights: rounding: ``nearest``; of blocks ``gptq``, which needs calibration data and
            spreads errors over the rows that are not rounded yet; in static mode ``adaround``,
            which rounds up or down for the sake of the results.
        scales: scales of weights from their range (``range``), or the best of a few (``mse``).
        per_channel: one scale per output channel of a weight instead of one per tensor.
        symmetric: static activations with their zero point in the middle of the integer range.
        reduce_range: weights in 7 bits, for x86 processors without VNNI, whose 16-bit
            accumulators saturate on pairs of 8-bit products.
        activations: type of static activations, ``u8``, ``i8``, ``u16`` or ``i16``; what the
            target prefers when empty. 16 bits need opset 21 or ``--target=ort``.
        exclude: node names (or shell patterns of them) that stay in float.
        skip_first: leave the first layer in float.
        skip_last: leave the last layer in float.
        embeddings: store tables that only ``gather`` reads in 8 bits.
        rows: dynamic mode takes one range per row of a matrix (per token) instead of one per
            tensor; opset 13.
        smooth: with ``rows``, how much of the different sizes of channels behind a layer
            normalization goes from activations to weights (SmoothQuant); 0: nothing.
        attention_values: dynamic mode quantizes the value projections of attentions too, whose
            rounding errors the attention does not average away.
        min_bytes: dynamic and weights modes leave smaller weights alone.
        calibrate: how static ranges come from data: ``minmax``, ``average`` (of the samples' ends),
            ``percentile``, ``entropy`` (least Kullback-Leibler divergence) or ``mse`` (least mean
            squared error).
        percentile: percent of the values below either end, for ``calibrate=percentile``.
        cache: keep what calibration finds in the user's cache folder, by content.
        recipe: a TOML file with choices per layer, see docs/quantization.md.
        sensitivity: static mode measures what is lost when each layer alone is quantized.
        max_drop: static mode leaves layers in float until no more than this is lost: of the
            metric, or of 1 in the relative distance of the outputs; 0: no limit.
        metric: ``module:function``, your own code, called with a list of feeds and a list of
            dicts of outputs; what it returns is to be high.
        bias_correction: static biases take back what the rounding of weights does to the mean.
        equalize: static mode scales channels between layers, exactly, so that they share a scale
            well (cross-layer equalization).
        islands: keep static regions whose borders cost more time than their integers save.
        products: static mode quantizes products of two activations (attention) too.
        measure: with calibration data, measure the signal-to-noise ratio of layer outputs.
    """

    mode: str = "auto"
    calib: str = ""
    bits: int = 8
    block: int = 0
    asymmetric: bool = False
    scales: str = "range"
    weights: str = "nearest"
    per_channel: bool = True
    symmetric: bool = False
    reduce_range: bool = False
    activations: str = ""
    exclude: tuple[str, ...] = ()
    skip_first: bool = False
    skip_last: bool = False
    embeddings: bool = True
    rows: bool = True
    smooth: float = 0.5
    attention_values: bool = False
    min_bytes: int = 1024
    calibrate: str = "minmax"
    percentile: float = 99.99
    cache: bool = True
    measure: bool = True
    recipe: str = ""
    sensitivity: bool = False
    max_drop: float = 0.0
    metric: str = ""
    bias_correction: bool = True
    equalize: bool = True
    islands: bool = False
    products: bool = True

    lossy = True
    rule_names = ("static-*", "dynamic-*", "weights-*", "blocks-*", "auto-*")
    needs = "shapes,fold,canonicalize,fuse"
    clean_up = "dce"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not {self.mode!r}")
        if self.bits not in (4, 8) or (self.bits == 4 and self.mode != "weights"):
            raise ValueError(f"bits={self.bits}: weights have 8 bits, or 4 with mode=weights")
        if self.block and (self.block < 16 or self.block & (self.block - 1)):
            raise ValueError(f"block={self.block}: expected a power of two from 16 on")
        if self.scales not in ("range", "mse"):
            raise ValueError(f"scales is range or mse, not {self.scales!r}")
        if self.calibrate not in CALIBRATORS:
            known = ", ".join(CALIBRATORS)
            raise ValueError(f"calibrate is one of {known}, not {self.calibrate!r}")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile is over 50 and at most 100, not {self.percentile}")
        if self.weights not in ("nearest", "gptq", "adaround"):
            raise ValueError(f"weights is nearest, gptq or adaround, not {self.weights!r}")
        if not 0 <= self.smooth <= 1:
            raise ValueError(f"smooth is from 0 to 1, not {self.smooth}")
        if self.max_drop < 0:
            raise ValueError(f"max_drop is at least 0, not {self.max_drop}")
        if self.activations not in ("", "u8", "i8", "u16", "i16"):
            raise ValueError(f"activations are u8, i8, u16 or i16, not {self.activations!r}")

    def run(self, module: Module, ctx: PassContext) -> None:
        """Quantize ``main``.

        Fills ``ctx.data["layers"]`` with one row per quantized layer, see ``Layer.row``.

        Raises:
            LeptonError: static mode without calibration data, or data that does not fit.
            UnsupportedError: the written opset has no operators for this mode.
        """
        from lepton_ir.passes.quant.common import Run
        from lepton_ir.passes.quant.feeds import open_feeds

        feeds = open_feeds(ctx.feeds, module, self.calib)
        mode = self.mode
        if mode == "auto":
            mode = "dynamic" if feeds is None else "static"
        if mode == "static" and feeds is None:
            raise LeptonError(
                "static quantization needs calibration data", code="quant-calib", hint=_NO_DATA
            )
        limit, metric = ctx.data.get("quant_max_drop"), ctx.data.get("quant_metric")
        options = self if limit is None else replace(self, max_drop=limit)
        options = options if metric is None else replace(options, metric=metric)
        run = Run(options, module, ctx, mode)
        if mode == "static" and feeds is not None and self.equalize:
            from lepton_ir.passes.quant.equalize import equalize_module

            run.require("quantize_linear", 10)
            equalize_module(run, feeds)
        before = run.snapshot() if feeds is not None and self.measure else None
        self._quantize(run, feeds)
        run.finish()
        if feeds is not None and before is not None and run.layers:
            from lepton_ir.passes.quant.measure import measure_outputs

            measure_outputs(run, before, feeds)
        run.add_sensitivities()
        ctx.data.setdefault("layers", []).extend(layer.row() for layer in run.layers)

    def _quantize(self, run: Run, feeds: Feeds | None) -> None:
        belongs = {"gptq": "weights", "adaround": "static"}.get(self.weights, run.mode)
        if belongs != run.mode:
            raise LeptonError(
                f"weights={self.weights} belongs to mode={belongs}, this is {run.mode}",
                code="quant-weights",
            )
        if run.mode == "dynamic":
            from lepton_ir.passes.quant.dynamic import quantize_dynamic

            run.require("dynamic_quantize_linear", 11)
            run.require("matmul_integer", 10)
            quantize_dynamic(run)
        elif run.mode == "weights":
            from lepton_ir.passes.quant.weights import quantize_weights

            run.require("dequantize_linear", 10)
            quantize_weights(run, feeds)
        else:
            from lepton_ir.passes.quant.static import prepare, quantize_static

            run.require("quantize_linear", 10)
            if feeds is None:
                raise UnsupportedError("no calibration data", code="quant-calib")
            prepared = prepare(run, feeds)
            self._search(run, feeds, prepared)
            source = run.snapshot().module if self.bias_correction else None
            corrections = quantize_static(run, feeds, prepared)
            # A result of a search has been measured as it is.
            if corrections and source is not None and run.options.max_drop <= 0:
                from lepton_ir.passes.quant.correct import settle

                settle(run, source, corrections, feeds)

    def _search(self, run: Run, feeds: Feeds, prepared: Prepared) -> None:
        """Measure sensitivities, and leave out what ``max_drop`` asks for."""
        if not run.options.sensitivity and run.options.max_drop <= 0:
            return
        from lepton_ir.passes.quant.mixed import choose
        from lepton_ir.passes.quant.static import leave_in_float

        run.units = choose(run, feeds, prepared)
        kept = [u for u in run.units if u.kept]
        leave_in_float(run, prepared.plan, {u.ops[0] for u in kept})
        for unit in kept:
            run.ctx.remark("note", unit.name, "stays in float: {}", unit.cause)
