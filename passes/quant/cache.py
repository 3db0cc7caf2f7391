"""What calibration found, kept in the user's cache folder by the content it came from."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lepton_ir.ir import Value
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.feeds import Feeds

VERSION = 3
"""Changes when the same content would give other numbers."""


def folder() -> str:
    """Return the folder of cached ranges: ``$XDG_CACHE_HOME/lepton/calibration`` or its default."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "lepton", "calibration")


def key(run: Run, values: list[Value], feeds: Feeds) -> str:
    """Return a hash of the model up to ``values``, the data, and the calibrator's options."""
    from lepton_ir.passes.quant.probe import Probe, add_outputs

    options = run.options
    head = [VERSION, options.calibrate, options.percentile, run.activations.bits]
    h = hashlib.blake2b(json.dumps(head).encode(), digest_size=20)
    snapshot = run.snapshot()
    inputs = dict(zip(run.module.main.inputs, snapshot.module.main.inputs, strict=True))
    add_outputs(snapshot.module, [inputs.get(v) or snapshot.values[v] for v in values])
    with Probe(snapshot.module, run.ctx, "calibrate") as probe:
        h.update(probe.digest().encode())
    for feed in feeds:
        for name, array in sorted(feed.items()):
            h.update(name.encode())
            _add(h, array)
    return h.hexdigest()


def _add(h: Any, item: Any) -> None:
    if isinstance(item, list):
        for part in item:
            _add(h, part)
        return
    array = np.asarray(item)
    h.update(f"{array.dtype}{array.shape}".encode())
    h.update(array.tobytes() if array.dtype.kind in "biufc" else repr(array.tolist()).encode())


def read(name: str) -> list[list[float]] | None:
    """Return cached numbers, ``None`` when there are none that can be read."""
    try:
        with open(os.path.join(folder(), name + ".json"), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    good = isinstance(found, list) and all(isinstance(r, list) and len(r) == 4 for r in found)
    return found if good else None


def write(name: str, numbers: list[list[float]]) -> None:
    """Keep numbers; a folder that cannot be written means that nothing is kept."""
    try:
        os.makedirs(folder(), exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=folder(), suffix=".tmp", delete=False, encoding="utf-8"
        ) as file:
            json.dump(numbers, file)
        os.replace(file.name, os.path.join(folder(), name + ".json"))
    except OSError:
        return
