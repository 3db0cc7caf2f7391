"""The command line: ``lepton-opt MODEL --passes=fuse,quant``.

Nothing heavy is imported before the arguments are parsed, so that ``--help`` is instant.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lepton_ir.tools.options import Options, Outcome

EXAMPLES = """\
examples:
  lepton-opt model.onnx                           optimize (O2), check, write model.opt.onnx
  lepton-opt model.onnx --passes=fuse,quant       fuse, then quantize (dynamic)
  lepton-opt model.onnx --passes='fuse,quant{mode=static}' --calib=samples.npz
  lepton-opt model.onnx --dim batch=1 --opset 17 -o small.onnx
  lepton-opt model.onnx --emit=lir -o model.lir   the readable text form
  lepton-opt model.onnx -o model.lepton           ready for lepton-run

subcommands (each has --help):
  lepton-opt extract MODEL --inputs a --outputs b   cut out a part by tensor names
  lepton-opt diff A B                               compare two models
  lepton-opt reduce MODEL --passes=...              shrink a failure to a minimal one
A model file of such a name is given as ./extract.

Exit code 0: the result was written (and found equal, unless the check says why it cannot tell);
1: one clear error, and no output file.
"""


SUBCOMMANDS = frozenset({"extract", "diff", "reduce"})
"""First words that mean the module of this name in ``lepton_ir.tools``, loaded when used."""


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r:.40}")
    return number


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = argparse.ArgumentParser(
        prog="lepton-opt",
        description="Make a neural-network model smaller and faster without making it wrong.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="the model (.onnx, .pt2, .keras, .h5, .pb, .tflite, .lir, a SavedModel folder)",
    )
    p.add_argument("-o", "--output", metavar="OUT", help="output file (MODEL.opt.onnx)")
    p.add_argument("--passes", default="O2", metavar="PIPELINE", help="what to do (O2)")
    p.add_argument(
        "--emit",
        choices=("onnx", "tflite", "lir", "numba", "plan", "none"),
        help="output format (by the name of OUT)",
    )
    p.add_argument("--target", default="onnx", help="what will run it: onnx, ort, tflite (onnx)")
    p.add_argument("--opset", type=int, metavar="N", help="ONNX opset of the result (the source's)")
    p.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE", help="fix a dim")
    p.add_argument(
        "--io-layout",
        choices=("source", "nhwc"),
        default="source",
        help="layout of a TFLite file's inputs and outputs (source)",
    )
    p.add_argument(
        "--io-type",
        choices=("float32", "int8", "uint8"),
        help="element type of a quantized TFLite file's inputs and outputs (the source's)",
    )
    p.add_argument("--inline", action="store_true", help="inline the model's local functions")
    p.add_argument(
        "--keep-overridable",
        action="store_true",
        help="keep initializers that are also inputs as inputs",
    )
    p.add_argument(
        "--signature",
        default="",
        metavar="KEY",
        help="read this signature of a TFLite file or SavedModel (the first one, serving_default)",
    )
    p.add_argument(
        "--frontend", default="", metavar="NAME", help="what reads the model (by its content)"
    )
    p.add_argument(
        "--custom-layer",
        action="append",
        default=[],
        metavar="NAME=MODULE:FUNCTION",
        help="your own code that builds a Keras layer of your own",
    )
    p.add_argument(
        "--calib",
        action="append",
        default=[],
        metavar="DATA",
        help="calibration data: .npz, a folder of .npy/.npz, or module:function (your own code)",
    )
    p.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load passes, ops")
    g = p.add_argument_group("check")
    g.add_argument(
        "--check",
        choices=("off", "fast", "full"),
        default="fast",
        help="compare source and result numerically (fast)",
    )
    g.add_argument(
        "--check-inputs",
        action="append",
        default=[],
        metavar="FEEDS",
        help="real inputs for the check: .npz or a folder",
    )
    g.add_argument(
        "--check-timeout",
        type=_positive,
        metavar="SECONDS",
        help="what the check may take (7 s, more for large models)",
    )
    g.add_argument(
        "--check-memory",
        type=_positive,
        metavar="GB",
        help="what the check may allocate (1.5 GB, more for large models)",
    )
    g.add_argument("--check-each", action="store_true", help="compare after every pass")
    g.add_argument("--verify-each", action="store_true", help="verify the IR after every pass")
    g.add_argument("--keep-going", action="store_true", help="leave out a rewrite that is wrong")
    g.add_argument(
        "--reduce",
        nargs="?",
        type=_positive,
        const=60.0,
        metavar="SECONDS",
        help="shrink a failure of the check to a small reproducer (60 s)",
    )
    g.add_argument(
        "--guard",
        choices=("ort",),
        help="leave out rewrites that cost onnxruntime a fusion or time",
    )
    g.add_argument("--run-reproducer", metavar="FILE", help="run a reproducer again")
    g = p.add_argument_group("control over rewrites")
    g.add_argument("--stop-after", type=int, metavar="N", help="make only the first N rewrites")
    g.add_argument("--exclude-rule", action="append", default=[], metavar="NAME", help="not this")
    g.add_argument(
        "--exclude-rewrite",
        action="append",
        default=[],
        metavar="KEY",
        help="not this single rewrite, as named in a check's message",
    )
    g.add_argument("--keep-node", action="append", default=[], metavar="NAME", help="not touched")
    g = p.add_argument_group("quantization")
    g.add_argument(
        "--quant-exclude",
        action="append",
        default=[],
        metavar="NAME",
        help="leave this layer in float (a name or a shell pattern)",
    )
    g.add_argument(
        "--max-drop",
        type=_positive,
        metavar="X",
        help="leave layers in float until the metric, or the output, loses no more than this",
    )
    g.add_argument(
        "--metric",
        metavar="MODULE:FUNCTION",
        help="your own code, called with lists of feeds and outputs; higher is better",
    )
    g = p.add_argument_group("report")
    g.add_argument(
        "--report",
        nargs="?",
        const="text",
        choices=("text", "json", "none"),
        help="the result table, or JSON on standard output; spelled out, an error names all nodes",
    )
    g.add_argument(
        "--json", dest="report", action="store_const", const="json", help="same as --report=json"
    )
    g.add_argument(
        "--remarks",
        nargs="?",
        const="",
        metavar="PASS,...",
        help="what passes did and did not do, and why",
    )
    g.add_argument(
        "--attribute",
        nargs="?",
        const="latency,difference",
        metavar="WHAT,...",
        help="latency, difference: what each pass changes of them; rules: also each rule",
    )
    g.add_argument("--timing", action="store_true", help="show every pass with its time")
    g.add_argument("--stats", action="store_true", help="show how often each rule fired")
    g.add_argument("--print-after-change", action="store_true", help="print the IR after passes")
    g.add_argument("--list-passes", action="store_true", help="list passes and pipelines")
    g.add_argument("--list-ops", action="store_true", help="list the IR's operations")
    g.add_argument("--version", action="store_true", help="print the version")
    return p


_EMITS = {".lir": "lir", ".tflite": "tflite", ".lepton": "numba", ".plan": "plan"}
"""Output formats by the suffix of the output."""


def _options(args: argparse.Namespace, progress: Any) -> Options:
    from lepton_ir.tools.options import Options

    remarks = None
    if args.remarks is not None:
        remarks = frozenset(filter(None, args.remarks.split(",")))
    emit = args.emit or _EMITS.get(os.path.splitext(str(args.output))[1], "onnx")
    if not (args.emit or args.output) and args.target in ("onnx", "tflite") and args.model:
        from lepton_ir.api import format_of

        # Where nothing says otherwise a TFLite file stays one.
        emit = "tflite" if format_of(args.model) == "tflite" else emit
    target = "tflite" if emit == "tflite" and args.target == "onnx" else args.target
    return Options(
        model=args.model or "",
        passes=args.passes,
        output=args.output,
        emit=emit,
        target=target,
        opset=args.opset,
        dims=tuple(args.dim),
        io_layout=args.io_layout,
        io_type=args.io_type,
        calib=tuple(args.calib),
        check=args.check,
        check_timeout=args.check_timeout,
        check_memory=None if args.check_memory is None else int(args.check_memory * 1e9),
        check_inputs=tuple(args.check_inputs),
        check_each=args.check_each,
        verify_each=args.verify_each,
        print_after_change=args.print_after_change,
        keep_going=args.keep_going,
        reduce=args.reduce,
        guard=args.guard,
        attribute=tuple(filter(None, (args.attribute or "").split(","))),
        keep_overridable=args.keep_overridable,
        signature=args.signature,
        frontend=args.frontend,
        custom_layers=tuple(args.custom_layer),
        inline=args.inline,
        remarks=remarks,
        stop_after=args.stop_after,
        exclude_rules=frozenset(args.exclude_rule),
        exclude_rewrites=frozenset(args.exclude_rewrite),
        keep_nodes=frozenset(args.keep_node),
        quant_exclude=tuple(args.quant_exclude),
        max_drop=args.max_drop,
        metric=args.metric,
        progress=progress,
    )


def _list(args: argparse.Namespace) -> bool:
    from lepton_ir.tools import report

    if args.list_passes:
        print(report.list_passes())
    if args.list_ops:
        print(report.list_ops())
    return bool(args.list_passes or args.list_ops)


def _run(args: argparse.Namespace) -> int:
    from lepton_ir import plugins
    from lepton_ir.diagnostics import LeptonError

    for path in args.plugin:
        plugins.load_file(path)
    if _list(args):
        return 0
    if args.model is None and args.run_reproducer is None:
        raise LeptonError("no model given", hint="lepton-opt MODEL; see lepton-opt --help")
    from lepton_ir.tools import optimize, report

    progress = report.Progress()
    options = _options(args, progress)
    try:
        if args.run_reproducer is not None:
            outcome = optimize.run_reproducer(args.run_reproducer, options)
        else:
            outcome = optimize.optimize(options)
    finally:
        progress.clear()
    _print(args, outcome)
    return 0


def _print(args: argparse.Namespace, outcome: Outcome) -> None:
    from lepton_ir.tools import report

    if args.report == "json":
        import json

        print(json.dumps(report.as_json(outcome), indent=1, default=str))
        return
    if args.remarks is not None:
        if "missed" in args.remarks.split(","):
            sys.stdout.write(report.render_missed(outcome) + "\n")
        for remark in dict.fromkeys(map(str, outcome.remarks)):
            print(remark)
    if args.report in (None, "text"):
        print(report.render(outcome, timing=args.timing, stats=args.stats))


_ALL_NOTES = 10_000


def _say(error: BaseException, report: str | None) -> None:
    from lepton_ir.diagnostics import LeptonError, shorten

    if isinstance(error, LeptonError):
        text = error.render(_ALL_NOTES) if report == "text" else error.render()
        data = error.as_json()
    else:
        # A bug in Lepton: still one clear line, with what a report needs.
        what = shorten(f"{type(error).__name__}: {error}", 300)
        text = f"error[internal]: {what}\n  help: please report this with the command and the model"
        data = {"severity": "error", "code": "internal", "message": what}
    if report == "json":
        import json

        print(json.dumps({"error": data}))
    if sys.stderr is not None:
        sys.stderr.write(text + "\n")


def _prepare_streams() -> None:
    """Let no character of a foreign name break the output, whatever the encoding."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Turn a request to terminate into an exception, so that temporary files are removed."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, n) for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n)]
    # What the caller set (nohup ignores SIGHUP) stays.
    before = {n: signal.signal(n, leave) for n in numbers if signal.getsignal(n) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_subcommand(args: argparse.Namespace) -> int:
    from lepton_ir import plugins

    for path in args.plugin:
        plugins.load_file(path)
    run: Callable[[argparse.Namespace], int] = args.tool.run
    return run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in SUBCOMMANDS:
        tool = importlib.import_module(f"lepton_ir.tools.{words[0]}")
        args = tool.parser().parse_args(words[1:])
        args.tool = tool
        return _guarded(_run_subcommand, args)
    args = parser().parse_args(words)
    if args.version:
        import lepton_ir

        print(f"lepton-opt {lepton_ir.__version__}")
        return 0
    return _guarded(_run, args)


def _guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run; turn whatever goes wrong into one clear message and an exit code."""
    # Ops and values refer to one another, so the collector would walk all of them again and
    # again and free little; a run ends before that matters.
    gc.disable()
    _prepare_streams()
    try:
        with _ending_cleanly():
            return run(args)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if os.environ.get("LEPTON_TRACEBACK"):
            raise
        _say(error, getattr(args, "report", None))
        return 1


def run() -> NoReturn:
    """Run the command line as a process of its own.

    Leaves without taking the model's graph apart object by object, which for large models takes
    longer than some passes.
    """
    code = main()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
