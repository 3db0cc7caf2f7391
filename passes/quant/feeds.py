"""Calibration data: from ``--calib`` to dicts that fit the model's inputs.

Sources are ``.npz`` files, folders of ``.npz`` or ``.npy`` files, ``module:function`` (the user's
own code: called without arguments, it returns or yields dicts), and dicts themselves. Arrays are
matched by name; a model with one input takes the only array of a file whatever its name. Arrays
that no input is called after (labels, say) are ignored.

An array may hold many samples along its first axis: with one axis more than the input it is one
feed a sample; with as many axes, and a first axis longer than the input's (32 if that is symbolic),
it is cut into pieces of that length, and what is left over, when it is shorter than a static
length, is dropped. All inputs of one feed that hold the same number of samples are cut alike;
the others are repeated.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.diagnostics import LeptonError, shorten
from lepton_ir.feeds import load_feeds
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.ir import Function, Module, Value

BATCH = 32
"""Samples in one run where the model leaves their number open."""

_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Feed = Mapping[str, Any]


@dataclass(frozen=True)
class Feeds:
    """Calibration data of one model; iterating starts over each time.

    Attributes:
        sources: paths, ``module:function``, dicts or functions that yield dicts.
        function: the model's main function.
    """

    sources: tuple[Any, ...]
    function: Function

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield feeds that have exactly the model's inputs.

        Raises:
            LeptonError: a source cannot be read, or does not fit the model.
        """
        count = 0
        for source in self.sources:
            where = source if isinstance(source, str) else ""
            for raw in _raw_feeds(source):
                for feed in _fitted(self.function, raw, where):
                    count += 1
                    yield feed
        if not count:
            raise LeptonError("the calibration data has no samples", code="calib")


def open_feeds(given: Any, module: Module, extra: str = "") -> Feeds | None:
    """Return the calibration data of a run, ``None`` when there is none.

    Args:
        given: ``ctx.feeds``: ``None``, one source or a sequence of sources.
        module: the model.
        extra: one more source.
    """
    single = isinstance(given, (str, os.PathLike, Mapping)) or callable(given)
    sources = (given,) if single else tuple(given or ())
    sources += (extra,) if extra else ()
    sources = tuple(os.fspath(s) if isinstance(s, os.PathLike) else s for s in sources)
    return Feeds(sources, module.main) if sources else None


def _raw_feeds(source: Any) -> Iterator[Feed]:
    if isinstance(source, Mapping):
        yield source
    elif callable(source):
        yield from _called(source, getattr(source, "__name__", "calibration function"))
    elif os.path.exists(source) or not _CODE.fullmatch(source):
        yield from load_feeds([source])
    else:
        yield from _called(_import(source), source)


def _import(source: str) -> Callable[[], Any]:
    """Import ``module:function``; modules in the working directory are found too."""
    module_name, _, name = source.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise LeptonError(
            f"cannot import it: {error}",
            code="calib",
            where=source,
            hint="MODULE:FUNCTION is looked up as Python does, and in the working directory",
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise LeptonError("is no function", code="calib", where=source)
    return function  # type: ignore[no-any-return]


def _called(function: Callable[[], Any], where: str) -> Iterator[Feed]:
    try:
        found = function()
        items: Iterable[Any] = (found,) if isinstance(found, Mapping) else found
        for item in items:
            if not isinstance(item, Mapping):
                kind = type(item).__name__
                raise LeptonError(
                    f"yields {kind} instead of dicts from input name to array",
                    code="calib",
                    where=where,
                )
            yield item
    except LeptonError:
        raise
    except Exception as error:
        raise LeptonError(
            f"it fails: {type(error).__name__}: {error}", code="calib", where=where
        ) from error


def _fitted(function: Function, raw: Feed, where: str) -> Iterator[dict[str, Any]]:
    inputs = {v.name or "": v for v in function.inputs}
    needed = [n for n in inputs if n not in function.overridable]
    if len(needed) == 1 and needed[0] not in raw and len(raw) == 1:
        raw = {needed[0]: next(iter(raw.values()))}
    missing = [n for n in needed if n not in raw]
    if missing:
        raise LeptonError(
            f"no array for input {shorten(missing[0])!r}",
            code="calib",
            where=where,
            hint=f"inputs: {_listed(needed)}; arrays: {_listed(list(raw))}",
        )
    arrays = {n: _converted(inputs[n], raw[n], n, where) for n in inputs if n in raw}
    yield from _split(inputs, arrays)


def _listed(names: list[str]) -> str:
    shown = ", ".join(shorten(n, 40) for n in names[:8])
    return shown + (", ..." if len(names) > 8 else "") or "none"


def _converted(value: Value, given: Any, name: str, where: str) -> Any:
    t = value.type
    if isinstance(given, list) or not isinstance(t, TensorType) or t.dtype is None:
        return given
    array = np.asarray(given)
    wanted = t.dtype.numpy
    if array.dtype != wanted:
        numbers = array.dtype.kind in "iufb" and wanted.kind in "iuf"
        if not numbers or (array.dtype.kind == "f" and wanted.kind != "f"):
            raise LeptonError(
                f"input {shorten(name)!r} takes {t.dtype}, the data is {array.dtype}",
                code="calib",
                where=where,
            )
        array = array.astype(wanted)
    rank = value.rank
    if rank is not None and array.ndim not in (rank, rank + 1):
        raise LeptonError(
            f"input {shorten(name)!r} is {t}, the data has shape {list(array.shape)}",
            code="calib",
            where=where,
        )
    fixed = zip(reversed(t.shape or ()), reversed(array.shape), strict=False)
    inner = list(fixed)[: max((rank or 0) - 1, 0)]
    if any(isinstance(d, int) and d != n for d, n in inner):
        raise LeptonError(
            f"input {shorten(name)!r} is {t}, the data has shape {list(array.shape)}",
            code="calib",
            where=where,
        )
    return array


def _step(value: Value, array: Any) -> int | None:
    """Return how many samples of ``array`` make one feed (0: index one), ``None`` for all."""
    rank, shape = value.rank, value.shape
    if not isinstance(array, np.ndarray) or rank is None or shape is None:
        return None
    if array.ndim == rank + 1:
        return 0
    if not shape or array.ndim != rank:
        return None
    size = shape[0]
    length = size if isinstance(size, int) else BATCH
    return length if array.shape[0] > length > 0 else None


def _split(inputs: dict[str, Value], arrays: dict[str, Any]) -> Iterator[dict[str, Any]]:
    steps = {n: _step(inputs[n], a) for n, a in arrays.items()}
    cut = {n: s for n, s in steps.items() if s is not None}
    if not cut:
        yield arrays
        return
    first = next(iter(cut))
    total = arrays[first].shape[0]
    stride = max(max(cut.values()), 1)
    for start in range(0, total, stride):
        feed = {}
        for name, array in arrays.items():
            step = cut.get(name)
            if step is None or array.shape[0] != total:
                feed[name] = array
            else:
                feed[name] = array[start] if step == 0 else array[start : start + stride]
        size = (inputs[first].shape or (None,))[0]
        if cut[first] and isinstance(size, int) and len(feed[first]) != size:
            return
        yield feed
