"""Norm: its formula, and the data-dependent start."""

import torch

from tribin.models.flow import Norm
from tribin.nn import initialize_from_data

SHAPE = (2, 3, 4, 5)


def test_every_element_has_a_gain_and_a_bias() -> None:
    torch.manual_seed(0)
    norm, x = Norm(SHAPE).double(), torch.randn(6, *SHAPE).double()
    with torch.no_grad():
        norm.log_gain.normal_()
        norm.bias.normal_()
    y, log_det = norm(x)
    torch.testing.assert_close(y, norm.log_gain.exp() * x + norm.bias, atol=1e-14, rtol=1e-14)
    expected = norm.log_gain.exp().prod().log().expand(6)
    torch.testing.assert_close(log_det, expected, atol=1e-12, rtol=0)


def test_it_starts_as_the_identity() -> None:
    x = torch.randn(2, *SHAPE)
    y, log_det = Norm(SHAPE)(x)
    assert torch.equal(y, x)
    assert torch.equal(log_det, torch.zeros(2))


def test_initialization_gives_each_element_mean_0_and_std_1() -> None:
    torch.manual_seed(0)
    norm = Norm(SHAPE).double()
    x = torch.randn(16, *SHAPE).double() * (5 * torch.rand(SHAPE).double()) + torch.randn(SHAPE)
    initialize_from_data(norm, x)
    y = norm(x)[0].detach().numpy()
    assert abs(y.mean(0)).max() < 1e-12
    assert abs(y.std(0) - 1).max() < 1e-12


def test_initialization_only_moves_constant_elements() -> None:
    norm, x = Norm((2,)), torch.tensor([[3.0, 1.0], [3.0, 5.0]])
    initialize_from_data(norm, x)
    assert norm.log_gain[0] == 0
    assert norm.bias[0] == -3
    torch.testing.assert_close(norm(x)[0], torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
