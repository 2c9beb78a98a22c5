"""Row bits of a convolution's weights, without the bits that pad each tap."""

import math

from torch import Tensor

from tribin_kernels.reference import WORD_BITS, pack_bits, unpack_bits


def to_dense_rows(weight_bits: Tensor, channels: int) -> Tensor:
    """The rows of a file, of K = kh·kw·C bits, channels innermost.

    Args:
        weight_bits: int32 [out, kh, kw, ceil(C/32)].
        channels: C.

    Returns:
        int32 [out, ceil(K/32)].
    """
    if channels % WORD_BITS:
        return pack_bits(unpack_bits(weight_bits, channels).flatten(1))
    return weight_bits.flatten(1)


def from_dense_rows(rows: Tensor, kernel: tuple[int, int], channels: int) -> Tensor:
    """Inverse of `to_dense_rows`: int32 [out, kh, kw, ceil(C/32)]."""
    if channels % WORD_BITS:
        bits = unpack_bits(rows, math.prod(kernel) * channels)
        return pack_bits(bits.unflatten(1, (*kernel, channels)))
    return rows.unflatten(1, (*kernel, -1))


def pads_with_zeros(rows: Tensor, length: int) -> bool:
    """Whether the bits beyond `length` of each row, int32 [out, ceil(length/32)], are 0."""
    used = length % WORD_BITS
    return not used or not (rows[:, -1] >> used != 0).any()
