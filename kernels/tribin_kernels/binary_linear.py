"""The binary linear layer on a GPU: a binary convolution whose images are single pixels.

`tribin_kernels.reference.binary_linear` says what it computes.
"""

from torch import Tensor

from tribin_kernels import binary_conv2d as conv2d
from tribin_kernels import reference
from tribin_kernels.dtypes import or_else

_STRIDE, _PADDING = [1, 1], [0, 0]


@or_else(reference.binary_linear)
def binary_linear(x: Tensor, latent_weight: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    """W1A16 forward."""
    y = conv2d.binary_conv2d(_pixels(x), _pixels(latent_weight), gain, bias, _STRIDE, _PADDING)
    return y.view(*x.shape[:-1], latent_weight.shape[0])


@or_else(reference.binary_linear_backward)
def binary_linear_backward(
    grad_y: Tensor, x: Tensor, latent_weight: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W1A16 backward."""
    grad_x, grad_latent, grad_gain, grad_bias = conv2d.binary_conv2d_backward(
        _pixels(grad_y), _pixels(x), _pixels(latent_weight), gain, _STRIDE, _PADDING
    )
    return grad_x.view(x.shape), grad_latent.view(latent_weight.shape), grad_gain, grad_bias


@or_else(reference.binary_linear_w1a1)
def binary_linear_w1a1(
    x: Tensor, latent_weight: Tensor, gain: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """W1A1 forward."""
    y, signs, mask = conv2d.binary_conv2d_w1a1(
        _pixels(x), _pixels(latent_weight), gain, bias, _STRIDE, _PADDING
    )
    rows, words = x.shape[:-1], signs.shape[-1]
    return (
        y.view(*rows, latent_weight.shape[0]),
        signs.view(*rows, words),
        mask.view(*rows, words),
    )


@or_else(reference.binary_linear_w1a1_backward)
def binary_linear_w1a1_backward(
    grad_y: Tensor, signs: Tensor, mask: Tensor, latent_weight: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W1A1 backward."""
    rows, words = signs.shape[:-1].numel(), signs.shape[-1]
    grad_x, grad_latent, grad_gain, grad_bias = conv2d.binary_conv2d_w1a1_backward(
        _pixels(grad_y),
        signs.view(rows, 1, 1, words),
        mask.view(rows, 1, 1, words),
        _pixels(latent_weight),
        gain,
        _STRIDE,
        _PADDING,
    )
    return (
        grad_x.view(*grad_y.shape[:-1], latent_weight.shape[1]),
        grad_latent.view(latent_weight.shape),
        grad_gain,
        grad_bias,
    )


def _pixels(rows: Tensor) -> Tensor:
    """[..., K] as [rows, K, 1, 1]."""
    return rows.reshape(rows.shape[:-1].numel(), rows.shape[-1], 1, 1)
