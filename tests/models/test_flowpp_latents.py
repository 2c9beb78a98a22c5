"""Samples, latents and interpolations of Flow++."""

import math
from collections.abc import Callable

import pytest
import torch
from tests.models.small_flowpp import (
    each_variant,
    images_of,
    last_norm,
    make_model,
    perturbed,
    trained,
)
from torch import Tensor

from tribin.models import FlowPP
from tribin.models.flow import Flow


@each_variant
@pytest.mark.parametrize("make", [perturbed, trained])
@torch.no_grad()
def test_latents_decode_to_the_images(variant: str, make: Callable[[str], FlowPP]) -> None:
    model = make(variant)
    images = images_of(model, 16)
    latents = model.encode(images)
    assert (latents.shape, latents.dtype) == ((16, 4, 2, 4), torch.float64)
    assert torch.equal(model.decode(latents), images)
    dequantized, _ = model.main_flow.inverse(latents)
    torch.testing.assert_close(model.main_flow(dequantized)[0], latents, rtol=0, atol=1e-9)


@torch.no_grad()
def test_noise_that_rounds_to_1_leaves_the_images_alone() -> None:
    model = perturbed()
    last_norm(model.dequantizer).bias.add_(20)  # in float32, the sigmoid of 20 is 1
    images = images_of(model)
    assert torch.equal(model.reconstruct(images), images)


@torch.no_grad()
def test_temperature_scales_the_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    model = perturbed()
    decode = model.decode
    decoded: list[Tensor] = []

    def spy(latents: Tensor) -> Tensor:
        decoded.append(latents)
        return decode(latents)

    monkeypatch.setattr(model, "decode", spy)
    for temperature in (1.0, 0.5, 0.0):
        torch.manual_seed(1)
        images = model.sample(3, temperature)
    assert decoded[0].shape == (3, 4, 2, 4)
    assert torch.equal(decoded[1], decoded[0] / 2)
    assert torch.equal(images, decode(torch.zeros(1, 4, 2, 4)).expand(3, -1, -1, -1))


@torch.no_grad()
def test_interpolation_begins_and_ends_with_the_images() -> None:
    model = perturbed(image_shape=(3, 4, 8))
    first, second = images_of(model), images_of(model)
    rows = model.interpolate(first, second, steps=5)
    assert (rows.shape, rows.dtype) == ((4, 5, 3, 4, 8), torch.uint8)
    assert torch.equal(rows[:, 0], first)
    assert torch.equal(rows[:, -1], second)


@torch.no_grad()
def test_an_image_interpolates_to_itself() -> None:
    model = perturbed()
    images = images_of(model)
    rows = model.interpolate(images, images, steps=3)
    assert torch.equal(rows, images.unsqueeze(1).expand_as(rows))


class TwoLatents(Flow):
    """Black images to one latent, all others to another; remembers which latents it inverts."""

    def __init__(self, black: Tensor, other: Tensor) -> None:
        super().__init__()
        self.black, self.other = black, other
        self.inverted: list[Tensor] = []

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.where(x[:, :, :1, :1] < 1, self.black, self.other), x.new_zeros(len(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.inverted.append(y)
        return y.new_zeros(len(y), 1, 4, 8), y.new_zeros(len(y))


@pytest.mark.parametrize("degrees", [90, 60, 0, 180])
@torch.no_grad()
def test_interpolation_keeps_the_norm_of_latents(degrees: int) -> None:
    """Along the arc of a circle, but straight where two latents have no arc between them."""
    model = make_model().eval()
    x, y = torch.linalg.qr(torch.randn(32, 2, dtype=torch.float64)).Q.T.view(2, 1, 4, 2, 4)

    def at(angle: float) -> Tensor:
        return 8 * (math.cos(angle) * x + math.sin(angle) * y)

    angle = math.radians(degrees)
    model.main_flow = TwoLatents(black=at(0), other=at(angle))
    black = torch.zeros(1, 1, 4, 8, dtype=torch.uint8)
    model.interpolate(black, black + 16, steps=5)
    shares = [i / 4 for i in range(5)]
    arc, straight = (
        [at(share * angle) for share in shares],
        [at(0) + share * (at(angle) - at(0)) for share in shares],
    )
    expected = torch.stack(straight if degrees in (0, 180) else arc)
    torch.testing.assert_close(torch.stack(model.main_flow.inverted), expected)
