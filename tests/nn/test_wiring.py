"""Each switch of a block's wiring, at its neutral setting, gives the plain block bit for bit."""

import pytest
import torch
from torch import Tensor

from tribin.nn import BinaryConv2d, GatedBlock, Precision, ResidualBlock, Wiring
from tribin.nn.wiring import RPReLU, Threshold, ThresholdPair

NEUTRAL = {
    "threshold": Wiring(threshold="learned"),
    "inside": Wiring(after="inside", slope=1.0),
    "outside": Wiring(after="outside", slope=1.0),
}


def outcome(make: type[ResidualBlock] | type[GatedBlock], wiring: Wiring) -> list[Tensor]:
    torch.manual_seed(0)
    others = (3, Precision(1, 1), "elu") if make is ResidualBlock else (Precision(1, 1),)
    block = make(8, *others, wiring=wiring)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    y = block(x)
    y.square().sum().backward()
    weights = [m.latent_weight.grad for m in block.modules() if isinstance(m, BinaryConv2d)]
    return [y, x.grad, *weights]


@pytest.mark.parametrize("make", [ResidualBlock, GatedBlock])
@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_settings_give_the_plain_block(make: type, name: str) -> None:
    for ours, plain in zip(outcome(make, NEUTRAL[name]), outcome(make, Wiring()), strict=True):
        assert torch.equal(ours, plain)


def test_thresholds_start_at_their_share_of_the_standard_deviation() -> None:
    x = 3 * torch.randn(16, 4, 8, 8) + 1
    for layer, copies in ((Threshold(4, 0.5), 1), (ThresholdPair(4, 0.5), 2)):
        with torch.no_grad():
            layer.initialize(x)
        expected = 0.5 * x.std((0, 2, 3)).repeat(copies)
        torch.testing.assert_close(layer.threshold.detach(), expected)


def test_rprelu_is_piecewise_linear() -> None:
    layer = RPReLU(1, 0.25)
    with torch.no_grad():
        layer.move_in.fill_(1.0)
        layer.move_out.fill_(3.0)
    x = torch.tensor([-3.0, 1.0, 2.0]).view(3, 1, 1, 1)
    assert layer(x).flatten().tolist() == [2.0, 3.0, 4.0]


def test_a_dynamic_scale_multiplies_by_the_filtered_magnitude_of_the_input() -> None:
    torch.manual_seed(0)
    plain = BinaryConv2d(5, 4, 3, padding=1, binary_input=True)
    scaled = BinaryConv2d(5, 4, 3, padding=1, binary_input=True, dynamic_scale=True)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 5, 6, 6)
    magnitude = torch.nn.functional.avg_pool2d(x.abs().mean(1, keepdim=True), 3, 1, 1)
    torch.testing.assert_close(scaled(x), plain(x) * magnitude)


def test_real_weights_are_those_of_weight_normalization() -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(5, 4, 3, padding=1, binary_input=True)
    layer.real_weight = True
    x = torch.randn(2, 5, 6, 6)
    weight = torch.nn.functional.normalize(layer.latent_weight.flatten(1)).view(4, 5, 3, 3)
    signs = torch.where(x < 0, -1.0, 1.0)
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(signs, weight, padding=1))
