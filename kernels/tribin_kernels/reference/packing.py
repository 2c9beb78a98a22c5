"""Row bits: the canonical packed format of signs, on disk and on the CPU.

A row of K bits is ceil(K/32) int32 words; bit i of word w is element 32·w + i, a bit of 1 means
negative, and the bits that pad the last word are 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tribin_kernels.reference.signs import plus_minus_one

WORD_BITS = 32


def words_per_row(length: int) -> int:
    """How many int32 words hold `length` bits."""
    return (length + WORD_BITS - 1) // WORD_BITS


def pack_bits(bits: Tensor) -> Tensor:
    """Pack bool [..., K] into row bits, int32 [..., ceil(K/32)]."""
    length = bits.shape[-1]
    words = words_per_row(length)
    padded = F.pad(bits, (0, words * WORD_BITS - length))
    lanes = padded.unflatten(-1, (words, WORD_BITS)).to(torch.int32)
    return (lanes << _shifts(bits.device)).sum(-1, dtype=torch.int32)


def unpack_bits(words: Tensor, length: int) -> Tensor:
    """Unpack row bits, int32 [..., ceil(K/32)], into bool [..., K] with K = `length`."""
    return _lanes(words, length).to(torch.bool)


def pack_signs(x: Tensor) -> Tensor:
    """Pack the signs of x, [..., K], into row bits, int32 [..., ceil(K/32)]."""
    return pack_bits(x < 0)


def unpack_signs(words: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Unpack row bits, int32 [..., ceil(K/32)], into signs ±1 of `dtype`, [..., K]."""
    return plus_minus_one(_lanes(words, length), dtype)


def _lanes(words: Tensor, length: int) -> Tensor:
    lanes = (words.unsqueeze(-1) >> _shifts(words.device)) & 1
    return lanes.flatten(-2)[..., :length]


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(WORD_BITS, dtype=torch.int32, device=device)
