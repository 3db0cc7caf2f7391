from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# A package of its own, which test_plugin_example.py installs and runs.
collect_ignore = ["plugin_example"]

# The same examples on every run, and no deadline: a loaded machine must not turn a test red.
settings.register_profile("lepton", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("LEPTON_HYPOTHESIS", "lepton"))


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of real models: ``models`` in ``LEPTON_SHARED``, or in ``shared`` beside us."""
    shared = Path(os.environ.get("LEPTON_SHARED", ROOT.parent / "shared"))
    models = shared / "models"
    if not models.is_dir():
        pytest.skip(f"no real models here ({models} is missing; set LEPTON_SHARED)")
    return models
