"""Standardization against numpy; the layers that use it are tested in test_layers.py."""

import numpy as np
import pytest
import torch

from tribin.nn import standardization


@pytest.mark.parametrize("std", [1.0, 0.1])
@pytest.mark.parametrize("dim", [0, 1])
def test_gain_and_bias_give_mean_0_and_the_asked_std(dim: int, std: float) -> None:
    torch.manual_seed(0)
    y = 100 + 3 * torch.randn(7, 9)
    gain, bias = standardization(y, dim, std)
    assert gain.dtype == bias.dtype == torch.float64
    assert gain.shape == bias.shape == (y.shape[1 - dim],)
    result = (y * gain.unsqueeze(dim) + bias.unsqueeze(dim)).numpy()
    np.testing.assert_allclose(result.mean(dim), 0, atol=1e-12)
    np.testing.assert_allclose(result.std(dim), std, rtol=1e-12)


def test_what_is_constant_up_to_rounding_is_only_moved() -> None:
    rounded = 1000 * torch.tensor([1.0, 1.0 + 2**-22, 1.0 - 2**-22])
    zero, varying = torch.zeros(3), torch.tensor([1e-3, 0.0, -1e-3])
    gain, bias = standardization(torch.stack((rounded, zero, varying)), dim=1, std=0.5)
    assert gain[:2].tolist() == [0.5, 0.5]
    torch.testing.assert_close(bias, torch.tensor([-500.0, 0, 0], dtype=torch.float64))
    assert gain[2].item() == pytest.approx(0.5 / (1e-3 * (2 / 3) ** 0.5))
