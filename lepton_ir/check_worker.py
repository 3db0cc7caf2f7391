"""The child process that runs a stranger's model: ``python -m lepton_ir.check_worker RUNNER``.

It reads one JSON request a line on standard input and answers with one JSON line on standard
output: ``{"open": path, ...}`` runs the source on drawn inputs, ``{"compare": path}`` runs a
result on the same ones, ``{"ask": what, ...}`` is for the runner's own ``answer``. The parent
limits its time, the worker its own memory.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, Protocol

SEARCH_SHARE = 0.5
"""Share of the time limit after which no further inputs are tried."""


FAST_DRAWS = 2
"""Draws of a fast check."""

SLOW_RUN_SECONDS = 0.1
"""A fast check runs a source that takes longer than this on one draw only."""

STATE_RUNS = 3
"""Runs in a row of a result that may keep a state."""

MOVEMENT_RUN_SECONDS = 0.05
"""A run only for the movement of the outputs is made where it takes at most this."""


class Runner(Protocol):
    """Runs one model file."""

    def inputs(self) -> list[tuple[str, str, list[Any]]]:
        """Return (name, NumPy dtype name, shape) per input."""
        ...

    def outputs(self) -> list[str]:
        """Return output names."""
        ...

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """Run; raises whatever the runtime raises."""
        ...


class ReferenceRunner:
    """Runs a model through the reference interpreter."""

    def __init__(self, path: str) -> None:
        from lepton_ir import api

        self.module = api.load(path)

    def inputs(self) -> list[tuple[str, str, list[Any]]]:
        """Return the main function's inputs."""
        from lepton_ir.types import TensorType

        found: list[tuple[str, str, list[Any]]] = []
        for v in self.module.main.inputs:
            t = v.type
            if not isinstance(t, TensorType) or t.dtype is None:
                raise ValueError(f"cannot draw an input of type {t}")
            shape = [d if isinstance(d, int) else str(d) for d in t.shape or ()]
            found.append((v.name or "", t.dtype.numpy.name, shape))
        return found

    def outputs(self) -> list[str]:
        """Return output names."""
        return list(self.module.main.output_names)

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """Evaluate."""
        from lepton_ir.interp import run_list

        return run_list(self.module, feeds)


def make_runner(kind: str, path: str) -> Runner:
    """Return a runner of a kind that a backend registered (``onnxruntime``), or ``reference``.

    A TFLite file runs in LiteRT, whatever runs the source.
    """
    if is_tflite(path):
        kind = "litert"
    if kind == "reference":
        return ReferenceRunner(path)
    from lepton_ir import plugins

    factory: Any = plugins.load("backends", f"runner-{kind}")
    runner: Runner = factory(path)
    return runner


class ChannelsLastRunner:
    """A runner of a result some of whose inputs and outputs have their channels last.

    Args:
        runner: runs the result.
        ends: names of those ``inputs`` and ``outputs``.
    """

    def __init__(self, runner: Runner, ends: dict[str, list[str]]) -> None:
        self._runner = runner
        self._ends = ends

    def inputs(self) -> list[tuple[str, str, list[Any]]]:
        """Return (name, NumPy dtype name, shape) per input, the shape as in the source."""
        return [
            (name, dtype, [shape[0], shape[-1], *shape[1:-1]] if self._last(name) else shape)
            for name, dtype, shape in self._runner.inputs()
        ]

    def outputs(self) -> list[str]:
        """Return output names."""
        return self._runner.outputs()

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """Run on inputs in the source's layout; returns all outputs in it, in order."""
        import numpy as np

        given = {n: np.moveaxis(x, 1, -1) if self._last(n) else x for n, x in feeds.items()}
        found = self._runner.run(given)
        turned = self._ends["outputs"]
        pairs = zip(self._runner.outputs(), found, strict=True)
        return [np.moveaxis(y, -1, 1) if name in turned else y for name, y in pairs]

    def _last(self, name: str) -> bool:
        return name in self._ends["inputs"]


