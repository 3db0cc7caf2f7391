"""Instruments that watch a pipeline: verification, printing after changes, timing, statistics."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from lepton_ir.diagnostics import LeptonError
from lepton_ir.pipeline import Instrument, PassRecord, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.ir import Module


class VerifyEach(Instrument):
    """Verifies the module after every pass that changed it."""

    def after_pass(self, step: Step, module: Module, record: PassRecord) -> None:
        if record.changed:
            from lepton_ir.verify import verify_module

            try:
                verify_module(module)
            except LeptonError as error:
                error.notes += (f"after pass {step} (#{record.number})",)
                raise


class PrintAfterChange(Instrument):
    """Prints the module after every pass that changed it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr

    def after_pass(self, step: Step, module: Module, record: PassRecord) -> None:
        if record.changed:
            from lepton_ir.text.print import print_module

            self.stream.write(f"// ----- after {step} (#{record.number})\n")
            self.stream.write(print_module(module))


class CheckEach(Instrument):
    """Calls ``check(step, module, record)`` after every pass that changed the module."""

    def __init__(self, check: Callable[[Step, Module, PassRecord], None]) -> None:
        self.check = check

    def after_pass(self, step: Step, module: Module, record: PassRecord) -> None:
        if record.changed:
            self.check(step, module, record)
