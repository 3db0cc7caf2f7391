"""Reproducers: what ``lepton-opt`` writes when a check fails, and ``--run-reproducer`` runs."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from typing import TYPE_CHECKING

from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.text.write import RUN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_ir.tools.options import Options

_HEAD_LINES = 4


def option_text(options: Options, excluded: Iterable[str], stop_after: int | None) -> str:
    """Return the options that say which rewrites a run makes, quoted as for a shell."""
    words = []
    if stop_after is not None:
        words.append(f"--stop-after={stop_after}")
    if options.target != "onnx":
        words.append(f"--target={options.target}")
    words += [f"--exclude-rule={name}" for name in sorted(options.exclude_rules)]
    words += [f"--exclude-rewrite={key}" for key in sorted(excluded)]
    words += [f"--keep-node={name}" for name in sorted(options.keep_nodes)]
    return shlex.join(words)


def read(path: str, options: Options) -> Options:
    """Return ``options`` changed to what the reproducer at ``path`` says.

    What the command line gives wins over the file's ``--stop-after``, and adds to its exclusions.

    Raises:
        LeptonError: not a reproducer.
    """
    try:
        with open(path, encoding="utf-8") as file:
            head = [file.readline() for _ in range(_HEAD_LINES)]
    except (OSError, UnicodeDecodeError) as error:
        raise LeptonError(f"cannot read it: {error}", code="reproducer", where=path) from error
    run = next((line[len(RUN) :].strip() for line in head if line.startswith(RUN)), None)
    if run is None:
        raise UnsupportedError(
            f"has no '{RUN}pipeline' line",
            code="reproducer",
            where=path,
            hint="give a .lir file that lepton-opt wrote when a check failed",
        )
    pipeline, dashes, rest = run.partition(" --")
    given = _parse((dashes + rest).strip(), path)
    return dataclasses.replace(
        options,
        model=path,
        passes=pipeline.strip(),
        emit="none",
        output=None,
        target=given.target or options.target,
        stop_after=given.stop_after if options.stop_after is None else options.stop_after,
        exclude_rules=options.exclude_rules.union(given.exclude_rule),
        exclude_rewrites=options.exclude_rewrites.union(given.exclude_rewrite),
        keep_nodes=options.keep_nodes.union(given.keep_node),
    )


def _parse(text: str, path: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--target")
    for name in ("--exclude-rule", "--exclude-rewrite", "--keep-node"):
        parser.add_argument(name, action="append", default=[])
    try:
        given, unknown = parser.parse_known_args(shlex.split(text))
    except (argparse.ArgumentError, ValueError) as error:
        raise LeptonError(f"bad RUN line: {error}", code="reproducer", where=path) from error
    if unknown:
        raise LeptonError(
            f"the RUN line has an unknown option {unknown[0]!r}", code="reproducer", where=path
        )
    return given
