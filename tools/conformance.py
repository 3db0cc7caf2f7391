"""Measure Lepton on ONNX's own backend tests, all of which the installed `onnx` wheel carries.

    python -m lepton_ir.tools.conformance --mode o2
    python -m lepton_ir.tools.conformance --mode roundtrip --filter reduce --json result.json
    python -m lepton_ir.tools.conformance --mode interp
    python -m lepton_ir.tools.conformance --mode numba
    python -m lepton_ir.tools.conformance --mode tflite

A test case is a model with inputs and expected outputs. Cases that neither onnxruntime nor onnx's
reference evaluator reproduces say nothing about an optimizer (random ops, training ops); the list
of the others, with the runner that reproduces each, is `tests/data/onnx_backend_expected.txt`,
made by `--mode find --write-expected`. Verdicts:

* `ok`: the expected outputs, within the tolerances of the case;
* `wrong`: other outputs, or text that does not round-trip;
* `invalid`: a result that `onnx.checker` or the runner rejects;
* `refused`: Lepton reported a diagnostic instead of a result;
* `crashed`: any other exception, a dead process or no answer in time;
* `unsupported`: the case uses an op that has no meaning in the op table (`interp`, `numba`), or
  that TFLite cannot express according to `tflite_classes` (`tflite`, `tflite-classes`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.tools.failures import one_line, origin
from lepton_ir.tools.lepton_api import Lepton
from lepton_ir.tools.runners import RUNNERS, Feeds, Value, compare_values, normalize, run_model
from lepton_ir.tools.worker_pool import Outcome, run_isolated

__all__ = ["MODES", "Case", "Result", "load_cases", "load_expected", "main", "measure"]

EXPECTED_FILE = "tests/data/onnx_backend_expected.txt"
_FOLDER_KINDS = ("real", "simple", "pytorch-converted", "pytorch-operator")
_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """One backend test: a model (in memory or in a folder) and its tolerances.

    `loaded` holds the model and data sets of a generated case; the others are read on demand.
    """

    name: str
    kind: str
    rtol: float
    atol: float
    folder: Path | None = None
    loaded: tuple[onnx.ModelProto, list[tuple[list[Value], list[Value]]]] | None = None

    def load(self) -> tuple[onnx.ModelProto, list[tuple[Feeds, list[Value]]]]:
        """Return the model, and for every data set the feeds by name and the expected outputs."""
        if self.loaded is not None:
            model, data_sets = self.loaded
        elif self.kind == "real":
            assert self.folder is not None
            model, data_sets = _load_light(self.folder)
        else:
            assert self.folder is not None
            model, data_sets = _load_folder(self.folder)
        return model, [
            (_name_feeds(model, [normalize(v) for v in inputs]), [normalize(v) for v in outputs])
            for inputs, outputs in data_sets
        ]


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one case, the reason for anything but `ok`, and the time it took."""

    name: str
    verdict: str
    reason: str
    seconds: float


