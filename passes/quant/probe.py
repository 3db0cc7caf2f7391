"""Running a module on calibration data with extra outputs, through the best runner installed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import TYPE_CHECKING, Any

from lepton_ir import api, plugins
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


class Probe:
    """A module with extra outputs, written and ready to run; a context manager.

    ``module`` is a copy made for this: operations that the opset lacks are taken apart.

    Args:
        module: what to run.
        ctx: of the pass, for target and progress.
        what: word for the progress line.
        fast: let the runtime optimize.
        integers: let it compute pairs in integers then, and not as they are written.
    """

    def __init__(
        self,
        module: Module,
        ctx: PassContext,
        what: str,
        *,
        fast: bool = False,
        integers: bool = True,
    ) -> None:
        self.ctx, self.what, self.fast, self.integers = ctx, what, fast, integers
        target = ctx.target
        if target is None or target.name not in ("onnx", "ort"):
            target = api.target("onnx")  # which is what a probe is written as
        Legalize().run(module, PassContext(target=target))
        self._folder = tempfile.TemporaryDirectory(prefix="lepton-calib-")
        self.path = os.path.join(self._folder.name, "probe.onnx")
        try:
            api.save(module, self.path, format="onnx")
        except BaseException:
            self.close()
            raise
        self._runner: Any = None

    def __enter__(self) -> Probe:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the files."""
        self.close()

    def close(self) -> None:
        """Remove the files."""
        self._folder.cleanup()

    def digest(self) -> str:
        """Return a hash of the files."""
        h = hashlib.blake2b(digest_size=20)
        for name in sorted(os.listdir(self._folder.name)):
            with open(os.path.join(self._folder.name, name), "rb") as file:
                while data := file.read(1 << 22):
                    h.update(data)
        return h.hexdigest()

    def _load(self, kind: str) -> Any:
        if not self.fast or kind == "reference":
            return make_runner(kind, self.path)
        factory: Any = plugins.load("backends", f"runner-{kind}")
        return factory(self.path, optimized=True, integers=self.integers)

    def run(self, feeds: Iterable[dict[str, Any]]) -> Iterator[list[Any]]:
        """Yield the results for each feed; nothing is kept between them.

        Raises:
            ProbeError: the runner refuses the model or fails on a feed.
        """
        kind = best_runner()
        if self._runner is None:
            try:
                self._runner = self._load(kind)
            except LeptonError:
                raise
            except Exception as error:
                raise ProbeError(
                    f"{kind} cannot load the model: {_line(error)}", code="calib"
                ) from error
        for number, feed in enumerate(feeds, 1):
            try:
                results = self._runner.run(feed)
            except LeptonError:
                raise
            except Exception as error:
                raise ProbeError(
                    f"{kind} fails on calibration sample {number}: {_line(error)}", code="calib"
                ) from error
            if self.ctx.progress is not None:
                self.ctx.progress(number, 0, self.what)
            yield results


def run_probe(
    module: Module, feeds: Iterable[dict[str, Any]], ctx: PassContext, what: str
) -> Iterator[list[Any]]:
    """Yield the results of ``module``, computed as it is written, for each feed; see ``Probe``.

    Only the runtime's layouts and fusions in float may differ.
    """
    with Probe(module, ctx, what, fast=True, integers=False) as probe:
        yield from probe.run(feeds)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return shorten(text[0], 200) if text else type(error).__name__
