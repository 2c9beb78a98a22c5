"""From the sums of `bit_mma` to its results, in the lanes that hold them.

Everything is flat, four neighbouring outputs of a pixel a lane; see `bit_mma`.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"

import triton
import triton.language as tl

from tribin_kernels.bit_mma_assembly import EACH, TWICE, push_signs, repeat
from tribin_kernels.epilogue import elu, prelu

ABOVE_ONE = tl.constexpr(1.0000001192092896)  # the float32 after 1


@triton.jit
def _load(pointers, exists, RAGGED: tl.constexpr):
    """In float32, 0 where there is nothing."""
    if RAGGED:
        return tl.load(pointers, mask=exists, other=0).to(tl.float32)
    else:
        return tl.load(pointers).to(tl.float32)


@triton.jit
def load_parameters(gain, bias, slope, gain_factor, channel, exists, RAGGED: tl.constexpr):
    """Scale, bias and slope: 0 for channels that do not exist, whose results are +0.0 then."""
    scale, shift = gain_factor, 0.0
    if gain is not None:
        scale = _load(gain + channel, exists, RAGGED) * gain_factor
    elif RAGGED:
        scale = tl.where(exists, gain_factor, 0.0)
    if bias is not None:
        # + 0.0 makes +0.0 of −0.0, with which a result could be −0.0 and have its sign bit set.
        shift = _load(bias + channel, exists, RAGGED) + 0.0
    if slope is not None:
        slope = _load(slope + channel, exists, RAGGED)
    return scale, shift, slope


@triton.jit
def activated(count, offset, entry, scale, shift, slope):
    """prelu(product · scale + shift), what a gate takes.

    4·popcount(a & b) + offset are the bits of a float; no conversion is needed.
    """
    dot = ((count << 2) + offset).to(tl.float32, bitcast=True) + entry
    z = tl.fma(dot, scale, shift)
    if slope is not None:
        z = prelu(z, slope) + 0.0  # not −0.0
    return z


@triton.jit
def finish(z, residual, y, offsets, exists, ELU: tl.constexpr, RAGGED: tl.constexpr):
    """Add the residual, apply ELU, and write y, each where asked."""
    if residual is not None:
        z += _load(residual + offsets, exists, RAGGED)
    if ELU:
        z = elu(z)
    if y is not None:
        if RAGGED:
            tl.store(y + offsets, z.to(y.dtype.element_ty), mask=exists)
        else:
            tl.store(y + offsets, z.to(y.dtype.element_ty))
    return z


@triton.jit
def push_tiles(words, z, HALF: tl.constexpr, TILES: tl.constexpr):
    """The words of a strip's tiles with four signs more of each image."""
    next_words = ()
    for i in tl.static_range(TILES):
        next_words += (push_signs(words[i], z[2 * i], z[2 * i + 1], HALF),)
    return next_words


@triton.jit
def push_mask(words, z, exists, HALF: tl.constexpr, TILES: tl.constexpr):
    """|z| ≤ 1 where |z| less the next float after 1 is negative; NaN, and 0 less 0, are not."""
    bound = tl.where(exists, ABOVE_ONE, 0.0)
    differences = ()
    for m in tl.static_range(2 * TILES):
        differences += (tl.abs(z[m]) - bound,)
    return push_tiles(words, differences, HALF, TILES)


@triton.jit
def store_words(
    out, words, pixel, element, group, exists_first, exists_second,
    PLANES: tl.constexpr, GROUPS: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Store what a lane has of its pixel: all four words, the two of one kh, or halves of two.

    Pointers other than four neighbours a lane would make Triton change the layout. So words are
    repeated, and the copies masked.
    """
    mine, second = group < 8 * PLANES, element % 2 == 1
    if GROUPS == 4:
        words = repeat(words, TWICE)
        mine &= element // 2 % 2 == group // 4 % 2
    elif GROUPS == 2:
        words = repeat(words, EACH)
        mine &= element % 2 == group // 2 % 2
        second = element // 2 % 2 == 1
    if RAGGED:
        words = tl.where(tl.where(second, exists_second, exists_first), words, 0)
    if GROUPS == 2:
        halves = out.to(tl.pointer_type(tl.int16)) + pixel * 32 + group // 4 % 2 * 4
        tl.store(halves + element // 4 % 4 * 8 + element % 4, words.to(tl.int16), mask=mine)
    else:
        tl.store(out + pixel * 16 + element % 16, words, mask=mine)
