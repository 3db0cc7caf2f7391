"""Random ONNX models, and Lepton's pipelines checked on them through onnxruntime.

    python -m lepton_ir.tools.fuzz --seeds 0:2000 --jobs 2
    python -m lepton_ir.tools.fuzz --seeds 17 --passes O2 --save failing

Models are made with `onnx.helper` alone and pass `onnx.checker` with strict shape inference. Both
the source and the result run in onnxruntime with its own optimizations off, under several sizes of
the symbolic dims. Verdicts:

* `ok`: the same outputs (integers exactly, floats within the tolerance of the pipeline);
* `wrong`: other outputs or another interface;
* `invalid`: onnxruntime or the checker rejects the result;
* `refused`: Lepton reported a diagnostic; `crashed`: any other exception, or no answer in time;
* `source`: the model itself is at fault, which is a bug of the generator.

A failing model is saved with its feeds, whole and reduced.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lepton_ir.diagnostics import LeptonError
from lepton_ir.tools.failures import one_line, origin
from lepton_ir.tools.fuzz_control import grow
from lepton_ir.tools.fuzz_graph import (
    ELEM_TYPES,
    FEED_RANGES,
    NP_TYPES,
    Context,
    Dim,
    Scope,
    Shape,
    Tensor,
    static,
)
from lepton_ir.tools.lepton_api import Lepton
from lepton_ir.tools.runners import compare_values, run_model
from lepton_ir.tools.worker_pool import run_isolated

__all__ = [
    "Finding",
    "check_model",
    "check_seed",
    "draws_of",
    "main",
    "random_feeds",
    "random_model",
]

Feeds = dict[str, np.ndarray]

DRAWS = 3
"""Assignments of the symbolic dims under which a model is valid."""

_OPSETS = (9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 18, 19, 20, 20, 21, 21, 22)
_IR_VERSIONS = {9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9}
_NEWEST_IR = 10
_TIMEOUT = 60.0
_DRAWS_KEY = "fuzz.draws"

TOLERANCES = {"O1": 2e-5, "O2": 1e-3}
"""Relative tolerance for float32 by pipeline, also relative to the largest value of a tensor."""

_HALF_TOLERANCE = 2e-2


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one seed: the pipeline it was found with, the reason, and the time it took."""

    seed: int
    verdict: str
    passes: str = ""
    reason: str = ""
    seconds: float = 0.0


# -- making models -----------------------------------------------------------------------------


def random_model(seed: int) -> onnx.ModelProto:
    """Return the model of a seed; its metadata hold the sizes of its symbolic dims."""
    return _build(seed)[0]


def _build(seed: int) -> tuple[onnx.ModelProto, dict[str, int]]:
    rng = random.Random(seed)
    context = Context(
        rng=rng, opset=rng.choice(_OPSETS), symbols=_symbols(rng), draws=DRAWS,
        odd_names=rng.random() < 0.15,
    )  # fmt: skip
    scope = Scope(context)
    for index in range(rng.randint(1, 4)):
        dtype = "f32" if index == 0 else rng.choice(["f32", "f32", "f32", "i64", "bool", "i32",
                                                     "f64", "u8", "f16"])  # fmt: skip
        scope.feed(dtype, _feed_shape(context, 1 if index == 0 else 0))
    grow(scope, rng.randint(4, 22))
    outputs = _outputs(scope)
    _default_inputs(scope)
    graph = helper.make_graph(
        scope.nodes, f"seed {seed}", context.inputs, outputs, scope.initializers
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", context.opset)],
        ir_version=_IR_VERSIONS.get(context.opset, _NEWEST_IR), producer_name="lepton-fuzz",
    )  # fmt: skip
    draws = [
        {name: dim[i] for name, dim in context.symbols.items() if dim is not None}
        for i in range(DRAWS)
    ]
    helper.set_model_props(model, {_DRAWS_KEY: json.dumps(draws)})
    return model, context.histogram


