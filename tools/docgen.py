"""Write the reference pages from the code: ``python -m lepton_ir.tools.docgen [--check]``.

``docs/passes.md``, ``docs/rules.md`` and ``docs/ops.md`` are derived from docstrings, dataclass
fields, rule marks and the op table. ``--check`` writes nothing; it fails when a page is stale.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_ir.pipeline import Combinator, Fixpoint, Pass, Repeat, find_pass, type_text
from lepton_ir.rewrite import RewritePass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_ir.opdef import OpDef
    from lepton_ir.rewrite import Rule

DOCS = Path(__file__).resolve().parent.parent / "docs"

_SHOWN_ROOTS = 16
_NOTICE = "<!-- Written by `make docs` from the code; do not edit. -->\n"


def own_passes() -> tuple[dict[str, type[Pass]], dict[str, str]]:
    """Return Lepton's own passes by name, and its named pipelines with their text."""
    from lepton_ir.passes import TABLE

    classes: dict[str, type[Pass]] = {"fixpoint": Fixpoint, "repeat": Repeat}
    texts: dict[str, str] = {}
    for name in TABLE:
        found = find_pass(name)
        if isinstance(found, str):
            texts[name] = found
        else:
            classes[name] = found
    return dict(sorted(classes.items())), texts


def split_docstring(doc: str) -> tuple[str, dict[str, str]]:
    r"""Return the text of a Google-style docstring and the entries of its Attributes section.

    >>> split_docstring("Do it.\n\nAttributes:\n    limit: bytes\n        at most.\n")
    ('Do it.', {'limit': 'bytes at most.'})
    """
    head, _, rest = doc.partition("\nAttributes:\n")
    entries: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        match = re.match(r"^ {4}(\w+): (.*)$", line)
        if match:
            name = match[1]
            entries[name] = match[2]
        elif name and line.strip():
            entries[name] += " " + line.strip()
    return head.strip(), entries


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _summary(doc: str) -> str:
    return doc.strip().split("\n\n")[0].replace("\n", " ").strip()


def _options(cls: type[Pass], described: dict[str, str]) -> list[str]:
    fields = [f for f in dataclasses.fields(cls) if f.name != "body"]
    if not fields:
        return []
    lines = ["", "| Option | Kind | Default | Meaning |", "| --- | --- | --- | --- |"]
    for f in fields:
        default = "" if f.default is dataclasses.MISSING else f"`{f.default!r}`"
        kind = _cell(type_text(f.type))
        lines.append(f"| `{f.name}` | `{kind}` | {default} | {_cell(described.get(f.name, ''))} |")
    return lines


def _facts(cls: type[Pass]) -> list[str]:
    facts = []
    if cls.needs:
        facts.append(f"runs after `{cls.needs}`, which is put in when it is missing")
    if cls.clean_up:
        facts.append(f"is followed by `{cls.clean_up}`")
    if cls.lossy:
        facts.append("changes numbers on purpose: the check gates what came before it")
    if issubclass(cls, Combinator):
        facts.append("takes steps in parentheses")
    if rules_of(cls):
        facts.append(f"its rules are listed in [rules.md](rules.md#{cls.__lepton_pass__})")
    return ["", *(f"- {fact}" for fact in facts)] if facts else []


def passes_page() -> str:
    """Return docs/passes.md."""
    classes, texts = own_passes()
    lines = [_NOTICE, "# Passes", ""]
    lines += [
        "A pipeline is a list of steps, `fuse,quant{mode=static bits=8},fixpoint(fold,dce)`; put",
        "it in quotes when it has braces or parentheses. `lepton-opt --list-passes` prints this",
        "list with the passes of your plugins.",
        "",
        "## Named pipelines",
        "",
        "| Name | Steps |",
        "| --- | --- |",
    ]
    lines += [f"| `{name}` | `{text}` |" for name, text in sorted(texts.items())]
    for name, cls in classes.items():
        text, described = split_docstring(inspect.getdoc(cls) or "")
        lines += ["", f"## {name}", "", text, *_options(cls, described), *_facts(cls)]
    return "\n".join(lines) + "\n"


def rules_of(cls: type[Pass]) -> list[Rule]:
    """Return the rules of a pass with default options, none when it has no rules."""
    if not issubclass(cls, RewritePass):
        return []
    return list(cls().rules().rules)


def _grouped(rules: Iterable[Rule]) -> dict[str, list[Rule]]:
    groups: dict[str, list[Rule]] = {}
    for rule in rules:
        groups.setdefault(rule.name, []).append(rule)
    return groups


def rules_page() -> str:
    """Return docs/rules.md."""
    lines = [_NOTICE, "# Rewrite rules", ""]
    lines += [
        "Each row is one rule; `--exclude-rule NAME` (or `PASS/NAME`) switches it off. *Exact*",
        "rules give the same bits for every input, NaN and signed zeros included; only they run",
        "under `O1`.",
    ]
    for name, cls in own_passes()[0].items():
        groups = _grouped(rules_of(cls))
        if not groups:
            continue
        lines += ["", f"## {name}", "", "| Rule | Tried on | Exact | What it does |"]
        lines.append("| --- | --- | --- | --- |")
        for rule_name, rules in sorted(groups.items()):
            names = sorted({r for rule in rules for r in rule.roots})
            roots = ", ".join(f"`{r}`" for r in names[:_SHOWN_ROOTS])
            roots += f" and {len(names) - _SHOWN_ROOTS} more" if len(names) > _SHOWN_ROOTS else ""
            exact = "yes" if all(rule.exact for rule in rules) else ""
            doc = _cell(_summary(rules[0].doc))
            lines.append(f"| `{rule_name}` | {roots} | {exact} | {doc} |")
    return "\n".join(lines) + "\n"


