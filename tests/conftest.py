"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

import taste_min  # noqa: F401  before transformers: see taste_min/_torchaudio.py

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Golden tensors of the original system; they are not part of the project."""
    folder = Path(os.environ.get("TASTE_MIN_PARITY", ROOT.parent / "shared" / "parity"))
    if not folder.is_dir():
        pytest.skip("no folder with golden tensors; set TASTE_MIN_PARITY to run the parity tests")
    return folder
