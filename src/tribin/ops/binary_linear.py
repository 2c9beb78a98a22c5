"""Linear layer with 1-bit weights and, where asked, 1-bit input."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tribin.ops.autocast import to_compute_dtype
from tribin.ops.checks import check_floating, check_per_output, check_same_device
from tribin.ops.registration import register_op
from tribin_kernels import reference


def binary_linear(
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    bias: Tensor | None = None,
    *,
    binary_input: bool = False,
) -> Tensor:
    """y = (x · sign(v)ᵀ)·g/√K + b, differentiable by the straight-through estimators.

    The weights' signs pass their gradient on as it is; with `binary_input` the product takes
    sign(x), whose gradient passes where |x| ≤ 1 (Bird et al., 2021).

    Args:
        x: [..., K], floating point.
        latent_weight: v, [out, K].
        gain: g, [out].
        bias: b, [out].
        binary_input: use sign(x); the backward pass then keeps two bits per element of x.

    Returns:
        [..., out], of x's dtype, or autocast's.

    Raises:
        TypeError: where a tensor is not floating point.
        ValueError: where shapes don't fit, or tensors are on different devices.
    """
    check_floating("binary_linear", x=x, latent_weight=latent_weight, gain=gain, bias=bias)
    check_same_device("binary_linear", x, latent_weight=latent_weight, gain=gain, bias=bias)
    _check_shapes(x, latent_weight, gain, bias)
    y: Tensor = _BinaryLinear.apply(to_compute_dtype(x), latent_weight, gain, bias, binary_input)
    return y


def _check_shapes(x: Tensor, latent_weight: Tensor, gain: Tensor, bias: Tensor | None) -> None:
    if latent_weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != latent_weight.shape[1]:
        raise ValueError(
            f"binary_linear: x {list(x.shape)} does not fit latent_weight "
            f"{list(latent_weight.shape)}; they are [..., K] and [out, K]"
        )
    check_per_output("binary_linear", "latent_weight", latent_weight, gain=gain, bias=bias)


class _BinaryLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        latent_weight: Tensor,
        gain: Tensor,
        bias: Tensor | None,
        binary_input: bool,
    ) -> Tensor:
        forward = _binary_linear_w1a1 if binary_input else _binary_linear
        result = forward(x, latent_weight, gain, bias)
        y, *saved = result if binary_input else (result, x)
        ctx.save_for_backward(*saved, latent_weight, gain)
        ctx.binary_input = binary_input
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        backward = _binary_linear_w1a1_backward if ctx.binary_input else _binary_linear_backward
        *gradients, grad_bias = backward(grad_y, *ctx.saved_tensors)
        return *gradients, grad_bias if ctx.needs_input_grad[3] else None, None


def _fake_forward(x: Tensor, latent_weight: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], latent_weight.shape[0]))


def _fake_forward_w1a1(
    x: Tensor, latent_weight: Tensor, gain: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*x.shape[:-1], reference.words_per_row(x.shape[-1]))
    signs, mask = (x.new_empty(shape, dtype=torch.int32) for _ in range(2))
    return _fake_forward(x, latent_weight, gain, bias), signs, mask


def _fake_backward(
    grad_y: Tensor, x: Tensor, latent_weight: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x = grad_y.new_empty((*grad_y.shape[:-1], latent_weight.shape[1]))
    return grad_x, torch.empty_like(latent_weight), torch.empty_like(gain), torch.empty_like(gain)


def _fake_backward_w1a1(
    grad_y: Tensor, signs: Tensor, mask: Tensor, latent_weight: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _fake_backward(grad_y, signs, latent_weight, gain)


_KERNELS = "tribin_kernels.binary_linear"
_FORWARD = "Tensor x, Tensor latent_weight, Tensor gain, Tensor? bias"
_GRADIENTS = "(Tensor grad_x, Tensor grad_latent_weight, Tensor grad_gain, Tensor grad_bias)"

_binary_linear = register_op(
    f"binary_linear({_FORWARD}) -> Tensor",
    reference.binary_linear,
    _fake_forward,
    kernels=_KERNELS,
)
_binary_linear_backward = register_op(
    "binary_linear_backward(Tensor grad_y, Tensor x, Tensor latent_weight, Tensor gain)"
    f" -> {_GRADIENTS}",
    reference.binary_linear_backward,
    _fake_backward,
    kernels=_KERNELS,
)
_binary_linear_w1a1 = register_op(
    f"binary_linear_w1a1({_FORWARD}) -> (Tensor y, Tensor signs, Tensor mask)",
    reference.binary_linear_w1a1,
    _fake_forward_w1a1,
    kernels=_KERNELS,
)
_binary_linear_w1a1_backward = register_op(
    "binary_linear_w1a1_backward(Tensor grad_y, Tensor signs, Tensor mask, Tensor latent_weight,"
    f" Tensor gain) -> {_GRADIENTS}",
    reference.binary_linear_w1a1_backward,
    _fake_backward_w1a1,
    kernels=_KERNELS,
)
