"""The loop that measures the rate of 1-bit matrix instructions multiplies as often as it says."""

import numpy as np
import pytest
import torch
from tests.kernels import interpreter

from tribin_kernels.bit_mma_peak import bit_mma_peak


@pytest.mark.parametrize(("programs", "steps"), [(1, 1), (2, 3)])
def test_multiply_adds(monkeypatch: pytest.MonkeyPatch, programs: int, steps: int) -> None:
    mma = interpreter.MEANINGS["MMA"]
    warps = []

    def counted(a: np.ndarray, *operands: np.ndarray) -> object:
        warps.append(a.size // (32 * 4))
        return mma(a, *operands)

    monkeypatch.setitem(interpreter.MEANINGS, "MMA", counted)
    found = bit_mma_peak(torch.device("cpu"), programs, steps)
    # each of a warp's instructions, two in the snippet, is m16n8k256
    assert found == sum(warps) * 2 * 16 * 8 * 256
