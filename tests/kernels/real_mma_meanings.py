"""What the inline assembly of `tribin_kernels.real_mma` computes, as the PTX ISA has it."""

import numpy as np
from tests.kernels.interpreter import meaning


@meaning("WITH SIGNS")
def with_signs(signs: np.ndarray, plus_ones: np.ndarray) -> np.ndarray:
    """`lop3` with 0xEA: (a & b) | c, where b has the top bits of both halves."""
    return signs & np.int32(-0x7FFF8000) | plus_ones
