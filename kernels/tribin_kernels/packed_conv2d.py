"""The packed convolution on a GPU; `reference.packed_conv2d` says what it computes.

It runs on the kernels of the trained layers' forward pass, which take the scale as their gain. From
layer to layer bits go as row bits. The 1-bit tensor core has an order of its own, `paired`: on that
route, bits that come in or go out are reordered by torch, in passes of their own over the bits.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tribin_kernels import bit_mma, int8_mma, popcount, reference
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.dtypes import KERNEL_DTYPES
from tribin_kernels.epilogue import Epilogue
from tribin_kernels.formats import from_paired, to_paired
from tribin_kernels.launch_table import choose, w1a1_route
from tribin_kernels.pack_activations import PackActivationsConfig, pack_activations, pack_rows
from tribin_kernels.packed_weights import fragments_of, quads_of
from tribin_kernels.real_mma import RealMmaConfig, conv2d_w1a16
from tribin_kernels.real_product import mma_operand
from tribin_kernels.reference.packed_conv2d import result_format
from tribin_kernels.self_check import bit_mma_is_sound

Config = TypeVar("Config")


def packed_conv2d(
    x: Tensor,
    weight_bits: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    residual: Tensor | None,
    channels: int,
    stride: list[int],
    padding: list[int],
    binary_input: bool,
    gate: bool,
    elu: bool,
    to_bits: bool,
) -> Tensor:
    """Real x or row bits to real y or row bits, by 1-bit weights."""
    dtype, memory_format = result_format(x, scale)
    if dtype not in KERNEL_DTYPES:
        return reference.packed_conv2d(
            x, weight_bits, scale, bias, slope, residual, channels, stride, padding, binary_input,
            gate, elu, to_bits,
        )  # fmt: skip
    from_bits = x.dtype == torch.int32
    x = x.contiguous() if from_bits else x
    pixels = x if from_bits else x.permute(0, 2, 3, 1)
    shape = Conv2dShape.of_bits(pixels, weight_bits, channels, stride, padding)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    bias, slope = (t if t is None else t.contiguous() for t in (bias, slope))
    # ELU keeps the sign.
    epilogue = Epilogue(slope, gate, residual, elu and not to_bits, real=not to_bits, signs=to_bits)
    layer = _Layer(weight_bits, scale.contiguous(), bias, shape, epilogue, dtype)
    product = _bit_product if from_bits or binary_input else _real_product
    result = product(x, layer)
    return result if to_bits else result.contiguous(memory_format=memory_format)


@dataclass(frozen=True)
class _Layer:
    """What the routes share. Each gives y, channels-last, or the row bits of its signs."""

    weight_bits: Tensor
    scale: Tensor
    bias: Tensor | None
    shape: Conv2dShape
    epilogue: Epilogue
    dtype: torch.dtype

    def config(self, config_class: type[Config]) -> Config:
        """What the launch table has for a kernel."""
        rows, outputs = self.shape.pixels, self.shape.outputs
        return choose(config_class, self.weight_bits.device, rows=rows, outputs=outputs)

    def as_images(self, pixels: Tensor) -> Tensor:
        """[pixels, …] as [batch, H', W', …]."""
        return pixels.view(self.shape.batch, *self.shape.output_size, *pixels.shape[1:])


def _real_product(x: Tensor, layer: _Layer) -> Tensor:
    y, signs, _ = conv2d_w1a16(
        mma_operand(x), quads_of(layer.weight_bits), layer.scale, 1.0, layer.bias, layer.shape,
        epilogue=layer.epilogue, dtype=layer.dtype, config=layer.config(RealMmaConfig),
    )  # fmt: skip
    return _either(y, signs)


def _bit_product(x: Tensor, layer: _Layer) -> Tensor:
    route = w1a1_route(x.device, layer.shape)
    if route == "bit_mma" and bit_mma_is_sound(x.device):
        return _by_bit_mma(x, layer)
    if x.dtype != torch.int32:
        x, _, _ = pack_activations(x, mask=False, config=layer.config(PackActivationsConfig))
    return _by_popcount(x, layer) if route == "popcount" else _by_int8_mma(x, layer)


def _by_int8_mma(row_bits: Tensor, layer: _Layer) -> Tensor:
    weights = layer.weight_bits.contiguous().flatten(1, 2)
    y, signs, _ = int8_mma.conv2d_w1a1(
        row_bits, weights, layer.scale, 1.0, layer.bias, layer.shape,
        epilogue=layer.epilogue, dtype=layer.dtype, config=layer.config(int8_mma.Int8MmaConfig),
    )  # fmt: skip
    return _either(y, signs)


def _by_popcount(row_bits: Tensor, layer: _Layer) -> Tensor:
    """Popcounts write no bits: those are made of y, of which there is little."""
    to_bits = layer.epilogue.signs
    y = popcount.linear_w1a1(
        row_bits.flatten(0, 2), layer.weight_bits.flatten(1), layer.scale, 1.0, layer.bias,
        layer.shape.channels, epilogue=replace(layer.epilogue, real=True, signs=False),
        dtype=torch.float32 if to_bits else layer.dtype,
        config=layer.config(popcount.PopcountConfig),
    )  # fmt: skip
    return layer.as_images(pack_rows(y)) if to_bits else layer.as_images(y).permute(0, 3, 1, 2)


def _by_bit_mma(x: Tensor, layer: _Layer) -> Tensor:
    shape, epilogue = layer.shape, layer.epilogue
    tiles = shape.in_full_tiles()
    y, signs, _ = bit_mma.conv2d_w1a1(
        _paired(x, tiles, layer),
        *fragments_of(layer.weight_bits, shape, gate=epilogue.gate),
        layer.scale, 1.0, layer.bias, tiles, rows=None if tiles is shape else shape.pixels,
        epilogue=epilogue, dtype=layer.dtype, config=layer.config(bit_mma.BitMmaConfig),
    )  # fmt: skip
    if signs is not None:
        results = shape.outputs // 2 if epilogue.gate else shape.outputs
        row_bits = from_paired(signs, tiles.batch, results).flatten(0, 2)
        return layer.as_images(row_bits[: shape.pixels])
    assert y is not None
    return y if tiles is shape else layer.as_images(y).permute(0, 3, 1, 2)


def _paired(x: Tensor, tiles: Conv2dShape, layer: _Layer) -> Tensor:
    """The signs of x, paired, with its pixels in the images of `tiles`."""
    size = tiles.height, tiles.width
    if x.dtype == torch.int32:
        pixels = x.flatten(0, 2)
        missing = tiles.batch * tiles.height * tiles.width - pixels.shape[0]
        pixels = F.pad(pixels, (0, 0, 0, missing))
        return to_paired(pixels.view(tiles.batch, *size, pixels.shape[1]))
    config = layer.config(PackActivationsConfig)
    _, _, paired = pack_activations(x, mask=False, paired_size=size, config=config)
    assert paired is not None
    return paired


def _either(y: Tensor | None, signs: Tensor | None) -> Tensor:
    result = y if signs is None else signs
    assert result is not None
    return result
