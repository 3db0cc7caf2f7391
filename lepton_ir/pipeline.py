"""Passes and pipelines: the base class, the pipeline grammar, and the manager that runs them.

::

    pipeline := step ("," step)*
    step     := NAME options? ("(" pipeline ")")?      # "(...)" for combinators only
    options  := "{" (KEY ["=" value])+ "}"

A pass is a frozen dataclass; its fields are its command-line options, its docstring is its help,
and ``str(pipeline)`` parses back to the same pipeline.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lepton_ir import plugins
from lepton_ir.diagnostics import LeptonError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module, Op

MAX_REPEATS = 1000
MAX_ROUNDS = 10


class PipelineError(LeptonError):
    """A pipeline text that cannot be parsed; the message has a caret under the user's text."""

    def __init__(self, message: str, text: str, position: int, hint: str = "") -> None:
        shown = text if len(text) <= 100 else text[:100] + "..."
        caret = (shown, " " * min(position, len(shown)) + "^")
        super().__init__(message, code="pipeline", where="--passes", hint=hint, notes=caret)


@dataclass(frozen=True)
class Pass:
    """Base of all passes.

    Subclasses are frozen dataclasses and give their name in the class statement::

        @dataclass(frozen=True)
        class Cse(Pass, name="cse"):
            \"\"\"Merge equal operations.\"\"\"
            constants: bool = True

    Attributes:
        needs: pipeline text that must have run before for this pass to work well; it is run
            when the user's pipeline did not start with it.
        clean_up: pipeline text that belongs after this pass.
        lossy: the pass changes numbers on purpose (quantization); the check gates what came
            before it and reports the rest as a distance.
        rule_names: names (or shell patterns of them) under which the pass asks ``ctx.allow``,
            beside those of its rewrite rules.
    """

    __lepton_pass__: ClassVar[str] = ""
    needs: ClassVar[str] = ""
    clean_up: ClassVar[str] = ""
    lossy: ClassVar[bool] = False
    rule_names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, *, name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name:
            cls.__lepton_pass__ = name

    @property
    def name(self) -> str:
        """The name in pipelines."""
        return self.__lepton_pass__

    def run(self, module: Module, ctx: PassContext) -> None:
        """Rewrite ``module`` in place."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        }

    def __str__(self) -> str:
        parts = [k if v is True else f"{k}={_value_text(v)}" for k, v in self.options().items()]
        return self.name + ("{" + " ".join(parts) + "}" if parts else "")


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return _value_text(":".join(map(str, value)))
    text = str(value)
    if re.fullmatch(r"[\w.+/:-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True)
class Step:
    """One step: a pass, or a combinator around steps."""

    item: Pass
    implied: bool = False

    def __str__(self) -> str:
        return str(self.item)


@dataclass(frozen=True)
class Combinator(Pass):
    """Base of steps that run other steps."""

    body: tuple[Step, ...] = ()

    def __str__(self) -> str:
        opts = [f"{k}={_value_text(v)}" for k, v in self.options().items() if k != "body"]
        head = self.name + ("{" + " ".join(opts) + "}" if opts else "")
        return f"{head}({','.join(map(str, self.body))})"


@dataclass(frozen=True)
class Fixpoint(Combinator, name="fixpoint"):
    """Run the steps until nothing changes, at most ``max`` times."""

    max: int = MAX_ROUNDS

    def run_with(self, manager: PassManager, module: Module) -> None:
        """Run the body through the manager."""
        for _ in range(self.max):
            before = module.epoch
            manager.run_steps(self.body, module)
            if module.epoch == before:
                return


@dataclass(frozen=True)
class Repeat(Combinator, name="repeat"):
    """Run the steps ``times`` times."""

    times: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.times <= MAX_REPEATS:
            raise ValueError(f"times is a number from 1 to {MAX_REPEATS}")

    def run_with(self, manager: PassManager, module: Module) -> None:
        """Run the body through the manager."""
        for _ in range(self.times):
            manager.run_steps(self.body, module)


_COMBINATORS: dict[str, type[Combinator]] = {"fixpoint": Fixpoint, "repeat": Repeat}

_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][\w.-]*)|(?P<string>\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<word>[^\s,{}()=\"]+)|(?P<punct>[,{}()=]))"
)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        position = 0
        while position < len(text.rstrip()):
            m = _TOKEN.match(text, position)
            if m is None:
                raise PipelineError("unreadable character", text, position)
            kind = str(m.lastgroup)
            self.tokens.append((kind, m.group(kind), m.start(kind)))
            position = m.end()
        self.tokens.append(("end", "", len(text)))
        self.i = 0
        self.depth = 0

    def peek(self, symbol: str) -> bool:
        return self.tokens[self.i][0] == "punct" and self.tokens[self.i][1] == symbol

    def take(self, symbol: str) -> bool:
        if self.peek(symbol):
            self.i += 1
            return True
        return False

    def expect(self, symbol: str) -> None:
        if not self.take(symbol):
            raise self.error(f"expected {symbol!r}")

    def error(self, message: str, hint: str = "", at: int | None = None) -> PipelineError:
        position = self.tokens[self.i][2] if at is None else at
        return PipelineError(message, self.text, position, hint)

    def pipeline(self) -> tuple[Step, ...]:
        self.depth += 1
        if self.depth > 32:
            raise self.error("pipelines are nested too deeply")
        steps = self.step()
        while self.take(","):
            steps += self.step()
        self.depth -= 1
        return steps

    def step(self) -> tuple[Step, ...]:
        kind, name, position = self.tokens[self.i]
        if kind != "name":
            raise self.error("expected the name of a pass")
        self.i += 1
        given = self.options() if self.take("{") else {}
        if name in _COMBINATORS:
            self.expect("(")
            body = self.pipeline()
            self.expect(")")
            made = self.make(_COMBINATORS[name], name, {**given}, position)
            return (Step(dataclasses.replace(made, body=body)),)
        if self.peek("("):
            raise self.error(f"{name} takes no steps in parentheses")
        found = find_pass(name, self.text, position)
        if isinstance(found, str):
            if given:
                raise self.error(f"the pipeline {name} has no options", at=position)
            return Pipeline.parse(found).steps
        return (Step(self.make(found, name, given, position)),)

    def options(self) -> dict[str, tuple[str | bool, int]]:
        found: dict[str, tuple[str | bool, int]] = {}
        while not self.take("}"):
            kind, key, position = self.tokens[self.i]
            if kind != "name":
                raise self.error("expected an option name or '}'")
            self.i += 1
            value: str | bool = True
            if self.take("="):
                kind, text, start = self.tokens[self.i]
                if kind not in ("name", "word", "string"):
                    raise self.error(f"option {key} misses its value")
                self.i += 1
                # What follows without a space belongs to an unquoted value: a:b, N=4.
                while kind != "string" and self._continues(start + len(text)):
                    text += self.tokens[self.i][1]
                    self.i += 1
                value = re.sub(r"\\(.)", r"\1", text[1:-1]) if kind == "string" else text
            found[key] = (value, position)
        return found

    def _continues(self, end: int) -> bool:
        kind, text, start = self.tokens[self.i]
        return start == end and (kind in ("name", "word") or text == "=")

    def make(
        self, cls: type[Any], name: str, given: dict[str, tuple[str | bool, int]], position: int
    ) -> Any:
        fields = {f.name: f for f in dataclasses.fields(cls) if f.name != "body"}
        values: dict[str, Any] = {}
        for raw_key, (raw, at) in given.items():
            key = raw_key.replace("-", "_")
            if key not in fields:
                close = difflib.get_close_matches(key, fields)
                hint = f"did you mean {' or '.join(close)}?" if close else ""
                known = ", ".join(fields) or "none"
                raise self.error(f"{name} has no option {raw_key!r}; it has: {known}", hint, at)
            try:
                values[key] = _convert(raw, type_text(fields[key].type))
            except ValueError as error:
                raise self.error(f"option {key} of {name}: {error}", at=at) from error
        try:
            return cls(**values)
        except ValueError as error:
            raise self.error(f"{name}: {error}", at=position) from error


def type_text(annotation: Any) -> str:
    """Return a field's annotation as text, also where annotations are not postponed."""
    return annotation.__name__ if annotation.__class__ is type else str(annotation)


