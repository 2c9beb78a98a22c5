"""The logistic distributions against their definitions in float64 and numerical integrals."""

import pytest
import torch

from tribin.models.logistic import DiscretizedLogistic, Logistic, to_pixels, to_unit_range


def distribution_function(x: torch.Tensor, mean: float, scale: float) -> torch.Tensor:
    return torch.sigmoid((x - mean) / scale)


def test_log_density_is_the_derivative_of_the_distribution_function() -> None:
    x = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    (density,) = torch.autograd.grad(distribution_function(x, 0.3, 0.7).sum(), x)
    logistic = Logistic(*torch.tensor([0.3, 0.7], dtype=torch.float64))
    torch.testing.assert_close(logistic.log_density(x), density.log(), atol=1e-10, rtol=0)


def test_samples_have_the_mean_and_the_spread_of_a_logistic() -> None:
    torch.manual_seed(0)
    logistic = Logistic(torch.full((200_000,), 2.0), torch.full((200_000,), 0.5))
    z = logistic.sample()
    deviation = 0.5 * torch.pi / 3**0.5
    assert float(z.mean()) == pytest.approx(2.0, abs=5 * deviation / 200_000**0.5)
    assert float(z.std()) == pytest.approx(deviation, rel=0.02)
    assert torch.equal(logistic.sample(temperature=0.0), logistic.mean)


def test_samples_stay_finite_where_the_uniform_draw_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    assert Logistic(torch.zeros(3), torch.ones(3)).sample().isfinite().all()


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 2.0])
def test_pixel_probabilities_are_differences_of_the_distribution_function(
    levels: int, log_scale: float
) -> None:
    pixels = torch.arange(levels)
    mean = torch.full((levels,), 0.123)
    distribution = DiscretizedLogistic(mean, torch.tensor(log_scale), levels)
    half = (levels - 1) / 2
    edges = (torch.arange(levels + 1, dtype=torch.float64) - 0.5 - half) / half
    edges[0], edges[-1] = -torch.inf, torch.inf
    scale = torch.tensor(log_scale).double().exp()
    cumulative = distribution_function(edges, float(mean[0]), float(scale))
    log_probability = distribution.log_probability(pixels)
    likely = cumulative.diff() > 1e-12  # the difference itself is exact only there
    torch.testing.assert_close(
        log_probability[likely].double(), cumulative.diff()[likely].log(), atol=2e-4, rtol=2e-4
    )
    total = log_probability.double().exp().sum()
    torch.testing.assert_close(total, torch.ones(()).double(), atol=1e-5, rtol=0)


def test_extreme_pixels_keep_finite_values_and_gradients() -> None:
    mean = torch.tensor([-50.0, 50.0, 0.0], requires_grad=True)
    log_scale = torch.tensor(-7.0, requires_grad=True)
    pixels = torch.tensor([255, 0, 128])
    log_probability = DiscretizedLogistic(mean, log_scale, 256).log_probability(pixels)
    log_probability.sum().backward()
    assert log_probability.isfinite().all()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()
    assert log_scale.grad is not None
    assert log_scale.grad.isfinite()


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_pixels_survive_the_way_to_the_unit_range_and_back(levels: int) -> None:
    pixels = torch.arange(levels, dtype=torch.uint8)
    x = to_unit_range(pixels, levels)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(to_pixels(x, levels), pixels)
    assert to_pixels(torch.tensor([-9.0, 9.0]), levels).tolist() == [0, levels - 1]


def test_pixel_samples_follow_the_probabilities() -> None:
    torch.manual_seed(0)
    distribution = DiscretizedLogistic(torch.full((100_000,), 0.4), torch.tensor(-1.5), 4)
    frequencies = torch.bincount(distribution.sample().long(), minlength=4) / 100_000
    one = DiscretizedLogistic(torch.full((4,), 0.4), torch.tensor(-1.5), 4)
    probabilities = one.log_probability(torch.arange(4)).exp()
    torch.testing.assert_close(frequencies, probabilities, atol=0.01, rtol=0)
