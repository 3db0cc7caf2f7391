"""The fusion guard, ``--guard=ort``: what onnxruntime makes of the source and of the result.

A rewrite that saves nodes can cost a fusion that the runtime would have made by itself. The guard
lets onnxruntime optimize both models, counts the fused operations, and times both. If the result
has lost a fusion or is slower, it seeks the rules, then the single rewrites, without which that
does not happen, and the run starts over without them.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import LeptonError
from lepton_ir.pipeline import PassManager
from lepton_ir.tools.optimize import ROUNDS
from lepton_ir.tools.reduce import shrink

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_ir.context import PassContext
    from lepton_ir.tools.optimize import Run

SECONDS = 120.0
"""Time for finding what is to blame; what was found by then is left out."""

CENSUS_SECONDS = 60.0
"""Time for onnxruntime to optimize one model, for each GB of it."""

LATENCY_SECONDS = 1.5
"""Time for one comparison of latencies."""

REPEATS = 3
"""A result is slower when that many comparisons say so, without exception."""

TOLERANCE, MARGIN = 1.03, 0.02
"""A result may take ``max(TOLERANCE, noise + MARGIN)`` of the source's time."""

MAX_KEYS = 128
"""Single rewrites of the rules to blame among which those to blame are sought."""

_ACTIVATIONS = ("Relu", "Clip", "Max", "Min", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
_NORM = ("ReduceMean", "Pow", "Sqrt", "Sub")
_GATES = ("Erf", "Tanh", "Sigmoid", "Pow")

PIECES: dict[str, tuple[str, ...]] = {
    "FusedMatMul": ("Mul", "Div", "Transpose"),
    "FusedGemm": _ACTIVATIONS,
    "FusedConv": (*_ACTIVATIONS, "Add"),
    "Gelu": _GATES,
    "FastGelu": _GATES,
    "QuickGelu": _GATES,
    "BiasGelu": ("Add", *_GATES),
    "LayerNormalization": _NORM,
    "SimplifiedLayerNormalization": _NORM,
    "RMSNormalization": _NORM,
    "SkipLayerNormalization": ("Add", "LayerNormalization", *_NORM),
    "SkipSimplifiedLayerNormalization": ("Add", "SimplifiedLayerNormalization", *_NORM),
    "EmbedLayerNormalization": ("Gather", "Add", "LayerNormalization", *_NORM),
    "BiasSoftmax": ("Add", "Softmax"),
    "Attention": ("Softmax", "MatMul", "Transpose"),
    "MultiHeadAttention": ("Softmax", "MatMul", "Transpose"),
    "GroupQueryAttention": ("Softmax", "MatMul", "Transpose"),
    "RotaryEmbedding": ("Neg", "Slice", "Split", "Mul"),
    "QLinearConv": ("Conv", *_QUANTIZED),
    "QLinearMatMul": ("MatMul", *_QUANTIZED),
    "QGemm": ("Gemm", *_QUANTIZED),
    "QLinearAdd": ("Add", *_QUANTIZED),
    "QLinearMul": ("Mul", *_QUANTIZED),
    "MatMulNBits": ("MatMul", "DequantizeLinear"),
    "DynamicQuantizeMatMul": ("MatMul", "DynamicQuantizeLinear", "MatMulInteger"),
    "nchwc:Conv": ("Conv", "FusedConv", "ReorderInput", "ReorderOutput"),
}
"""Fused operations, and what lies around unfused where the fusion is not made."""

BETTER: dict[str, tuple[str, ...]] = {
    "FusedConv": ("nchwc:Conv",),
    "Gelu": ("BiasGelu", "FastGelu"),
    "FastGelu": ("BiasGelu", "Gelu"),
    "LayerNormalization": ("SkipLayerNormalization", "EmbedLayerNormalization"),
    "SimplifiedLayerNormalization": ("SkipSimplifiedLayerNormalization", "RMSNormalization"),
    "RMSNormalization": ("SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization"),
    "FusedMatMul": ("Attention", "MultiHeadAttention", "GroupQueryAttention"),
    "BiasSoftmax": ("Attention", "MultiHeadAttention", "GroupQueryAttention"),
    "MultiHeadAttention": ("Attention", "GroupQueryAttention"),
    "Attention": ("MultiHeadAttention", "GroupQueryAttention"),
    "QLinearMatMul": ("QGemm", "MatMulNBits"),
}
"""Kinds that do at least the same in one operation."""

_STANDARD = frozenset(
    {"LayerNormalization", "RMSNormalization", "Gelu", "QLinearConv", "QLinearMatMul", "Attention"}
    | {"SimplifiedLayerNormalization", "RotaryEmbedding"}
)
"""Operations of ONNX's own domain that onnxruntime makes out of others."""


def kinds(census: dict[str, int]) -> dict[str, int]:
    """Return a census by short names; a fused activation counts as a kind of its own.

    >>> kinds({"com.microsoft:Gelu": 1, "Gelu": 2, "com.microsoft.nchwc:Conv+Relu": 1})
    {'Gelu': 3, 'nchwc:Conv': 1, '+Relu': 1}
    """
    found: dict[str, int] = {}
    for name, count in census.items():
        short = name.removeprefix("com.microsoft:").removeprefix("com.microsoft.")
        base, plus, activation = short.partition("+")
        for part in (base, plus + activation):
            if part:
                found[part] = found.get(part, 0) + count
    return found


def fused(census: dict[str, int]) -> dict[str, int]:
    """Return the part of a census that fusions made, by short names, sorted."""
    own = {n: c for n, c in census.items() if n.startswith("com.microsoft") or n in _STANDARD}
    return dict(sorted(kinds(own).items()))


def lost_fusions(before: dict[str, int], after: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Return the fused kinds of which the result has fewer, with both counts.

    A kind that does at least the same makes up for it. So does a result in whose graph no more of
    the fusion's pieces lie around than in the source's: then the work itself is gone.

    Args:
        before: census of the source, as onnxruntime optimizes it.
        after: the same of the result.
    """
    first, second = kinds(before), kinds(after)
    mine, other = fused(before), fused(after)
    lost: dict[str, tuple[int, int]] = {}
    for kind, count in mine.items():
        missing = count - other.get(kind, 0)
        gains = (other.get(k, 0) - mine.get(k, 0) for k in BETTER.get(kind, ()))
        if missing <= sum(max(gain, 0) for gain in gains):
            continue
        pieces = _ACTIVATIONS if kind.startswith("+") else PIECES.get(kind)
        if pieces is None:  # whatever is not fused
            pieces = tuple((first.keys() | second.keys()) - mine.keys() - other.keys())
        left, right = (sum(side.get(n, 0) for n in pieces) for side in (first, second))
        if right > left:
            lost[kind] = (count, other.get(kind, 0))
    return lost


@dataclass
class Judgement:
    """What onnxruntime makes of a result, against the source.

    Attributes:
        lost: fused kinds of which there are fewer, with both counts.
        census: of the fused operations of the result.
        latency: ratio to the source, ``noise`` and ``limit``, or the ``problem`` of measuring it;
            ``None`` when a fusion is lost already.
        slower: whether the ratio is above the limit, every time.
        problem: why nothing can be said.
    """

    lost: dict[str, tuple[int, int]] = field(default_factory=dict)
    census: dict[str, int] = field(default_factory=dict)
    latency: dict[str, Any] | None = None
    slower: bool = False
    problem: str = ""

    @property
    def bad(self) -> bool:
        """Whether something was lost."""
        return bool(self.lost) or self.slower

    @property
    def reason(self) -> str:
        """What was lost, in a few words."""
        if self.lost:
            kinds = ", ".join(f"{k} ({a} -> {b})" for k, (a, b) in self.lost.items())
            return f"onnxruntime loses {kinds}"
        ratio = (self.latency or {}).get("ratio", 0.0)
        return f"it takes {ratio:.2f} of the source's time in onnxruntime"


class Guard:
    """Judges the results of one run, and finds what is to blame.

    Args:
        run: the run; its checker asks onnxruntime.
        source: the file that onnxruntime reads as the source.
    """

    def __init__(self, run: Run, source: str) -> None:
        self.run = run
        self.source = source
        self.rules: frozenset[str] = frozenset()
        self.keys: frozenset[str] = frozenset()
        self.excluded: list[dict[str, str]] = []
        self.report: dict[str, Any] = {}
        self.rounds = 0
        self._census: dict[str, int] | None = None

    def passes(self, path: str, ctx: PassContext) -> bool:
        """Judge a result; ``False`` when the run should start over with more left out.

        Args:
            path: the result, as a file that onnxruntime reads.
            ctx: of the run that made it.
        """
        judgement = self.judge(path)
        again = False
        if judgement.bad and self.rounds < ROUNDS:
            self.rounds += 1
            again = self._blame(judgement, ctx)
        self.report = {
            "source": fused(self._census or {}),
            "result": judgement.census,
            "lost": judgement.lost,
            "slower": judgement.slower,
            "latency": judgement.latency,
            "problem": judgement.problem,
            "excluded": self.excluded,
        }
        return not again

    def judge(self, path: str, *, timed: bool = True) -> Judgement:
        """Compare a result with the source.

        Args:
            path: the result.
            timed: also compare latencies, when no fusion is lost.
        """
        if self._census is None:
            found = self._ask({"ask": "census", "path": self.source}, CENSUS_SECONDS)
            if "problem" in found:
                return Judgement(problem=f"the source: {found['problem']}")
            self._census = found["census"]
        found = self._ask({"ask": "census", "path": path}, CENSUS_SECONDS)
        if "problem" in found:
            return Judgement(problem=f"the result: {found['problem']}")
        lost = lost_fusions(self._census, found["census"])
        judgement = Judgement(lost, fused(found["census"]))
        if timed and not lost:
            judgement.latency, judgement.slower = self._slower(path)
        return judgement

    def _slower(self, path: str) -> tuple[dict[str, Any] | None, bool]:
        found: dict[str, Any] | None = None
        paths = [os.path.abspath(self.source), os.path.abspath(path)]
        for _ in range(REPEATS):
            request = {"ask": "latency", "paths": paths, "seconds": LATENCY_SECONDS}
            found = self._ask(request, CENSUS_SECONDS + LATENCY_SECONDS)
            if "problem" in found:
                return found, False
            found["limit"] = max(TOLERANCE, found["noise"] + MARGIN)
            if found["ratio"] <= found["limit"]:
                return found, False
        return found, True

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        checker = self.run.checker
        assert checker is not None
        size = os.path.getsize(self.source) / 1e9
        return checker.ask(request, seconds * max(1.0, size))

    # -- who is to blame ---------------------------------------------------------------------

    def _blame(self, judgement: Judgement, ctx: PassContext) -> bool:
        """Find what to leave out; return whether there is something."""
        until = time.monotonic() + SECONDS
        timed = not judgement.lost
        made = list(ctx.rewrites)

        def good(rules: Iterable[str], keys: Iterable[str]) -> bool:
            if time.monotonic() > until:
                return False
            found, rewrites = self._trial(set(rules), set(keys), timed)
            made.extend(rewrites)
            return not found.bad

        fired: list[str] = []
        while (rules := list(dict.fromkeys(map(_rule_of, made)))) != fired:
            # Where a rule is left out, others find something to do, which may be to blame, too.
            fired = rules
            if good(fired, ()):
                break
        else:
            return False
        rules = shrink(fired, lambda left_out: good(left_out, ()))
        keys = [key for key in dict.fromkeys(made) if _rule_of(key) in rules]
        if len(keys) <= MAX_KEYS and good((), keys):
            fewer = shrink(keys, lambda left_out: good((), left_out))
            if len(fewer) < len(keys):
                self.keys |= frozenset(fewer)
                self._note(fewer, judgement)
                return True
        self.rules |= frozenset(rules)
        self._note(rules, judgement)
        return True

    def _note(self, names: list[str], judgement: Judgement) -> None:
        self.excluded += [{"name": name, "reason": judgement.reason} for name in names]

    def _trial(self, rules: set[str], keys: set[str], timed: bool) -> tuple[Judgement, list[str]]:
        """Judge the result of a run without these rules and rewrites; also return those it made."""
        run = self.run
        module = run.load()
        ctx = run.context()
        ctx.target = run.target
        ctx.exclude_rules |= rules
        ctx.exclude_rewrites |= keys
        PassManager(ctx).run_steps((*run.exact, *run.rest), module)
        with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
            path = os.path.join(folder, "result.onnx")
            run.save_onnx(module, path)
            judgement = self.judge(path, timed=timed)
        if judgement.problem:
            raise LeptonError(judgement.problem, code="guard")
        return judgement, ctx.rewrites


def _rule_of(key: str) -> str:
    return key.partition("@")[0]


def require_runtime() -> None:
    """Refuse ``--guard=ort`` where onnxruntime is missing.

    Raises:
        LeptonError: it is.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise LeptonError(
            "the guard needs onnxruntime, which is not installed",
            code="option",
            where="--guard",
            hint="pip install onnxruntime, or leave --guard out",
        )


def render(found: dict[str, Any]) -> list[str]:
    """Return the lines of the report about the guard."""
    if found.get("problem"):
        return [f"  guard: inconclusive: {found['problem']}"]
    lines = [
        f"  guard: left out {item['name']}: with it {item['reason']}" for item in found["excluded"]
    ]
    if found["lost"]:
        what = ", ".join(f"{k} {a} -> {b}" for k, (a, b) in found["lost"].items())
        lines.append(f"  guard: onnxruntime makes fewer fusions, and no rule is to blame: {what}")
    else:
        count = sum(found["result"].values())
        before = sum(found["source"].values())
        lines.append(f"  guard: no fusion of onnxruntime is lost ({before} -> {count} fused nodes)")
    timing = found["latency"]
    if timing is not None and "problem" in timing:
        lines.append(f"  guard: latency not measured: {timing['problem']}")
    elif timing is not None:
        state = "SLOWER" if found["slower"] else "fine"
        lines.append(
            f"  guard: latency {timing['ratio']:.3f} of the source's "
            f"({state}; limit {timing['limit']:.3f}, noise {timing['noise']:.3f})"
        )
    return lines
