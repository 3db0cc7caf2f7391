"""The documentation is true: its blocks run, its links lead somewhere, its reference is current.

In a page that is run, a block ```` ```lang file=NAME ```` is written to that file, and the lines
of a ``console`` block that start with ``$`` are run in order, in one folder for the page. What the
block shows must be printed, in that order; a line ``...`` stands for any lines, and so does the end
of a line after ``...``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lepton_ir.tools import docgen

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RUN = ("docs/writing-a-pass.md", "docs/tutorial.md")


@dataclass
class Block:
    """A fenced block: its language, the file it is (if any), its lines, and where it begins."""

    language: str
    file: str
    lines: list[str]
    line: int


def blocks_of(path: Path) -> list[Block]:
    found: list[Block] = []
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"^```(\w*)(?: file=(\S+))?", line)
        if fence and not inside:
            found.append(Block(fence[1], fence[2] or "", [], number))
        elif not fence:
            if inside:
                found[-1].lines.append(line)
            continue
        inside = not inside
    assert not inside, f"{path}: the last block has no end"
    return found


@pytest.fixture
def shell(tmp_path_factory):
    """A function that runs a command line as a reader would, with Lepton on the path."""
    tools = tmp_path_factory.mktemp("bin")
    modules = {"python": "", "pytest": "-m pytest", "lepton-opt": "-m lepton_ir.tools.lepton_opt"}
    for name, module in modules.items():
        script = tools / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        script.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "-p lepton_ir.testing.plugin -p no:cacheprovider",
        "OPENBLAS_NUM_THREADS": "1",
    }

    def run(command: str, folder: Path) -> tuple[int, str]:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        return done.returncode, done.stdout

    return run


def shows(printed: list[str], expected: list[str]) -> str:
    """Return the first expected line that is not printed in its place, empty if there is none."""
    at, skipping = 0, False
    for line in expected:
        if line.strip() == "...":
            skipping = True
            continue
        head, dots, _ = line.rstrip().partition("...")
        while at < len(printed):
            text = printed[at].rstrip()
            at += 1
            if text == head or (dots and text.startswith(head)):
                break
            if not skipping:
                return line
        else:
            return line
        skipping = False
    return ""


def commands_of(block: Block) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for line in block.lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0][:-1] + line.strip(), [])
        else:
            found[-1][1].append(line)
    return found


@pytest.mark.parametrize("page", RUN)
def test_blocks_run(page, shell, tmp_path):
    ran = 0
    for block in blocks_of(ROOT / page):
        if block.file:
            path = tmp_path / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(block.lines) + "\n", encoding="utf-8")
        if block.language == "python" and not block.file:
            (tmp_path / "_block.py").write_text("\n".join(block.lines), encoding="utf-8")
            code, output = shell("python _block.py", tmp_path)
            assert code == 0, f"{page}:{block.line}:\n{output}"
            ran += 1
        for command, expected in commands_of(block) if block.language == "console" else ():
            code, output = shell(command.partition("  #")[0], tmp_path)
            fails = any(line.startswith("error") for line in expected)
            assert (code != 0) == fails, f"{page}:{block.line}: $ {command}\n{output}"
            missing = shows(output.splitlines(), expected)
            assert not missing, f"{page}:{block.line}: $ {command}\nno {missing!r} in\n{output}"
            ran += 1
    assert ran >= 5


def test_the_python_api_of_the_readme_runs(shell, tmp_path):
    (tmp_path / "make.py").write_text(
        "\n".join(blocks_of(ROOT / "docs/writing-a-pass.md")[0].lines), encoding="utf-8"
    )
    assert shell("python make.py", tmp_path)[0] == 0
    blocks = [b for b in blocks_of(ROOT / "README.md") if b.language == "python"]
    assert blocks
    for block in blocks:
        (tmp_path / "block.py").write_text("\n".join(block.lines), encoding="utf-8")
        code, output = shell("python block.py", tmp_path)
        assert code == 0, output
    assert (tmp_path / "model.opt.onnx").is_file()


def test_reference_pages_are_up_to_date(capsys):
    assert docgen.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("#"):
            continue
        place, _, anchor = target.partition("#")
        path = (page.parent / place).resolve()
        assert path.exists(), f"{page.name}: {target}"
        if anchor and path.suffix == ".md":
            heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
            known = {
                re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads
            }
            assert anchor in known, f"{page.name}: {target}"


@pytest.mark.parametrize(
    "option",
    sorted(
        set(
            re.findall(
                r"`(--[a-z-]+)",
                "\n".join(
                    page.read_text(encoding="utf-8")
                    for page in PAGES
                    if page.name in ("README.md", "cli.md", "tutorial.md", "check.md")
                ),
            )
        )
    ),
)
def test_documented_options_exist(option):
    from lepton_ir.tools import diff, extract, reduce
    from lepton_ir.tools.lepton_opt import parser

    parsers = [parser(), diff.parser(), extract.parser(), reduce.parser()]
    assert any(option in p.format_help() for p in parsers)


def test_every_option_is_documented():
    from lepton_ir.tools import diff, extract, reduce
    from lepton_ir.tools.lepton_opt import parser

    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    actions = [
        a for p in (parser(), diff.parser(), extract.parser(), reduce.parser()) for a in p._actions
    ]
    options = {o for action in actions for o in action.option_strings if o[:2] == "--"}
    assert not {option for option in options if f"`{option}" not in page}