def _symbols(rng: random.Random) -> dict[str, Dim]:
    """Return up to two symbolic dims; in every draw each has another size, now and then zero."""
    names = rng.choice([("N", "M"), ("N", "M"), ("batch", "seq len"), ("N",), ()])
    symbols: dict[str, Dim] = {}
    taken: set[Dim] = set()
    for name in names:
        sizes = rng.sample(range(1, 6), DRAWS)
        if rng.random() < 0.12:
            sizes[rng.randrange(DRAWS)] = 0
        dim = tuple(sizes)
        if dim not in taken:
            symbols[name] = dim
            taken.add(dim)
    return symbols


def _feed_shape(context: Context, least_rank: int) -> Shape:
    rng = context.rng
    shape: list[Dim] = []
    for _ in range(rng.choice([least_rank, 1, 2, 2, 3, 3, 4])):
        if context.symbols and rng.random() < 0.35:
            shape.append(rng.choice(list(context.symbols.values())))
        else:
            size = 0 if rng.random() < 0.02 else rng.randint(1, 4)
            shape.append(context.dim(size))
    return tuple(shape)


def _outputs(scope: Scope) -> list[onnx.ValueInfoProto]:
    """Choose the outputs: what nobody reads, some of the rest, and odd ones."""
    rng = scope.rng
    made = [t for t in scope.tensors if any(t.name in node.output for node in scope.nodes[-200:])]
    unread = [t for t in made if t.name not in scope.used]
    rng.shuffle(unread)
    chosen = unread[:6] + [t for t in made if rng.random() < 0.08][:3]
    if rng.random() < 0.08:
        chosen.append(rng.choice(scope.tensors[:1]))
    if rng.random() < 0.1 and scope.initializers:
        names = {proto.name for proto in scope.initializers}
        chosen += [t for _, t in scope.constants if t.name in names][:1]
    if chosen and rng.random() < 0.1:
        chosen += [scope.emit("Identity", [chosen[0]]), scope.emit("Identity", [chosen[0]])]
    if not chosen:
        chosen = [scope.emit("Identity", [scope.tensors[0]])]
    unique = list({t.name: t for t in chosen}.values())
    if rng.random() < 0.06:
        unique.append(unique[0])
    return [_declare(scope.context, t) for t in unique]


def _declare(context: Context, t: Tensor) -> onnx.ValueInfoProto:
    by_dim = {dim: name for name, dim in context.symbols.items()}
    sizes: list[int | str | None] = []
    for dim in t.shape:
        size = static(dim)
        sizes.append(size if size is not None else by_dim.get(dim))
    return helper.make_tensor_value_info(t.name, ELEM_TYPES[t.dtype], sizes)


def _default_inputs(scope: Scope) -> None:
    """Make an initializer an input with a default now and then."""
    if scope.initializers and scope.rng.random() < 0.08:
        proto = scope.rng.choice(scope.initializers)
        scope.context.inputs.append(
            helper.make_tensor_value_info(proto.name, proto.data_type, proto.dims)
        )


def draws_of(model: onnx.ModelProto) -> list[dict[str, int]]:
    """Return the sizes of the symbolic dims under which a generated model is valid."""
    props = {entry.key: entry.value for entry in model.metadata_props}
    draws: list[dict[str, int]] = json.loads(props.get(_DRAWS_KEY, "[{}]"))
    return draws


def random_feeds(model: onnx.ModelProto, seed: int, dims: Mapping[str, int]) -> Feeds:
    """Return values for the inputs without defaults.

    Args:
        model: from `random_model`.
        seed: of the values.
        dims: the sizes of the symbolic dims.
    """
    by_elem_type = {elem: name for name, elem in ELEM_TYPES.items()}
    defaults = {proto.name for proto in model.graph.initializer}
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        if value.name in defaults:
            continue
        tensor = value.type.tensor_type
        shape = [dims[d.dim_param] if d.dim_param else d.dim_value for d in tensor.shape.dim]
        dtype = by_elem_type[tensor.elem_type]
        lo, hi = FEED_RANGES[dtype]
        if NP_TYPES[dtype].kind == "f":
            feeds[value.name] = rng.uniform(lo, hi, shape).astype(NP_TYPES[dtype])
        else:
            drawn = rng.integers(int(lo), int(hi) + 1, shape)
            feeds[value.name] = np.asarray(drawn).astype(NP_TYPES[dtype])
    return feeds


