"""One run of ``lepton-opt``: load, run the pipeline, check, write, and say what was done."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lepton_ir import api, check, plugins
from lepton_ir.clone import clone_module
from lepton_ir.context import PassContext
from lepton_ir.diagnostics import LeptonError, Remark, UnsupportedError, shorten
from lepton_ir.instruments import CheckEach, PrintAfterChange, VerifyEach
from lepton_ir.pipeline import Instrument, PassManager, PassRecord, Pipeline, Step, count_ops
from lepton_ir.target import Target
from lepton_ir.tools import known_names, sources
from lepton_ir.tools.options import Options, Outcome
from lepton_ir.tools.places import (
    data_files,
    files_size,
    model_bytes,
    move_into_place,
    output_path,
    protect,
    scratch_folder,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.ir import Module
    from lepton_ir.tools.attribute import Attribute
    from lepton_ir.tools.guard import Guard

MAX_EXCLUDED = 16
"""Wrong rewrites that ``--keep-going`` leaves out before giving up."""

ROUNDS = 3
"""Runs that start over because of ``--guard``."""

FULL_DRAWS, FAST_DRAWS = 5, 2

_RUNNABLE = ("onnx", "tflite")
"""Formats of sources that a runtime of the check runs; others are compared as plain ONNX."""

_FROM_MODULE = {"lir": "", "numba": "numba", "plan": "plan"}
"""What is written from the module itself, after the check of its ONNX form; with the backend."""


def optimize(options: Options) -> Outcome:
    """Do one run.

    Raises:
        LeptonError: whatever went wrong; no output file is left then.
    """
    started = time.perf_counter()
    known_names.check_options(options)
    if options.guard is not None:
        from lepton_ir.tools.guard import require_runtime

        require_runtime()
    if options.attribute:
        from lepton_ir.tools import attribute

        attribute.require(options.attribute)
    pipeline = plan(options)
    target = find_target(options.target)
    if options.emit == "tflite" and target.name != "tflite":
        raise LeptonError(
            f"a TFLite file is not for {target.name}", code="target", where="--target"
        )
    path = output_path(options)
    with contextlib.ExitStack() as stack:
        checker = None
        measured = options.guard is not None or bool(options.attribute)
        if options.check != "off" or options.check_each or measured:
            checker = stack.enter_context(
                check.Checker(None, options.check_timeout, options.check_memory)
            )
        run = Run(options, pipeline, path, checker, target)
        try:
            run.open_source(stack)
            outcome = run.execute()
        except LeptonError as error:
            _place(error, options.model, path)
            raise
        except Exception as error:
            raise _explained(error, shorten(options.model, 200)) from error
    outcome.seconds = time.perf_counter() - started
    return outcome


def _explained(error: Exception, model: str) -> LeptonError:
    """Return what a user can do about an exception that is no message of ours."""
    if isinstance(error, RecursionError):
        return UnsupportedError("the model is nested too deeply", code="nesting", where=model)
    if isinstance(error, MemoryError):
        return UnsupportedError(
            "not enough memory for this model",
            code="memory",
            where=model,
            hint="raise the limit, or keep the weights as external data",
        )
    if isinstance(error, OSError):
        return LeptonError(
            f"cannot read or write: {error.strerror or error}",
            code="system",
            where=shorten(str(error.filename or model), 200),
            hint=f"while working on {model}",
        )
    return LeptonError(
        f"{type(error).__name__}: {error}",
        code="internal",
        where=model,
        hint="a bug in Lepton or a plugin: please report it with the command and the model",
    )


def _place(error: LeptonError, model: str, path: str | None) -> None:
    """Put the model's file, or the result's, into the place of an error about it."""
    shown = shorten(model, 200)
    if error.code == "write":
        error.where = shorten(path or "a temporary file", 200)
    elif shown not in error.where and error.code not in _OPTION_CODES:
        error.where = f"{shown}: {error.where}" if error.where else shown


_OPTION_CODES = frozenset(
    {"option", "output", "pipeline", "target", "dim", "calib", "feeds", "plugin"}
)
"""Codes of errors about an option: their place is the option, not the model."""


def plan(options: Options) -> Pipeline:
    """Return the pipeline with everything the options imply."""
    from lepton_ir.pipeline import find_pass

    _check_values(options)
    steps = list(Pipeline.parse(options.passes).steps)
    legalize = Step(Pipeline.parse("legalize").steps[0].item, implied=True)
    if options.opset is not None:
        # What the opset written cannot say goes first: passes clean up behind it, and the
        # module can be written, and compared, after every pass.
        steps[:0] = [*Pipeline.parse("shapes").steps, legalize]
    if options.inline:
        steps[:0] = Pipeline.parse("inline").steps
    if options.dims:
        shapes: Any = find_pass("shapes")
        steps[:0] = [Step(shapes(dim=options.dims), implied=True)]
    if options.emit == "tflite":
        steps += Pipeline.parse("tflite").steps
    if options.io_layout == "nhwc":
        if options.emit != "tflite":
            raise LeptonError("only a TFLite file has one", code="option", where="--io-layout")
        steps += Pipeline.parse("io_layout").steps
    if options.io_type is not None:
        if options.emit != "tflite":
            raise LeptonError("only a TFLite file has one", code="option", where="--io-type")
        steps += Pipeline.parse(f"io_type{{type={options.io_type}}}").steps
    pipeline = Pipeline(tuple(steps)).with_implied()
    if options.opset is not None or options.target != "onnx":
        pipeline = Pipeline((*pipeline.steps, legalize))
    return pipeline


def _check_values(options: Options) -> None:
    """Refuse values that no model could make sense of."""
    from lepton_ir.frontends.onnx.table_schema import MAX_OPSET, MIN_OPSET

    if options.opset is not None and not MIN_OPSET <= options.opset <= MAX_OPSET:
        raise LeptonError(
            f"opset {options.opset} cannot be written",
            code="onnx-opset",
            where="--opset",
            hint=f"{MIN_OPSET} to {MAX_OPSET} can",
        )
    if options.stop_after is not None and options.stop_after < 0:
        raise LeptonError("expected a number from 0 on", code="option", where="--stop-after")
    for path in options.calib:
        if ":" not in path and not os.path.exists(path):
            raise LeptonError(
                "no such file or folder",
                code="calib",
                where=f"--calib: {shorten(path, 200)}",
                hint="give .npz, a folder of .npy or .npz, or module:function",
            )


class Run:
    """State of one run; a bisection repeats parts of it on the reloaded source."""

    def __init__(
        self,
        options: Options,
        pipeline: Pipeline,
        path: str | None,
        checker: check.Checker | None,
        target: Target,
    ) -> None:
        self.options = options
        self.target = target
        # The check runs ONNX, whatever the passes were made for.
        self.written = target if target.name in ("onnx", "ort") else api.target("onnx")
        self.path = path
        self.checker = checker
        self.excluded: frozenset[str] = options.exclude_rewrites
        cut = next((i for i, s in enumerate(pipeline.steps) if s.item.lossy), len(pipeline.steps))
        self.exact = pipeline.steps[:cut]
        self.rest = pipeline.steps[cut:]
        self.facts: dict[str, bool] = {}
        self.notes: list[Remark] = []
        self.sources = [options.model]
        self.guard: Guard | None = None
        self.measured: tuple[str, tuple[str, ...], str] | None = None
        self.attribute: Attribute | None = None

    # -- pieces ------------------------------------------------------------------------------

    def load(self) -> Module:
        """Load the source; a bisection does so again."""
        options = self.options
        module = sources.load(options)
        if options.opset is not None:
            # The IR has one meaning for all versions: this only says what is written.
            module.opsets[""] = options.opset
        return module

    def open_source(self, stack: contextlib.ExitStack) -> None:
        """Let the child run the source while this process works on it."""
        if self.checker is None:
            return
        options = self.options
        self.checker.start()
        model = options.model
        if not os.path.exists(model):
            return  # the import says what is wrong with it
        if not self._runs_as_it_is(model):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            model = os.path.join(folder, "source.onnx")
            try:
                self.save_onnx(self.load(), model)
            except UnsupportedError as error:
                self.checker.give_up(f"the source cannot be run: {error.message}")
                return
        elif not os.path.isfile(model):
            return
        if options.attribute:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="lepton-"))
            self.measured = (model, options.attribute, scratch)
        if options.guard is not None:
            from lepton_ir.tools.guard import Guard

            self.guard = Guard(self, model)
        draws = FULL_DRAWS if options.check == "full" else FAST_DRAWS
        sizes = {}
        for item in options.dims:
            name, _, size = item.rpartition("=")
            if size.isdecimal() and len(size) < 20:
                sizes[name] = int(size)
        self.checker.open(
            model,
            draws=draws,
            feeds=list(options.check_inputs),
            sizes=sizes,
            size=model_bytes(options.model),
        )

    def _runs_as_it_is(self, model: str) -> bool:
        """Return whether the file itself can be compared with, rather than what it reads as.

        LiteRT keeps variables to itself, which others get as inputs and outputs, and rounds in
        quantized models elsewhere than pairs do.
        """
        form = api.format_of(model)
        if form != "tflite" or self.options.emit == "tflite":
            return form in _RUNNABLE
        module = self.load()
        rounds = ("quantize_linear", "dequantize_linear")
        if "states" in module.main.meta or any(op.name in rounds for op in module.walk()):
            return False
        return check.has_litert()

    def context(self, stop_after: int | None = None) -> PassContext:
        """Return a fresh context."""
        options, guard = self.options, self.guard
        ctx = PassContext(
            want_remarks=options.remarks,
            exclude_rules=options.exclude_rules | (guard.rules if guard else frozenset()),
            exclude_rewrites=self.excluded | (guard.keys if guard else frozenset()),
            keep_nodes=options.keep_nodes,
            stop_after=options.stop_after if stop_after is None else stop_after,
            progress=options.progress,
            feeds=options.calib,
        )
        ctx.data |= {
            "quant_exclude": options.quant_exclude,
            "quant_max_drop": options.max_drop,
            "quant_metric": options.metric,
        }
        ctx.data["model_path"] = os.path.abspath(options.model)
        return ctx

    def instruments(self) -> list[Instrument]:
        """Return what watches the run."""
        found: list[Instrument] = []
        if self.options.verify_each:
            found.append(VerifyEach())
        if self.options.print_after_change:
            found.append(PrintAfterChange())
        if self.options.check_each:
            found.append(CheckEach(self._check_pass))
        if self.options.attribute and self.measured is not None:
            from lepton_ir.tools.attribute import Attribute

            self.attribute = Attribute(self, *self.measured)
            found.append(self.attribute)
        return found

    def _check_pass(self, step: Step, module: Module, record: PassRecord) -> None:
        if step.item.lossy:
            return
        verdict = self.compare(module)
        if verdict["status"] == "mismatch":
            raise check.CheckFailedError(
                f"the result is wrong after this pass: {describe_verdict(verdict)}",
                code="check",
                where=f"pass {step} (#{record.number})",
            )

    def compare(self, module: Module, lossy: bool = False) -> dict[str, Any]:
        """Write the module to a scratch file and judge it."""
        assert self.checker is not None
        with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
            scratch = os.path.join(folder, "result.onnx")
            if not self.checker.gave_up:
                self.save_onnx(module, scratch)
            return self._compared(scratch, module, lossy)

    def _compared(self, path: str, module: Module, lossy: bool) -> dict[str, Any]:
        """Judge a file that was written for ``module``."""
        assert self.checker is not None
        ends = {"channels_last": module.meta.get("io_layout"), "codes": module.meta.get("io_type")}
        return self.checker.compare(path, lossy=lossy, facts=self.facts, ends=ends)

    def lacks(self, module: Module) -> bool:
        """Return whether the target lacks an operation that decomposes into others."""
        names = {
            op.name for op in module.walk() if op.definition and op.definition.decompose is not None
        }
        return any(not self.written.has(name, module, {}) for name in sorted(names))

    def check_nodes(self, module: Module) -> None:
        """Refuse names in ``--keep-node`` that no node of the source has."""
        known_names.check_nodes(self.options.keep_nodes, module)

    def legalize(self, module: Module) -> None:
        """Decompose what the target lacks; not subject to the options that leave rewrites out."""
        ctx = PassContext(target=self.written)
        PassManager(ctx).run(Pipeline.parse("legalize"), module)

    def save_scratch(self, module: Module, path: str) -> None:
        """Write what is compared and moved into place, at the end of the pipeline."""
        if self.options.emit == "tflite":
            notes: list[tuple[str, str]] = []
            api.save(module, path, format="tflite", notes=notes)
            self.notes = [Remark("note", "tflite", where, text) for where, text in notes]
        else:
            self.save_onnx(module, path)

    def save_onnx(self, module: Module, path: str) -> None:
        """Write ONNX; ``module`` keeps operations that the target lacks, the file does not."""
        if self.lacks(module):
            module = clone_module(module)
            self.legalize(module)
        api.save(module, path, format="onnx", opset=self.options.opset)

    # -- the run -----------------------------------------------------------------------------

    def execute(self) -> Outcome:
        """Load, optimize, check, write."""
        options = self.options
        for _ in range(MAX_EXCLUDED + (ROUNDS if self.guard else 0)):
            module = self.load()
            self.check_nodes(module)
            self.sources = [options.model, *data_files(module)]
            if self.path is not None:
                protect(self.path, self.sources)
            outcome = Outcome(options.model)
            outcome.nodes = (count_ops(module), 0)
            outcome.size = (files_size(options.model, module), 0)
            outcome.excluded = sorted(self.excluded - options.exclude_rewrites)
            if self.checker is not None:
                self.checker.allow_for(outcome.size[0], outcome.nodes[0])
                self.facts = check.facts_of(module)
            ctx = self.context()
            ctx.target = self.target
            manager = PassManager(ctx, self.instruments())
            manager.run_steps(self.exact, module)
            if self.rest:
                if self.checked:
                    outcome.verdict = self.compare(module)
                    if self.mismatch(outcome.verdict, ctx):
                        continue
                manager.run_steps(self.rest, module)
            if options.emit == "onnx" and self.lacks(module):
                self.legalize(module)
            outcome.records = manager.records
            outcome.rules = dict(ctx.rule_hits)
            outcome.deltas = {n: (c, ctx.rule_bytes[n]) for n, c in ctx.rule_nodes.items()}
            ctx.drop_stale()
            outcome.remarks = [*module.remarks, *ctx.remarks]
            outcome.layers = list(ctx.data.get("layers", ()))
            outcome.nodes = (outcome.nodes[0], count_ops(module))
            if not self._finish(module, outcome, ctx):
                continue
            outcome.remarks += self.notes
            if self.options.attribute:
                outcome.attributed = self._attributed(ctx)
            return outcome
        raise LeptonError(
            f"gave up after leaving out {MAX_EXCLUDED} wrong rewrites",
            code="check",
            hint="report the reproducers; --passes=O1 makes exact rewrites only",
        )

    def _attributed(self, ctx: PassContext) -> dict[str, Any]:
        """Return what passes and rules changed in latency and numbers."""
        from lepton_ir.tools.attribute import Attribution

        if self.attribute is None:
            problem = "the source cannot be run"
            return Attribution(self.options.attribute, problem=problem).as_json()
        return self.attribute.finish(ctx).as_json()

    @property
    def checked(self) -> bool:
        """Whether results are compared at the end."""
        return self.checker is not None and self.options.check != "off"

    def _finish(self, module: Module, outcome: Outcome, ctx: PassContext) -> bool:
        """Write to a scratch folder, check there, and move into place; ``False`` to try again."""
        options = self.options
        if self.path is None and not self.checked and self.guard is None:
            return True
        with scratch_folder(self.path) as folder:
            name = os.path.basename(self.path or "result.onnx")
            direct = options.emit not in _FROM_MODULE
            scratch = os.path.join(folder, name if direct else "result.onnx")
            runnable = self.checker is not None and not self.checker.gave_up
            if direct or (self.checked and runnable) or self.guard is not None:
                self.save_scratch(module, scratch)
            if self.checked:
                verdict = self._judge(module, scratch, outcome)
                if self.rest:
                    outcome.lossy = verdict
                    _require_runnable(verdict)
                else:
                    outcome.verdict = verdict
                    if self.mismatch(verdict, ctx):
                        return False
            if self.guard is not None:
                if not self.guard.passes(scratch, ctx):
                    return False
                outcome.guard = self.guard.report
            elif options.guard is not None:
                outcome.guard = {"problem": "the source cannot be run", "excluded": []}
            if self.path is not None:
                if not direct:
                    for leftover in os.listdir(folder):
                        os.unlink(os.path.join(folder, leftover))
                    api.save(module, os.path.join(folder, name), format=_FROM_MODULE[options.emit])
                outcome.size = (outcome.size[0], move_into_place(folder, self.path, self.sources))
                outcome.output = self.path
        return True

    def _judge(self, module: Module, scratch: str, outcome: Outcome) -> dict[str, Any]:
        """Compare what was written, or, where nothing runs it here, the module behind it."""
        assert self.checker is not None
        if self.options.emit == "tflite" and not check.has_litert():
            text = "LiteRT is not installed: the graph was checked before it was written"
            outcome.remarks.append(Remark("note", "check", shorten(self.options.model), text))
            return self.compare(module, lossy=bool(self.rest))
        return self._compared(scratch, module, bool(self.rest))

    def mismatch(self, verdict: dict[str, Any], ctx: PassContext) -> bool:
        """Return whether to run again without a wrong rewrite; raises when not allowed to."""
        if verdict["status"] != "mismatch":
            return False
        culprit = self._culprit(len(ctx.rewrites))
        key = ctx.rewrites[culprit - 1] if culprit else None
        if self.options.keep_going and key is not None:
            self.excluded |= {key}
            return True
        reproducer = self._write_reproducer(culprit)
        notes = [f"reproducer: {reproducer}"] if reproducer else []
        if self.options.reduce is not None and self.path is not None:
            smaller = self._write_reduced()
            notes.append(f"reduced: {smaller}" if smaller else "it could not be reduced")
        if key is not None:
            notes.insert(0, f"the rewrite {key} (number {culprit}) makes the difference")
        raise check.CheckFailedError(
            f"the result is wrong: {describe_verdict(verdict)}",
            code="check",
            where=self.options.model,
            hint="--keep-going leaves that rewrite out; please report it"
            if key
            else "no single rewrite does it; please report it",
            notes=tuple(notes),
        )

    def _partial(self, rewrites: int) -> Module:
        module = self.load()
        ctx = self.context(stop_after=rewrites)
        ctx.target = self.target
        PassManager(ctx).run_steps(self.exact, module)
        return module

    def _culprit(self, total: int) -> int | None:
        def is_bad(count: int) -> bool:
            try:
                return bool(self.compare(self._partial(count))["status"] == "mismatch")
            except UnsupportedError:  # halfway to a target, ONNX may not say it
                return False

        if total == 0 or is_bad(0):
            return None
        return check.bisect(total, is_bad)

    def _write_reproducer(self, culprit: int | None) -> str | None:
        """Write the source as text with the pipeline; named after the output, beside it."""
        if self.path is None:
            return None
        base = os.path.splitext(self.path)[0]
        target = f"{base}.repro.lir"
        from lepton_ir.text.write import write_reproducer
        from lepton_ir.tools import reproduce

        text = reproduce.option_text(self.options, self.excluded, culprit)
        try:
            write_reproducer(self.load(), target, ",".join(map(str, self.exact)), text)
        except (LeptonError, OSError):
            return None
        return target

    def _write_reduced(self) -> str | None:
        """Shrink the failure, and write that beside the output, too."""
        from lepton_ir.tools import reduce

        assert self.path is not None
        passes = ",".join(map(str, self.exact))
        options = replace(self.options, passes=passes, exclude_rewrites=self.excluded)
        return reduce.beside(self.load(), options, f"{os.path.splitext(self.path)[0]}.reduced.lir")


def _require_runnable(verdict: dict[str, Any]) -> None:
    reason = str(verdict.get("reason", ""))
    if verdict["status"] == "mismatch" and ("refuses" in reason or "fails where" in reason):
        raise check.CheckFailedError(reason, code="check", hint="please report this")


def find_target(name: str) -> Target:
    """Return the target called ``name``.

    Raises:
        LeptonError: there is none; lists those that are.
    """
    known = [n for n in plugins.names("backends") if not n.startswith("runner-")]
    found = plugins.load("backends", name) if name in known else None
    if not isinstance(found, Target):
        raise LeptonError(
            f"no target is called {name!r}",
            code="target",
            where="--target",
            hint=f"there are {', '.join(known)}",
        )
    return found


def describe_verdict(verdict: dict[str, Any]) -> str:
    """Return a verdict in a few words."""
    status, reason = verdict["status"], verdict.get("reason") or ""
    output = f'output "{verdict["output"]}"' if verdict.get("output") else ""
    if status == "equal":
        draws = verdict.get("draws", 0)
        plural = "" if draws == 1 else "s"
        largest = verdict.get("largest", 0.0)
        return f"equal on {draws} input{plural} (largest difference {largest:.2g})"
    return ": ".join(filter(None, [output, reason])) or status


def run_reproducer(path: str, options: Options) -> Outcome:
    """Run the pipeline that a reproducer names on the module it holds.

    Raises:
        LeptonError: not a reproducer.
    """
    from lepton_ir.tools import reproduce

    return optimize(reproduce.read(path, options))


def rule_table(outcome: Outcome, limit: int = 12) -> Sequence[tuple[str, int]]:
    """Return the rules that fired most."""
    hits = sorted(outcome.rules.items(), key=lambda kv: (-kv[1], kv[0]))
    return [(name, count) for name, count in hits if count > 0][:limit]