def _op_lines(definition: OpDef) -> list[str]:
    lines = ["", f"## {definition.name}", "", f"`{definition.signature()}`"]
    if definition.doc:
        constraints = definition.constraints
        text = re.sub(r"^\s*C\d+\s+.+$", "", definition.doc, flags=re.MULTILINE).strip()
        lines += ["", text] if text else []
        if constraints:
            lines += ["", *(f"- **{key}** {said}" for key, said in constraints.items())]
    if definition.attrs:
        shown = ", ".join(f"`{spec!r}`" for spec in definition.attrs.values())
        lines += ["", f"Attributes: {shown}."]
    if definition.regions:
        lines += ["", "Regions: " + ", ".join(f"`{name}`" for name in definition.regions) + "."]
    facts = sorted(definition.traits)
    if definition.meaning is None and "terminator" not in definition.traits:
        facts.append("no deterministic meaning")
    if definition.decompose is not None and "composite" not in definition.traits:
        facts.append("decomposes")
    if facts:
        lines += ["", f"*{', '.join(facts)}*"]
    return lines


def ops_page() -> str:
    """Return docs/ops.md."""
    from lepton_ir.opdef import load_all

    table = sorted(load_all().items())
    lines = [_NOTICE, "# Operations", ""]
    lines += [
        f"The {len(table)} operations of the IR, each with the meaning of the latest ONNX opset.",
        "`x?` is optional, `xs*` is any number; the numbered constraints are those of messages.",
        "Every other operator of a file stays opaque: carried through and written back unchanged.",
    ]
    for _, definition in table:
        lines += _op_lines(definition)
    return "\n".join(lines) + "\n"


def torch_page() -> str:
    """Return docs/pytorch.md."""
    from lepton_ir.frontends import torch
    from lepton_ir.frontends.torch import control, table

    names: dict[str, list[str]] = {}
    for key in sorted(table.load()):
        space, _, name = key.partition(".")
        names.setdefault(space, []).append(name)
    names["higher_order"] = sorted(control.NAMES)
    lines = [_NOTICE, "# PyTorch", "", torch.__doc__ or ""]
    for space, found in sorted(names.items()):
        lines += [f"## {space}: {len(found)}", "", ", ".join(f"`{n}`" for n in found), ""]
    return "\n".join(lines)


def keras_page() -> str:
    """Return docs/keras.md."""
    from lepton_ir.frontends import keras
    from lepton_ir.frontends.keras import table

    rows = sorted(n for n in table.load() if not n.endswith("Cell") and n != "Projection")
    ops = sorted(table.OPERATIONS)
    lines = [_NOTICE, "# Keras", "", keras.__doc__ or ""]
    for title, names in (("Layers", rows), ("keras.ops", ops)):
        lines += [f"## {title}: {len(names)}", "", ", ".join(f"`{n}`" for n in names), ""]
    return "\n".join(lines)


def tensorflow_page() -> str:
    """Return docs/tensorflow.md."""
    from lepton_ir.frontends import tensorflow
    from lepton_ir.frontends.tensorflow import table
    from lepton_ir.frontends.tensorflow.graph import CALLS

    names = sorted({*table.load(), *table.structures(), *CALLS})
    lines = [_NOTICE, "# TensorFlow", "", tensorflow.__doc__ or ""]
    lines += [f"## Operators: {len(names)}", "", ", ".join(f"`{n}`" for n in names), ""]
    return "\n".join(lines)


def tflite_page() -> str:
    """Return docs/tflite.md."""
    from lepton_ir.backends.tflite import table as written
    from lepton_ir.frontends import tflite
    from lepton_ir.frontends.tflite import table

    read = {name.removeprefix("custom:"): row.ir for name, row in table.rows().items()}
    made: dict[str, list[str]] = {}
    several = []
    for name, row in sorted(written.rows().items()):
        if isinstance(row.builtin, str):
            made.setdefault(row.builtin, []).append(f"`{name}`")
        else:
            several.append(f"`{name}`")
    lines = [_NOTICE, "# TFLite", "", tflite.__doc__ or ""]
    lines += [
        f"## Operators: {len(read)} are read",
        "",
        "| Operator | Is read as | Is written for |",
        "| --- | --- | --- |",
    ]
    for name in sorted(read.keys() | made.keys()):
        lines.append(f"| {name} | {_cell(read.get(name, ''))} | {', '.join(made.get(name, ()))} |")
    lines += ["", f"Which operator is written depends on the form for {', '.join(several)}.", ""]
    return "\n".join(lines)


PAGES = {
    "passes.md": passes_page,
    "rules.md": rules_page,
    "ops.md": ops_page,
    "pytorch.md": torch_page,
    "keras.md": keras_page,
    "tensorflow.md": tensorflow_page,
    "tflite.md": tflite_page,
}


def main(argv: list[str] | None = None) -> int:
    """Write or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="fail when a page is out of date")
    args = parser.parse_args(argv)
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if args.check:
            stale.append(f"docs/{name}")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
    if stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
