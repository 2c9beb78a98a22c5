"""W1A1 for few rows, by popcounts; plain Triton, for every GPU.

Two of K signs differ where a ^ b has a one, so dot = K − 2·popcount(a ^ b); the bits that fill up a
row's last word are equal and count nothing. Time goes to reading the weights' bits, once: the
lanes of a warp share a row of them, 128 bits each at a time, all loads of a row in flight at once.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.epilogue import Epilogue
from tribin_kernels.finish_sums import Results, finish
from tribin_kernels.formats import check_format
from tribin_kernels.int8_mma import output_columns
from tribin_kernels.launch import launch
from tribin_kernels.reference.packing import words_per_row

MOST_BLOCK_ROWS = 16

VECTOR = tl.constexpr(4)
"""Words that a lane loads at a time."""


@dataclass(frozen=True)
class PopcountConfig:
    """How the product is cut.

    Args:
        block_outputs: outputs of a program, a power of two, from 2 with `Epilogue.gate`.
        block_words: words of a row that are in flight at once, a power of two from 4.
        num_warps: as Triton has it.
    """

    block_outputs: int = 16
    block_words: int = 256
    num_warps: int = 4


def linear_w1a1(
    signs: Tensor,
    weights: Tensor,
    gain: Tensor | None,
    gain_factor: float,
    bias: Tensor | None,
    length: int,
    *,
    epilogue: Epilogue = Epilogue(),  # noqa: B008
    dtype: torch.dtype,
    config: PopcountConfig = PopcountConfig(),
) -> Tensor:
    """y = epilogue(x·Wᵀ·gain·gain_factor + bias), for x and W of ±1.

    The weights are read again for every 16 rows.

    Args:
        signs: row bits of x, int32 [rows, ceil(K/32)].
        weights: row bits of W, int32 [outputs, ceil(K/32)].
        gain, bias: [outputs], floating point; 1 and 0 where None.
        length: K.
        epilogue: PReLU, gate, residual and ELU; only y can be written.
        dtype: of y: float32, bfloat16 or float16.
        config: how the product is cut.

    Returns:
        y, [rows, outputs], or half as many outputs with a gate.

    Raises:
        TypeError: signs or weights are not int32.
        ValueError: signs or weights are of another shape, or the epilogue asks for bits.
    """
    if epilogue.signs or epilogue.mask or not epilogue.real:
        raise ValueError(f"epilogue: popcounts write y and no bits; this asks for {epilogue}")
    rows, outputs, words = signs.shape[0], weights.shape[0], words_per_row(length)
    check_format("signs", signs, (rows, words))
    check_format("weights", weights, (outputs, words))
    block_rows = min(triton.next_power_of_2(rows), MOST_BLOCK_ROWS)
    y_shape = (rows, outputs // 2 if epilogue.gate else outputs, 1, 1)
    results = Results.allocate(
        y_shape, gain, gain_factor, bias, None, epilogue, dtype, signs.device
    )
    launch(
        _multiply,
        (triton.cdiv(outputs, config.block_outputs), triton.cdiv(rows, MOST_BLOCK_ROWS)),
        {"signs_in": signs, "weights": weights, "row_count": rows, **results.arguments},
        {
            "LENGTH": length,
            "WORDS": words,
            "BLOCK_ROWS": block_rows,
            "BLOCK_OUTPUTS": config.block_outputs,
            "BLOCK_WORDS": config.block_words,
            **results.constants,
        },
        num_warps=config.num_warps,
    )
    y = results.arguments["y"]
    return y[:, :, 0, 0]


@triton.jit
def _multiply(
    signs_in, weights, row_count, gain, gain_factor, bias, slope, passes, residual, y, signs, mask,
    LENGTH: tl.constexpr, WORDS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr, BLOCK_WORDS: tl.constexpr, RESULTS: tl.constexpr,
    DTYPE: tl.constexpr, GATE: tl.constexpr, ELU: tl.constexpr,
):  # fmt: skip
    """A tile of rows × outputs. Tensors before `dots` are [rows, outputs, words]."""
    VECTORS: tl.constexpr = (BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_WORDS // VECTOR, VECTOR)
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(0) * BLOCK_OUTPUTS
    columns = output_columns(column, BLOCK_OUTPUTS, RESULTS, GATE)
    word = tl.arange(0, BLOCK_WORDS)[None, None, :]
    x = signs_in + tl.minimum(rows, row_count - 1).to(tl.int64)[:, None, None] * WORDS + word
    w = weights + columns.to(tl.int64)[None, :, None] * WORDS + word
    differing = tl.zeros(VECTORS[:3], tl.int32)
    for first in range(0, WORDS, BLOCK_WORDS):
        exists = first + word < WORDS
        ones = _popcount(tl.load(x + first, exists, 0) ^ tl.load(w + first, exists, 0))
        # within a lane; the lanes' sums are added up after the loop
        differing += tl.sum(tl.reshape(ones, VECTORS), 3)
    dots = (LENGTH - 2 * tl.sum(differing, 2)).to(tl.float32)
    gates = dots
    if GATE:
        column = column // 2
        dots, gates = tl.split(tl.reshape(dots, (BLOCK_ROWS, BLOCK_OUTPUTS // 2, 2)))
    finish(
        dots, gates, column, rows, row_count,
        gain, gain_factor, bias, slope, passes, residual, y, signs, mask, RESULTS, DTYPE, GATE, ELU,
    )  # fmt: skip


@triton.jit
def _popcount(words):
    """The ones of each word, in the form that LLVM replaces by the GPU's instruction."""
    x = words.to(tl.uint32, bitcast=True)
    x -= (x >> 1) & 0x55555555
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return (x * 0x01010101 >> 24).to(tl.int32)
