"""The density of Flow++: it integrates to 1, and is what the bound is of."""

import math
from collections.abc import Callable

import pytest
import torch
from tests.models.small_flowpp import (
    W32A32,
    each_variant,
    images_of,
    last_norm,
    make_model,
    perturbed,
    trained,
)
from torch import Tensor, nn
from torch.distributions import Normal

from tribin.evaluation import evaluate
from tribin.models import FlowPP, FlowPPConfig
from tribin.models.flow import (
    Chain,
    Dequantizer,
    Flip,
    Flow,
    Inverse,
    MixtureCoupling,
    Norm,
    PixelLogit,
    Pointwise,
    Sigmoid,
    StripeSplit,
)
from tribin.nn import initialize_from_data, pack


class SmoothConditioner(nn.Module):
    """Of one pixel, and smooth, so that a coarse grid integrates to many digits."""

    def __init__(self, context_channels: int = 0) -> None:
        super().__init__()
        outputs = MixtureCoupling.parameters_per_channel(3)
        self.hidden, self.out = nn.Linear(1 + context_channels, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = x if context is None else torch.cat((x, context), 1)
        return self.out(self.hidden(x.flatten(1)).tanh())[:, :, None, None]


def couplings_of_two_pixels(context_channels: int = 0) -> dict[str, Flow]:
    torch.manual_seed(0)
    steps = {
        f"step_{i}": Chain(
            norm=Norm((2, 1, 1, 1)),
            pointwise=Pointwise(1),
            coupling=MixtureCoupling(SmoothConditioner(context_channels), 3),
            flip=Flip(),
        )
        for i in range(3)
    }
    for parameter in Chain(**steps).parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return {"split": StripeSplit(), **steps, "merge": Inverse(StripeSplit())}


@torch.no_grad()
def integral_over_two_pixels(
    log_density: Callable[[Tensor], Tensor], lowest: float, highest: float
) -> float:
    """By the substitution x = lowest + (highest − lowest)·sigmoid(v), on a grid of v."""
    v = torch.linspace(-20, 20, 121, dtype=torch.float64)
    x = lowest + (highest - lowest) * v.sigmoid()
    dx = (highest - lowest) * v.sigmoid() * (-v).sigmoid() * (v[1] - v[0])
    grid = torch.cartesian_prod(x, x).view(-1, 1, 1, 2)
    return float(log_density(grid).exp() @ torch.outer(dx, dx).flatten())


def test_the_density_of_dequantized_pixels_integrates_to_1() -> None:
    levels = 5
    flow = Chain(logit=PixelLogit(levels), **couplings_of_two_pixels()).double()

    def log_density(x: Tensor) -> Tensor:
        latents, log_det = flow(x)
        return log_normal(latents) + log_det

    # Where 0.05 + 0.9·x/levels is in (0, 1).
    margin = levels / 18
    integral = integral_over_two_pixels(log_density, -margin, levels + margin)
    assert integral == pytest.approx(1, abs=1e-6)


def test_the_density_of_the_dequantization_noise_integrates_to_1() -> None:
    flow = Chain(**couplings_of_two_pixels(context_channels=4), sigmoid=Sigmoid())
    dequantizer = Dequantizer(nn.Conv2d(2, 4, 1), flow, levels=5).double()
    image = torch.tensor([1.0, 3.0], dtype=torch.float64).view(1, 1, 1, 2)

    def log_density(u: Tensor) -> Tensor:
        noise, log_det = dequantizer.inverse(u, image.expand_as(u))
        return log_normal(noise) + log_det

    assert integral_over_two_pixels(log_density, 0, 1) == pytest.approx(1, abs=1e-6)


def log_normal(x: Tensor) -> Tensor:
    return Normal(0, 1).log_prob(x).sum((1, 2, 3))


@torch.no_grad()
def test_all_images_have_the_probability_that_samples_are_images() -> None:
    """The probabilities of all 256 images of 2 levels, and the samples within the pixels' range.

    The rest of the density is in the margin beside that range.
    """
    model = make_model("W1A1", (1, 2, 4), 2, width=4, blocks=1)
    images = torch.cartesian_prod(*[torch.arange(2)] * 8).view(256, 1, 2, 4).to(torch.uint8)
    initialize_from_data(model.eval(), images)
    # A logit-normal noise is narrower than the uniform one, and importance weights would be wild.
    last_norm(model.dequantizer).log_gain.add_(math.log(2))

    draws = model.log_weight(images.repeat(60, 1, 1, 1)).view(60, 256).double().exp()
    probability = float(draws.mean(0).sum())
    samples, _ = model.main_flow.inverse(torch.randn(1500, *model.latent_shape).double())
    inside = ((samples >= 0) & (samples < 2)).flatten(1).all(1).double()
    error = math.sqrt(float(draws.var(0).sum()) / len(draws) + float(inside.var()) / len(inside))
    assert error < 0.03
    assert probability == pytest.approx(float(inside.mean()), abs=4 * error)


@each_variant
def test_the_bound_is_the_likelihood_under_the_noise(variant: str) -> None:
    """log p(x + u) − log q(u|x), put together from the two flows."""
    model = perturbed(variant)
    images = images_of(model)
    torch.manual_seed(1)
    metrics = model(images).metrics
    torch.manual_seed(1)
    log_weight = model.log_weight(images)
    torch.manual_seed(1)
    noise = torch.randn(images.shape)
    u, log_det = model.dequantizer(noise, images.float())
    log_noise_density = log_normal(noise) - log_det
    latents, log_det = model.main_flow(images + u)
    torch.testing.assert_close(log_weight, log_normal(latents) + log_det - log_noise_density)
    bits = {"bits_per_dim": -log_weight, "dequantization": log_noise_density}
    assert metrics.keys() == bits.keys()
    for name, nats in bits.items():
        torch.testing.assert_close(metrics[name], nats.detach().mean() / (32 * math.log(2)))


def test_more_importance_samples_give_a_tighter_bound() -> None:
    model = trained(image_shape=(1, 2, 4))
    images = images_of(model, 32)
    single, few, many = (
        evaluate(model, images, batch_size=32, importance_samples=count).bits_per_dim
        for count in (1, 4, 32)
    )
    assert many < few < single


@torch.no_grad()
def test_bfloat16_is_good_enough_for_all_but_the_norms() -> None:
    """Pixels that never change have norms with gains and biases of hundreds."""
    torch.manual_seed(0)
    config = FlowPPConfig(W32A32, width=8, blocks=1, dequantization_blocks=1, mixture_components=2)
    model = FlowPP(config, (1, 8, 8), 256)
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    images[:, :, :2] = 0
    initialize_from_data(model, images)
    exact, half, all_rounded = pack(model), pack(model, half=True), pack(model)
    for tensor in all_rounded.state_dict().values():
        tensor.copy_(tensor.bfloat16())

    def bits(each: FlowPP) -> float:
        torch.manual_seed(1)
        return each.to_bits_per_dim(-each.log_weight(images).mean()).item()

    assert abs(bits(half) - bits(exact)) < 0.01
    assert bits(all_rounded) - bits(exact) > 0.1