def _convert(raw: str | bool, kind: str) -> Any:
    kind = kind.replace("'", "").removesuffix(" | None")
    if kind == "bool":
        if isinstance(raw, bool) or raw in ("true", "false", "1", "0", "on", "off"):
            return raw in (True, "true", "1", "on")
        raise ValueError(f"{raw!r} is not true or false")
    if isinstance(raw, bool):
        raise ValueError("needs a value")
    if kind == "int":
        return int(raw)
    if kind == "float":
        return float(raw)
    if kind.startswith("tuple[int"):
        return tuple(int(i) for i in raw.split(":") if i)
    if kind.startswith("tuple["):
        return tuple(i for i in raw.split(":") if i)
    return raw


def pass_names() -> list[str]:
    """Return the names of all passes and named pipelines, plugins included."""
    return sorted({*plugins.names("passes"), *_COMBINATORS})


def find_pass(name: str, text: str = "", position: int = 0) -> type[Pass] | str:
    """Return the pass class called ``name``, or the text of the pipeline with that name.

    Raises:
        PipelineError: no such pass; names the closest ones.
    """
    if name in _COMBINATORS:
        return _COMBINATORS[name]
    try:
        found = plugins.load("passes", name)
    except plugins.PluginError as error:
        known = pass_names()
        if name in known:
            raise LeptonError(error.message, code="plugin") from error
        close = difflib.get_close_matches(name, known)
        hint = f"did you mean {' or '.join(close)}?" if close else "see --list-passes"
        raise PipelineError(f"unknown pass {name!r}", text or name, position, hint) from error
    if isinstance(found, str):
        return found
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise LeptonError(f"{name} is not a pass class: {found!r:.80}", code="plugin")
    return found


