"""W1A1 convolution on the 1-bit tensor core: bits in, real numbers or bits out.

A warp keeps a strip of pixels × some groups of 32 outputs in its accumulators, and one
instruction multiplies 16 pixels × 8 outputs × 256 channels. The paired format, the fragments and
the order of outputs in a group (`formats`) are such that every operand is one 128-bit load of a
lane, and such that a lane ends up with whole bytes of the next layer's input: nothing passes
through shared memory, and lanes talk only to add up the ones of the input.

All tensors in the kernel are flat, [warps · 32 lanes · 4], and lane 4g + t holds four neighbours:
four registers of an operand, or the results of pixel g for outputs 8t + 4h + (0 … 3) of a group,
h being 0 or 1, for either image of a pair.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.bit_mma_assembly import count_ones, multiply_tiles, total_ones
from tribin_kernels.bit_mma_results import (
    activated,
    finish,
    load_parameters,
    push_mask,
    push_tiles,
    store_words,
)
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.epilogue import Epilogue, gated
from tribin_kernels.formats import MMA_DEPTH, OUTPUT_MULTIPLE, check_format
from tribin_kernels.launch import launch


@dataclass(frozen=True)
class BitMmaConfig:
    """The tile of a program.

    Args:
        warps_m: warps along the pixels; times warps_n it is 1, 2, 4 or 8.
        warps_n: warps along the outputs.
        tiles_m: image rows of a warp's strip, which is 8 pixels wide, in each of two images.
        groups_n: groups of 32 outputs that a warp makes: 2, 4 or 8; with a gate 4 or 8.
    """

    warps_m: int = 4
    warps_n: int = 2
    tiles_m: int = 2
    groups_n: int = 4

    def __post_init__(self) -> None:
        """Raise ValueError for a tile that the kernel cannot make."""
        if self.warps_m * self.warps_n not in (1, 2, 4, 8):
            raise ValueError(
                f"warps_m * warps_n is {self.warps_m * self.warps_n}, not 1, 2, 4 or 8"
            )
        if self.groups_n not in (2, 4, 8):
            raise ValueError(f"groups_n is {self.groups_n}, not 2, 4 or 8")


def conv2d_w1a1(
    paired: Tensor,
    fragments: Tensor,
    table: Tensor,
    gain: Tensor | None,
    gain_factor: float,
    bias: Tensor | None,
    shape: Conv2dShape,
    *,
    rows: int | None = None,
    epilogue: Epilogue = Epilogue(),  # noqa: B008
    dtype: torch.dtype = torch.bfloat16,
    config: BitMmaConfig = BitMmaConfig(),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """y = conv2d(x, w)·gain·gain_factor + bias for x and w of ±1, then the epilogue.

    The product is exact; y is computed in float32 and then rounded to `dtype`, and the bits are of
    y before that rounding. Fastest where outputs' is a multiple of 4, better of 256.

    Args:
        paired: x, as `formats.to_paired` packs it.
        fragments: w, as `formats.to_fragments` packs it. With a gate, each half of the outputs is
            filled up to a multiple of 32 by itself.
        table: `border_table` of the fragments.
        gain: floating point [outputs]; 1 where None.
        gain_factor: 1/√n.
        bias: floating point [outputs].
        shape: of the convolution.
        rows: the output pixels that exist, counted over images, rows and columns; all by default.
            A linear layer of M rows is the convolution of two images of 8 · ceil(M/16) pixels.
        epilogue: its residual has the memory order of y.
        dtype: of y: float32, bfloat16 or float16.
        config: affects speed alone.

    Returns:
        What the epilogue asks for, or None: y, [batch, outputs', H', W'] in channels-last order, or
        [rows, outputs'] where `rows` is given; then the signs and the mask of y in the paired
        format, [ceil(batch/2), ceil(outputs'/256), H', W', 4, 2, 2]. outputs' is half of outputs
        with a gate.

    Raises:
        TypeError: paired or fragments is not int32.
        ValueError: paired or fragments is of another shape; paired, fragments or y is too large
            for the kernel's 32-bit offsets; or groups_n is 2 with a gate.
    """
    height, width = shape.output_size
    halves = 2 if epilogue.gate else 1
    results, groups = shape.outputs // halves, config.groups_n // halves
    pairs, planes = -(-shape.batch // 2), -(-results // OUTPUT_MULTIPLE)
    slices = -(-shape.channels // MMA_DEPTH)
    packed_outputs = 2 * 32 * -(-results // 32) if epilogue.gate else results
    tiles_16 = -(-packed_outputs // OUTPUT_MULTIPLE) * OUTPUT_MULTIPLE // 16
    check_format("paired", paired, (pairs, slices, shape.height, shape.width, 4, 2, 2))
    check_format("fragments", fragments, (shape.taps, slices, tiles_16, 32, 4))
    _check_sizes(paired, fragments, 2 * pairs * height * width, groups)
    y = _empty_real(paired, shape, results, rows, dtype) if epilogue.real else None
    words = (pairs, planes, height, width, 4, 2, 2)
    signs = paired.new_empty(words) if epilogue.signs else None
    mask = paired.new_empty(words) if epilogue.mask else None

    existing = shape.pixels if rows is None else rows
    tiles = max(1, min(config.tiles_m, height))
    strips = pairs * triton.cdiv(height, tiles) * triton.cdiv(width, 8)
    written = planes * OUTPUT_MULTIPLE if epilogue.signs or epilogue.mask else results
    tile_n = config.warps_n * groups * 32
    programs_n = triton.cdiv(written, tile_n)
    ragged = existing < 2 * pairs * height * width or results < programs_n * tile_n
    launch(
        _conv2d_w1a1_kernel,
        (triton.cdiv(strips, config.warps_m), programs_n),
        {
            "paired": paired,
            "fragments": fragments,
            "table": table,
            "gain": gain,
            "bias": bias,
            "slope": epilogue.slope,
            "residual": epilogue.residual,
            "y": y,
            "signs": signs,
            "mask": mask,
            "gain_factor": gain_factor,
            "height": shape.height,
            "out_height": height,
            "pairs": pairs,
            "rows": existing,
            "steps": fragments.shape[0] * fragments.shape[1],
        },
        {
            "WIDTH": shape.width,
            "OUT_WIDTH": width,
            "RESULTS": results,
            "COLUMNS": table.shape[1],
            "SLICES": fragments.shape[1],
            "KERNEL": shape.kernel,
            "STRIDE": shape.stride,
            "PADDING": shape.padding,
            "BORDER_Y": shape.border(0),
            "BORDER_X": shape.border(1),
            "GATE": epilogue.gate,
            "ELU": epilogue.elu,
            "RAGGED": ragged,
            "WARPS_M": config.warps_m,
            "WARPS_N": config.warps_n,
            "TILES": tiles,
            "GROUPS": groups,
        },
        num_warps=config.warps_m * config.warps_n,
    )
    return y, signs, mask


def _check_sizes(paired: Tensor, fragments: Tensor, pixels: int, groups: int) -> None:
    sizes = {"paired": paired.numel(), "fragments": fragments.numel(), "y": pixels}
    for name, size in sizes.items():
        if size >= 2**31:
            unit = "pixels" if name == "y" else "words"
            raise ValueError(f"{name} has {size} {unit}; the kernel takes less than 2^31")
    if groups == 1:
        raise ValueError("groups_n is 2; with a gate it must be 4 or 8")


def _empty_real(
    paired: Tensor, shape: Conv2dShape, results: int, rows: int | None, dtype: torch.dtype
) -> Tensor:
    if rows is not None:
        return paired.new_empty((rows, results), dtype=dtype)
    images = paired.new_empty((shape.batch, *shape.output_size, results), dtype=dtype)
    return images.permute(0, 3, 1, 2)


FLOAT_OFFSET_BITS = tl.constexpr(0x4B400000)  # of border_table.FLOAT_OFFSET


@triton.jit
def _pixels(
    step, paired, offsets, x, y, height,
    WIDTH: tl.constexpr, SLICES: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    PADDING: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The operands of a strip for one K step, which is a slice of 256 channels of a tap."""
    tap, slice = step // SLICES, step % SLICES
    dy, dx = tap // KERNEL[1], tap % KERNEL[1]
    pointers = paired + (offsets + ((slice * height + dy) * WIDTH + dx) * 16)
    a = ()
    for i in tl.static_range(TILES):
        at = pointers + i * STRIDE[0] * WIDTH * 16
        if PADDING[0] + PADDING[1] > 0:
            line, column = y + i * STRIDE[0] + dy, x + dx
            inside = (line >= 0) & (line < height) & (column >= 0) & (column < WIDTH)
            a += (tl.load(at, mask=inside, other=0),)
        else:
            a += (tl.load(at),)
    return a


@triton.jit
def _weights(
    step, fragments, offsets,
    COLUMNS: tl.constexpr, PARTNER: tl.constexpr, GROUPS: tl.constexpr, TILES_N: tl.constexpr,
):  # fmt: skip
    """The operands of a warp's outputs, those of the other half of a gate after the first."""
    pointers = fragments + (offsets + step * (COLUMNS * 8))
    b = ()
    for n in tl.static_range(TILES_N):
        tile = n + n // (2 * GROUPS) * 2 * (PARTNER - GROUPS)
        b += (tl.load(pointers + tile * 128),)
    return b


@triton.jit
def _multiply(a, b, sums, ones, TILES: tl.constexpr, TILES_N: tl.constexpr):
    """Sums are ordered by tile of outputs, tile of pixels, image."""
    next_sums, next_ones = (), ()
    for k in tl.static_range(0, 2 * TILES * TILES_N, 2):
        first, second = multiply_tiles(a[k // 2 % TILES], b[k // 2 // TILES], sums[k], sums[k + 1])
        next_sums += (first, second)
    for i in tl.static_range(TILES):
        next_ones += (count_ones(a[i], ones[i]),)
    return next_sums, next_ones


@triton.jit(do_not_specialize=["height", "out_height", "pairs", "rows", "steps"])
def _conv2d_w1a1_kernel(
    paired, fragments, table, gain, bias, slope, residual, y, signs, mask,
    gain_factor, height, out_height, pairs, rows, steps,
    WIDTH: tl.constexpr, OUT_WIDTH: tl.constexpr, RESULTS: tl.constexpr, COLUMNS: tl.constexpr,
    SLICES: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    BORDER_Y: tl.constexpr, BORDER_X: tl.constexpr, GATE: tl.constexpr, ELU: tl.constexpr,
    RAGGED: tl.constexpr, WARPS_M: tl.constexpr, WARPS_N: tl.constexpr, TILES: tl.constexpr,
    GROUPS: tl.constexpr,
):  # fmt: skip
    PLANES: tl.constexpr = (RESULTS + 255) // 256
    PARTNER: tl.constexpr = (RESULTS + 31) // 32  # groups to the other half of a gate
    TILES_N: tl.constexpr = GROUPS * (4 if GATE else 2)
    ACROSS: tl.constexpr = (OUT_WIDTH + 7) // 8
    element = tl.arange(0, 128 * WARPS_M * WARPS_N)
    strip = tl.program_id(0) * WARPS_M + element // 128 % WARPS_M
    group = (tl.program_id(1) * WARPS_N + element // 128 // WARPS_M) * GROUPS
    # Where sizes are no multiples of a strip's, strips overlap and write the same values.
    down = tl.cdiv(out_height, TILES)
    x = tl.minimum(strip % ACROSS * 8 + element // 16 % 8, OUT_WIDTH - 1)
    y0 = tl.minimum(strip // ACROSS % down * TILES, out_height - TILES)
    pair = tl.minimum(strip // ACROSS // down, pairs - 1)
    # Warps of fill alone read the last groups that exist.
    existing_group = tl.minimum(group, (RESULTS - 1) // (32 * GROUPS) * GROUPS)

    x_in, y_in = x * STRIDE[1] - PADDING[1], y0 * STRIDE[0] - PADDING[0]
    pixel_words = ((pair * SLICES * height + y_in) * WIDTH + x_in) * 16 + element % 16
    image = (paired, pixel_words, x_in, y_in, height)
    weights = (fragments, existing_group * 256 + element % 128)
    zero = tl.zeros((128 * WARPS_M * WARPS_N,), tl.int32)
    sums, ones = (), ()
    for _ in tl.static_range(2 * TILES * TILES_N):
        sums += (zero,)
    for _ in tl.static_range(TILES):
        ones += (zero,)
    # The operands of the next step are under way while this one multiplies. Two steps a turn, so
    # that no register is moved; `steps` is no constant, so that the loop stays one.
    a = _pixels(0, *image, WIDTH, SLICES, KERNEL, STRIDE, PADDING, TILES)
    b = _weights(0, *weights, COLUMNS, PARTNER, GROUPS, TILES_N)
    for step in range(1, steps - 1, 2):
        a1 = _pixels(step, *image, WIDTH, SLICES, KERNEL, STRIDE, PADDING, TILES)
        b1 = _weights(step, *weights, COLUMNS, PARTNER, GROUPS, TILES_N)
        sums, ones = _multiply(a, b, sums, ones, TILES, TILES_N)
        a = _pixels(step + 1, *image, WIDTH, SLICES, KERNEL, STRIDE, PADDING, TILES)
        b = _weights(step + 1, *weights, COLUMNS, PARTNER, GROUPS, TILES_N)
        sums, ones = _multiply(a1, b1, sums, ones, TILES, TILES_N)
    if SLICES * KERNEL[0] * KERNEL[1] % 2 == 0:
        a1 = _pixels(steps - 1, *image, WIDTH, SLICES, KERNEL, STRIDE, PADDING, TILES)
        b1 = _weights(steps - 1, *weights, COLUMNS, PARTNER, GROUPS, TILES_N)
        sums, ones = _multiply(a, b, sums, ones, TILES, TILES_N)
        a, b = a1, b1
    sums, ones = _multiply(a, b, sums, ones, TILES, TILES_N)

    output = element // 4 % 4 * 8 + element % 4
    channel = group * 32 + output
    class_x = tl.minimum(x, BORDER_X[0]) + tl.maximum(x - (OUT_WIDTH - 1 - BORDER_X[1]), 0)
    entries, offsets, row, sign_words, mask_words = (), (), (), (), ()
    for i in tl.static_range(TILES):
        class_y = tl.minimum(y0 + i, BORDER_Y[0])
        class_y += tl.maximum(y0 + i - (out_height - 1 - BORDER_Y[1]), 0)
        line = class_y * (BORDER_X[0] + 1 + BORDER_X[1]) + class_x
        entries += (table + line * COLUMNS + existing_group * 32 + output,)
        ones_first, ones_second = total_ones(ones[i])
        offsets += (FLOAT_OFFSET_BITS - 2 * ones_first, FLOAT_OFFSET_BITS - 2 * ones_second)
        first_row = (2 * pair * out_height + y0 + i) * OUT_WIDTH + x
        row += (first_row, first_row + out_height * OUT_WIDTH)
        sign_words += (zero,)
        mask_words += (zero,)

    for n in tl.static_range(2 * GROUPS - 1, -1, -1):  # the last first, as signs are pushed
        at = n // 2 * 32 + n % 2 * 4
        exists = (channel + at < RESULTS) if RAGGED else True
        parameters = load_parameters(gain, bias, slope, gain_factor, channel + at, exists, RAGGED)
        if GATE:
            gate_parameters = load_parameters(
                gain, bias, slope, gain_factor, channel + at + RESULTS, exists, RAGGED
            )
        z = ()
        for i in tl.static_range(TILES):
            entry = tl.load(entries[i] + at)
            if GATE:
                gate_entry = tl.load(entries[i] + at + PARTNER * 32)
            for m in tl.static_range(2 * i, 2 * i + 2):
                value = activated(sums[2 * TILES * n + m], offsets[m], entry, *parameters)
                if GATE:
                    gate_sum = sums[2 * TILES * (n + 2 * GROUPS) + m]
                    gate = activated(gate_sum, offsets[m], gate_entry, *gate_parameters)
                    value = gated(value, gate) + 0.0  # not −0.0
                at_y = row[m].to(tl.int64) * RESULTS + channel + at
                here = exists & (row[m] < rows)
                z += (finish(value, residual, y, at_y, here, ELU, RAGGED),)
        if signs is not None:
            sign_words = push_tiles(sign_words, z, n // 8, TILES)
        if mask is not None:
            mask_words = push_mask(mask_words, z, exists, n // 8, TILES)

    for i in tl.static_range(TILES):
        line = (pair * PLANES + group // 8) * out_height + y0 + i
        pixel = line.to(tl.int64) * OUT_WIDTH + x
        first, second = row[2 * i] < rows, row[2 * i + 1] < rows
        if signs is not None:
            store_words(
                signs, sign_words[i], pixel, element, group, first, second, PLANES, GROUPS, RAGGED
            )
        if mask is not None:
            store_words(
                mask, mask_words[i], pixel, element, group, first, second, PLANES, GROUPS, RAGGED
            )
