"""Row bits: the canonical packed format of signs, on disk and on the CPU.

A row of K bits is ceil(K/32) int32 words; bit i of word w is element 32·w + i, a bit of 1 means
negative, and the bits that pad the last word are 0.
"""

import torch
from torch import Tensor

from tribin_kernels.reference.signs import plus_minus_one

WORD_BITS = 32

# Eight bits are moved at once, as the bytes 0 and 1 of an int64. Multiplied by _GATHER, their bits
# meet in the highest byte. Multiplied by _REPEAT, a byte is in all eight places; _BIT_OF_BYTE then
# leaves bit i in byte i, and adding _CARRY moves whatever is set to the byte's highest bit.
_GATHER = 0x0102040810204080
_REPEAT = 0x0101010101010101
_BIT_OF_BYTE = 0x8040201008040201 - 2**64
_CARRY = 0x7F7F7F7F7F7F7F7F


def words_per_row(length: int) -> int:
    """How many int32 words hold `length` bits."""
    return (length + WORD_BITS - 1) // WORD_BITS


def pack_bits(bits: Tensor) -> Tensor:
    """Pack bool [..., K] into row bits, int32 [..., ceil(K/32)]."""
    *shape, length = bits.shape
    padded = bits.new_zeros(*shape, words_per_row(length) * WORD_BITS)
    padded[..., :length] = bits
    octets = (padded.view(torch.int64) * _GATHER) >> 56
    return octets.to(torch.uint8).view(torch.int32)


def unpack_bits(words: Tensor, length: int) -> Tensor:
    """Unpack row bits, int32 [..., ceil(K/32)], into bool [..., K] with K = `length`."""
    octets = words.contiguous().view(torch.uint8).to(torch.int64)
    spread = (octets * _REPEAT & _BIT_OF_BYTE) + _CARRY
    return (spread >> 7 & _REPEAT).view(torch.bool)[..., :length]


def pack_signs(x: Tensor) -> Tensor:
    """Pack the signs of x, [..., K], into row bits, int32 [..., ceil(K/32)]."""
    return pack_bits(x < 0)


def unpack_signs(words: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Unpack row bits, int32 [..., ceil(K/32)], into signs ±1 of `dtype`, [..., K]."""
    return plus_minus_one(unpack_bits(words, length), dtype)
