"""Nodes, bytes and latency of results beside those of other optimizers, model by model.

    python -m lepton_ir.tools.bench.census models/ --peer-python PYTHON [--json FILE] [--reuse FILE]

A peer counts where onnxruntime, with its own optimizations off, computes from its result what it
computes from the source, and inputs and outputs keep their names and types. `Constant` nodes are
not counted, and a call of a local function counts as its body. The columns: nodes of the source,
of our result and of the best peer's; bytes of our result as a share of the smallest peer's (weights
in files of their own included); nodes for `--target=ort` and of onnxruntime's extended graph. What
is above a peer is marked `!`; a wrong result of ours says so. With `--seconds`, the latency in
onnxruntime of our result and of the fastest peer's over that of the source.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_ir.tools.bench import compare, measure

if TYPE_CHECKING:
    import onnx

    from lepton_ir.backends.onnx.runner import OrtRunner

OURS, OURS_ORT, EXTENDED = "lepton", "lepton-ort", "onnxruntime"

BYTES_LIMIT = 1.02
"""Our share of the smallest peer's bytes above which a model is marked."""


@dataclass(slots=True)
class Cell:
    """What one tool made of one model.

    Attributes:
        status: ``same``, ``unchecked`` (the source does not run), ``interface`` (other inputs or
            outputs), ``wrong`` or ``failed``.
        reason: why, for the last two.
        nodes: nodes of the result.
        size: bytes of the result and of the files beside it.
        seconds: the tool's time.
        latency: of the result over that of the source, and ``noise``.
    """

    status: str
    reason: str = ""
    nodes: int = 0
    size: int = 0
    seconds: float = 0.0
    latency: dict[str, Any] | None = None

    @property
    def counts(self) -> bool:
        """Whether the result may be compared with others."""
        return self.status in ("same", "unchecked")


@dataclass(slots=True)
class Row:
    """All that is known of one model: nodes of the source, and a cell for each tool."""

    model: str
    nodes: int
    cells: dict[str, Cell] = field(default_factory=dict)

    def best(self, key: str) -> tuple[str, float] | None:
        """Return the peer with the least nodes, size or latency, among those that count."""
        found: list[tuple[float, str]] = []
        for name, cell in self.cells.items():
            if name in (OURS, OURS_ORT, EXTENDED) or not cell.counts:
                continue
            value = (cell.latency or {}).get("ratio") if key == "latency" else getattr(cell, key)
            if value is not None:
                found.append((value, name))
        return (min(found)[1], min(found)[0]) if found else None


def count_nodes(model: onnx.ModelProto) -> int:
    """Nodes of a model with those of nested graphs; calls of local functions are their bodies."""
    functions = {(f.domain, f.name): f for f in model.functions}
    total = 0
    pending: list[Any] = [model.graph]
    while pending:
        for node in pending.pop().node:
            body = functions.get((node.domain, node.op_type))
            if body is not None:
                pending.append(body)
                continue
            total += node.op_type != "Constant"
            for attribute in node.attribute:
                pending += [attribute.g, *attribute.graphs]
    return total


