"""Training a binarized model: latent weights stay in range after any optimizer's steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.nn.binarizable import classifier, images
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from tribin.errors import InputError
from tribin.nn import (
    binarize,
    clip_after_step,
    clip_latent_weights,
    latent_weights,
)

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=5.0),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.3),
    "fused adam": lambda parameters: torch.optim.AdamW(parameters, lr=0.3, fused=True),
}


def objective(model: nn.Module) -> Tensor:
    labels = torch.arange(8) % 3
    return nn.functional.cross_entropy(model(images()), labels)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_changes_signs_and_keeps_latent_weights_in_range(
    make: Callable[[Any], torch.optim.Optimizer],
) -> None:
    model = classifier()
    binarize(model)
    optimizer = make(model.parameters())
    handle = clip_after_step(optimizer, model)
    before = {name: value < 0 for name, value in latent_weights(model).items()}

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(model)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        assert all(value.abs().max() <= 1 for value in latent_weights(model).values())
    assert all((latent_weights(model)[name] < 0).ne(value).any() for name, value in before.items())
    handle.remove()
    optimizer.step(closure)
    assert any(value.abs().max() > 1 for value in latent_weights(model).values())


def test_a_step_that_the_gradient_scaler_skips_changes_nothing() -> None:
    model = classifier()
    binarize(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    clip_after_step(optimizer, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = parameters_to_vector(model.parameters())
    for factor, changes in ((float("inf"), False), (1.0, True)):
        scaler.scale(factor * objective(model)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert parameters_to_vector(model.parameters()).ne(before).any() == changes
    assert all(value.abs().max() <= 1 for value in latent_weights(model).values())


def test_an_optimizer_from_before_binarization_is_refused() -> None:
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    binarize(model)
    with pytest.raises(InputError, match="holds no latent weight of the model"):
        clip_after_step(optimizer, model)


def test_clipping_after_steps_is_clipping_by_hand() -> None:
    models = [classifier(), classifier()]
    for model in models:
        binarize(model)
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.3) for model in models]
    clip_after_step(optimizers[0], models[0])
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            objective(model).backward()
            optimizer.step()
        clip_latent_weights(models[1])
    first, second = (parameters_to_vector(model.parameters()) for model in models)
    assert torch.equal(first, second)
