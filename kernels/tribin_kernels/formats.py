"""The kernels' packed formats, as permutations of row bits, each with its inverse, in plain torch.

All hold the bits of row bits (`tribin_kernels.reference`), a bit of 1 meaning negative, and are
filled up with bits 0. Dimensions are named as in the PTX ISA's table of `mma.m16n8k256`: lane
4g + t of a warp, row half rh (rows g and g + 8), half kh of the 256 bits along K.

The 1-bit tensor core takes K in any order that both operands share. The kernels' channel order
puts channel 256·kt + 128·kh + 32·q + 8·t + c at bit 8·q + c of word (kt, kh, t): it is the order
in which a lane's accumulators come out of the product before, see `to_fragments`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from tribin_kernels.reference.packing import WORD_BITS, pack_bits, unpack_bits, words_per_row

MMA_DEPTH = 256
"""Channels that one 1-bit matrix instruction takes."""

QUAD_DEPTH = 128
"""Channels that the four words of a quad hold."""

OUTPUT_MULTIPLE = 256
"""Outputs that a plane of packed activations holds; fragments are filled up to it."""


def check_format(name: str, packed: Tensor, shape: Sequence[int]) -> None:
    """Raise where a packed tensor is not of the format that its place asks for.

    Raises:
        TypeError: it is not int32.
        ValueError: it has another shape.
    """
    if packed.dtype != torch.int32:
        raise TypeError(f"{name} is {packed.dtype}, packed tensors are torch.int32")
    if tuple(packed.shape) != tuple(shape):
        raise ValueError(f"{name} has the shape {list(packed.shape)}, wanted {list(shape)}")


def to_paired(row_bits: Tensor) -> Tensor:
    """Activations for the 1-bit tensor core: an MMA row tile is 8 neighbouring pixels of 2 images.

    A lane's four A registers are then 16 adjacent bytes under any shift by whole pixels.

    Args:
        row_bits: int32 [batch, height, width, ceil(C/32)].

    Returns:
        int32 [ceil(batch/2), ceil(C/256), height, width, 4 t, 2 kh, 2 rh]; rh is the image of the
        pair, all zeros for the one that an odd batch lacks.
    """
    words = _to_kernel_channels(row_bits)
    words = F.pad(words, (0, 0) * 5 + (0, words.shape[0] % 2))
    return rearrange(words, "(pair rh) y x kt kh t -> pair kt y x t kh rh", rh=2).contiguous()


def from_paired(paired: Tensor, batch: int, channels: int) -> Tensor:
    """Inverse of `to_paired`: int32 [batch, height, width, ceil(channels/32)]."""
    words = rearrange(paired, "pair kt y x t kh rh -> (pair rh) y x kt kh t")
    return _from_kernel_channels(words[:batch], channels)


def to_fragments(row_bits: Tensor) -> Tensor:
    """Weights for the 1-bit tensor core: the B registers of two n8 tiles, adjacent for each lane.

    Column 2t + e of n8 tile 2h + nh of a group of 32 outputs is output 8t + 4h + 2nh + e. So lane t
    of a quad gets 8 neighbouring outputs: one byte of the words of the next layer's input.

    Args:
        row_bits: int32 [outputs, taps, ceil(C/32)].

    Returns:
        int32 [taps, ceil(C/256), outputs/16, 32 lanes, 4], register 2·nh + kh, with the outputs
        filled up to a multiple of 256.
    """
    missing = -row_bits.shape[0] % OUTPUT_MULTIPLE
    words = _to_kernel_channels(F.pad(row_bits, (0, 0, 0, 0, 0, missing)))
    pattern = "(group tn h nh e) tap kt kh t -> tap kt (group h) (tn e t) (nh kh)"
    return rearrange(words, pattern, tn=4, h=2, nh=2, e=2).contiguous()


def from_fragments(fragments: Tensor, outputs: int, channels: int) -> Tensor:
    """Inverse of `to_fragments`: int32 [outputs, taps, ceil(channels/32)]."""
    pattern = "tap kt (group h) (tn e t) (nh kh) -> (group tn h nh e) tap kt kh t"
    words = rearrange(fragments, pattern, tn=4, h=2, nh=2, e=2)
    return _from_kernel_channels(words[:outputs], channels)


def to_quads(row_bits: Tensor) -> Tensor:
    """Weights for products with real input: lane t expands word t into its own A fragments.

    Of the 128 channels of a quad, channel 16j + 8h + 2t + e is at bit 15 − n of word t where e = 0
    and at bit 31 − n where e = 1, n = 2j + h: one shift brings the neighbours e = 0, 1 to the sign
    bits of a register's two 16-bit halves.

    Args:
        row_bits: int32 [outputs, taps, ceil(C/32)].

    Returns:
        int32 [outputs, taps, ceil(C/128), 4].
    """
    bits = _unpack(row_bits, QUAD_DEPTH)
    pattern = "output tap (kt j h t e) -> output tap kt t e (j h)"
    halves = rearrange(bits, pattern, j=8, h=2, t=4, e=2).flip(-1)
    return pack_bits(halves.flatten(-2)).squeeze(-1)


def from_quads(quads: Tensor, channels: int) -> Tensor:
    """Inverse of `to_quads`: int32 [outputs, taps, ceil(channels/32)]."""
    halves = unpack_bits(quads.unsqueeze(-1), WORD_BITS).unflatten(-1, (2, 16)).flip(-1)
    pattern = "output tap kt t e (j h) -> output tap (kt j h t e)"
    return pack_bits(rearrange(halves, pattern, h=2)[..., :channels])


def _to_kernel_channels(row_bits: Tensor) -> Tensor:
    """[..., words] → [..., kt, 2 kh, 4 t]."""
    bits = _unpack(row_bits, MMA_DEPTH)
    pattern = "... (kt kh q t c) -> ... kt kh t (q c)"
    return pack_bits(rearrange(bits, pattern, kh=2, q=4, t=4, c=8)).squeeze(-1)


def _from_kernel_channels(words: Tensor, channels: int) -> Tensor:
    bits = unpack_bits(words.unsqueeze(-1), WORD_BITS)
    pattern = "... kt kh t (q c) -> ... (kt kh q t c)"
    return pack_bits(rearrange(bits, pattern, q=4)[..., :channels])


def _unpack(row_bits: Tensor, multiple: int) -> Tensor:
    """Bits, bool [..., K], with K filled up to a multiple."""
    words = row_bits.shape[-1]
    filled = words_per_row(-(-words * WORD_BITS // multiple) * multiple)
    return unpack_bits(F.pad(row_bits, (0, filled - words)), filled * WORD_BITS)
