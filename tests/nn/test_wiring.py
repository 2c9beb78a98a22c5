"""Shortcuts and PReLUs of residual blocks."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tribin.nn import BinaryConv2d, GatedBlock, Precision, ResidualBlock, Wiring

PRECISIONS = [Precision(32, 32), Precision(1, 32), Precision(1, 1)]
FULL = Wiring(shortcut="conv", prelu=True)


def residual_block(precision: Precision, wiring: Wiring) -> ResidualBlock:
    torch.manual_seed(0)
    return ResidualBlock(8, 3, precision, "elu", wiring)


def gated_block(precision: Precision, wiring: Wiring) -> GatedBlock:
    torch.manual_seed(0)
    return GatedBlock(8, precision, wiring=wiring)


def slopes(block: nn.Module, value: float) -> None:
    for module in block.modules():
        if isinstance(module, nn.PReLU):
            nn.init.constant_(module.weight, value)


def outcome(block: nn.Module) -> list[Tensor]:
    """The output, and the gradients for the input and all binary weights."""
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    y = block(x)
    y.square().sum().backward()
    weights = [m.latent_weight.grad for m in block.modules() if isinstance(m, BinaryConv2d)]
    return [y, x.grad, *weights]


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("make", [residual_block, gated_block])
def test_slopes_of_1_give_the_plain_block(make, precision: Precision) -> None:
    block = make(precision, Wiring(prelu=True))
    slopes(block, 1.0)
    for ours, plain in zip(outcome(block), outcome(make(precision, Wiring())), strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_a_residual_block_with_both(precision: Precision) -> None:
    block = residual_block(precision, FULL)
    slopes(block, 0.5)
    x = torch.randn(2, 8, 6, 6)
    a = (lambda x: x) if precision.activations == 1 else F.elu
    hidden = x + F.leaky_relu(block.first(a(x)), 0.5)
    assert torch.equal(block(x), hidden + F.leaky_relu(block.second(a(hidden)), 0.5))


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_a_gated_block_with_both(precision: Precision) -> None:
    block = gated_block(precision, FULL)
    slopes(block, 0.5)
    x = torch.randn(2, 8, 6, 6)

    def both(x: Tensor) -> Tensor:
        x = torch.cat((x, -x), 1)
        return x if precision.activations == 1 else F.elu(x)

    hidden = x + F.leaky_relu(block.conv(both(x)), 0.5)
    a, b = block.gate(both(hidden)).chunk(2, 1)
    assert torch.equal(block(x), hidden + a * b.sigmoid())


def test_only_what_is_asked_for_has_parameters() -> None:
    plain, full = (
        dict(residual_block(PRECISIONS[2], w).named_parameters()) for w in (Wiring(), FULL)
    )
    assert set(full) - set(plain) == {"first_prelu.weight", "second_prelu.weight"}
