"""W1A16 on a GPU: the product of a real input with 1-bit weights, and its gradients.

A linear layer is a convolution of 1×1 images here. Arguments and results are those of
`tribin_kernels.reference.binary_conv2d`; outputs are channels-last.
"""

import torch
from torch import Tensor

from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.finish_weight_gradient import finish_product
from tribin_kernels.launch_table import choose
from tribin_kernels.pack_weights import pack_weights
from tribin_kernels.real_mma import RealMmaConfig, conv2d_w1a16
from tribin_kernels.scale_gradient import scale_gradient, split_float32


def real_product(
    x: Tensor, latent_weight: Tensor, gain: Tensor, bias: Tensor | None, shape: Conv2dShape
) -> Tensor:
    """y = conv2d(x, sign(v))·g/√n + b."""
    quads = pack_weights(latent_weight, "quads")
    config = choose(RealMmaConfig, x.device, rows=shape.pixels, outputs=shape.outputs)
    y, _, _ = conv2d_w1a16(
        mma_operand(x), quads, gain, shape.gain_factor, bias, shape, dtype=x.dtype, config=config
    )
    assert y is not None
    return y


def real_product_backward(
    grad_y: Tensor, x: Tensor, latent_weight: Tensor, gain: Tensor, shape: Conv2dShape
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, latent_weight, gain and bias."""
    grad_x, grad_bias = input_gradient(grad_y, latent_weight, gain, shape)
    product = _library_product(grad_y, x, latent_weight, shape)
    grad_latent, grad_gain = finish_product(product, latent_weight, gain, shape.gain_factor)
    return grad_x, grad_latent, grad_gain, grad_bias


def input_gradient(
    grad_y: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    shape: Conv2dShape,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients for the input, zero where `mask` (row bits) says, and for the bias.

    The gradient is scaled by the gain before the product and by 1/√n after it, so that float16
    does not lose the small ones.
    """
    scaled, grad_bias = scale_gradient(
        grad_y, gain, 1.0, dtype=grad_y.dtype, terms=grad_y.dtype == torch.float32
    )
    quads = pack_weights(latent_weight, "quads", transposed=True)
    pixels = shape.batch * shape.height * shape.width
    config = choose(RealMmaConfig, grad_y.device, rows=pixels, outputs=shape.channels)
    grad_x, _, _ = conv2d_w1a16(
        scaled, quads, None, shape.gain_factor, None, shape,
        transposed=True, mask=mask, dtype=grad_y.dtype, config=config,
    )  # fmt: skip
    assert grad_x is not None
    return grad_x, grad_bias.to(gain.dtype)


def _library_product(
    grad_y: Tensor, x: Tensor, latent_weight: Tensor, shape: Conv2dShape
) -> Tensor:
    """Gradient of the unscaled weight. Both operands are real: nothing for kernels of ours."""
    if shape.is_pointwise:
        grad_rows, rows = (t.movedim(1, -1).flatten(0, 2) for t in (grad_y, x))
        return (grad_rows.T @ rows).view(latent_weight.shape)
    _, product, _ = torch.ops.aten.convolution_backward(
        grad_y, x, latent_weight.to(x.dtype), None, shape.stride, shape.padding, [1, 1], False,
        [0, 0], 1, [False, True, False],
    )  # fmt: skip
    return product


def mma_operand(x: Tensor) -> Tensor:
    """What the 16-bit tensor core takes of x: itself, or the three bf16 terms of a float32."""
    x = x.contiguous(memory_format=torch.channels_last)
    return split_float32(x) if x.dtype == torch.float32 else x
