"""What every registered model promises the trainer, the evaluation and the sampler."""

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tribin.errors import InputError
from tribin.models import MODELS, FlowPPConfig, GenerativeModel, Objective, ResNetVAEConfig
from tribin.nn import initialize_from_data

# Of each registered model a small one, whose loss is the bound itself.
SMALL: dict[str, Any] = {
    "resnet_vae": ResNetVAEConfig(
        width=8, latent_layers=2, latent_channels=2, extra_blocks=1, free_bits=0.0
    ),
    "flowpp": FlowPPConfig(width=8, blocks=1, dequantization_blocks=1, mixture_components=3),
}
SHAPE = (1, 4, 8)
LEVELS = 17


def make_model(name: str, seed: int = 0) -> GenerativeModel:
    if name not in SMALL:
        pytest.fail(f"{name} is registered; add a small configuration of it to SMALL")
    torch.manual_seed(seed)
    return MODELS[name](SMALL[name], SHAPE, LEVELS)


def make_images(count: int = 4) -> Tensor:
    return torch.randint(0, LEVELS, (count, *SHAPE), dtype=torch.uint8)


def initialized(name: str) -> GenerativeModel:
    model = make_model(name)
    initialize_from_data(model, make_images(16))
    return model.eval()


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> GenerativeModel:
    """Each of the registered models, ready to be measured."""
    return initialized(request.param)


def after_seed(seed: int, function: Callable[..., Any], *arguments: Any) -> Any:
    torch.manual_seed(seed)
    return function(*arguments)


def test_small_configurations_are_of_registered_models() -> None:
    assert {name: type(config) for name, config in SMALL.items()} == {
        name: model.Config for name, model in MODELS.items()
    }


def test_the_model_knows_its_images(model: GenerativeModel) -> None:
    assert (model.image_shape, model.levels) == (SHAPE, LEVELS)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    one_bit_each = torch.tensor(32 * math.log(2))
    assert float(model.to_bits_per_dim(one_bit_each)) == pytest.approx(1)


@pytest.mark.parametrize("name", MODELS)
def test_the_model_can_be_built_without_memory(name: str) -> None:
    expected = {key: value.shape for key, value in make_model(name).state_dict().items()}
    with torch.device("meta"):
        meta = make_model(name)
    assert {parameter.device.type for parameter in meta.parameters()} == {"meta"}
    assert {key: value.shape for key, value in meta.state_dict().items()} == expected


def test_the_objective_is_a_loss_and_metrics(model: GenerativeModel) -> None:
    objective = model.train()(make_images())
    assert isinstance(objective, Objective)
    assert (objective.loss.shape, objective.loss.dtype) == ((), torch.float32)
    assert "bits_per_dim" in objective.metrics
    for value in objective.metrics.values():
        assert value.shape == ()
        assert value.isfinite()
        assert not value.requires_grad
    objective.loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert any(gradient.any() for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients)


@torch.no_grad()
def test_log_weight_is_of_each_image(model: GenerativeModel) -> None:
    log_weight = model.log_weight(make_images(5))
    assert (log_weight.shape, log_weight.dtype) == ((5,), torch.float32)
    assert log_weight.isfinite().all()
    assert log_weight.unique().numel() == 5


@torch.no_grad()
def test_loss_metric_and_log_weight_are_one_bound(model: GenerativeModel) -> None:
    """Of 64 draws for each of 8 images, within 4 standard errors."""
    images = make_images(8).repeat(64, 1, 1, 1)
    objective = model(images)
    bits_per_dim = float(objective.metrics["bits_per_dim"])
    assert float(objective.loss) == pytest.approx(bits_per_dim, rel=1e-5)
    draws = model.to_bits_per_dim(-model.log_weight(images)).double().view(64, 8)
    error = math.sqrt(2 * float(draws.var(0).mean()) / draws.numel())
    assert error < 0.01 * bits_per_dim
    assert float(draws.mean()) == pytest.approx(bits_per_dim, abs=4 * error)


@torch.no_grad()
def test_samples_and_reconstructions_are_images(model: GenerativeModel) -> None:
    images = make_images()
    results = [model.sample(4, temperature) for temperature in (0.0, 1.0, 3.0)]
    for result in (*results, model.reconstruct(images)):
        assert (result.shape, result.dtype) == (images.shape, torch.uint8)
        assert int(result.max()) < LEVELS


@torch.no_grad()
def test_interpolation_gives_rows_or_is_refused(model: GenerativeModel) -> None:
    first, second = make_images(3), make_images(3)
    if type(model).interpolate is GenerativeModel.interpolate:
        message = f"{type(model).__name__} does not interpolate"
        with pytest.raises(InputError, match=message):
            model.interpolate(first, second, 4)
        return
    rows = model.interpolate(first, second, 4)
    assert (rows.shape, rows.dtype) == ((3, 4, *SHAPE), torch.uint8)
    assert int(rows.max()) < LEVELS


@torch.no_grad()
def test_noise_comes_from_torchs_global_generator_alone(model: GenerativeModel) -> None:
    images = make_images()

    def results(seed: int, other_seed: int) -> list[Tensor]:
        random.seed(other_seed)
        np.random.seed(other_seed)
        return [
            after_seed(seed, model, images).loss,
            after_seed(seed, model.log_weight, images),
            after_seed(seed, model.sample, 4),
            after_seed(seed, model.reconstruct, images),
        ]

    first, same, other = results(1, other_seed=1), results(1, other_seed=2), results(2, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first[:3], other[:3], strict=True))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_state_is_all_of_a_model(name: str) -> None:
    model, images = initialized(name), make_images()
    other = make_model(name, seed=1).eval()
    expected = after_seed(1, model.log_weight, images)
    assert not torch.equal(after_seed(1, other.log_weight, images), expected)
    other.load_state_dict(model.state_dict())
    assert torch.equal(after_seed(1, other.log_weight, images), expected)


@torch.no_grad()
def test_a_copy_is_the_same_model_and_another(model: GenerativeModel) -> None:
    images = make_images()
    expected = after_seed(1, model.log_weight, images)
    twin = copy.deepcopy(model)
    assert torch.equal(after_seed(1, twin.log_weight, images), expected)
    for parameter in twin.parameters():
        parameter.add_(0.1)
    assert not torch.equal(after_seed(1, twin.log_weight, images), expected)
    assert torch.equal(after_seed(1, model.log_weight, images), expected)
