"""W1A1 on a GPU: the product of the signs of the input with 1-bit weights, and its gradients.

A linear layer is a convolution of 1×1 images here. Arguments and results are those of
`tribin_kernels.reference.binary_conv2d_w1a1`; outputs are channels-last.
"""

import torch
from torch import Tensor

from tribin_kernels import bit_mma, int8_mma, popcount
from tribin_kernels.border_table import border_table
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.finish_weight_gradient import finish_weight_gradient
from tribin_kernels.launch_table import choose, w1a1_route
from tribin_kernels.pack_activations import PackActivationsConfig, pack_activations
from tribin_kernels.pack_weights import pack_weights
from tribin_kernels.real_product import input_gradient, mma_operand
from tribin_kernels.self_check import bit_mma_is_sound
from tribin_kernels.weight_gradient import WeightGradientConfig, product_gradient


def bit_product(
    x: Tensor, latent_weight: Tensor, gain: Tensor, bias: Tensor | None, shape: Conv2dShape
) -> tuple[Tensor, Tensor, Tensor]:
    """y = conv2d(sign(x), sign(v))·g/√n + b, and the row bits of x's signs and mask."""
    route = w1a1_route(x.device, shape)
    if route == "bit_mma" and bit_mma_is_sound(x.device):
        return _by_bit_mma(x, latent_weight, gain, bias, shape)
    signs, mask, _ = pack_activations(x, config=_packing(x, shape))
    assert mask is not None
    weights = pack_weights(latent_weight, "rows")
    if route == "popcount":
        y = _by_popcount(signs, weights, gain, bias, shape, x.dtype)
    else:
        y = _by_int8_mma(signs, weights, gain, bias, shape, x.dtype)
    return y, signs, mask


def bit_product_backward(
    grad_y: Tensor,
    signs: Tensor,
    mask: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    shape: Conv2dShape,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, latent_weight, gain and bias."""
    grad_x, grad_bias = input_gradient(grad_y, latent_weight, gain, shape, mask)
    config = choose(WeightGradientConfig, signs.device, rows=shape.pixels, outputs=shape.outputs)
    partial_sums = product_gradient(mma_operand(grad_y), signs, shape, config)
    grad_latent, grad_gain = finish_weight_gradient(
        partial_sums, latent_weight, gain, shape.gain_factor
    )
    return grad_x, grad_latent, grad_gain, grad_bias


def _packing(x: Tensor, shape: Conv2dShape) -> PackActivationsConfig:
    return choose(PackActivationsConfig, x.device, rows=shape.pixels, outputs=shape.outputs)


def _by_bit_mma(
    x: Tensor, latent_weight: Tensor, gain: Tensor, bias: Tensor | None, shape: Conv2dShape
) -> tuple[Tensor, Tensor, Tensor]:
    tiles = shape.in_full_tiles()
    signs, mask, paired = pack_activations(
        x, paired_size=(tiles.height, tiles.width), config=_packing(x, shape)
    )
    assert mask is not None
    assert paired is not None
    fragments = pack_weights(latent_weight, "fragments")
    config = choose(bit_mma.BitMmaConfig, x.device, rows=shape.pixels, outputs=shape.outputs)
    y, _, _ = bit_mma.conv2d_w1a1(
        paired, fragments, border_table(fragments, tiles), gain, shape.gain_factor, bias, tiles,
        rows=None if tiles is shape else shape.pixels, dtype=x.dtype, config=config,
    )  # fmt: skip
    assert y is not None
    return y if tiles is shape else _as_images(y, shape), signs, mask


def _by_int8_mma(
    signs: Tensor,
    weights: Tensor,
    gain: Tensor,
    bias: Tensor | None,
    shape: Conv2dShape,
    dtype: torch.dtype,
) -> Tensor:
    config = choose(int8_mma.Int8MmaConfig, signs.device, rows=shape.pixels, outputs=shape.outputs)
    y, _, _ = int8_mma.conv2d_w1a1(
        signs, weights, gain, shape.gain_factor, bias, shape, dtype=dtype, config=config
    )
    assert y is not None
    return y


def _by_popcount(
    signs: Tensor,
    weights: Tensor,
    gain: Tensor,
    bias: Tensor | None,
    shape: Conv2dShape,
    dtype: torch.dtype,
) -> Tensor:
    config = choose(popcount.PopcountConfig, signs.device, rows=shape.pixels, outputs=shape.outputs)
    y = popcount.linear_w1a1(
        signs.flatten(0, 2), weights.flatten(1), gain, shape.gain_factor, bias, shape.channels,
        dtype=dtype, config=config,
    )  # fmt: skip
    return _as_images(y, shape)


def _as_images(rows: Tensor, shape: Conv2dShape) -> Tensor:
    """[pixels, outputs] as [batch, outputs, height, width], channels-last."""
    return rows.view(shape.batch, *shape.output_size, rows.shape[1]).permute(0, 3, 1, 2)
