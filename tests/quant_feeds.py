"""Calibration data of the golden files: ``calib="quant_feeds:ramp"``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def ramp() -> Iterator[dict[str, np.ndarray]]:
    """Two images ``[1, 2, 4, 4]`` with the numbers from -16 to 15."""
    values = np.arange(-16, 16, dtype=np.float32).reshape(1, 2, 4, 4)
    yield {"x": values}
    yield {"x": -values}


def rows() -> dict[str, np.ndarray]:
    """Four rows of four numbers."""
    return {"x": np.arange(16, dtype=np.float32).reshape(4, 4)}