@dataclass(frozen=True)
class Pipeline:
    """A parsed pipeline.

    >>> str(Pipeline.parse("fixpoint{max=3}(dce)"))
    'fixpoint{max=3}(dce)'
    """

    steps: tuple[Step, ...]

    @staticmethod
    def parse(text: str) -> Pipeline:
        """Parse pipeline text.

        Raises:
            PipelineError: with a caret under the offending place.
        """
        parser = _Parser(text)
        if parser.tokens[0][0] == "end":
            return Pipeline(())
        steps = parser.pipeline()
        if parser.tokens[parser.i][0] != "end":
            raise parser.error("expected ',' or the end of the pipeline")
        return Pipeline(steps)

    def with_implied(self) -> Pipeline:
        """Return the pipeline with what each pass needs before, and its clean-up after, put in.

        A need is met when a step of that name came before; clean-up is deferred to the end
        and left out when the last steps are it.
        """
        out: list[Step] = []
        names: set[str] = set()
        cleanup: dict[str, Step] = {}
        for step in self.steps:
            for need in Pipeline.parse(step.item.needs).steps:
                if need.item.name not in names:
                    out.append(Step(need.item, implied=True))
                    names.add(need.item.name)
            out.append(step)
            names.update(p.name for p in _leaves(step))
            for after in Pipeline.parse(step.item.clean_up).steps:
                cleanup.setdefault(str(after), Step(after.item, implied=True))
        tail = {str(s) for s in self.steps[-len(cleanup) :]} if cleanup else set()
        out += [s for text, s in cleanup.items() if text not in tail]
        return Pipeline(tuple(out))

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))


def _leaves(step: Step) -> list[Pass]:
    if isinstance(step.item, Combinator):
        return [p for s in step.item.body for p in _leaves(s)]
    return [step.item]