class Judge:
    """Runs a source once, and results of tools against it.

    Args:
        source: the model.
        shapes: shapes of inputs that the file leaves open.
        size: of every other symbolic dim.
    """

    def __init__(self, source: Path, shapes: Mapping[str, list[int]], size: int) -> None:
        from lepton_ir.backends.onnx.runner import OrtRunner
        from lepton_ir.compare import draw

        self.source = source
        self.problem = ""
        try:
            runner = OrtRunner(str(source), threads=1)
            self.interface = _interface(runner)
            inputs = [(n, kind, shapes.get(n, shape)) for n, kind, shape in runner.inputs()]
            self.feeds = draw(inputs, 0, size)
            self.names = runner.outputs()
            self.expected = runner.run(self.feeds)
        except Exception as error:  # whatever the runtime raises: the model is not compared
            self.problem = str(error).splitlines()[0][:120] or type(error).__name__

    def judge(self, result: Path, seconds: float) -> Cell:
        """Compare a result with the source, and time it if `seconds` are given."""
        import onnx

        from lepton_ir.backends.onnx.runner import OrtRunner, latency
        from lepton_ir.compare import EQUAL, compare_outputs

        nodes = count_nodes(onnx.load(result, load_external_data=False))
        cell = Cell("unchecked", nodes=nodes, size=_bytes(result))
        if self.problem:
            return cell
        try:
            runner = OrtRunner(str(result), threads=1)
            given = {name: self.feeds[name] for name, _, _ in runner.inputs()}
            verdict = compare_outputs(self.names, self.expected, runner.run(given))
            if verdict.status != EQUAL:
                cell.status, cell.reason = "wrong", f"{verdict.output}: {verdict.reason}"
                return cell
            cell.status = "same" if _interface(runner) == self.interface else "interface"
            if seconds and cell.counts:
                cell.latency = latency(str(self.source), str(result), self.feeds, seconds, 1)
        except Exception as error:  # whatever the runtime raises
            cell.status, cell.reason = "wrong", str(error).splitlines()[0][:200]
        return cell


