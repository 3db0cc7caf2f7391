"""Running a module on calibration data with extra outputs, through the best runner installed."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

from lepton_ir import api
from lepton_ir.check import best_runner
from lepton_ir.check_worker import make_runner
from lepton_ir.context import PassContext
from lepton_ir.diagnostics import LeptonError, shorten
from lepton_ir.passes.legalize import Legalize

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lepton_ir.ir import Module, Value


class ProbeError(LeptonError):
    """The model does not run on the calibration data."""


def add_outputs(module: Module, values: Iterable[Value]) -> None:
    """Make ``main`` return ``values`` instead of its own results."""
    main = module.main
    terminator = main.block.terminator
    assert terminator is not None
    found = list(values)
    terminator.set_operands(found)
    main.output_names = [f"lepton.probe.{i}" for i in range(len(found))]


def run_probe(
    module: Module, feeds: Iterable[dict[str, Any]], ctx: PassContext, what: str
) -> Iterator[list[Any]]:
    """Yield the results of ``module`` for each feed; nothing is kept between them.

    ``module`` is a copy made for this: operations that the opset lacks are taken apart.

    Raises:
        ProbeError: the runner refuses the model or fails on a feed.
    """
    Legalize().run(module, PassContext(target=ctx.target or api.target("onnx")))
    with tempfile.TemporaryDirectory(prefix="lepton-calib-") as folder:
        path = os.path.join(folder, "probe.onnx")
        api.save(module, path, format="onnx")
        kind = best_runner()
        try:
            runner = make_runner(kind, path)
        except LeptonError:
            raise
        except Exception as error:
            raise ProbeError(
                f"{kind} cannot load the model: {_line(error)}", code="calib"
            ) from error
        for number, feed in enumerate(feeds, 1):
            try:
                results = runner.run(feed)
            except LeptonError:
                raise
            except Exception as error:
                raise ProbeError(
                    f"{kind} fails on calibration sample {number}: {_line(error)}", code="calib"
                ) from error
            if ctx.progress is not None:
                ctx.progress(number, 0, what)
            yield results


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return shorten(text[0], 200) if text else type(error).__name__
