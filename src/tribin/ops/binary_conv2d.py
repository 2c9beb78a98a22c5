"""2-D convolution with 1-bit weights and, where asked, 1-bit input."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tribin.ops.autocast import to_compute_dtype
from tribin.ops.checks import check_floating, check_per_output, check_same_device
from tribin.ops.conv2d_size import as_pair, check_conv2d_size, output_size
from tribin.ops.registration import register_op
from tribin_kernels import reference


def binary_conv2d(
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    binary_input: bool = False,
) -> Tensor:
    """y = conv2d(x, sign(v))·g/√n + b, differentiable by the straight-through estimators.

    n = C·kh·kw. The weights' signs pass their gradient on as it is; with `binary_input` the
    convolution takes sign(x), whose gradient passes where |x| ≤ 1 (Bird et al., 2021).
    Padding is the value 0 in both cases.

    Args:
        x: [N, C, H, W], floating point.
        latent_weight: v, [out, C, kh, kw].
        gain: g, [out].
        bias: b, [out].
        stride: vertical and horizontal, or one for both.
        padding: rows and columns of zeros on each side, or one number for both.
        binary_input: use sign(x); the backward pass then keeps two bits per element of x.

    Returns:
        [N, out, H', W'], of x's dtype, or autocast's; channels-last where x is.

    Raises:
        TypeError: where a tensor is not floating point.
        ValueError: where shapes, stride or padding don't fit, or tensors are on different devices.
    """
    check_floating("binary_conv2d", x=x, latent_weight=latent_weight, gain=gain, bias=bias)
    check_same_device("binary_conv2d", x, latent_weight=latent_weight, gain=gain, bias=bias)
    strides, paddings = as_pair(stride), as_pair(padding)
    _check_shapes(x, latent_weight, gain, bias, strides, paddings)
    y: Tensor = _BinaryConv2d.apply(
        to_compute_dtype(x), latent_weight, gain, bias, strides, paddings, binary_input
    )
    return y


def _check_shapes(
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
) -> None:
    if x.ndim != 4 or latent_weight.ndim != 4 or x.shape[1] != latent_weight.shape[1]:
        raise ValueError(
            f"binary_conv2d: x {list(x.shape)} does not fit latent_weight "
            f"{list(latent_weight.shape)}; they are [N, C, H, W] and [out, C, kh, kw]"
        )
    check_conv2d_size("binary_conv2d", x.shape[2:], latent_weight.shape[2:], stride, padding)
    check_per_output("binary_conv2d", "latent_weight", latent_weight, gain=gain, bias=bias)


class _BinaryConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        latent_weight: Tensor,
        gain: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        binary_input: bool,
    ) -> Tensor:
        forward = _binary_conv2d_w1a1 if binary_input else _binary_conv2d
        result = forward(x, latent_weight, gain, bias, stride, padding)
        y, *saved = result if binary_input else (result, x)
        ctx.save_for_backward(*saved, latent_weight, gain)
        ctx.stride, ctx.padding, ctx.binary_input = stride, padding, binary_input
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        backward = _binary_conv2d_w1a1_backward if ctx.binary_input else _binary_conv2d_backward
        *gradients, grad_bias = backward(grad_y, *ctx.saved_tensors, ctx.stride, ctx.padding)
        return *gradients, grad_bias if ctx.needs_input_grad[3] else None, None, None, None


def _fake_forward(
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
) -> Tensor:
    size = output_size(x.shape[2:], latent_weight.shape[2:], stride, padding)
    y = x.new_empty((x.shape[0], latent_weight.shape[0], *size))
    return y.contiguous(memory_format=reference.memory_format(x))


def _fake_forward_w1a1(
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, height, width = x.shape
    shape = (batch, height, width, reference.words_per_row(channels))
    signs, mask = (x.new_empty(shape, dtype=torch.int32) for _ in range(2))
    return _fake_forward(x, latent_weight, gain, bias, stride, padding), signs, mask


def _fake_backward(
    grad_y: Tensor,
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    stride: list[int],
    padding: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x = torch.empty_like(x, memory_format=reference.memory_format(x))
    return grad_x, *_fake_parameter_gradients(latent_weight, gain)


def _fake_backward_w1a1(
    grad_y: Tensor,
    signs: Tensor,
    mask: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    stride: list[int],
    padding: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (*signs.shape[:3], latent_weight.shape[1])
    grad_x = grad_y.new_empty(shape).permute(0, 3, 1, 2)
    return grad_x, *_fake_parameter_gradients(latent_weight, gain)


def _fake_parameter_gradients(latent_weight: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    grad_latent_weight = torch.empty_like(
        latent_weight, memory_format=reference.memory_format(latent_weight)
    )
    return grad_latent_weight, torch.empty_like(gain), torch.empty_like(gain)


_KERNELS = "tribin_kernels.binary_conv2d"
_FORWARD = (
    "Tensor x, Tensor latent_weight, Tensor gain, Tensor? bias, SymInt[2] stride, SymInt[2] padding"
)
_SAVED = "Tensor latent_weight, Tensor gain, SymInt[2] stride, SymInt[2] padding"
_GRADIENTS = "(Tensor grad_x, Tensor grad_latent_weight, Tensor grad_gain, Tensor grad_bias)"

_binary_conv2d = register_op(
    f"binary_conv2d({_FORWARD}) -> Tensor",
    reference.binary_conv2d,
    _fake_forward,
    kernels=_KERNELS,
)
_binary_conv2d_backward = register_op(
    f"binary_conv2d_backward(Tensor grad_y, Tensor x, {_SAVED}) -> {_GRADIENTS}",
    reference.binary_conv2d_backward,
    _fake_backward,
    kernels=_KERNELS,
)
_binary_conv2d_w1a1 = register_op(
    f"binary_conv2d_w1a1({_FORWARD}) -> (Tensor y, Tensor signs, Tensor mask)",
    reference.binary_conv2d_w1a1,
    _fake_forward_w1a1,
    kernels=_KERNELS,
)
_binary_conv2d_w1a1_backward = register_op(
    "binary_conv2d_w1a1_backward(Tensor grad_y, Tensor signs, Tensor mask, "
    f"{_SAVED}) -> {_GRADIENTS}",
    reference.binary_conv2d_w1a1_backward,
    _fake_backward_w1a1,
    kernels=_KERNELS,
)