class CodedRunner:
    """A runner of a result some of whose inputs and outputs encode numbers in another way.

    Args:
        runner: runs the result.
        codes: by name of ``inputs`` and ``outputs``, element type, scale and zero point of
            ``source`` and ``result``.
    """

    def __init__(self, runner: Runner, codes: dict[str, dict[str, Any]]) -> None:
        self._runner = runner
        self._codes = codes

    def inputs(self) -> list[tuple[str, str, list[Any]]]:
        """Return (name, NumPy dtype name, shape) per input, the type as in the source."""
        known = self._codes["inputs"]
        return [
            (name, known[name]["source"][0] if name in known else dtype, shape)
            for name, dtype, shape in self._runner.inputs()
        ]

    def outputs(self) -> list[str]:
        """Return output names."""
        return self._runner.outputs()

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """Run on inputs as the source encodes them; returns all outputs like that, in order."""
        given, made = self._codes["inputs"], self._codes["outputs"]
        found = self._runner.run(
            {n: recoded(x, given[n], "result") if n in given else x for n, x in feeds.items()}
        )
        pairs = zip(self._runner.outputs(), found, strict=True)
        return [recoded(y, made[n], "source") if n in made else y for n, y in pairs]


def recoded(array: Any, codes: dict[str, list[Any]], to: str) -> Any:
    """Return numbers as one side encodes them, from how the other one does."""
    import numpy as np

    dtype, scale, zero = codes["source" if to == "result" else "result"]
    numbers = array if dtype == "float32" else (array.astype(np.float32) - zero) * np.float32(scale)
    dtype, scale, zero = codes[to]
    if dtype == "float32":
        return numbers
    limits = np.iinfo(dtype)
    with np.errstate(invalid="ignore"):
        found = np.nan_to_num(np.rint(numbers / np.float32(scale)) + zero, nan=limits.min)
    return np.clip(found, limits.min, limits.max).astype(dtype)


def is_tflite(path: str) -> bool:
    """Return whether a file says that it is a TFLite file."""
    with open(path, "rb") as file:
        return file.read(8)[4:] == b"TFL3"


