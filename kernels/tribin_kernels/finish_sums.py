"""From the sums of a product over K to its results: scale, bias and epilogue.

`finish_tile` does it at the end of a product's kernel, for a tile in registers. Where K is split
among programs, each leaves the sums of its part by `store_part`, and `finish_parts` adds them, in
the same order every time, and goes on in the same way.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.epilogue import Epilogue, elu, gated, prelu
from tribin_kernels.launch import launch

WORD_BITS = tl.constexpr(32)
BLOCK_OUTPUTS = 256

TRITON_DTYPES = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float32: tl.float32,
}


@dataclass(frozen=True)
class Results:
    """The tensors that a product writes, and what `finish_tile` needs to make them.

    Args:
        shape: of y: batch, results, height and width.
        arguments, constants: those of `finish_tile`, by name.
    """

    shape: tuple[int, int, int, int]
    arguments: dict[str, Any]
    constants: dict[str, Any]

    @classmethod
    def allocate(
        cls,
        shape: tuple[int, int, int, int],
        gain: Tensor | None,
        gain_factor: float,
        bias: Tensor | None,
        mask: Tensor | None,
        epilogue: Epilogue,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "Results":
        """Tensors for the results that the epilogue asks for."""
        batch, results, height, width = shape
        words = (batch, height, width, triton.cdiv(results, 32))
        written: dict[str, Tensor | None] = dict.fromkeys(("y", "signs", "mask"))
        if epilogue.real:
            written["y"] = torch.empty(
                shape, dtype=dtype, device=device, memory_format=torch.channels_last
            )
        for name in ("signs", "mask"):
            if getattr(epilogue, name):
                written[name] = torch.empty(words, dtype=torch.int32, device=device)
        read = {
            "gain": gain,
            "gain_factor": gain_factor,
            "bias": bias,
            "slope": epilogue.slope,
            "passes": mask,
            "residual": epilogue.residual,
        }
        constants = {
            "RESULTS": results,
            "DTYPE": TRITON_DTYPES[dtype],
            "GATE": epilogue.gate,
            "ELU": epilogue.elu,
        }
        return cls(shape, {**read, **written}, constants)

    @property
    def pixels(self) -> int:
        """Pixels of the whole batch."""
        batch, _, height, width = self.shape
        return batch * height * width

    @property
    def tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The results y, signs and mask, None where not asked for."""
        return self.arguments["y"], self.arguments["signs"], self.arguments["mask"]


def finish_parts(parts: Tensor, results: Results) -> None:
    """Add the sums of the parts of K, float32 [parts, pixels, outputs], and write the results."""
    launch(
        _finish_parts,
        (results.pixels * triton.cdiv(results.shape[1], BLOCK_OUTPUTS),),
        {"parts": parts, "pixel_count": results.pixels, **results.arguments},
        {
            "PARTS": parts.shape[0],
            "OUTPUTS": parts.shape[2],
            "BLOCK_OUTPUTS": BLOCK_OUTPUTS,
            **results.constants,
        },
    )


@triton.jit
def _finish_parts(
    parts, pixel_count, gain, gain_factor, bias, slope, passes, residual, y, signs, mask,
    PARTS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
    RESULTS: tl.constexpr, DTYPE: tl.constexpr, GATE: tl.constexpr, ELU: tl.constexpr,
):  # fmt: skip
    """Add and finish a block of one pixel."""
    BLOCKS: tl.constexpr = (RESULTS + BLOCK_OUTPUTS - 1) // BLOCK_OUTPUTS
    pixels = tl.program_id(0) // BLOCKS + tl.arange(0, 1)
    first_output = tl.program_id(0) % BLOCKS * BLOCK_OUTPUTS
    outputs = first_output + tl.arange(0, BLOCK_OUTPUTS)
    tile = parts + pixels.to(tl.int64)[:, None] * OUTPUTS + outputs[None, :]
    inside = (outputs < RESULTS)[None, :]
    stride = tl.cast(pixel_count, tl.int64) * OUTPUTS
    sums = _sum(tile, inside, stride, PARTS)
    gates = _sum(tile + RESULTS, inside, stride, PARTS) if GATE else sums
    finish(
        sums, gates, first_output, pixels, pixel_count,
        gain, gain_factor, bias, slope, passes, residual, y, signs, mask, RESULTS, DTYPE, GATE, ELU,
    )  # fmt: skip


