"""Skips and PReLUs of the residual block."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tribin.nn import BinaryConv2d, Precision, ResidualBlock

PRECISIONS = [Precision(32, 32), Precision(1, 32), Precision(1, 1)]


def make_block(precision: Precision, slope: float | None = None, **others: str) -> ResidualBlock:
    torch.manual_seed(0)
    block = ResidualBlock(8, 3, precision, "elu", prelu=slope is not None, **others)
    for prelu in (block.first_prelu, block.second_prelu):
        if prelu is not None:
            torch.nn.init.constant_(prelu.weight, slope)
    return block


def outcome(block: ResidualBlock) -> list[Tensor]:
    """The output, and the gradients for the input and all binary weights."""
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    y = block(x)
    y.square().sum().backward()
    weights = [m.latent_weight.grad for m in block.modules() if isinstance(m, BinaryConv2d)]
    return [y, x.grad, *weights]


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_slopes_of_1_give_the_plain_block(precision: Precision) -> None:
    ours, plain = outcome(make_block(precision, 1.0)), outcome(make_block(precision))
    for one, other in zip(ours, plain, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("slope", [None, 0.5])
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_a_skip_around_each_convolution(precision: Precision, slope: float | None) -> None:
    block = make_block(precision, slope, shortcut="conv")
    x = torch.randn(2, 8, 6, 6)
    a = (lambda x: x) if precision.activations == 1 else F.elu
    factor = 1.0 if slope is None else slope
    hidden = x + F.leaky_relu(block.first(a(x)), factor)
    assert torch.equal(block(x), hidden + F.leaky_relu(block.second(a(hidden)), factor))


def test_only_what_is_asked_for_has_parameters() -> None:
    blocks = (make_block(PRECISIONS[2], slope) for slope in (None, 1.0))
    plain, full = (dict(block.named_parameters()) for block in blocks)
    assert set(full) - set(plain) == {"first_prelu.weight", "second_prelu.weight"}
