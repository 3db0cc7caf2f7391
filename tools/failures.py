"""Exceptions in one line of a report."""

from __future__ import annotations

from pathlib import Path

_WIDTH = 300


def one_line(error: BaseException) -> str:
    """Return the message of an exception, shortened."""
    text = " ".join(str(error).split())
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def origin(error: BaseException) -> str:
    """Return file, line and function of the innermost frame."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return "no traceback"
    code = trace.tb_frame.f_code
    return f"{Path(code.co_filename).name}:{trace.tb_lineno} in {code.co_name}"
