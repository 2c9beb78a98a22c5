"""Signs to row bits and back on a GPU; `tribin_kernels.reference` says what is computed."""

import torch
from torch import Tensor

from tribin_kernels import reference
from tribin_kernels.dtypes import or_else
from tribin_kernels.pack_activations import pack_rows
from tribin_kernels.unpack_rows import unpack_rows


@or_else(reference.pack_signs)
def pack_signs(x: Tensor) -> Tensor:
    """Row bits of the signs of x, [..., K]."""
    return pack_rows(x)


def unpack_signs(bits: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Signs ±1 of `dtype`, [..., K] with K = `length`."""
    return unpack_rows(bits, length, dtype)
