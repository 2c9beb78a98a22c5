"""binary_linear against float64 products, finite differences of its surrogate, and opcheck."""

import pytest
import torch
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


def make_arguments(
    rows: int, length: int, outputs: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = away_from_window_borders(torch.randn(rows, length, dtype=dtype, generator=generator))
    latent_weight = torch.randn(outputs, length, dtype=dtype, generator=generator)
    gain, bias = torch.randn(2, outputs, dtype=dtype, generator=generator)
    return x, latent_weight, gain, bias


def simulated(x: Tensor, weight: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return (x @ weight.T) * gain / weight.shape[1] ** 0.5 + bias


@pytest.mark.parametrize("binary_input", [False, True])
@settings(max_examples=30)
@given(
    rows=st.integers(0, 4),
    length=st.integers(1, 70),
    outputs=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_forward_is_the_simulated_layer(
    binary_input: bool, rows: int, length: int, outputs: int, seed: int
) -> None:
    x, latent_weight, gain, bias = make_arguments(rows, length, outputs, seed=seed)
    y = ops.binary_linear(x, latent_weight, gain, bias, binary_input=binary_input)
    expected = simulated(
        torch.where(x < 0, -1.0, 1.0).double() if binary_input else x,
        torch.where(latent_weight < 0, -1.0, 1.0).double(),
        gain,
        bias,
    )
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("binary_input", [False, True])
def test_gradients_are_finite_differences_of_the_surrogate(binary_input: bool) -> None:
    arguments = make_arguments(rows=3, length=35, outputs=4)
    x, latent_weight, *_ = arguments
    weights = torch.randn(3, 4, dtype=torch.float64)

    def surrogate(*values: Tensor) -> Tensor:
        first = surrogate_activation(values[0], at=x) if binary_input else values[0]
        weight = surrogate_weight(values[1], at=latent_weight)
        return (simulated(first, weight, *values[2:]) * weights).sum()

    leaves = [argument.clone().requires_grad_() for argument in arguments]
    (ops.binary_linear(*leaves, binary_input=binary_input) * weights).sum().backward()
    for position, leaf in enumerate(leaves):

        def along(value: Tensor, position: int = position) -> Tensor:
            return surrogate(*arguments[:position], value, *arguments[position + 1 :])

        expected = finite_differences(along, arguments[position])
        torch.testing.assert_close(leaf.grad, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype: torch.dtype, bias: bool) -> None:
    x, latent_weight, gain, offset = make_arguments(3, 35, 4, torch.float32)
    x, grad_y = x.to(dtype), torch.randn(3, 4).to(dtype)
    forward = (x, latent_weight, gain, offset if bias else None)
    tribin = torch.ops.tribin
    _, signs, mask = tribin.binary_linear_w1a1(*forward)
    opcheck(tribin.binary_linear.default, forward)
    opcheck(tribin.binary_linear_w1a1.default, forward)
    opcheck(tribin.binary_linear_backward.default, (grad_y, x, latent_weight, gain))
    opcheck(tribin.binary_linear_w1a1_backward.default, (grad_y, signs, mask, latent_weight, gain))


@pytest.mark.parametrize("binary_input", [False, True])
def test_compiled_equals_eager(binary_input: bool) -> None:
    def gradients(function) -> list[Tensor]:  # type: ignore[no-untyped-def]
        leaves = [a.requires_grad_() for a in make_arguments(3, 35, 4, torch.float32)]
        function(*leaves, binary_input=binary_input).square().sum().backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    compiled = torch.compile(ops.binary_linear, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(gradients(compiled), gradients(ops.binary_linear), strict=True):
        assert torch.equal(actual, expected)


def test_leading_dimensions_are_kept() -> None:
    _, latent_weight, gain, bias = make_arguments(1, 8, 3, torch.float32)
    assert ops.binary_linear(torch.randn(2, 5, 8), latent_weight, gain, bias).shape == (2, 5, 3)
    assert ops.binary_linear(torch.randn(8), latent_weight, gain).shape == (3,)


def test_shapes_that_do_not_fit_are_named() -> None:
    x, latent_weight, gain, bias = make_arguments(2, 8, 3, torch.float32)
    with pytest.raises(ValueError, match=r"x \[2, 7\] does not fit latent_weight \[3, 8\]"):
        ops.binary_linear(x[:, :7], latent_weight, gain, bias)
    with pytest.raises(ValueError, match=r"gain has the shape \[2\]"):
        ops.binary_linear(x, latent_weight, gain[:2], bias)
    with pytest.raises(ValueError, match=r"bias has the shape \[1\]"):
        ops.binary_linear(x, latent_weight, gain, bias[:1])
