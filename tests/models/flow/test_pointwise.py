"""Pointwise against a loop over pixels and numpy's determinant."""

import math

import numpy as np
import pytest
import torch

from tribin.models.flow import Pointwise

CHANNELS = 3


def make_pointwise() -> Pointwise:
    torch.manual_seed(0)
    pointwise = Pointwise(CHANNELS).double()
    with torch.no_grad():
        pointwise.weight.normal_()
    return pointwise


def test_every_pixel_is_multiplied_by_the_matrix_of_its_half() -> None:
    pointwise, x = make_pointwise(), torch.randn(2, 2, CHANNELS, 4, 5).double()
    matrices = pointwise.weight.detach().numpy()
    expected = np.empty(x.shape)
    for n, half, row, column in np.ndindex(2, 2, 4, 5):
        expected[n, half, :, row, column] = matrices[half] @ x[n, half, :, row, column].numpy()
    y, log_det = pointwise(x)
    np.testing.assert_allclose(y.detach(), expected, atol=1e-14, rtol=1e-14)
    determinant = np.linalg.det(matrices[0]) * np.linalg.det(matrices[1])
    np.testing.assert_allclose(log_det.detach(), [20 * np.log(abs(determinant))] * 2, rtol=1e-12)


def test_the_log_det_of_float32_weights_is_computed_in_float64() -> None:
    """Of a matrix so near a singular one that float32 has no digit of its determinant right."""
    pointwise = Pointwise(2)
    with torch.no_grad():
        pointwise.weight.copy_(torch.tensor([[0.3, 0.7], [0.1, 0.2333334]]))
    (a, b), (c, d) = pointwise.weight[0].tolist()
    _, log_det = pointwise(torch.zeros(1, 2, 2, 3, 3))
    expected = 2 * 9 * math.log(abs(a * d - b * c))  # exact: the products have 48 bits
    assert log_det.item() == pytest.approx(expected, rel=1e-6)


def test_a_singular_matrix_has_the_log_det_minus_infinity() -> None:
    pointwise = Pointwise(CHANNELS)
    with torch.no_grad():
        pointwise.weight[1, 2] = pointwise.weight[1, 0]
    _, log_det = pointwise(torch.randn(2, 2, CHANNELS, 4, 5))
    assert log_det.tolist() == [-torch.inf] * 2


def test_it_starts_near_the_identity_and_not_at_it() -> None:
    torch.manual_seed(0)
    noise = Pointwise(64).weight.detach() - torch.eye(64)
    # Of 8192 draws, the sample's deviation is that of the noise to 4 standard errors.
    assert abs(float(noise.std()) / 0.001 - 1) < 4 / (2 * 8192) ** 0.5
