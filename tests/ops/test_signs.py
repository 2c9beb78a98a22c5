"""The straight-through estimators by themselves, and against the fused ops."""

import torch

from tribin import ops


def test_weight_estimator_passes_every_gradient() -> None:
    latent_weight = torch.tensor([-3.0, -0.5, 0.0, 2.0], requires_grad=True)
    gradient = torch.tensor([1.0, 2.0, 3.0, 4.0])
    signs = ops.sign_weight(latent_weight)
    signs.backward(gradient)
    assert signs.tolist() == [-1, -1, 1, 1]
    assert torch.equal(latent_weight.grad, gradient)


def test_activation_estimator_passes_gradients_inside_its_window() -> None:
    x = torch.tensor([-1.1, -1.0, -0.0, 0.5, 1.0, 1.1], requires_grad=True)
    signs = ops.sign_activation(x)
    signs.backward(torch.ones(6))
    assert signs.tolist() == [-1, -1, 1, 1, 1, 1]
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_the_fused_op_has_the_gradients_of_its_parts() -> None:
    x = torch.randn(5, 40, dtype=torch.float64, requires_grad=True)
    latent_weight = torch.randn(3, 40, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(3, dtype=torch.float64, requires_grad=True)
    leaves = [x, latent_weight, gain]
    weights = torch.randn(5, 3, dtype=torch.float64)
    parts = ops.sign_activation(x) @ ops.sign_weight(latent_weight).T * (gain / 40**0.5)
    fused = ops.binary_linear(x, latent_weight, gain, binary_input=True)
    expected = torch.autograd.grad((parts * weights).sum(), leaves)
    actual = torch.autograd.grad((fused * weights).sum(), leaves)
    torch.testing.assert_close(actual, expected)
