"""What quantized models decide, on real photographs and sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_ir.tools.bench import quant_decisions as decisions
from lepton_ir.tools.bench import quant_embeddings as embeddings

pytest.importorskip("onnxruntime")

DYNAMIC = "quant{mode=dynamic}"
MIXED = "quant{mode=static max_drop=0.05 cache=false}"
LEAST = {
    ("detection", MIXED): 0.95,
    ("voice", MIXED): 0.98,
    ("direction", MIXED): 1.0,
    **{(kind, DYNAMIC): 1.0 for kind in decisions.COMPARE},
}


@pytest.mark.slow
def test_decisions_are_kept(shared_models: Path) -> None:
    if not (shared_models / "data" / "coral").is_dir():
        pytest.skip("the photographs are not here")
    tasks = decisions.tasks(shared_models)
    for (kind, passes), least in LEAST.items():
        found = decisions.measure(kind, *tasks[kind], passes)
        assert found.kept >= least, (kind, passes, found)


def test_parts_of_a_map_have_bounds() -> None:
    mask = np.zeros((20, 40), bool)
    mask[2:8, 3:15] = True
    mask[12:18, 20:39] = True
    mask[0, 39] = True  # too small
    assert decisions.boxes(mask) == [(2, 8, 3, 15), (12, 18, 20, 39)]


def test_images_are_stretched_between_pixels() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 10
    assert np.array_equal(decisions.resized(image, 2, 2), image)
    large = decisions.resized(image, 4, 8)
    assert large.shape == (4, 8, 3)
    assert np.allclose(large.mean((0, 1)), image.mean((0, 1)))


def test_repeated_and_blank_classes_are_no_characters() -> None:
    y = np.zeros((1, 6, 4))
    for at, best in enumerate((0, 2, 2, 0, 2, 3)):
        y[0, at, best] = 1
    assert decisions.characters(y) == (2, 2, 3)


def test_ranks_of_equal_values_are_equal() -> None:
    x = np.array([3.0, 1.0, 3.0, 0.0])
    assert embeddings.ranks(x).tolist() == [3.5, 2.0, 3.5, 1.0]
    assert embeddings.rank_correlation(x, 2 * x + 1) == pytest.approx(1.0)
    assert embeddings.rank_correlation(x, -x) == pytest.approx(-1.0)
