"""pytest plugin: every ``.lir`` file in a folder called ``golden`` is a test file.

``--update-golden`` rewrites the expected results in place; ``--golden-remarks`` prints the remarks
of each case, missed rewrites with their reasons included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lepton_ir.testing.golden import GoldenCase

_remarks: list[tuple[str, list[str]]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("lepton", "Lepton golden tests")
    group.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite the expected results of golden .lir files",
    )
    group.addoption(
        "--golden-remarks", action="store_true", help="print the remarks of golden cases"
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect golden files."""
    if file_path.suffix == ".lir" and "golden" in file_path.parts:
        return GoldenFile.from_parent(parent, path=file_path)
    return None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the remarks that were asked for."""
    for name, remarks in _remarks:
        terminalreporter.write_sep("-", name)
        for remark in remarks:
            terminalreporter.write_line(remark)
    _remarks.clear()


class GoldenFile(pytest.File):
    """A golden file; its items are its cases."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield one item per case, after an update if one was asked for."""
        from lepton_ir.testing.golden import GoldenFailure, read_golden, update_file

        if self.config.getoption("--update-golden"):
            try:
                update_file(self.path)
            except GoldenFailure as failure:
                raise self.CollectError(str(failure)) from failure
        taken: dict[str, int] = {}
        for case in read_golden(self.path)[1]:
            name = case.name or self.path.stem
            count = taken[name] = taken.get(name, 0) + 1
            unique = name if count == 1 else f"{name} ({count})"
            yield GoldenItem.from_parent(self, name=unique, case=case)


class GoldenItem(pytest.Item):
    """One case."""

    def __init__(self, *, case: GoldenCase, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case

    def runtest(self) -> None:
        """Run the case."""
        from lepton_ir.testing.golden import check_case

        outcome = check_case(self.case, str(self.path))
        if self.config.getoption("--golden-remarks"):
            _remarks.append((self.nodeid, outcome.remarks or ["no remarks"]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the diff, not a traceback."""
        from lepton_ir.testing.golden import GoldenFailure

        if isinstance(excinfo.value, GoldenFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Name the line of the case."""
        return self.path, self.case.line - 1, self.name
