"""The binary convolution on a GPU; `reference.binary_conv2d` says what it computes."""

from torch import Tensor

from tribin_kernels import reference
from tribin_kernels.bit_product import bit_product, bit_product_backward
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.dtypes import or_else
from tribin_kernels.real_product import real_product, real_product_backward


@or_else(reference.binary_conv2d)
def binary_conv2d(
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
) -> Tensor:
    """W1A16 forward."""
    shape = Conv2dShape.of(x.shape, latent_weight, stride, padding)
    y = real_product(x, latent_weight, gain, bias, shape)
    return y.contiguous(memory_format=reference.memory_format(x))


@or_else(reference.binary_conv2d_backward)
def binary_conv2d_backward(
    grad_y: Tensor,
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    stride: list[int],
    padding: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W1A16 backward."""
    shape = Conv2dShape.of(x.shape, latent_weight, stride, padding)
    grad_x, *gradients = real_product_backward(grad_y, x, latent_weight, gain, shape)
    grad_latent, grad_gain, grad_bias = gradients
    return (
        grad_x.contiguous(memory_format=reference.memory_format(x)),
        grad_latent,
        grad_gain,
        grad_bias,
    )


@or_else(reference.binary_conv2d_w1a1)
def binary_conv2d_w1a1(
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """W1A1 forward."""
    shape = Conv2dShape.of(x.shape, latent_weight, stride, padding)
    y, signs, mask = bit_product(x, latent_weight, gain, bias, shape)
    return y.contiguous(memory_format=reference.memory_format(x)), signs, mask


@or_else(reference.binary_conv2d_w1a1_backward)
def binary_conv2d_w1a1_backward(
    grad_y: Tensor,
    signs: Tensor,
    mask: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    stride: list[int],
    padding: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W1A1 backward."""
    batch, height, width, _ = signs.shape
    input_size = (batch, latent_weight.shape[1], height, width)
    shape = Conv2dShape.of(input_size, latent_weight, stride, padding)
    return bit_product_backward(grad_y, signs, mask, latent_weight, gain, shape)
