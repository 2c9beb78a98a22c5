"""The networks of a flow against their layers applied one by one."""

import pytest
import torch
from tests.models.flow.blocks import PRECISIONS
from torch import Tensor, nn

from tribin.models.flow import Conditioner, ContextNetwork
from tribin.nn import BinaryConv2d, GatedBlock, LayerNorm2d, Precision, WeightNormConv2d

WIDTH = 6


def make_conditioner(precision: Precision = PRECISIONS[0], **fields: object) -> Conditioner:
    torch.manual_seed(0)
    network = Conditioner(3, 5, width=WIDTH, blocks=2, precision=precision, **fields)
    move(network)
    return network


def make_context_network(
    precision: Precision = PRECISIONS[0], blocks: int = 2, **fields: object
) -> ContextNetwork:
    torch.manual_seed(0)
    network = ContextNetwork(3, WIDTH, blocks=blocks, precision=precision, **fields)
    move(network)
    return network


@torch.no_grad()
def move(network: nn.Module) -> None:
    """Off the start, where gains are 1 and biases 0."""
    for parameter in network.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))


def layers(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, kind)]


NETWORKS = {"conditioner": make_conditioner, "context_network": make_context_network}


@pytest.mark.parametrize("context_channels", [0, 4])
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_each_block_is_followed_by_a_layer_norm(
    precision: Precision, context_channels: int
) -> None:
    network = make_conditioner(precision, context_channels=context_channels)
    x = torch.randn(2, 3, 4, 4)
    context = torch.randn(2, 4, 4, 4) if context_channels else None
    (first, second), norms = network.blocks, network.norms
    hidden = norms[0](first(network.stem(x), context))
    hidden = norms[1](second(hidden, context))
    torch.testing.assert_close(network(x, context), network.head(hidden))


def test_without_residual_layers_the_norms_remain_and_a_tanh() -> None:
    network, x = make_conditioner(residual=False), torch.randn(2, 3, 4, 4)
    assert not layers(network, GatedBlock)
    first, second = network.norms
    torch.testing.assert_close(network(x), network.head(second(first(network.stem(x))).tanh()))


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_the_context_network_is_a_convolution_and_gated_blocks(precision: Precision) -> None:
    network, x = make_context_network(precision), torch.randn(2, 3, 4, 4)
    first, second = network.blocks
    torch.testing.assert_close(network(x), second(first(network.stem(x))))
    assert first.gate.padding == 1  # its gate looks around each pixel


def test_a_context_network_without_blocks_is_its_convolution() -> None:
    network, x = make_context_network(blocks=0), torch.randn(2, 3, 4, 4)
    assert torch.equal(network(x), network.stem(x))


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_blocks_have_the_precision(name: str, precision: Precision) -> None:
    network = NETWORKS[name](precision)
    of_blocks = {layer for block in layers(network, GatedBlock) for layer in block.modules()}
    binary, real = layers(network, BinaryConv2d), layers(network, WeightNormConv2d)
    assert set(binary if precision.weights == 1 else real) & of_blocks
    assert not set(real if precision.weights == 1 else binary) & of_blocks
    assert isinstance(network.stem, WeightNormConv2d)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_is_of_training_only(name: str, precision: Precision) -> None:
    network, x = NETWORKS[name](precision, dropout=0.5), torch.randn(2, 3, 4, 4)
    same, without = NETWORKS[name](precision), network.eval()(x)
    assert torch.equal(same(x), without)
    assert torch.equal(network(x), without)
    network.train()
    assert not torch.equal(network(x), without)
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_streams_and_weights_are_channels_last(name: str, precision: Precision) -> None:
    network = NETWORKS[name](precision)
    streams: list[Tensor] = []
    for layer in layers(network, GatedBlock | LayerNorm2d):
        layer.register_forward_hook(lambda *call: streams.append(call[-1]))
    network(torch.randn(2, 3, 4, 4))
    weights = [p for p in network.parameters() if p.ndim == 4]
    assert streams
    assert all(s.is_contiguous(memory_format=torch.channels_last) for s in streams + weights)
