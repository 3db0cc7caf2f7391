"""Shrinking a failure: ``lepton-opt reduce MODEL --passes=...`` finds a small model that fails too.

The failure is what a run ends with: the message of a refusal or a crash, or the kind of difference
that the check finds. Whatever still fails in the same way is kept: fewer outputs, fewer passes,
fewer operations (what the others gave becomes an input), plain constants, small dims. Everything is
greedy and bounded in time.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lepton_ir import check, dims
from lepton_ir.clone import clone_module
from lepton_ir.diagnostics import LeptonError, shorten
from lepton_ir.infer import infer_function, reset_block
from lepton_ir.pipeline import Combinator, Pipeline, Step, count_ops
from lepton_ir.tensors import SplatTensor, Tensor, from_array
from lepton_ir.tools import known_names, optimize
from lepton_ir.tools.extract import build, extract_ops, needed
from lepton_ir.tools.options import Options
from lepton_ir.tools.reduce_regions import opened, openings
from lepton_ir.types import TensorType
from lepton_ir.verify import verify_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module, Op

T = TypeVar("T")

SECONDS = 60.0
"""Time for a reduction, unless the user says otherwise."""

SPLAT = 0.5
"""What plain constants hold: positive, so that variances stay what they must be, and exact."""

MAX_CONTENT = 64
"""Elements of the integer constants (shapes, sizes) in which a size is replaced, too."""


@dataclass
class Reduced:
    """A smaller model and pipeline that fail in the same way.

    Attributes:
        module: the model.
        passes: text of the pipeline.
        failure: what both end with.
        message: the error of the last trial that failed.
        trials: models tried.
        finished: whether nothing was left to try; else the time was up.
    """

    module: Module
    passes: str
    failure: str
    message: str
    trials: int = 0
    finished: bool = True


class _Candidate(optimize.Run):
    """A run on a module in memory that ends at the first mismatch."""

    module: Module

    def load(self) -> Module:
        module = clone_module(self.module)
        if self.options.opset is not None:
            module.opsets[""] = self.options.opset
        return module

    def check_nodes(self, module: Module) -> None:
        """The nodes to keep may be gone."""

    def mismatch(self, verdict: dict[str, Any], ctx: PassContext) -> bool:
        if verdict["status"] == "mismatch":
            raise check.CheckFailedError(optimize.describe_verdict(verdict), code="check")
        return False


def failure_of(error: LeptonError) -> str:
    """Return what identifies a failure: its code and message without names and numbers.

    >>> failure_of(LeptonError('output "y": it differs by up to 0.5 of 2', code="check"))
    'check: numbers differ'
    """
    text = re.sub(r"^output \".*?\": ", "", error.message)
    if re.match(r"it differs by|[\d.]+% of", text):
        text = "numbers differ"
    text = re.sub(r"\"[^\"]*\"|'[^']*'|%\S+|-?\d[\d.e+-]*", "#", text)
    return f"{error.code}: {text[:120]}"


class Reducer:
    """Tries candidates until the time is up.

    Args:
        options: of the run that fails; ``model``, ``passes`` and files of outputs do not matter.
        checker: runs the candidates.
        seconds: time for everything.
    """

    def __init__(self, options: Options, checker: check.Checker, seconds: float) -> None:
        self.options = dataclasses.replace(
            options, emit="none", output=None, check_inputs=(), keep_going=False, progress=None
        )
        self.checker: check.Checker | None = checker
        self.target = optimize.find_target(options.target)
        self.deadline = time.monotonic() + seconds
        self.failure = ""
        self.message = ""
        self.trials = 0

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.deadline

    def fails(self, module: Module | None, passes: str) -> bool:
        """Return whether a candidate fails in the same way; never after the time is up."""
        if module is None or self.late:
            return False
        error = self.run(module, passes)
        if error is None or failure_of(error) != self.failure:
            return False
        self.message = error.render()
        return True

    def run(self, module: Module, passes: str) -> LeptonError | None:
        """Return what a run on a module ends with; ``None`` when nothing fails."""
        self.trials += 1
        try:
            verify_module(module)
            pipeline = optimize.plan(dataclasses.replace(self.options, passes=passes))
        except LeptonError:
            return None
        with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
            path = os.path.join(folder, "source.onnx")
            options = dataclasses.replace(self.options, model=path, passes=passes)
            run = _Candidate(options, pipeline, None, self.checker, self.target)
            run.module = module
            if self.checker is not None:
                try:
                    run.save_onnx(clone_module(module), path)
                except LeptonError as error:
                    self.checker.give_up(error.message)
                else:
                    draws = optimize.FAST_DRAWS
                    self.checker.open(path, draws=draws, nodes=count_ops(module))
            try:
                run.execute()
            except LeptonError as error:
                return error
            except Exception as error:
                return LeptonError(f"{type(error).__name__}: {error}", code="internal")
        return None


def shrink(items: list[T], fails: Callable[[list[T]], bool], least: int = 1) -> list[T]:
    """Return a shorter list for which ``fails`` holds, as it does for ``items``.

    Leaves out runs of half the list, then of a quarter, down to single items, until no single one
    can go (Zeller and Hildebrandt's ddmin, complements only).

    >>> shrink(list(range(20)), lambda kept: {3, 17} <= set(kept))
    [3, 17]
    """
    size = max(len(items) // 2, 1)
    while len(items) > least:
        start, before = 0, len(items)
        while start < len(items):
            rest = items[:start] + items[start + size :]
            if len(rest) >= least and fails(rest):
                items = rest
            else:
                start += size
        if size == 1 and len(items) == before:
            break
        size = max(size // 2, 1)
    return items


def reduce(module: Module, options: Options, seconds: float = SECONDS) -> Reduced:
    """Return a smaller module and pipeline that fail as these do.

    Args:
        module: the model; not changed.
        options: of the run that fails, ``passes`` included.
        seconds: time for everything; a trial that runs at the end may take longer.

    Raises:
        LeptonError: the run does not fail.
    """
    with check.Checker(None, options.check_timeout, options.check_memory) as checker:
        reducer = Reducer(options, checker, seconds)
        if options.check == "off":
            reducer.checker = None
        passes = options.passes
        error = reducer.run(module, passes)
        if error is None:
            raise LeptonError(
                "the pipeline does not fail on this model",
                code="reduce",
                hint="nothing to reduce; give the options of the run that fails",
            )
        reducer.failure, reducer.message = failure_of(error), error.render()
        if error.code != "check":  # it fails before anything is compared
            reducer.checker = None
        module, passes = _rounds(reducer, module, passes)
    return Reduced(
        module, passes, reducer.failure, reducer.message, reducer.trials, not reducer.late
    )


def _rounds(reducer: Reducer, module: Module, passes: str) -> tuple[Module, str]:
    while True:
        before = _measure(module, passes)
        module = _fewer_outputs(reducer, module, passes)
        passes = _fewer_passes(reducer, module, passes)
        module = _fewer_regions(reducer, module, passes)
        module = _fewer_ops(reducer, module, passes)
        module = _fewer_outputs(reducer, module, passes)
        module = _plain_constants(reducer, module, passes)
        module = _smaller_dims(reducer, module, passes)
        if reducer.late or _measure(module, passes) == before:
            return module, passes


def _measure(module: Module, passes: str) -> tuple[int, ...]:
    outputs = len(module.main.output_names)
    return (count_ops(module), outputs, len(Pipeline.parse(passes).steps), _elements(module))


def _elements(module: Module) -> int:
    return sum(t.size for _, t in _constants(module) if not isinstance(t, SplatTensor))


def _attempt(make: Callable[[], Module]) -> Module | None:
    """Return what ``make`` builds, ``None`` when it cannot."""
    try:
        return make()
    except (LeptonError, ValueError, IndexError):
        return None


# ----- what is tried


def _fewer_outputs(reducer: Reducer, module: Module, passes: str) -> Module:
    main = module.main
    pairs = [(v, n) for v, n in zip(main.outputs, main.output_names, strict=True) if v is not None]

    def cut(kept: list[Any]) -> Module:
        ops, ends = needed(main, [v for v, _ in kept], set())
        return build(module, ops, list(ends), kept)

    found = shrink(pairs, lambda kept: reducer.fails(_attempt(lambda: cut(kept)), passes))
    smaller = _attempt(lambda: cut(found))  # unused operations and inputs go as well
    if smaller is not None and (len(found) < len(pairs) or reducer.fails(smaller, passes)):
        return smaller
    return module


def _fewer_passes(reducer: Reducer, module: Module, passes: str) -> str:
    def text(steps: Iterable[Step]) -> str:
        return ",".join(map(str, steps))

    steps = list(Pipeline.parse(passes).steps)
    steps = shrink(steps, lambda kept: reducer.fails(module, text(kept)))
    for i, step in enumerate(steps):
        if isinstance(step.item, Combinator):
            flat = [*steps[:i], *step.item.body, *steps[i + 1 :]]
            if reducer.fails(module, text(flat)):
                steps = shrink(flat, lambda kept: reducer.fails(module, text(kept)))
                break
    return text(steps)


def _fewer_regions(reducer: Reducer, module: Module, passes: str) -> Module:
    """Put what a branch or a loop's body computes in the place of the operation."""
    places = openings(module)
    while places and not reducer.late:
        place, region = places.pop(0)
        candidate = _attempt(lambda m=module, p=place, r=region: opened(m, p, r))  # type: ignore[misc]
        if reducer.fails(candidate, passes):
            assert candidate is not None
            module = _fewer_outputs(reducer, candidate, passes)  # what fed the others is gone
            places = openings(module)
    return module


def _fewer_ops(reducer: Reducer, module: Module, passes: str) -> Module:
    ops = [op for op in module.main.block.ops if op.name not in ("const", "return")]
    best = [module]

    def fails(kept: list[Op]) -> bool:
        candidate = _attempt(lambda: extract_ops(module, kept))
        if candidate is None or not reducer.fails(candidate, passes):
            return False
        best[0] = candidate
        return True

    shrink(ops, fails)
    return best[0]


def _constants(module: Module) -> list[tuple[Op, Tensor]]:
    return [
        (op, op.attrs["value"])
        for op in module.walk()
        if op.name == "const" and isinstance(op.attrs.get("value"), Tensor)
    ]


def _plain_constants(reducer: Reducer, module: Module, passes: str) -> Module:
    places = [
        i
        for i, (_, tensor) in enumerate(_constants(module))
        if tensor.size > 1 and tensor.dtype.is_float and not isinstance(tensor, SplatTensor)
    ]
    best = [module]

    def fails(dense: list[int]) -> bool:
        candidate = clone_module(module)
        found = _constants(candidate)
        for i in set(places).difference(dense):
            op, tensor = found[i]
            op.set_attr("value", SplatTensor(SPLAT, tensor.dtype, tensor.shape))
        if not reducer.fails(candidate, passes):
            return False
        best[0] = candidate
        return True

    if places and not fails([]):
        shrink(places, fails)
    return best[0]


def _smaller_dims(reducer: Reducer, module: Module, passes: str) -> Module:
    for symbol in sorted(_symbols(module)):
        candidate = _attempt(lambda m=module, s=symbol: _with_symbol(m, s, 2))  # type: ignore[misc]
        if reducer.fails(candidate, passes):
            assert candidate is not None
            module = candidate
    for size in sorted(_sizes(module), reverse=True):
        options = [(n, c) for n in dict.fromkeys((1, 2, size // 2)) if n < size for c in (0, 1)]
        for new, contents in options:
            if reducer.late:
                return module
            candidate = _attempt(
                lambda m=module, s=size, n=new, c=contents: _resized(m, s, n, bool(c))  # type: ignore[misc]
            )
            if reducer.fails(candidate, passes):
                assert candidate is not None
                module = candidate
                break
    return module


def _symbols(module: Module) -> set[str]:
    shapes = [v.shape or () for v in module.main.inputs]
    return {s for shape in shapes for d in shape if d is not None for s in dims.symbols(d)}


def _sizes(module: Module) -> set[int]:
    shapes: list[Any] = [v.shape or () for v in module.main.inputs]
    shapes += [tensor.shape for _, tensor in _constants(module)]
    return {d for shape in shapes for d in shape if isinstance(d, int) and d > 1}


def _with_symbol(module: Module, symbol: str, size: int) -> Module:
    made = clone_module(module)
    for value in made.main.inputs:
        if isinstance(value.type, TensorType) and value.type.shape is not None:
            shape = (
                d if d is None else dims.substitute(d, {symbol: size}) for d in value.type.shape
            )
            value.type = value.type.with_shape(shape)
    return _inferred(made)


def _resized(module: Module, size: int, new: int, contents: bool) -> Module:
    """Return a copy where dims of ``size`` are ``new``, in inputs and constants alike.

    Args:
        module: the model.
        size: what is replaced wherever it occurs.
        new: a smaller size.
        contents: also replace it among the elements of small integer constants.
    """
    made = clone_module(module)
    for value in made.main.inputs:
        if isinstance(value.type, TensorType) and value.type.shape is not None:
            value.type = value.type.with_shape(new if d == size else d for d in value.type.shape)
    for op, tensor in _constants(made):
        if size in tensor.shape:
            op.set_attr("value", _cropped(tensor, size, new))
        elif contents and tensor.dtype.name in ("i32", "i64") and tensor.size <= MAX_CONTENT:
            array = tensor.numpy().copy()
            array[array == size] = new
            op.set_attr("value", from_array(array, tensor.dtype))
    return _inferred(made)


def _cropped(tensor: Tensor, size: int, new: int) -> Tensor:
    shape = tuple(new if d == size else d for d in tensor.shape)
    if isinstance(tensor, SplatTensor):
        return SplatTensor(tensor.value, tensor.dtype, shape)
    array = tensor.numpy()[tuple(slice(d) for d in shape)]
    return from_array(array.copy(), tensor.dtype)


def _inferred(module: Module) -> Module:
    """Infer afresh; what files declared about the old sizes is forgotten."""
    main = module.main
    main.meta.pop("outputs", None)
    for op in main.walk():
        for result in op.results:
            result.declared = None
            if op.name == "const" and isinstance(op.attrs.get("value"), Tensor):
                result.type, result.content = op.attrs["value"].type, None
    reset_block(main.block)
    infer_function(main)
    return module


# ----- what is written


def write(found: Reduced, options: Options, path: str) -> None:
    """Write a reproducer (``.lir``: text, run by ``--run-reproducer``) or the model alone."""
    from lepton_ir import api
    from lepton_ir.text.write import write_reproducer
    from lepton_ir.tools import reproduce

    if path.endswith(".lir"):
        left = known_names.node_names(found.module)
        options = dataclasses.replace(options, keep_nodes=options.keep_nodes & left)
        text = reproduce.option_text(options, options.exclude_rewrites, options.stop_after)
        write_reproducer(found.module, path, found.passes, text)
    else:
        api.save(found.module, path)


def render(found: Reduced, source: Module, path: str) -> str:
    """Return what was done, for people."""
    left = found.module
    sides = [
        ("nodes", count_ops(source), count_ops(left)),
        ("inputs", len(source.main.inputs), len(left.main.inputs)),
        ("outputs", len(source.main.output_names), len(left.main.output_names)),
        ("elements of constants", _elements(source), _elements(left)),
    ]
    lines = [f"  {name:<24} {a:>12,} -> {b:>10,}" for name, a, b in sides]
    lines.append(f"  fails with {shorten(found.failure, 200)}")
    lines.append(f"  --passes={shorten(found.passes, 200)}")
    state = "nothing more to leave out" if found.finished else "the time is up (--seconds)"
    lines.append(f"  {found.trials} trials: {state}")
    lines.append(f"  wrote {path}")
    return "\n".join(lines)


def beside(module: Module, options: Options, path: str) -> str | None:
    """Reduce a failed run and write the reproducer to ``path``; ``None`` if it cannot."""
    try:
        found = reduce(module, options, options.reduce or SECONDS)
        write(found, options, path)
    except (LeptonError, OSError):
        return None
    return path


def parser() -> argparse.ArgumentParser:
    """Return the argument parser of the subcommand."""
    p = argparse.ArgumentParser(
        prog="lepton-opt reduce",
        description="Shrink a model and a pipeline that fail to a small pair that fails alike.",
        allow_abbrev=False,
    )
    p.add_argument("model", metavar="MODEL", help="the model, or a reproducer (.lir)")
    p.add_argument("--passes", metavar="PIPELINE", help="the pipeline (O2, or the reproducer's)")
    p.add_argument("-o", "--output", metavar="OUT", help="output file (MODEL.reduced.lir)")
    p.add_argument("--seconds", type=float, default=SECONDS, help="time for everything (60)")
    p.add_argument("--target", default="onnx", help="what will run the result: onnx, ort (onnx)")
    p.add_argument("--opset", type=int, metavar="N", help="ONNX opset of the result")
    p.add_argument(
        "--check", choices=("off", "fast", "full"), default="fast", help="see lepton-opt"
    )
    p.add_argument("--check-timeout", type=float, metavar="SECONDS", help="time for one step")
    p.add_argument("--verify-each", action="store_true", help="verify the IR after every pass")
    for name, kind in (("--exclude-rule", "NAME"), ("--exclude-rewrite", "KEY")):
        p.add_argument(name, action="append", default=[], metavar=kind, help="not this")
    p.add_argument("--keep-node", action="append", default=[], metavar="NAME", help="not touched")
    p.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load passes, ops")
    return p


def _options(args: argparse.Namespace) -> Options:
    from lepton_ir.tools import reproduce

    options = Options(
        args.model,
        passes=args.passes or "O2",
        target=args.target,
        opset=args.opset,
        check=args.check,
        check_timeout=args.check_timeout,
        verify_each=args.verify_each,
        exclude_rules=frozenset(args.exclude_rule),
        exclude_rewrites=frozenset(args.exclude_rewrite),
        keep_nodes=frozenset(args.keep_node),
    )
    if args.passes is None and args.model.endswith(".lir"):
        try:
            options = reproduce.read(args.model, options)
        except LeptonError:
            return options  # plain text of a model
        # It counts rewrites of the whole model; the pipeline alone must fail.
        options = dataclasses.replace(options, stop_after=None)
    return options


def run(args: argparse.Namespace) -> int:
    """Reduce, write, and say what was done."""
    from lepton_ir import api
    from lepton_ir.tools.places import check_output

    if not 0 < args.seconds < 1e9:
        raise LeptonError("expected a positive number", code="option", where="--seconds")
    path = args.output or f"{os.path.splitext(args.model)[0]}.reduced.lir"
    check_output(path, args.model)
    module = api.load(args.model)
    options = _options(args)
    known_names.check_options(options)
    known_names.check_nodes(options.keep_nodes, module)
    found = reduce(module, options, args.seconds)
    write(found, options, path)
    print(render(found, module, path))
    return 0