@triton.jit
def _sum(tile, inside, stride, PARTS: tl.constexpr):
    total = tl.load(tile, inside, 0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(tile + part * stride, inside, 0.0)
    return total


@triton.jit
def store_part(parts, sums, first_output, first_pixel, pixel_count, OUTPUTS: tl.constexpr):
    """Leave a tile's sums, float32 [outputs, pixels], for `finish_parts`."""
    outputs = first_output + tl.arange(0, sums.shape[0])
    pixels = first_pixel + tl.arange(0, sums.shape[1])
    elements = pixels.to(tl.int64)[:, None] * OUTPUTS + outputs[None, :]
    inside = (pixels < pixel_count)[:, None] & (outputs < OUTPUTS)[None, :]
    tl.store(parts + elements, tl.trans(sums), inside)


@triton.jit
def finish_tile(
    sums, gates, first_output, first_pixel, pixel_count,
    gain, gain_factor, bias, slope, passes, residual, y, signs, mask,
    RESULTS: tl.constexpr, DTYPE: tl.constexpr, GATE: tl.constexpr, ELU: tl.constexpr,
):  # fmt: skip
    """Write the results of a tile.

    Half after half of the pixels: beside a whole tile, the registers do not hold the epilogue.

    Args:
        sums: float32 [outputs, pixels]; the outputs are multiples of 32 from `first_output`,
            itself one.
        gates: where GATE, the sums of the outputs that gate these.
        pixel_count: pixels from there on are not written.
        passes: row bits; a result becomes 0 where its bit is 0.
        gain, gain_factor, bias, slope, residual, y, signs, mask, ELU: see `Epilogue`.
        RESULTS: channels of the result.
        DTYPE: of y.
    """
    HALF: tl.constexpr = sums.shape[1] // 2
    for half in tl.static_range(2):
        pixels = first_pixel + half * HALF + tl.arange(0, HALF)
        finish(
            _half(sums, half), _half(gates, half), first_output, pixels, pixel_count,
            gain, gain_factor, bias, slope, passes, residual, y, signs, mask,
            RESULTS, DTYPE, GATE, ELU,
        )  # fmt: skip


@triton.jit
def _half(sums, HALF: tl.constexpr):
    """One half of the pixels of [outputs, pixels], as [pixels, outputs]."""
    halves = tl.reshape(sums, (sums.shape[0], 2, sums.shape[1] // 2))
    return tl.trans(tl.split(tl.permute(halves, (0, 2, 1)))[HALF])


@triton.jit
def finish(
    sums, gates, first_output, pixels, pixel_count,
    gain, gain_factor, bias, slope, passes, residual, y, signs, mask,
    RESULTS: tl.constexpr, DTYPE: tl.constexpr, GATE: tl.constexpr, ELU: tl.constexpr,
):  # fmt: skip
    """Write the results of sums [pixels, outputs]."""
    outputs = first_output + tl.arange(0, sums.shape[1])
    inside = (pixels < pixel_count)[:, None] & (outputs < RESULTS)[None, :]
    elements = pixels.to(tl.int64)[:, None] * RESULTS + outputs[None, :]
    z = _activated(sums, outputs, outputs < RESULTS, gain, gain_factor, bias, slope)
    if GATE:
        gating = _activated(
            gates, outputs + RESULTS, outputs < RESULTS, gain, gain_factor, bias, slope
        )
        z = gated(z, gating)
    if residual is not None:
        z += tl.load(residual + elements, inside, 0.0).to(tl.float32)
    if ELU:
        z = elu(z)
    if passes is not None:
        z = tl.where(_load_bits(passes, pixels, first_output, pixel_count, RESULTS, z), z, 0.0)
    if y is not None:
        tl.store(y + elements, z.to(DTYPE), inside)
    if signs is not None:
        _store_bits(signs, (z < 0) & inside, pixels, first_output, pixel_count, RESULTS)
    if mask is not None:
        _store_bits(mask, (tl.abs(z) <= 1) & inside, pixels, first_output, pixel_count, RESULTS)


@triton.jit
def _activated(sums, outputs, inside, gain, gain_factor, bias, slope):
    """prelu(sums · scale + bias), what a gate takes."""
    z = _scaled(sums, outputs, inside, gain, gain_factor, bias)
    if slope is not None:
        z = prelu(z, tl.load(slope + outputs, inside, 0.0).to(tl.float32)[None, :])
    return z


@triton.jit
def _scaled(sums, outputs, inside, gain, gain_factor, bias):
    scale = gain_factor
    if gain is not None:
        scale = tl.load(gain + outputs, inside, 0.0).to(tl.float32)[None, :] * gain_factor
    if bias is None:
        return sums * scale
    else:  # Triton compiles what follows a return, too
        return tl.fma(sums, scale, tl.load(bias + outputs, inside, 0.0).to(tl.float32)[None, :])


@triton.jit
def _store_bits(row_bits, bits, pixels, first_output, pixel_count, RESULTS: tl.constexpr):
    WORDS: tl.constexpr = bits.shape[1] // WORD_BITS
    words, inside = _words(row_bits, pixels, first_output, pixel_count, RESULTS, WORDS)
    lanes = tl.reshape(bits.to(tl.int32), (bits.shape[0], WORDS, WORD_BITS))
    tl.store(words, tl.sum(lanes << tl.arange(0, WORD_BITS), 2), inside)


@triton.jit
def _load_bits(row_bits, pixels, first_output, pixel_count, RESULTS: tl.constexpr, like):
    """The bits of a tile of the shape of `like`, as booleans."""
    WORDS: tl.constexpr = like.shape[1] // WORD_BITS
    words, inside = _words(row_bits, pixels, first_output, pixel_count, RESULTS, WORDS)
    lanes = tl.load(words, inside, 0)[:, :, None] >> tl.arange(0, WORD_BITS) & 1
    return tl.reshape(lanes, like.shape) != 0


@triton.jit
def _words(row_bits, pixels, first_output, pixel_count, RESULTS: tl.constexpr, COUNT: tl.constexpr):
    """The addresses of a tile's words, and which of them exist."""
    ROW: tl.constexpr = (RESULTS + WORD_BITS - 1) // WORD_BITS
    word = first_output // WORD_BITS + tl.arange(0, COUNT)
    addresses = row_bits + pixels.to(tl.int64)[:, None] * ROW + word[None, :]
    return addresses, (pixels < pixel_count)[:, None] & (word < ROW)[None, :]