class Instrument:
    """Watches a run; override what is needed."""

    def before_pass(self, step: Step, module: Module, number: int) -> None:
        """Called before a pass runs; ``number`` counts passes from 1."""

    def after_pass(self, step: Step, module: Module, record: PassRecord) -> None:
        """Called after a pass ran."""

    def pass_failed(self, step: Step, module: Module, error: BaseException) -> None:
        """Called when a pass raised."""


@dataclass
class PassRecord:
    """What one pass did.

    Attributes:
        text: the pass with its options.
        number: position in the run, from 1.
        seconds: wall time.
        changed: whether the module changed.
        rewrites: number of rewrites.
        ops: operations after the pass, constants not counted; -1 if not counted.
        implied: the pass was added by another's needs.
        nodes_delta: operations after the pass less those before it.
        bytes_delta: the same of the bytes of constants.
    """

    text: str
    number: int
    seconds: float
    changed: bool
    rewrites: int
    ops: int
    implied: bool
    nodes_delta: int = 0
    bytes_delta: int = 0


def count_ops(module: Module) -> int:
    """Return the number of operations that compute: no constants, no terminators."""
    return measure(module.walk())[0]


def measure(ops: Iterable[Op]) -> tuple[int, int]:
    """Return the number of operations that compute, and the bytes of the constants."""
    count = size = 0
    for op in ops:
        definition = op.definition
        if op.name == "const":
            size += getattr(op.attrs.get("value"), "nbytes", 0)
        elif not (definition and "terminator" in definition.traits):
            count += 1
    return count, size


class PassManager:
    """Runs a pipeline over a module, with instruments watching."""

    def __init__(self, ctx: PassContext, instruments: Sequence[Instrument] = ()) -> None:
        self.ctx = ctx
        self.instruments = tuple(instruments)
        self.records: list[PassRecord] = []
        self._measured: tuple[Module | None, int, tuple[int, int]] = (None, 0, (0, 0))

    def run(self, pipeline: Pipeline, module: Module) -> list[PassRecord]:
        """Run all steps; return one record per pass that ran."""
        self.run_steps(pipeline.steps, module)
        return self.records

    def run_steps(self, steps: Sequence[Step], module: Module) -> None:
        """Run steps in order."""
        for step in steps:
            if isinstance(step.item, (Fixpoint, Repeat)):
                step.item.run_with(self, module)
            else:
                self._run_pass(step, module)

    def _measure(self, module: Module) -> tuple[int, int]:
        """Return operations and bytes of constants; walks only what changed since the last time."""
        known, epoch, found = self._measured
        if known is not module or epoch != module.epoch:
            found = measure(module.walk())
            self._measured = (module, module.epoch, found)
        return found

    def _run_pass(self, step: Step, module: Module) -> None:
        ctx = self.ctx
        ctx.pass_name = step.item.name
        number = len(self.records) + 1
        for instrument in self.instruments:
            instrument.before_pass(step, module, number)
        before = self._measure(module)
        tallied = ctx.tallied(step.item.name)
        epoch, rewrites, started = module.epoch, len(ctx.rewrites), time.perf_counter()
        try:
            step.item.run(module, ctx)
        except Exception as error:
            if isinstance(error, LeptonError):
                error.notes += (f"in pass {step.item} (#{number})",)
            for instrument in self.instruments:
                instrument.pass_failed(step, module, error)
            raise
        seconds = time.perf_counter() - started
        after = self._measure(module)
        deltas = (after[0] - before[0], after[1] - before[1])
        record = PassRecord(
            str(step),
            number,
            seconds,
            module.epoch != epoch,
            len(ctx.rewrites) - rewrites,
            after[0],
            step.implied,
            *deltas,
        )
        ctx.attribute_rest(step.item.name, ctx.rewrites[rewrites:], tallied, deltas)
        self.records.append(record)
        for instrument in self.instruments:
            instrument.after_pass(step, module, record)