class Session:
    """The source, the inputs it ran on, and what it gave."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.names: list[str] = []
        self.feeds: list[dict[str, Any]] = []
        self.expected: list[list[Any]] = []
        self.movement: list[float | None] | None = None
        self._unsteady: list[float | None] | None = None
        self.source = ""
        self.drawn = False
        self.problem = ""
        self.until = 0.0
        self.memory = 0

    def open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run the source on drawn or given inputs."""
        self.source = request["open"]
        self.until = time.monotonic() + SEARCH_SHARE * float(request.get("seconds", 40.0))
        self.memory = int(request.get("memory", 0))
        _limit_memory(self.memory)
        try:
            source = make_runner(self.kind, self.source)
            self.names = source.outputs()
            inputs = source.inputs()
        except Exception as error:
            self.problem = f"{self.kind} cannot load the source: {_first_line(error)}"
            return {"problem": self.problem}
        if request.get("feeds"):
            broken = self._run_given(source, request["feeds"])
            if broken is not None:
                return {"error": broken}
        else:
            draws = int(request.get("draws", 2))
            self._run_drawn(source, inputs, draws, request.get("sizes") or {})
        return {"problem": self.problem, "draws": len(self.expected)}

    def _run_given(self, source: Runner, paths: list[str]) -> dict[str, str] | None:
        """Run on real inputs; return what is wrong with them, as arguments of an error."""
        from lepton_ir.diagnostics import LeptonError
        from lepton_ir.feeds import load_feeds

        where = "--check-inputs"
        try:
            for feeds in load_feeds(paths):
                self.expected.append(source.run(feeds))
                self.feeds.append(feeds)
        except LeptonError as error:
            where = f"{where}: {error.where}"
            return {"message": error.message, "code": "feeds", "where": where, "hint": error.hint}
        except Exception as error:
            if is_memory(error):
                self.expected.clear()
                self.problem = OUT_OF_MEMORY
                return None
            names = ", ".join(n for n, _, _ in source.inputs())
            message = f"the source fails on these inputs: {_first_line(error)}"
            hint = f"the model's inputs are: {names}"
            return {"message": message, "code": "feeds", "where": where, "hint": hint}
        return None

    def _run_drawn(
        self, source: Runner, inputs: list[Any], draws: int, fixed: dict[str, int]
    ) -> None:
        from lepton_ir.check_draws import groups, sizes_of, symbols
        from lepton_ir.compare import draw, movement_of

        names = symbols(inputs)
        self.drawn = bool(names)
        failure, seconds = "", 0.0
        for group in groups(names, draws, fixed):
            if len(self.expected) >= draws or time.monotonic() > self.until:
                break
            for plan in group if names else group * draws:
                if len(self.expected) >= draws or (self.expected and time.monotonic() > self.until):
                    break
                try:
                    feeds = draw(inputs, len(self.feeds), plan)
                    started = time.monotonic()
                    results = source.run(feeds)
                    seconds = time.monotonic() - started
                except Exception as error:
                    failure = OUT_OF_MEMORY if is_memory(error) else _first_line(error)
                    break
                self.feeds.append(feeds)
                self.expected.append(results)
                if seconds > SLOW_RUN_SECONDS and draws <= FAST_DRAWS:
                    return
        if not self.expected:
            self.problem = f"the source fails on drawn inputs: {failure}"
            return
        if not names and len(self.expected) > 1:
            self.movement = movement_of(self.expected[0], self.expected[1])
            return
        if time.monotonic() > self.until or seconds > MOVEMENT_RUN_SECONDS:
            return
        try:
            plan_feeds = draw(inputs, 1_000, sizes_of(inputs, self.feeds[0]))
            self.movement = movement_of(self.expected[0], source.run(plan_feeds))
        except Exception:  # a second draw that fails only leaves the movement unknown
            self.movement = None

    def is_random(self) -> bool:
        """Return whether the source gives other results on the same inputs."""
        from lepton_ir.compare import EQUAL, compare_outputs

        # A generator may begin with the same seed in every session: the second run is another.
        source = make_runner(self.kind, self.source)
        runs = (source.run(self.feeds[0]) for _ in range(2))
        found = (compare_outputs(self.names, self.expected[0], run) for run in runs)
        return any(verdict.status != EQUAL for verdict in found)

    def unsteadiness(self) -> list[float | None]:
        """Return how far rounding alone may move the outputs of a quantized source.

        That is twice as far as they move with inputs that differ by some rounding steps, by which
        codes change where a number lies about halfway between two.
        """
        import numpy as np

        from lepton_ir.compare import movement_of

        if self._unsteady is None:
            worst: list[float | None] = [None] * len(self.names)
            source = make_runner(self.kind, self.source)
            rng = np.random.default_rng(0)
            for feeds, expected in zip(self.feeds, self.expected, strict=True):
                near = {name: _nudged(x, rng) for name, x in feeds.items()}
                moved = movement_of(expected, source.run(near))
                pairs = zip(worst, moved, strict=True)
                worst = [max((m for m in p if m is not None), default=None) for p in pairs]
            self._unsteady = [None if m is None else 2 * m for m in worst]
        return self._unsteady

    def compare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a result on the same inputs and judge it."""
        from lepton_ir import compare as cmp

        verdict = self._judge(request)
        if verdict["status"] == cmp.MISMATCH and self._drops(request["compare"]):
            verdict = self._judge(request)
        stepped = request.get("steps") and not request.get("lossy")
        if verdict["status"] == cmp.MISMATCH and stepped and self.expected:
            again = self._judge(request, self.unsteadiness())
            if again["status"] == cmp.EQUAL:
                reason = f"output {verdict['output']}: {verdict['reason']}, as {UNSTEADY}"
                return cmp.Verdict(cmp.INCONCLUSIVE, reason, draws=again["draws"]).as_json()
        if verdict["status"] == cmp.MISMATCH and request.get("random") and self.is_random():
            reason = "the source gives other results each time (random operations)"
            return cmp.Verdict(cmp.INCONCLUSIVE, reason).as_json()
        if request.get("detail") and verdict.get("draws"):
            verdict["tensors"] = self._each_output(request)
        return verdict

    def _drops(self, path: str) -> bool:
        """Drop drawn inputs that the specification forbids; return whether there were any.

        Windows that do not fit small images, say: onnxruntime takes them in its own way, other
        runtimes in theirs. Only the meaning of the operations tells.
        """
        if not self.drawn or not is_tflite(path) or is_tflite(self.source):
            return False
        self.drawn = False  # once is enough
        reference = ReferenceRunner(self.source)
        kept = []
        for feeds, expected in zip(self.feeds, self.expected, strict=True):
            try:
                reference.run(feeds)
            except Exception:
                continue
            kept.append((feeds, expected))
        dropped = len(kept) < len(self.feeds)
        self.feeds, self.expected = [f for f, _ in kept], [e for _, e in kept]
        if not kept:
            self.problem = "the specification allows none of the drawn inputs (--check-inputs)"
        return dropped

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Pass a question on to the runner's class, with the inputs that the source ran on."""
        from lepton_ir import plugins

        if request["ask"] == "difference":
            return self._difference(*request["paths"])
        runner = None
        if self.kind != "reference":
            runner = plugins.load("backends", f"runner-{self.kind}")
        answer: Any = getattr(runner, "answer", None)
        if answer is None:
            return {"problem": f"{self.kind} answers no questions"}
        _limit_memory(self.memory)  # the same again, beside the sessions that are held
        try:
            reply: dict[str, Any] = answer(request, self.feeds)
        except Exception as error:
            return {"problem": OUT_OF_MEMORY if is_memory(error) else _first_line(error)}
        return reply

    def _difference(self, first: str, second: str) -> dict[str, Any]:
        """Return how far the outputs of two models are apart, on the worst output and draw."""
        from lepton_ir.compare import Verdict, compare_outputs

        if not self.feeds:
            return {"problem": self.problem or "there are no inputs that the source runs on"}
        _limit_memory(self.memory)
        worst = Verdict("equal")
        ratios: dict[str, float] = {}
        try:
            runners = [make_runner(self.kind, path) for path in (first, second)]
            for feeds in self.feeds:
                a, b = (r.run({n: feeds[n] for n, _, _ in r.inputs()}) for r in runners)
                verdict = compare_outputs(self.names, a, b)
                for name, x, y in zip(self.names, a, b, strict=True):
                    _add_sqnr(ratios, name, x, y)
                if verdict.reason and not verdict.relative:
                    return {"problem": f"{verdict.output}: {verdict.reason}"}
                if not verdict.relative <= worst.relative:
                    worst = verdict
        except Exception as error:
            return {"problem": OUT_OF_MEMORY if is_memory(error) else _first_line(error)}
        found = {key: getattr(worst, key) for key in ("relative", "largest", "output")}
        return {**found, "sqnr": min(ratios.values(), default=float("inf"))}

    def _result(self, request: dict[str, Any]) -> Runner:
        """Return a runner of the result."""
        runner = make_runner(self.kind, request["compare"])
        codes = request.get("codes")
        if codes is not None:
            runner = CodedRunner(runner, codes)
        ends = request.get("channels_last")
        return runner if ends is None else ChannelsLastRunner(runner, ends)

    def _each_output(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Judge every output alone; the worst of all draws each, in the order of the outputs."""
        from lepton_ir import compare as cmp

        result = self._result(request)
        accepted = {n for n, _, _ in result.inputs()}
        rows: dict[str, dict[str, Any]] = {}
        for feeds, expected in zip(self.feeds, self.expected, strict=True):
            found = result.run({n: v for n, v in feeds.items() if n in accepted})
            for i, (name, a, b) in enumerate(zip(self.names, expected, found, strict=True)):
                moved = None if self.movement is None else [self.movement[i]]
                ties = bool(request.get("ties"))
                verdict = cmp.compare_outputs([name], [a], [b], movement=moved, ties=ties)
                row = {"name": name, "shape": list(getattr(a, "shape", ())), **verdict.as_json()}
                best = rows.get(name)
                if best is None or _badness(row) > _badness(best):
                    rows[name] = row
        return list(rows.values())

    def _judge(
        self, request: dict[str, Any], slack: list[float | None] | None = None
    ) -> dict[str, Any]:
        from lepton_ir import compare as cmp

        path, lossy = request["compare"], bool(request.get("lossy"))
        try:
            result = self._result(request)
        except Exception as error:
            if self.problem and not self.expected:
                return cmp.Verdict(cmp.INCONCLUSIVE, self.problem).as_json()
            if is_memory(error):
                return cmp.Verdict(cmp.INCONCLUSIVE, OUT_OF_MEMORY).as_json()
            reason = f"{self.kind} refuses the result: {_first_line(error)}"
            return cmp.Verdict(cmp.MISMATCH, reason).as_json()
        if not self.expected:
            return cmp.Verdict(cmp.INCONCLUSIVE, self.problem).as_json()
        accepted = {n for n, _, _ in result.inputs()}
        worst = cmp.Verdict(cmp.EQUAL)
        pairs = list(zip(self.feeds, self.expected, strict=True))
        if is_tflite(path) and not is_tflite(self.source):
            # Operators of LiteRT may keep a state from one run to the next: the first inputs
            # again, behind others, show it. A source of LiteRT's may have one itself.
            pairs += [pairs[0]] * max(1, STATE_RUNS - len(pairs))
        for feeds, expected in pairs:
            try:
                found = result.run({n: v for n, v in feeds.items() if n in accepted})
            except Exception as error:
                if is_memory(error):
                    return cmp.Verdict(cmp.INCONCLUSIVE, OUT_OF_MEMORY).as_json()
                reason = f"the result fails where the source runs: {_first_line(error)}"
                return cmp.Verdict(cmp.MISMATCH, reason, draws=len(self.expected)).as_json()
            verdict = cmp.compare_outputs(
                self.names,
                expected,
                found,
                movement=None if lossy else self.movement,
                ties=bool(request.get("ties")),
                slack=slack,
                rtol=request.get("rtol") or cmp.RTOL,
            )
            if lossy:
                for name, a, b in zip(self.names, expected, found, strict=True):
                    _add_sqnr(worst.sqnr, name, a, b)
            if verdict.status == cmp.MISMATCH:
                verdict.sqnr = worst.sqnr
                worst = verdict
                if not lossy:
                    break
            elif worst.status == cmp.EQUAL and (
                verdict.status != cmp.EQUAL or verdict.relative >= worst.relative
            ):
                verdict.sqnr = worst.sqnr
                worst = verdict
        worst.draws = len(self.expected)
        return worst.as_json()


def _nudged(x: Any, rng: Any) -> Any:
    if getattr(x, "dtype", None) is None or x.dtype.kind != "f":
        return x
    return (x * (1 + NUDGE * rng.uniform(-1, 1, x.shape))).astype(x.dtype)


def _badness(row: dict[str, Any]) -> tuple[bool, float]:
    return (row["status"] != "equal", row["relative"])


def _add_sqnr(into: dict[str, float], name: str, a: Any, b: Any) -> None:
    import numpy as np

    from lepton_ir.compare import sqnr

    if (
        isinstance(a, np.ndarray)
        and isinstance(b, np.ndarray)
        and a.shape == b.shape
        and (a.dtype.kind == "f")
    ):
        into[name] = min(into.get(name, float("inf")), sqnr(a, b))


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


NUDGE = 2.0**-12
"""Share by which inputs are changed to see how steady a quantized model is."""

UNSTEADY = "rounding alone may move the source, which is quantized and rounds to few numbers"

OUT_OF_MEMORY = "it needs more memory than the check allows (--check-memory)"


def is_memory(error: BaseException) -> bool:
    """Return whether an error of a runtime says that memory ran out."""
    text = str(error)
    return isinstance(error, MemoryError) or "bad_alloc" in text or "allocate memory" in text


def _limit_memory(allowance: int) -> None:
    """Let this process map at most ``allowance`` bytes more than it has now."""
    import resource

    if allowance <= 0:
        return
    try:
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        mapped = 0
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = mapped + allowance
    if hard == resource.RLIM_INFINITY or limit <= hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _end_with(parent: int) -> None:
    """End this process soon after its parent, whatever the runtime is busy with."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Serve requests until standard input ends."""
    kind, parent = sys.argv[1], int(sys.argv[2])
    _end_with(parent)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints must not mix with the replies
    if kind != "reference":
        from lepton_ir import plugins

        plugins.load("backends", f"runner-{kind}")  # loads the runtime while the parent works
    from lepton_ir import compare as cmp

    session = Session(kind)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "open" in request:
                session = Session(kind)
                reply = session.open(request)
            elif "ask" in request:
                reply = session.ask(request)
            else:
                reply = session.compare(request)
        except MemoryError:
            reply = cmp.Verdict(cmp.INCONCLUSIVE, OUT_OF_MEMORY).as_json()
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
