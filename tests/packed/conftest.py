"""A packed file for the tests to damage."""

from pathlib import Path

import pytest
from tests.packed.packed_bytes import small_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def data(path: Path) -> bytes:
    """The bytes of a packed file of all dtypes, which is at `path`."""
    return small_file(path)