class _VerdictError(Exception):
    """Ends the measurement of a case with a verdict other than `ok`."""

    def __init__(self, verdict: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


# -- the cases ---------------------------------------------------------------------------------


def load_cases(filter_text: str = "") -> list[Case]:
    """Return the cases of `onnx.backend.test` whose names contain `filter_text`, by name."""
    from onnx.backend.test.loader import load_model_tests

    cases = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for test in load_model_tests(kind="node"):
            assert test.model is not None
            assert test.data_sets is not None
            loaded = (test.model, [(list(i), list(o)) for i, o in test.data_sets])
            cases.append(Case(test.name, test.kind, test.rtol, test.atol, None, loaded))
        for kind in _FOLDER_KINDS:
            for test in load_model_tests(kind=kind):
                folder = _light_path(test.url) if test.url else Path(test.model_dir or "")
                cases.append(Case(test.name, kind, test.rtol, test.atol, folder))
    return sorted((case for case in cases if filter_text in case.name), key=lambda c: c.name)


def _light_path(url: str) -> Path:
    return Path(onnx.__file__).parent / Path(url).relative_to("onnx")


def _load_light(path: Path) -> tuple[onnx.ModelProto, list[tuple[list[Value], list[Value]]]]:
    """Read a light model, which onnx runs on a ramp; its outputs lie beside it."""
    model = onnx.load(path)
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs: list[Value] = []
    for value in model.graph.input:
        if value.name not in initializers:
            shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
            size = int(np.prod(shape))
            inputs.append((np.arange(size).reshape(shape) / size).astype(np.float32))
    outputs = []
    for index in range(len(model.graph.output)):
        data = path.with_name(f"{path.stem}_output_{index}.pb").read_bytes()
        outputs.append(onnx.TensorProto.FromString(data))
    return model, [(inputs, outputs)]


def _load_folder(folder: Path) -> tuple[onnx.ModelProto, list[tuple[list[Value], list[Value]]]]:
    model = onnx.load(folder / "model.onnx")
    data_sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        inputs = [_read_value(data / f"input_{i}.pb", v) for i, v in enumerate(model.graph.input)]
        outputs = [
            _read_value(data / f"output_{i}.pb", v) for i, v in enumerate(model.graph.output)
        ]
        count = len(list(data.glob("input_*.pb")))
        data_sets.append((inputs[:count], outputs))
    return model, data_sets


def _read_value(path: Path, info: onnx.ValueInfoProto) -> Value:
    if not path.exists():
        return None
    kind = info.type.WhichOneof("value")
    data = path.read_bytes()
    if kind == "sequence_type":
        return normalize(onnx.SequenceProto.FromString(data))
    if kind == "optional_type":
        return normalize(onnx.OptionalProto.FromString(data))
    return normalize(onnx.TensorProto.FromString(data))


def _name_feeds(model: onnx.ModelProto, inputs: Sequence[Value]) -> Feeds:
    """Name positional inputs; those of old models leave out the inputs that have initializers."""
    names = [value.name for value in model.graph.input]
    if len(inputs) < len(names):
        initializers = {tensor.name for tensor in model.graph.initializer}
        names = [name for name in names if name not in initializers]
    return dict(zip(names, inputs, strict=False))


# -- the list of what the runners reproduce ----------------------------------------------------


def load_expected(path: Path) -> dict[str, str]:
    """Read lines `name runner`; a runner of "-" means that none reproduces the case."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split()[:2] for line in lines if line and not line.startswith("#"))


def _write_expected(path: Path, found: dict[str, str]) -> None:
    import onnxruntime

    header = (
        f"# Cases of onnx.backend.test (onnx {onnx.__version__}) and the first runner that gives\n"
        f"# the expected outputs: ort (onnxruntime {onnxruntime.__version__}, no graph\n"
        "# optimizations), ort-opt (with them), ref (onnx's reference evaluator), - (none).\n"
    )
    body = "".join(f"{name} {runner}\n" for name, runner in sorted(found.items()))
    path.write_text(header + body, encoding="utf-8")


# -- the modes ---------------------------------------------------------------------------------


def _check_outputs(runner: str, case: Case, model: onnx.ModelProto, name: str) -> None:
    """Run every data set of `case` through `model`, which must give the expected outputs."""
    _, data_sets = case.load()
    for feeds, expected in data_sets:
        try:
            actual = run_model(runner, model, feeds)
        except Exception as error:
            raise _VerdictError("invalid", f"{name}: {one_line(error)}") from error
        reason = compare_values(expected, actual, case.rtol, case.atol)
        if reason:
            raise _VerdictError("wrong", f"{name}: {reason}")


def _find_runner(case: Case) -> str:
    """Return the first runner that gives the expected outputs of `case`."""
    reasons = []
    model, _ = case.load()
    for runner in RUNNERS:
        try:
            _check_outputs(runner, case, model, runner)
        except _VerdictError as error:
            reasons.append(str(error))
        else:
            return runner
    raise _VerdictError("wrong", "; ".join(reasons))


def _save_and_check(lepton: Lepton, module: Any, case: Case, runner: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.onnx"
        lepton.save(module, path)
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            if _source_passes_checker(case):
                raise _VerdictError("invalid", f"checker: {one_line(error)}") from error
        result = onnx.load(path)
    _check_outputs(runner, case, result, "result")


def _source_passes_checker(case: Case) -> bool:
    try:
        onnx.checker.check_model(case.load()[0])
    except onnx.checker.ValidationError:
        return False
    return True


def _measure_source(case: Case, runner: str, passes: str) -> None:
    """Check the untouched model: what the tool itself can get wrong."""
    _check_outputs(runner, case, case.load()[0], "source")


def _measure_optimized(case: Case, runner: str, passes: str) -> None:
    lepton = Lepton()
    module = lepton.load(case.load()[0])
    lepton.run_passes(module, passes)
    _save_and_check(lepton, module, case, runner)


def _measure_round_trip(case: Case, runner: str, passes: str) -> None:
    """Check print -> parse -> print, and that import -> text -> export still computes the same."""
    lepton = Lepton()
    module = lepton.load(case.load()[0])
    with tempfile.TemporaryDirectory() as folder:
        first = lepton.print(module, Path(folder))
        parsed = lepton.parse(first, Path(folder))
        second = lepton.print(parsed, Path(folder))
    if first != second:
        raise _VerdictError("wrong", _first_difference(first, second))
    _save_and_check(lepton, module, case, runner)
    _save_and_check(lepton, parsed, case, runner)


def _first_difference(first: str, second: str) -> str:
    pairs = zip(first.splitlines(), second.splitlines(), strict=False)
    for number, (before, after) in enumerate(pairs, 1):
        if before != after:
            return f"text line {number}: {before.strip()!r} became {after.strip()!r}"
    return "text differs in length"


def _measure_interpreter(case: Case, runner: str, passes: str) -> None:
    lepton = Lepton()
    model, data_sets = case.load()
    module = lepton.load(model)
    for feeds, expected in data_sets:
        try:
            actual = [normalize(value) for value in lepton.interpret(module, feeds)]
        except UnsupportedError as error:
            raise _VerdictError("unsupported", one_line(error)) from error
        reason = compare_values(expected, actual, case.rtol, case.atol)
        if reason:
            raise _VerdictError("wrong", reason)


def _measure_numba(case: Case, runner: str, passes: str, machine: str = "host") -> None:
    """Run the case through the Numba backend, optimized as a user would run it."""
    lepton = Lepton()
    model, data_sets = case.load()
    session = None
    for feeds, expected in data_sets:
        try:
            session = session or lepton.compile(lepton.load(model), passes, machine)
            actual = [normalize(value) for value in session.run(None, feeds)]
        except UnsupportedError as error:
            raise _VerdictError("unsupported", one_line(error)) from error
        reason = compare_values(expected, actual, case.rtol, case.atol)
        if reason:
            raise _VerdictError("wrong", reason)


def _measure_numba_generic(case: Case, runner: str, passes: str) -> None:
    _measure_numba(case, runner, passes, "generic")


def _measure_classes(case: Case, runner: str, passes: str) -> None:
    """Say whether TFLite can express the case, from what is known of its operators alone."""
    from lepton_ir.tools.tflite_classes import classify

    lepton = Lepton()
    module = lepton.load(case.load()[0])
    lepton.run_passes(module, "shapes,inline,fold")
    reason = classify(module)
    if reason:
        raise _VerdictError("unsupported", reason)


def _rounding(expected: Sequence[Value]) -> float:
    """Return four steps of f32 at the largest number: sums may be taken in another order."""
    arrays = [v for v in expected if isinstance(v, np.ndarray) and v.dtype == np.float32]
    with np.errstate(invalid="ignore"):
        finite = [np.abs(a[np.isfinite(a)]).max(initial=0.0) for a in arrays]
    return 4 * 2.0**-23 * float(max(finite, default=0.0))


def _measure_tflite(case: Case, runner: str, passes: str) -> None:
    """Write the case as a TFLite file and run that in LiteRT, which ends the worker if it must."""
    lepton = Lepton()
    model, data_sets = case.load()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.tflite"
        try:
            module = lepton.load(model)
            for pipeline in (f"{passes},tflite", "legalize"):
                lepton.run_passes(module, pipeline, "tflite")
            lepton.save(module, path)
        except UnsupportedError as error:
            _measure_classes(case, runner, passes)  # says so if that was to be expected
            raise _VerdictError("refused", one_line(error)) from error
        for feeds, expected in data_sets:
            try:
                actual = lepton.run_tflite(path, feeds)
            except Exception as error:
                raise _VerdictError("invalid", one_line(error)) from error
            rtol = case.rtol
            if any(getattr(v, "dtype", None) == np.float16 for v in expected):
                rtol = max(rtol, 2.0**-9)  # two steps: kernels round more or less often
            reason = compare_values(expected, actual, rtol, max(case.atol, _rounding(expected)))
            if reason:
                raise _VerdictError("wrong", reason)


MODES: dict[str, Callable[[Case, str, str], None]] = {
    "source": _measure_source,
    "o2": _measure_optimized,
    "roundtrip": _measure_round_trip,
    "interp": _measure_interpreter,
    "tflite": _measure_tflite,
    "tflite-classes": _measure_classes,
    "numba": _measure_numba,
    "numba-generic": _measure_numba_generic,
}
"""What is measured, by the name of the mode: a function of case, runner and pipeline."""


def _judge(measure_case: Callable[[], None]) -> tuple[str, str]:
    try:
        measure_case()
    except _VerdictError as error:
        return error.verdict, str(error)
    except LeptonError as error:
        return "refused", one_line(error)
    except Exception as error:
        return "crashed", f"{type(error).__name__}: {one_line(error)} ({origin(error)})"
    return "ok", ""


def measure(
    mode: str,
    cases: Sequence[Case],
    runners: dict[str, str],
    *,
    passes: str = "O2",
    jobs: int = 2,
    timeout: float = _TIMEOUT,
    progress: Callable[[int, Result], None] | None = None,
) -> list[Result]:
    """Measure `cases` in forked workers; one result per case, in the order of `cases`.

    Args:
        mode: a key of `MODES`.
        cases: from `load_cases`; those without a runner in `runners` are left out.
        runners: case name to runner name, from `load_expected`.
        passes: the pipeline of mode `o2`.
        jobs: worker processes.
        timeout: seconds a case may take.
        progress: called with the count of finished cases and the newest result.
    """
    chosen = [case for case in cases if runners.get(case.name, "-") != "-"]
    function = MODES[mode]

    def run(case: Case) -> tuple[str, str]:
        return _judge(lambda: function(case, runners[case.name], passes))

    outcomes = run_isolated(run, chosen, jobs=jobs, timeout=timeout)
    return _gather(chosen, outcomes, progress)


def _find_runners(
    cases: Sequence[Case], jobs: int, progress: Callable[[int, Result], None]
) -> list[Result]:
    """Find each case's runner; it is the `reason` of a case that is `ok`."""

    def run(case: Case) -> tuple[str, str]:
        try:
            return "ok", _find_runner(case)
        except _VerdictError as error:
            return error.verdict, str(error)

    return _gather(cases, run_isolated(run, cases, jobs=jobs, timeout=_TIMEOUT), progress)


def _gather(
    cases: Sequence[Case],
    outcomes: Iterable[Outcome],
    progress: Callable[[int, Result], None] | None,
) -> list[Result]:
    results: list[Result | None] = [None] * len(cases)
    for count, outcome in enumerate(outcomes, 1):
        if outcome.status == "done":
            assert isinstance(outcome.value, tuple)
            verdict, reason = outcome.value
        else:
            verdict, reason = "crashed", f"{outcome.status}: {outcome.value}"
        result = Result(cases[outcome.index].name, verdict, reason, outcome.seconds)
        results[outcome.index] = result
        if progress:
            progress(count, result)
    return [result for result in results if result]


# -- the command line --------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; the exit code is 0 when every case is `ok` or `unsupported`."""
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    cases = load_cases(options.filter)[:: options.every]

    def progress(count: int, result: Result) -> None:
        if sys.stderr.isatty():
            print(f"\r{count}/{len(cases)} {result.name[:60]:60}", end="", file=sys.stderr)

    if options.mode == "find":
        results = _find_runners(cases, options.jobs, progress)
        if options.write_expected:
            found = {r.name: r.reason if r.verdict == "ok" else "-" for r in results}
            _write_expected(options.expected, found)
    else:
        results = measure(
            options.mode,
            cases,
            load_expected(options.expected),
            passes=options.passes,
            jobs=options.jobs,
            timeout=options.timeout,
            progress=progress,
        )
    _report(options.mode, results, time.monotonic() - started, options.limit)
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    return 0 if all(r.verdict in {"ok", "unsupported"} for r in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lepton_ir.tools.conformance",
        description="Measure Lepton on the backend tests that the onnx wheel carries.",
    )
    parser.add_argument("--mode", choices=[*MODES, "find"], default="o2")
    parser.add_argument("--passes", default="O2", help="pipeline of mode o2 (default O2)")
    parser.add_argument("--filter", default="", metavar="TEXT", help="cases whose name has TEXT")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth case only")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--timeout", type=float, default=_TIMEOUT, help="seconds a case may take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE")
    parser.add_argument("--limit", type=int, default=40, help="failures shown (default 40)")
    parser.add_argument("--expected", type=Path, default=Path(EXPECTED_FILE), metavar="FILE")
    parser.add_argument(
        "--write-expected", action="store_true", help="mode find: write the --expected file"
    )
    return parser


def _report(mode: str, results: Sequence[Result], seconds: float, limit: int) -> None:
    counts = Counter(result.verdict for result in results)
    print(f"\n{mode}: {counts['ok']} of {len(results)} ok in {seconds:.0f} s")
    for verdict, count in counts.most_common():
        if verdict != "ok":
            print(f"  {count:5} {verdict}")
    failures = [r for r in results if r.verdict not in {"ok", "unsupported"}]
    for result in failures[:limit]:
        print(f"  {result.verdict:8} {result.name}: {result.reason}")
    if len(failures) > limit:
        print(f"  ... and {len(failures) - limit} more (--limit, --json)")


if __name__ == "__main__":
    sys.exit(main())
