"""binary_conv2d against a loop, finite differences of its surrogate, and opcheck."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.estimators import (
    away_from_window_borders,
    finite_differences,
    surrogate_activation,
    surrogate_weight,
)
from torch import Tensor
from torch.library import opcheck

from tribin import ops

Arguments = tuple[Tensor, Tensor, Tensor, Tensor]


def make_arguments(
    shape: tuple[int, int, int, int],
    outputs: int,
    kernel: tuple[int, int],
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Arguments:
    generator = torch.Generator().manual_seed(seed)
    x = away_from_window_borders(torch.randn(shape, dtype=dtype, generator=generator))
    latent_weight = torch.randn(outputs, shape[1], *kernel, dtype=dtype, generator=generator)
    gain, bias = torch.randn(2, outputs, dtype=dtype, generator=generator)
    return x, latent_weight, gain, bias


def plus_minus_one(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype)


def simulated(
    x: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, stride: int, padding: int
) -> Tensor:
    weight = weight * (gain / weight[0].numel() ** 0.5).view(-1, 1, 1, 1)
    return F.conv2d(x, weight, bias, stride, padding)


@pytest.mark.parametrize("binary_input", [False, True])
def test_forward_is_the_sum_written_out(binary_input: bool) -> None:
    x, latent_weight, gain, bias = make_arguments((2, 3, 4, 5), 2, (3, 3))
    y = ops.binary_conv2d(x, latent_weight, gain, bias, padding=1, binary_input=binary_input)
    for image, output, row, column in product(range(2), range(2), range(4), range(5)):
        total = 0.0
        for channel, i, j in product(range(3), range(3), range(3)):
            r, c = row + i - 1, column + j - 1
            if 0 <= r < 4 and 0 <= c < 5:
                value = float(x[image, channel, r, c])
                factor = (-1 if value < 0 else 1) if binary_input else value
                total += factor * (-1 if latent_weight[output, channel, i, j] < 0 else 1)
        expected = total * float(gain[output]) / 27**0.5 + float(bias[output])
        assert float(y[image, output, row, column]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("binary_input", [False, True])
@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(3, 6), st.integers(3, 6)),
    outputs=st.integers(1, 4),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
)
def test_forward_is_the_simulated_layer(
    binary_input: bool,
    shape: tuple[int, int, int, int],
    outputs: int,
    kernel: tuple[int, int],
    stride: int,
    padding: int,
) -> None:
    x, latent_weight, gain, bias = make_arguments(shape, outputs, kernel)
    y = ops.binary_conv2d(
        x, latent_weight, gain, bias, stride=stride, padding=padding, binary_input=binary_input
    )
    first = plus_minus_one(x) if binary_input else x
    expected = simulated(first, plus_minus_one(latent_weight), gain, bias, stride, padding)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("binary_input", [False, True])
def test_gradients_are_finite_differences_of_the_surrogate(binary_input: bool, stride: int) -> None:
    arguments = make_arguments((2, 3, 4, 4), 2, (3, 3))
    x, latent_weight, *_ = arguments
    weights = torch.randn(2, 2, 4 // stride, 4 // stride, dtype=torch.float64)

    def surrogate(*values: Tensor) -> Tensor:
        first = surrogate_activation(values[0], at=x) if binary_input else values[0]
        weight = surrogate_weight(values[1], at=latent_weight)
        return (simulated(first, weight, *values[2:], stride, 1) * weights).sum()

    leaves = [argument.clone().requires_grad_() for argument in arguments]
    y = ops.binary_conv2d(*leaves, stride=stride, padding=1, binary_input=binary_input)
    (y * weights).sum().backward()
    for position, leaf in enumerate(leaves):

        def along(value: Tensor, position: int = position) -> Tensor:
            return surrogate(*arguments[:position], value, *arguments[position + 1 :])

        expected = finite_differences(along, arguments[position])
        torch.testing.assert_close(leaf.grad, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x, latent_weight, gain, bias = make_arguments((2, 33, 4, 6), 3, (3, 3), torch.float32)
    x = x.to(dtype, memory_format=memory_format)
    grad_y = torch.randn(2, 3, 2, 3).to(dtype, memory_format=memory_format)
    forward = (x, latent_weight, gain, bias, [2, 2], [1, 1])
    saved = (latent_weight, gain, [2, 2], [1, 1])
    tribin = torch.ops.tribin
    _, signs, mask = tribin.binary_conv2d_w1a1(*forward)
    opcheck(tribin.binary_conv2d.default, forward)
    opcheck(tribin.binary_conv2d_w1a1.default, forward)
    opcheck(tribin.binary_conv2d_backward.default, (grad_y, x, *saved))
    opcheck(tribin.binary_conv2d_w1a1_backward.default, (grad_y, signs, mask, *saved))


@pytest.mark.parametrize("binary_input", [False, True])
def test_compiled_equals_eager(binary_input: bool) -> None:
    def gradients(function) -> list[Tensor]:  # type: ignore[no-untyped-def]
        arguments = make_arguments((2, 3, 4, 4), 2, (3, 3), torch.float32)
        leaves = [argument.requires_grad_() for argument in arguments]
        function(*leaves, padding=1, binary_input=binary_input).square().sum().backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    compiled = torch.compile(ops.binary_conv2d, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(gradients(compiled), gradients(ops.binary_conv2d), strict=True):
        assert torch.equal(actual, expected)


def test_binary_input_saves_two_bits_per_activation() -> None:
    x, latent_weight, gain, bias = make_arguments((2, 64, 4, 4), 8, (3, 3), torch.float32)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ops.binary_conv2d(
            x.requires_grad_(), latent_weight, gain, bias, padding=1, binary_input=True
        )
    activations = [t for t in saved if t is not latent_weight and t is not gain]
    assert sum(t.numel() * t.element_size() for t in activations) == x.numel() * 2 // 8


def test_autocast_decides_the_compute_dtype() -> None:
    x, latent_weight, gain, bias = make_arguments((1, 3, 4, 4), 2, (3, 3), torch.float32)
    latent_weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.binary_conv2d(x, latent_weight, gain, bias, binary_input=True)
        assert ops.binary_conv2d(x.double(), latent_weight, gain).dtype == torch.float64
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert latent_weight.grad is not None
    assert latent_weight.grad.dtype == torch.float32


def test_channels_last_is_kept() -> None:
    x, latent_weight, gain, bias = make_arguments((2, 8, 4, 4), 8, (3, 3), torch.float32)
    x = x.contiguous(memory_format=torch.channels_last)
    y = ops.binary_conv2d(x, latent_weight, gain, bias, padding=1, binary_input=True)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_shapes_that_do_not_fit_are_named() -> None:
    x, latent_weight, gain, bias = make_arguments((1, 3, 4, 4), 2, (3, 3), torch.float32)
    with pytest.raises(ValueError, match=r"x \[1, 2, 4, 4\] does not fit latent_weight"):
        ops.binary_conv2d(x[:, :2], latent_weight, gain, bias)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        ops.binary_conv2d(x[..., :2], latent_weight, gain, bias)
    with pytest.raises(ValueError, match=r"gain has the shape \[1\]"):
        ops.binary_conv2d(x, latent_weight, gain[:1], bias)
