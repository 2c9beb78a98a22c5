"""The sigmoid and the logit of pixels against their formulas in float64."""

import math

import pytest
import torch

from tribin.models.flow import PixelLogit, Sigmoid


def test_the_sigmoid_is_its_formula() -> None:
    x = torch.linspace(-5, 5, 24, dtype=torch.float64).view(2, 1, 3, 4)
    y, log_det = Sigmoid()(x)
    expected = 1 / (1 + (-x).exp())
    torch.testing.assert_close(y, expected, atol=1e-15, rtol=0)
    slopes = (expected * (1 - expected)).log().sum((1, 2, 3))
    torch.testing.assert_close(log_det, slopes, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_sigmoids_log_det_is_exact_in_the_tails(dtype: torch.dtype) -> None:
    """log(exp(−|x|)/(1 + exp(−|x|))²) is −|x|, where y is 0 or 1 to rounding."""
    x = torch.tensor([-1e4, -200.0, 200.0, 1e4], dtype=dtype).view(4, 1, 1, 1)
    y, log_det = Sigmoid()(x)
    assert y.flatten().round().tolist() == [0, 0, 1, 1]
    assert torch.equal(log_det, -x.abs().flatten())


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_pixel_logit_is_its_formula(levels: int) -> None:
    x = torch.linspace(0, levels, 24, dtype=torch.float64).view(2, 1, 3, 4)
    y, log_det = PixelLogit(levels)(x)
    p = 0.05 + 0.9 * x / levels
    torch.testing.assert_close(y, (p / (1 - p)).log(), atol=1e-14, rtol=0)
    slopes = (0.9 / levels / (p * (1 - p))).log().sum((1, 2, 3))
    torch.testing.assert_close(log_det, slopes, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_pixel_logit_maps_both_ends_to_finite_numbers(levels: int, dtype: torch.dtype) -> None:
    flow = PixelLogit(levels)
    ends = torch.tensor([0, levels], dtype=dtype).view(2, 1, 1, 1)
    y, log_det = flow(ends)
    expected = torch.tensor([-math.log(19), math.log(19)], dtype=dtype)
    torch.testing.assert_close(y.flatten(), expected)
    assert log_det.isfinite().all()
    torch.testing.assert_close(flow.inverse(y)[0], ends, atol=1e-5, rtol=1e-5)


def test_pixels_of_extreme_latents_lie_a_little_outside_their_range() -> None:
    y = torch.tensor([-1e4, 1e4]).view(2, 1, 1, 1)
    x, log_det = PixelLogit(9).inverse(y)
    torch.testing.assert_close(x.flatten(), torch.tensor([-0.5, 9.5]))
    assert log_det.isfinite().all()
