"""Pairs of thresholds, by themselves and in Flow++'s block."""

import pytest
import torch
from torch import Tensor

from tribin.models import FlowPPConfig
from tribin.nn import GatedBlock, Precision, ThresholdPair, initialize_from_data, latent_weights


def test_it_compares_with_two_thresholds_a_channel() -> None:
    pair = ThresholdPair(2)
    x = torch.randn(4, 2, 5, 3)
    with torch.no_grad():
        pair.threshold.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0]))
    first, second, minus_first, minus_second = pair(x).unbind(1)
    assert torch.equal(first, x[:, 0] - 0.5)
    assert torch.equal(second, x[:, 1] + 1)
    assert torch.equal(minus_first, -x[:, 0] - 2)
    assert torch.equal(minus_second, -x[:, 1])


def test_it_starts_at_a_share_of_the_spread_of_each_channel() -> None:
    pair = ThresholdPair(2)
    x = torch.randn(4, 2, 5, 3) * torch.tensor([1.0, 3.0]).view(2, 1, 1) + 5
    initialize_from_data(pair, x)
    torch.testing.assert_close(pair.threshold.detach(), 0.55 * x.std((0, 2, 3)).repeat(2))


def outcome(threshold_pair: bool) -> list[Tensor]:
    """Output and gradients of a block that was not initialized: thresholds are 0."""
    torch.manual_seed(0)
    block = GatedBlock(8, Precision(1, 1), context_channels=3, threshold_pair=threshold_pair)
    x, context = (torch.randn(2, channels, 6, 6, requires_grad=True) for channels in (8, 3))
    y = block(x, context)
    y.square().sum().backward()
    weights = [weight.grad for weight in latent_weights(block).values()]
    return [y, x.grad, context.grad, *weights]


def test_thresholds_of_0_give_the_plain_block() -> None:
    for ours, plain in zip(outcome(True), outcome(False), strict=True):
        assert torch.equal(ours, plain)


def test_thresholds_learn() -> None:
    torch.manual_seed(0)
    block = GatedBlock(8, Precision(1, 1), threshold_pair=True)
    x = torch.randn(16, 8, 6, 6)
    initialize_from_data(block, x)
    block(x).square().sum().backward()
    for thresholds in (block.conv_thresholds, block.gate_thresholds):
        assert (thresholds.threshold.grad != 0).all()


@pytest.mark.parametrize("precision", [Precision(32, 32), Precision(1, 32)], ids=str)
def test_thresholds_are_of_binary_activations(precision: Precision) -> None:
    with pytest.raises(ValueError, match=r"needs precision\.activations: 1"):
        FlowPPConfig(precision, threshold_pair=True)
