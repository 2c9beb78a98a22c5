"""Which gradients pass the sign of an activation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tribin.nn import BinaryConv2d, GatedBlock, Precision, ResidualBlock, StraightThrough, pack
from tribin.recipe import RecipeError, load_recipe

W1A1 = Precision(1, 1)


def outputs_and_gradients(layer: torch.nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    return [y.detach(), x.grad, *(value.grad for value in layer.parameters())]


def conv(straight_through: StraightThrough) -> BinaryConv2d:
    torch.manual_seed(0)
    return BinaryConv2d(5, 4, 3, padding=1, binary_input=True, straight_through=straight_through)


@given(
    window=st.floats(0.01, 100),
    scale=st.sampled_from(["none", "sample_std"]),
    sigma=st.floats(0.01, 100),
    images=st.integers(1, 3),
)
def test_gradients_pass_inside_the_window(
    window: float, scale: str, sigma: float, images: int
) -> None:
    straight_through = StraightThrough(window, scale)
    x = sigma * torch.randn(images, 5, 4, 3)
    largest = window * (x.double().pow(2).mean((1, 2, 3), keepdim=True).sqrt() ** (scale != "none"))
    inside = x.abs() <= largest
    near = (x.abs() / largest - 1).abs() < 1e-5
    # Inside [-1, 1] the paper's estimator lets all gradients pass.
    _, all_gradients, *expected = outputs_and_gradients(conv(StraightThrough()), x.sign() / 2)
    y, gradient, *others = outputs_and_gradients(conv(straight_through), x)
    assert torch.equal(y, conv(StraightThrough())(x))
    assert torch.equal(gradient[~near], (all_gradients * inside)[~near])
    for found, wanted in zip(others, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    share = straight_through.share_passed(x).item()
    assert abs(share - inside.float().mean().item()) <= near.float().mean().item() + 1e-6


def test_the_default_is_the_papers_estimator() -> None:
    x = torch.randn(2, 5, 4, 3)
    assert StraightThrough().to_unit_window(x) is x


@pytest.mark.parametrize("make", [ResidualBlock, GatedBlock])
@pytest.mark.parametrize("straight_through", [StraightThrough(3), StraightThrough(2, "sample_std")])
def test_blocks_and_their_packed_twins(make: type, straight_through: StraightThrough) -> None:
    sizes = (6, 3, W1A1, "elu") if make is ResidualBlock else (6, W1A1)
    torch.manual_seed(1)
    block = make(*sizes, straight_through)
    torch.manual_seed(1)
    plain = make(*sizes)
    x = 2 * torch.randn(2, 6, 5, 4)
    y, gradient, *_ = outputs_and_gradients(block, x)
    expected, other, *_ = outputs_and_gradients(plain, x)
    assert torch.equal(y, expected)
    assert not torch.equal(gradient, other)
    assert torch.equal(pack(block)(x), pack(plain)(x))


def test_an_image_of_zeros() -> None:
    x = torch.zeros(2, 5, 4, 3)
    layer = conv(StraightThrough(1, "sample_std"))
    plain = outputs_and_gradients(conv(StraightThrough()), x)
    for found, wanted in zip(outputs_and_gradients(layer, x), plain, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["resnet_vae", "flowpp"])
def test_in_a_recipe(name: str) -> None:
    settings = "model.straight_through={window: 2.5, scale: sample_std}"
    config = load_recipe(f"{name}/digits_w1a1", [settings]).model.config()
    assert config.straight_through == StraightThrough(2.5, "sample_std")
    with pytest.raises(RecipeError, match=r"model\.straight_through\.window.*greater than 0"):
        load_recipe(f"{name}/digits_w1a1", ["model.straight_through.window=0"])


@pytest.mark.parametrize("window", [0, -1, float("nan")])
def test_a_window_that_passes_nothing(window: float) -> None:
    with pytest.raises(ValueError, match="make it positive"):
        StraightThrough(window)
