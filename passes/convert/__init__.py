"""Conversion to 16-bit floats: f16 and bf16. See docs/convert.md."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.pipeline import Pass

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Module, Value
    from lepton_ir.passes.convert.apply import Applied
    from lepton_ir.passes.convert.plan import Planner
    from lepton_ir.passes.convert.ranges import Range
    from lepton_ir.passes.quant.feeds import Feeds

_SHOWN = 5


@dataclass(frozen=True)
class Convert(Pass, name="convert"):
    """Convert f32 tensors and constants to 16-bit floats, with casts where the types meet.

    Attributes:
        to: ``f16`` or ``bf16``.
        keep_io: inputs and outputs keep their types; ``false`` changes the interface.
        keep: operations (names of operations, of nodes, or shell patterns of node names) that
            stay in f32.
        convert: operations to convert although they lose accuracy by default (``pow``).
        calib: one source of calibration data, beside those of the command line's ``--calib``;
            operations whose values leave the range of the type stay in f32.
        headroom: how much larger than in the calibration data values may get.
        max_drop: with calibration data, operations stay in f32 until no more than this is lost:
            of the metric, or relatively of the worst output; 0 does not measure. For f16 that
            the runtime runs.
        metric: ``module:function``, called with a list of feeds and a list of dicts of outputs;
            higher is better.
        kernels: ``runtime`` converts what the target's runtime runs, ``cpu`` what it computes on
            processors without taking it apart, ``spec`` everything to which the written opset
            gives the type.
        weights_only: store constants in 16 bits and compute in f32.
        f64: convert f64, too.
    """

    to: str = "f16"
    keep_io: bool = True
    keep: tuple[str, ...] = ()
    convert: tuple[str, ...] = ()
    calib: str = ""
    headroom: float = 2.0
    max_drop: float = 0.005
    metric: str = ""
    kernels: str = "runtime"
    weights_only: bool = False
    f64: bool = False

    lossy = True
    rule_names = ("f16-*", "bf16-*")
    needs = "shapes,fold,canonicalize,fuse"
    clean_up = "canonicalize,dce"

    def __post_init__(self) -> None:
        if self.to not in ("f16", "bf16"):
            raise ValueError(f"to is f16 or bf16, not {self.to!r}")
        if self.kernels not in ("runtime", "cpu", "spec"):
            raise ValueError(f"kernels is runtime, cpu or spec, not {self.kernels!r}")
        if not self.headroom >= 1:
            raise ValueError(f"headroom is at least 1, not {self.headroom}")
        if not self.max_drop >= 0:
            raise ValueError(f"max_drop is at least 0, not {self.max_drop}")
        if self.weights_only and not self.keep_io:
            raise ValueError("weights_only computes in f32: it keeps the interface")

    def wide_types(self) -> frozenset[DType]:
        """Return the types that are replaced."""
        return frozenset({dtypes.F32, dtypes.F64} if self.f64 else {dtypes.F32})

    def run(self, module: Module, ctx: PassContext) -> None:
        """Convert ``main``; local functions keep their types.

        Fills ``ctx.data["convert"]`` with what was done, in figures.

        Raises:
            LeptonError: calibration data that does not fit the model.
            UnsupportedError: the written opset cannot cast to the type.
        """
        from lepton_ir.passes.convert.apply import Applier
        from lepton_ir.passes.convert.cut import save_casts
        from lepton_ir.passes.convert.plan import ASKED, Planner, Reason
        from lepton_ir.passes.quant.feeds import open_feeds

        planner = Planner(self, module, ctx, dtypes.BY_NAME[self.to])
        plan = planner.plan
        self._require_casts(planner)
        if self.weights_only:
            plan.kept = {op: Reason(ASKED, "weights_only") for op in plan.ops}
        else:
            feeds = open_feeds(ctx.feeds, module, self.calib)
            planner.decide(self._ranges(planner, feeds))
            self._hold(planner, feeds)
            save_casts(plan)
        done = Applier(planner, module, ctx, self.weights_only).run()
        self._report(planner, done)

    def _require_casts(self, planner: Planner) -> None:
        values = [v for op in planner.plan.ops for v in planner.plan.floats(op)]
        refusal = planner.trial.supports_casts(values[0]) if values else ""
        if refusal:
            raise UnsupportedError(
                f"cannot convert to {self.to}: {refusal}",
                code="convert-opset",
                hint="--opset 13 converts the model",
            )

    def _hold(self, planner: Planner, feeds: Feeds | None) -> None:
        """Keep what the outputs lose too much by, if that can be measured."""
        from lepton_ir.passes.convert.choose import keep_accuracy

        ctx = planner.ctx
        limit, metric = ctx.data.get("quant_max_drop"), ctx.data.get("quant_metric")
        limit = self.max_drop if limit is None else limit
        if feeds is None or limit <= 0 or self.to != "f16" or self.kernels == "spec":
            return
        lost = keep_accuracy(planner, feeds, limit, self.metric if metric is None else metric)
        ctx.data["convert_lost"] = lost
        if lost > limit:
            ctx.remark("note", "", "max_drop={} is not reached: {:.4g} is lost", limit, lost)

    def _ranges(self, planner: Planner, feeds: Feeds | None) -> dict[Value, Range] | None:
        """Return ranges on calibration data, ``None`` without any."""
        ctx, module = planner.ctx, planner.module
        if feeds is None:
            if self.to == "f16":
                ctx.remark(
                    "note",
                    "",
                    "no calibration data: only constants and proven bounds say what exceeds the "
                    "range of f16 (--calib)",
                )
            return None
        from lepton_ir.passes.convert.facts import is_constant
        from lepton_ir.passes.convert.ranges import measure_ranges

        block = module.main.block
        values = {
            v: None
            for op in planner.plan.ops
            for v in planner.plan.floats(op)
            if not is_constant(v) and (v.producer is block or (v.op and v.op.block is block))
        }
        return measure_ranges(module, list(values), feeds, ctx)

    def _report(self, planner: Planner, done: Applied) -> None:
        from lepton_ir.passes.convert.plan import ASKED, CASTS

        ctx, plan = planner.ctx, planner.plan
        kinds: dict[str, Counter[str]] = {}
        for op, reason in plan.kept.items():
            if self.weights_only:
                continue
            kinds.setdefault(reason.kind, Counter())[op.name] += 1
            detail = f" ({reason.detail})" if reason.detail not in ("", op.name) else ""
            ctx.remark("missed", op, "stays in f32: {}{}", reason.kind, detail)
        for kind, names in kinds.items():
            if kind in (CASTS, ASKED) and not ctx.wants():
                continue
            listed = ", ".join(f"{n} {name}" for name, n in names.most_common(_SHOWN))
            more = " ..." if len(names) > _SHOWN else ""
            ctx.remark("note", "", "in f32: {}{}: {}", listed, more, kind)
        if done.vanished:
            ctx.remark(
                "note", "", "elements of weights that become 0 in {}: {}", self.to, done.vanished
            )
        if not done.converted and not done.stored:
            ctx.remark("note", "", "nothing to convert to {}", self.to)
        ctx.data["convert"] = {
            "to": self.to,
            "converted": done.converted,
            "kept": {kind: sum(names.values()) for kind, names in kinds.items()},
            "casts": done.casts,
            "stored": done.stored,
            "lost": ctx.data.pop("convert_lost", None),
            "bytes_before": done.bytes_before,
            "bytes_after": done.bytes_after,
        }
