"""Bits per dimension against numpy: each image once, in float64, and never a silent NaN."""

import math
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tribin.data import load_images
from tribin.errors import InputError, NonFiniteError
from tribin.evaluation import evaluate
from tribin.models import GenerativeModel, Objective
from tribin.trained_model import load_trained_model

SHAPE = (1, 2, 3)


class Recorder(GenerativeModel):
    """Records the images it is given; its log weights are those of a table [draws, images]."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__(SHAPE, 256)
        self.parameter = nn.Parameter(torch.zeros(()))
        self.table = torch.from_numpy(table).float()
        self.given: list[list[int]] = []
        self.noise: list[float] = []

    def log_weight(self, images: Tensor) -> Tensor:
        numbers = images[:, 0, 0, 0].long()
        draw = sum(batch == numbers.tolist() for batch in self.given)
        self.given.append(numbers.tolist())
        self.noise.append(torch.rand(()).item())
        return self.table[draw, numbers]

    def forward(self, images: Tensor) -> Objective:
        raise NotImplementedError

    def sample(self, count: int, temperature: float = 1.0) -> Tensor:
        raise NotImplementedError

    def reconstruct(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def numbered_images(count: int) -> Tensor:
    images = torch.zeros(count, *SHAPE, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(count)
    return images


def random_table(draws: int, images: int, centre: float = -20) -> np.ndarray:
    return np.random.default_rng(0).normal(centre, 3, (draws, images)).astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 53, 200])
@pytest.mark.parametrize("count", [2, 53])
def test_each_image_is_measured_exactly_once(count: int, batch_size: int) -> None:
    model = Recorder(random_table(1, count))
    result = evaluate(model, numbered_images(count), batch_size=batch_size)
    assert list(chain(*model.given)) == list(range(count))
    assert max(map(len, model.given)) == min(batch_size, count)
    bits = -model.table[0].double().numpy() / (6 * math.log(2))
    assert result.bits_per_dim == pytest.approx(bits.mean(), rel=1e-12)
    standard_error = bits.std(ddof=1) / math.sqrt(count)
    assert result.standard_error == pytest.approx(standard_error, rel=1e-12)
    assert (result.images, result.importance_samples) == (count, 1)


def test_a_uniform_distribution_over_256_values_takes_8_bits() -> None:
    table = np.full((1, 4), -6 * math.log(256), dtype=np.float32)
    result = evaluate(Recorder(table), numbered_images(4), batch_size=4)
    assert result.bits_per_dim == pytest.approx(8, rel=1e-7)  # of float32
    assert result.standard_error == 0


@pytest.mark.parametrize("draws", [1, 2, 8])
def test_the_importance_weighted_bound_is_the_mean_of_the_weights(draws: int) -> None:
    table = random_table(draws, 10)
    model = Recorder(table)
    result = evaluate(model, numbered_images(10), batch_size=4, importance_samples=draws)
    log_mean = np.log(np.exp(table.astype(np.float64)).mean(0))
    assert result.bits_per_dim == pytest.approx(-log_mean.mean() / (6 * math.log(2)), rel=1e-12)
    assert result.importance_samples == draws
    assert len(model.given) == 3 * draws


def test_weights_that_underflow_are_averaged_all_the_same() -> None:
    """exp(−5000) is 0 in float64: the mean is taken relative to the largest weight."""
    table = random_table(8, 10)
    bits = [
        evaluate(Recorder(t), numbered_images(10), batch_size=4, importance_samples=8).bits_per_dim
        for t in (table, table - 5000)
    ]
    # Half a unit in the last place of a float32 near 5000 is 2.4e-4 nats.
    assert bits[1] - bits[0] == pytest.approx(5000 / (6 * math.log(2)), abs=2.5e-4)


def test_the_mean_is_taken_in_float64() -> None:
    """In float32 a sum of 200 values of a million would be off by several units."""
    table = np.full((1, 200), -1e6, dtype=np.float32) - np.arange(200, dtype=np.float32)
    result = evaluate(Recorder(table), numbered_images(200), batch_size=7)
    assert result.bits_per_dim == pytest.approx((1e6 + 99.5) / (6 * math.log(2)), rel=1e-14)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("draws", [1, 4])
def test_a_density_that_is_not_finite_fails(bad: float, draws: int) -> None:
    table = random_table(draws, 10)
    table[:, [3, 7]] = bad
    with pytest.raises(NonFiniteError, match=r"density of 2 of 10 images .* the first .* image 3"):
        evaluate(Recorder(table), numbered_images(10), batch_size=4, importance_samples=draws)


def test_one_image_has_no_standard_error() -> None:
    with pytest.raises(InputError, match="1 images to evaluate"):
        evaluate(Recorder(random_table(1, 1)), numbered_images(1), batch_size=1)


def test_noise_is_a_function_of_the_seed_and_the_image() -> None:
    noise = []
    for seed in (1, 1, 2):
        model = Recorder(random_table(2, 10))
        evaluate(model, numbered_images(10), batch_size=4, importance_samples=2, seed=seed)
        noise.append(model.noise)
    assert noise[0] == noise[1]
    assert len(set(noise[0] + noise[2])) == 12
    first_batch = Recorder(random_table(2, 10))
    evaluate(first_batch, numbered_images(10)[:4], batch_size=4, importance_samples=2, seed=1)
    assert first_batch.noise == noise[0][:2]


def test_more_samples_give_a_tighter_bound_on_a_trained_model(trained_run: Path) -> None:
    model = load_trained_model(trained_run, torch.device("cpu"), "raw").model
    images = load_images("digits").test
    bounds = [
        evaluate(model, images, batch_size=100, importance_samples=samples)
        for samples in (1, 8, 64)
    ]
    # The same images: what differs is the bound, not the images drawn.
    assert bounds[0].bits_per_dim > bounds[1].bits_per_dim > bounds[2].bits_per_dim


def test_evaluation_keeps_no_graph_and_no_gradient(trained_run: Path) -> None:
    model = load_trained_model(trained_run, torch.device("cpu")).model
    evaluate(model, load_images("digits").test[:4], batch_size=2)
    assert all(parameter.grad is None for parameter in model.parameters())