# -- checking ----------------------------------------------------------------------------------


class _FoundError(Exception):
    def __init__(self, verdict: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


def _session(model: onnx.ModelProto, verdict: str) -> Session:
    try:
        return Session(model)
    except Exception as error:
        raise _FoundError(verdict, one_line(error)) from error


class Session:
    """A model in onnxruntime without graph optimizations."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnxruntime as ort

        ort.set_default_logger_severity(4)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.inner = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {value.name for value in self.inner.get_inputs()}
        self.outputs = [value.name for value in self.inner.get_outputs()]

    def run(self, feeds: Feeds) -> list[np.ndarray]:
        """Return the outputs; feeds for inputs that are gone are left out."""
        present = {name: value for name, value in feeds.items() if name in self.inputs}
        return [np.asarray(value) for value in self.inner.run(None, present)]


def optimize(model: onnx.ModelProto, passes: str) -> onnx.ModelProto:
    """Return `model` after Lepton's pipeline."""
    lepton = Lepton()
    module = lepton.load(model)
    lepton.run_passes(module, passes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.onnx"
        lepton.save(module, path)
        return onnx.load(path)


def check_model(
    model: onnx.ModelProto, passes: str, draws: Iterable[tuple[dict[str, int], int]]
) -> tuple[str, str]:
    """Return the verdict on one pipeline, and its reason.

    Args:
        model: the source.
        passes: the pipeline.
        draws: sizes of the symbolic dims, each with a seed for the feeds.
    """
    return check_feeds(model, passes, [random_feeds(model, seed, dims) for dims, seed in draws])


def check_feeds(model: onnx.ModelProto, passes: str, all_feeds: Sequence[Feeds]) -> tuple[str, str]:
    """Return the verdict on one pipeline over given feeds, and its reason."""
    try:
        source = _session(model, "source")
        expected = [_run(source, feeds, "source") for feeds in all_feeds]
        result_model = optimize(model, passes)
        _check_valid(model, result_model)
        result = _session(result_model, "invalid")
        if result.outputs != source.outputs:
            raise _FoundError("wrong", f"outputs {source.outputs} became {result.outputs}")
        for feeds, wanted in zip(all_feeds, expected, strict=True):
            actual = _run(result, feeds, "invalid")
            _compare(source.outputs, wanted, actual, _tolerance(model, passes))
    except _FoundError as error:
        return error.verdict, str(error)
    except LeptonError as error:
        return "refused", one_line(error)
    except Exception as error:
        return "crashed", f"{type(error).__name__}: {one_line(error)} ({origin(error)})"
    return "ok", ""


def _check_valid(source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:
        raise _FoundError("invalid", f"checker: {one_line(error)}") from error
    before = {value.name for value in source.graph.input}
    added = [value.name for value in result.graph.input if value.name not in before]
    if added:
        raise _FoundError("wrong", f"new inputs {added}")


def _run(session: Session, feeds: Feeds, verdict: str) -> list[np.ndarray]:
    try:
        return session.run(feeds)
    except Exception as error:
        raise _FoundError(verdict, one_line(error)) from error


def _tolerance(model: onnx.ModelProto, passes: str) -> float:
    if any(TensorProto.FLOAT16 in _elem_types(graph) for graph in [model.graph]):
        return _HALF_TOLERANCE
    return TOLERANCES.get(passes, TOLERANCES["O2"])


def _elem_types(graph: onnx.GraphProto) -> set[int]:
    found = {value.type.tensor_type.elem_type for value in graph.input}
    found |= {proto.data_type for proto in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to":
                found.add(attribute.i)
            if attribute.HasField("g"):
                found |= _elem_types(attribute.g)
    return found


def _compare(
    names: Sequence[str], expected: list[np.ndarray], actual: list[np.ndarray], tolerance: float
) -> None:
    for name, want, have in zip(names, expected, actual, strict=True):
        scale = 1.0
        if want.dtype.kind == "f":
            finite = np.abs(want[np.isfinite(want)], dtype=np.float64)
            scale = max(1.0, float(finite.max(initial=0.0)))
        reason = compare_values(want, have, tolerance, tolerance * scale, f"output {name!r}")
        if reason:
            raise _FoundError("wrong", reason)


def _seed_draws(model: onnx.ModelProto, seed: int) -> list[tuple[dict[str, int], int]]:
    """Return the draws that a seed is checked with: all of them, or two when dims do not matter."""
    draws = draws_of(model)
    return [(dims, seed + 7919 * i) for i, dims in enumerate(draws if draws[0] else draws[:2])]


def check_seed(seed: int, passes: Sequence[str] = ("O1", "O2")) -> Finding:
    """Check one seed with each pipeline and return the first verdict that is not `ok`."""
    started = time.monotonic()
    model = random_model(seed)
    draws = _seed_draws(model, seed)
    for pipeline in passes:
        verdict, reason = check_model(model, pipeline, draws)
        if verdict != "ok":
            return Finding(seed, verdict, pipeline, reason, time.monotonic() - started)
    return Finding(seed, "ok", seconds=time.monotonic() - started)


def check_source(seed: int, runners: Sequence[str] = ("ort-opt",)) -> Finding:
    """Check the generator itself: the model is valid, runs, and has one right answer.

    The outputs must have the declared shapes, and `runners` (keys of `runners.RUNNERS`) must agree
    with onnxruntime without optimizations, or the model depends on what the standard leaves open.
    A runner that fails to run the model has no say: that is its own fault.
    """
    started = time.monotonic()
    verdict, reason = "ok", ""
    compared: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
    try:
        model = random_model(seed)
        onnx.checker.check_model(model, full_check=True)
        session = Session(model)
        for dims, feed_seed in _seed_draws(model, seed):
            feeds = random_feeds(model, feed_seed, dims)
            expected = session.run(feeds)
            _check_shapes(model, expected, dims)
            for runner in runners:
                with contextlib.suppress(Exception):
                    compared.append((expected, run_model(runner, model, feeds)))
        for expected, actual in compared:
            _compare(session.outputs, expected, actual, _tolerance(model, "O2"))
    except Exception as error:
        verdict, reason = "source", f"{type(error).__name__}: {one_line(error)} ({origin(error)})"
    return Finding(seed, verdict, "", reason, time.monotonic() - started)


def _check_shapes(
    model: onnx.ModelProto, outputs: Sequence[np.ndarray], dims: Mapping[str, int]
) -> None:
    for value, output in zip(model.graph.output, outputs, strict=True):
        declared = [
            dims[d.dim_param] if d.dim_param else d.dim_value if d.HasField("dim_value") else None
            for d in value.type.tensor_type.shape.dim
        ]
        wrong = len(declared) != output.ndim or any(
            size is not None and size != got
            for size, got in zip(declared, output.shape, strict=False)
        )
        if wrong:
            raise ValueError(f"{value.name}: declared {declared}, computed {output.shape}")


# -- the command line --------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; the exit code is 0 when every seed is `ok`."""
    options = _parser().parse_args(arguments)
    seeds = _parse_seeds(options.seeds)
    passes = options.passes.split(";")

    def run(seed: int) -> Finding:
        if options.self_check:
            return check_source(seed, options.self_check.split(","))
        return check_seed(seed, passes)

    started = time.monotonic()
    findings = []
    for outcome in run_isolated(run, seeds, jobs=options.jobs, timeout=options.timeout):
        if isinstance(outcome.value, Finding):
            finding = outcome.value
        else:
            reason = f"{outcome.status}: {outcome.value}"
            finding = Finding(seeds[outcome.index], "crashed", "", reason, outcome.seconds)
        findings.append(finding)
        if sys.stderr.isatty():
            print(f"\r{len(findings)}/{len(seeds)}", end="", file=sys.stderr)
    findings.sort(key=lambda finding: finding.seed)
    failures = [finding for finding in findings if finding.verdict != "ok"]
    _report(findings, failures, time.monotonic() - started, options.limit)
    if options.histogram:
        _print_histogram(seeds)
    if options.json:
        options.json.write_text(json.dumps([asdict(f) for f in findings], indent=1) + "\n")
    if options.save:
        for finding in failures[: options.limit]:
            save_failure(finding, options.save)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lepton_ir.tools.fuzz",
        description="Check Lepton's pipelines on random models.",
    )
    parser.add_argument("--seeds", default="0:200", metavar="A:B|N", help="half-open range or one")
    parser.add_argument(
        "--passes", default="O1;O2", help="pipelines, separated by semicolons (default O1;O2)"
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--timeout", type=float, default=_TIMEOUT, help="seconds a seed may take")
    parser.add_argument("--limit", type=int, default=40, help="failures shown and saved")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings to FILE")
    parser.add_argument("--save", type=Path, metavar="DIR", help="save and reduce failing models")
    parser.add_argument("--histogram", action="store_true", help="count the ops of the models")
    parser.add_argument(
        "--self-check", metavar="RUNNERS", default="",
        help="check the generator only, against these runners: ort-opt, ref",
    )  # fmt: skip
    return parser


def _parse_seeds(text: str) -> list[int]:
    first, colon, last = text.partition(":")
    return list(range(int(first or 0), int(last))) if colon else [int(first)]


def _report(
    findings: Sequence[Finding], failures: Sequence[Finding], seconds: float, limit: int
) -> None:
    counts = Counter(finding.verdict for finding in findings)
    each = sum(finding.seconds for finding in findings) / max(1, len(findings))
    print(f"\n{counts['ok']} of {len(findings)} ok in {seconds:.0f} s, {each * 1e3:.0f} ms a seed")
    for verdict, count in counts.most_common():
        if verdict != "ok":
            print(f"  {count:5} {verdict}")
    for finding in failures[:limit]:
        print(f"  seed {finding.seed}: {finding.verdict} {finding.passes} {finding.reason}")
    if len(failures) > limit:
        print(f"  ... and {len(failures) - limit} more (--limit, --json)")


def _print_histogram(seeds: Sequence[int]) -> None:
    counts: Counter[str] = Counter()
    for seed in seeds:
        counts.update(_build(seed)[1])
    for op, count in counts.most_common():
        print(f"  {count:7} {op}")


def save_failure(finding: Finding, folder: Path) -> None:
    """Write the model of a failing seed, its feeds and a reduced model with feeds to `folder`."""
    from lepton_ir.tools.fuzz_reduce import reduce_model

    folder.mkdir(parents=True, exist_ok=True)
    model = random_model(finding.seed)
    all_feeds = [random_feeds(model, seed, dims) for dims, seed in _seed_draws(model, finding.seed)]
    _write_case(folder / f"seed{finding.seed}", model, all_feeds[0])
    if finding.verdict not in {"wrong", "invalid", "refused", "crashed"} or not finding.passes:
        return

    def fails(candidate: onnx.ModelProto, feeds: Feeds) -> bool:
        return check_feeds(candidate, finding.passes, [feeds])[0] == finding.verdict

    for feeds in all_feeds:
        if fails(model, feeds):
            small, small_feeds = reduce_model(model, feeds, fails)
            _write_case(folder / f"seed{finding.seed}.small", small, small_feeds)
            print(f"  seed {finding.seed}: reduced to {len(small.graph.node)} nodes in {folder}")
            return


def _write_case(stem: Path, model: onnx.ModelProto, feeds: Feeds) -> None:
    onnx.save(model, f"{stem}.onnx")
    # Names of inputs may hold any character, so the arrays stand in the order of the inputs.
    defaults = {proto.name for proto in model.graph.initializer}
    order = [value.name for value in model.graph.input if value.name not in defaults]
    np.savez(f"{stem}.npz", *[feeds[name] for name in order if name in feeds])


if __name__ == "__main__":
    sys.exit(main())