def _interface(runner: OrtRunner) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of inputs, names and types of outputs."""
    outputs = [(x.name, x.type) for x in runner.session.get_outputs()]
    return sorted(name for name, _, _ in runner.inputs()), outputs


def _bytes(result: Path) -> int:
    """Size of a result with the files that lie beside it in a folder of its own."""
    return sum(path.stat().st_size for path in result.parent.iterdir())


def survey(
    source: Path,
    tools: Mapping[str, Sequence[str]],
    judge: Judge,
    *,
    seconds: float,
    timeout: float,
) -> dict[str, Cell]:
    """Run command templates on one model; return a cell for each."""
    cells = {}
    for name, template in tools.items():
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "result.onnx")
            run = measure.run(measure.fill(template, source, target), timeout=timeout)
            if run.ok and target.exists():
                cell = judge.judge(target, 0.0 if name in (OURS_ORT, EXTENDED) else seconds)
            else:
                cell = Cell("failed", "out of time" if run.status is None else run.output[-200:])
            cell.seconds = round(run.wall, 3)
        cells[name] = cell
    return cells


def _above(row: Row) -> list[str]:
    """What of ours is wrong or above the best peer, in words."""
    ours, ort, extended = (row.cells.get(n) for n in (OURS, OURS_ORT, EXTENDED))
    found = [f"{n} {c.status}" for n, c in row.cells.items() if n.startswith(OURS) and not c.counts]
    if ours is None or not ours.counts:
        return found
    nodes, size = row.best("nodes"), row.best("size")
    if nodes and ours.nodes > nodes[1]:
        found.append("nodes")
    if size and ours.size > BYTES_LIMIT * size[1]:
        found.append("bytes")
    if ort and extended and ort.counts and extended.counts and ort.nodes > extended.nodes:
        found.append("ort")
    timing = ours.latency
    if timing and timing["ratio"] > max(1.03, timing["noise"] + 0.02):
        found.append("latency")
    return found


def render(rows: Sequence[Row]) -> str:
    """The table, and sums and geometric means over all models."""
    header = ["model", "nodes", "ours", "best", "peer", "bytes", "peer", "ort", "extended"]
    header += ["latency", "noise", "best", "peer", "!"]
    lines = [_line(row) for row in rows]
    above = [row for row in rows if _above(row)]
    text = [measure.table(header, lines), "", f"{len(above)} of {len(rows)} models are above"]
    names = list(dict.fromkeys(name for row in rows for name in row.cells))
    for name in names:
        cells = [row.cells[name] for row in rows if name in row.cells]
        counted = [c for c in cells if c.counts]
        ratios = [c.latency["ratio"] for c in counted if c.latency]
        mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan
        total = sum(
            c.nodes if (c := row.cells.get(name)) and c.counts else row.nodes for row in rows
        )
        text.append(
            f"{name}: {total} nodes, {len(counted)} of {len(cells)} count, latency {mean:.3f}"
        )
    return "\n".join(text)


def _line(row: Row) -> list[object]:
    def nodes(name: str) -> object:
        cell = row.cells.get(name)
        return "-" if cell is None else cell.nodes if cell.counts else cell.status

    ours = row.cells.get(OURS)
    best, size, fast = row.best("nodes"), row.best("size"), row.best("latency")
    timing = (ours.latency if ours else None) or {}
    share = f"{ours.size / size[1]:.3f}" if ours and size else "-"
    line = [row.model[-44:], row.nodes, nodes(OURS)]
    line += [best[1], best[0]] if best else ["-", "-"]
    line += [share, size[0] if size else "-", nodes(OURS_ORT), nodes(EXTENDED)]
    line += [f"{timing[k]:.3f}" if timing else "-" for k in ("ratio", "noise")]
    line += [f"{fast[1]:.3f}", fast[0]] if fast else ["-", "-"]
    return [*line, ",".join(_above(row))]


def _known_shapes(manifest: Path | None) -> dict[str, dict[str, list[int]]]:
    """Shapes with which models run, by file name, of a list in JSON lines."""
    if manifest is None:
        return {}
    rows = map(json.loads, manifest.read_text().splitlines())
    return {Path(r["path"]).name: r["run_inputs"] for r in rows if r.get("run_inputs")}


def _former(path: Path | None) -> dict[str, Row]:
    """Rows of an earlier `--json`, by model."""
    if path is None or not path.exists():
        return {}
    stored = json.loads(path.read_text())
    rows = [
        Row(r["model"], r["nodes"], {n: Cell(**c) for n, c in r["cells"].items()}) for r in stored
    ]
    return {row.model: row for row in rows}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, help="files or folders")
    parser.add_argument("--peers", default="onnxsim,onnxslim,onnxoptimizer,onnxscript,onnxruntime")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--lepton", help="the program, instead of the installed lepton-opt")
    parser.add_argument("--options", default="--check=off")
    parser.add_argument("--manifest", type=Path, help="JSON lines with `path` and `run_inputs`")
    parser.add_argument("--size", type=int, default=2, help="of every other symbolic dim")
    parser.add_argument("--seconds", type=float, default=0.0, help="for each latency; 0: none")
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--reuse", type=Path, help="take the peers from this earlier --json")
    parser.add_argument("--above", action="store_true", help="list only models that are above")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exits 1 if something is above a peer."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        peers = compare.parse_peers(args.peers, args.peer, args.peer_python)
    except (KeyError, ValueError) as error:
        parser.error(f"not a peer: {error}")
    ours = {
        OURS: measure.lepton_template(args.lepton, args.options),
        OURS_ORT: measure.lepton_template(args.lepton, f"{args.options} --target=ort"),
    }
    shapes, former = _known_shapes(args.manifest), _former(args.reuse)
    import onnx

    rows = []
    for model in compare.find_models(args.models):
        judge = Judge(model, shapes.get(model.name, {}), args.size)
        row = Row(model.name, count_nodes(onnx.load(model, load_external_data=False)))
        known = former[row.model].cells if row.model in former else {}
        row.cells = {n: c for n, c in known.items() if n in peers}
        tools = ours | {n: t for n, t in peers.items() if n not in known}
        row.cells |= survey(model, tools, judge, seconds=args.seconds, timeout=args.timeout)
        rows.append(row)
        print(f"{row.model} {' '.join(_above(row)) or 'ok'}", file=sys.stderr, flush=True)
        if args.json:
            args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(render([r for r in rows if _above(r)] if args.above else rows))
    return 1 if any(map(_above, rows)) else 0


if __name__ == "__main__":
    sys.exit(main())
