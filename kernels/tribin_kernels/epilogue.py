"""What follows a product before it is written: PReLU, gate, residual and ELU, in this order.

The products hand over z = dot · scale + bias in float32; see `Epilogue` for what becomes of it.
"""

# mypy: disable-error-code="no-untyped-def"

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Epilogue:
    """y = elu(gate(prelu(z)) + residual), each step where asked, and which results are written.

    Args:
        slope: prelu(z) = z where z > 0, else slope · z; floating point, one for each output of the
            product, before a gate too.
        gate: the outputs are two halves a, b along the channels, and gate(z) = a · sigmoid(b); the
            result has half as many channels.
        residual: added; of the result's shape and memory order, floating point.
        elu: apply the exponential linear unit, y where y > 0, else exp(y) − 1.
        real: write y.
        signs: write the signs of y as bits, as the input of a binary layer that follows.
        mask: write the bits of |y| ≤ 1, that layer's straight-through estimator. All bits are
            those of y in float32, before it is rounded to its dtype.
    """

    slope: Tensor | None = None
    gate: bool = False
    residual: Tensor | None = None
    elu: bool = False
    real: bool = True
    signs: bool = False
    mask: bool = False


@triton.jit
def prelu(z, slope):
    """Z where positive, else slope · z."""
    return tl.where(z > 0, z, slope * z)


@triton.jit
def gated(a, b):
    """A · sigmoid(b)."""
    return a / (1.0 + tl.exp(-b))


@triton.jit
def elu(y):
    """Y where positive, else exp(y) − 1."""
    return tl.where(y > 0, y, tl.exp(tl.minimum(y, 0.0)) - 1.0)
