"""One optimizer step: accumulation, clipping, the guard, and the signs it flips."""

import copy
import math
from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
import torch
from tests.runs import tiny_recipe
from torch import Tensor, nn

from tribin.models import GenerativeModel, Objective
from tribin.nn import BinaryConv2d, BinaryLinear, initialize_from_data, latent_weights
from tribin.training.optimizer import build_optimizer, optimizer_tensors
from tribin.training.run_folder import build_model
from tribin.training.step import SignFlips, train_step

Fault = Callable[[Tensor], Tensor]


class Quadratic(GenerativeModel):
    """A deterministic model in float64 whose objective is a mean over the images."""

    def __init__(self, fault: Fault = lambda loss: loss) -> None:
        super().__init__((1, 2, 2), 256)
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64))
        self.unused = nn.Parameter(torch.zeros(3))
        self.fault = fault
        self.batches: list[list[int]] = []

    def forward(self, images: Tensor) -> Objective:
        self.batches.append(images[:, 0, 0, 0].tolist())
        errors = (images.flatten(1).double() * self.weight).sum(1) - 1
        mean = errors.mean().detach()
        return Objective(self.fault(errors.square().mean()), {"bits_per_dim": mean})

    def log_weight(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def sample(self, count: int, temperature: float = 1.0) -> Tensor:
        raise NotImplementedError

    def reconstruct(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def make_images(count: int) -> Tensor:
    """Images whose first pixel is their number."""
    torch.manual_seed(0)
    images = torch.randint(0, 8, (count, 1, 2, 2), dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(count)
    return images


def exact_gradient(images: Tensor) -> np.ndarray:
    """Of the mean of (x·w − 1)², in numpy."""
    x, weight = images.flatten(1).double().numpy(), Quadratic().weight.detach().numpy()
    return 2 * ((x @ weight - 1)[:, None] * x).mean(0)


@pytest.mark.parametrize("accumulation", [1, 2, 4, 5, 20])
@pytest.mark.parametrize("count", [20, 7, 1])
def test_micro_batches_add_up_to_the_gradient_of_the_batch(accumulation: int, count: int) -> None:
    """The last batch of a run is smaller, and so are its last micro-batches."""
    model, images = Quadratic(), make_images(count)
    before = model.weight.detach().clone()
    recipe = tiny_recipe(
        "training.batch_size=20",
        f"training.accumulation={accumulation}",
        "optimizer.gradient_clip=null",
    )
    result = train_step(model, torch.optim.SGD(model.parameters(), lr=1.0), images, recipe)
    gradient = exact_gradient(images)
    np.testing.assert_allclose((before - model.weight.detach()).numpy(), gradient, rtol=1e-12)
    assert result.gradient_norm.item() == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
    assert list(chain(*model.batches)) == list(range(count))
    assert max(map(len, model.batches)) == math.ceil(count / accumulation)
    errors = images.flatten(1).double() @ before - 1
    assert result.metrics["bits_per_dim"].item() == pytest.approx(errors.mean().item(), rel=1e-12)
    assert result.metrics["loss"].item() == pytest.approx(errors.square().mean().item(), rel=1e-12)
    assert model.weight.grad is None


def test_the_gradient_is_clipped_to_its_norm() -> None:
    model, images = Quadratic(), make_images(8)
    before, gradient = model.weight.detach().clone(), exact_gradient(images)
    recipe = tiny_recipe("optimizer.gradient_clip=0.5")
    result = train_step(model, torch.optim.SGD(model.parameters(), lr=1.0), images, recipe)
    update = (before - model.weight.detach()).numpy()
    norm = float(np.linalg.norm(gradient))
    assert norm > 10
    # torch divides by the norm + 1e-6.
    np.testing.assert_allclose(update, 0.5 * gradient / norm, rtol=1e-6 / norm + 1e-12)
    assert result.gradient_norm.item() == pytest.approx(norm, rel=1e-12)


# The guard


def nan_loss_with_a_good_gradient(loss: Tensor) -> Tensor:
    return loss + torch.nan


def infinite_loss(loss: Tensor) -> Tensor:
    return loss * torch.inf


def nan_gradient_with_a_good_loss(loss: Tensor) -> Tensor:
    loss.register_hook(lambda gradient: gradient * torch.nan)
    return loss


def infinite_gradient_with_a_good_loss(loss: Tensor) -> Tensor:
    return loss + (loss - loss.detach()).sqrt()  # the slope of the root at 0


class Late:
    """A fault in the last of three micro-batches alone."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.calls = fault, 0

    def __call__(self, loss: Tensor) -> Tensor:
        self.calls += 1
        return self.fault(loss) if self.calls == 3 else loss


@pytest.mark.parametrize("clip", ["1.0", "null"])
@pytest.mark.parametrize(
    "fault",
    [
        nan_loss_with_a_good_gradient,
        infinite_loss,
        nan_gradient_with_a_good_loss,
        infinite_gradient_with_a_good_loss,
    ],
)
def test_a_step_that_is_not_finite_changes_nothing(fault: Fault, clip: str) -> None:
    recipe = tiny_recipe(
        "training.batch_size=9", "training.accumulation=3", f"optimizer.gradient_clip={clip}"
    )
    model, images = Quadratic(), make_images(9)
    optimizer = build_optimizer(model, recipe)
    assert train_step(model, optimizer, images, recipe).finite
    weights = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(optimizer_tensors(optimizer, model))

    model.fault = Late(fault)
    assert not train_step(model, optimizer, images, recipe).finite
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    after = optimizer_tensors(optimizer, model)
    assert state.keys() == after.keys()
    assert all(torch.equal(state[name], value) for name, value in after.items())

    model.fault = Quadratic().fault
    assert train_step(model, optimizer, images, recipe).finite
    assert not torch.equal(weights["weight"], model.weight)


# Binary weights


def small_vae(*overrides: str) -> tuple[GenerativeModel, Tensor]:
    torch.manual_seed(0)
    model = build_model(tiny_recipe(*overrides))
    images = torch.randint(0, 17, (8, 1, 8, 8), dtype=torch.uint8)
    initialize_from_data(model, images)
    return model, images


@pytest.mark.parametrize("learning_rate", [1e-3, 0.5, 100.0])
def test_latent_weights_stay_within_one_after_every_step(learning_rate: float) -> None:
    recipe = tiny_recipe()
    model, images = small_vae()
    latents = latent_weights(model)
    with torch.no_grad():  # the identity at first, it would pass no gradient to its latents
        for name, parameter in model.named_parameters():
            if name.endswith("second.gain"):
                parameter.fill_(0.1)
    for _ in range(3):
        before = [value.detach().clone() for value in latents.values()]
        # Only the latents learn: a step of 100 would carry the others out of the float range.
        optimizer = torch.optim.Adam(latents.values(), lr=learning_rate)
        assert train_step(model, optimizer, images, recipe).finite
        assert all(value.abs().max() <= 1 for value in latents.values())
        moved = [
            not torch.equal(old, new) for old, new in zip(before, latents.values(), strict=True)
        ]
        assert any(moved)
    saturated = sum((value.abs() == 1).sum().item() for value in latents.values())
    assert (saturated > 0) == (learning_rate >= 0.5)


def test_sign_flips_are_counted_one_by_one() -> None:
    """The sign of 0, and of −0, is +1."""
    conv, linear = BinaryConv2d(2, 3, 3), BinaryLinear(5, 4)
    before = [0.5, -0.5, 0.0, -0.0, -0.5, -0.0, 0.0, -1e-38, 1.0]
    after = [-0.5, 0.5, -0.0, 0.0, 0.0, 0.5, -0.5, -1.0, 1e-38]
    flipped = [True, True, False, False, True, False, True, False, False]
    conv.latent_weight.data[0, 0] = torch.tensor(before).view(3, 3)
    flips = SignFlips(nn.ModuleDict({"conv": conv, "linear": linear}))
    conv.latent_weight.data[0, 0] = torch.tensor(after).view(3, 3)
    linear.latent_weight.data[2:] *= -1
    assert flips.rates() == {
        "sign_flips": (sum(flipped) + 10) / (54 + 20),
        "sign_flips/conv": sum(flipped) / 54,
        "sign_flips/linear": 10 / 20,
    }


def test_a_real_model_has_no_signs_to_flip() -> None:
    model, _ = small_vae("model.precision={weights: 32, activations: 32}")
    assert SignFlips(model).rates() == {}


@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_autocast_is_the_recipes(autocast: str) -> None:
    model, images = small_vae("model.precision={weights: 32, activations: 32}")
    dtypes = set()
    stem = model.get_submodule("stem")
    stem.register_forward_hook(lambda *call: dtypes.add(call[-1].dtype))
    recipe = tiny_recipe(f"training.autocast={autocast}")
    result = train_step(model, build_optimizer(model, recipe), images, recipe)
    assert dtypes == {torch.float32 if autocast == "none" else torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert result.metrics["loss"].dtype == torch.float32
