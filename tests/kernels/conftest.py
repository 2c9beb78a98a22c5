"""Every test of the kernels runs them in the mended interpreter, into poisoned outputs."""

from collections.abc import Iterator

import pytest
import torch
from tests.kernels import bit_mma_meanings, interpreter, real_mma_meanings

interpreter.install()


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Fill new tensors with NaN, or the largest integer: an element left out then shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(()).isnan()
    yield
    torch.use_deterministic_algorithms(False)


__all__ = ["bit_mma_meanings", "real_mma_meanings"]
