"""The gated block: its formula, its precision, its start, dropout and memory format."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tribin.nn import (
    BinaryConv2d,
    GatedBlock,
    NormalizedLayer,
    Precision,
    WeightNormConv2d,
    initialize_from_data,
)

PRECISIONS = [Precision(32, 32), Precision(1, 32), Precision(1, 1)]
WIDTH = 6
CONTEXT_CHANNELS = 12  # so many that no sum of signs happens to be constant


def make_block(precision: Precision, **fields: object) -> GatedBlock:
    torch.manual_seed(0)
    return GatedBlock(WIDTH, precision, context_channels=CONTEXT_CHANNELS, **fields)


def make_inputs(count: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(count, WIDTH, 5, 5), torch.randn(count, CONTEXT_CHANNELS, 5, 5)


def convolutions(block: GatedBlock) -> dict[str, NormalizedLayer]:
    return {name: m for name, m in block.named_children() if isinstance(m, NormalizedLayer)}


@pytest.mark.parametrize("gate_kernel_size", [1, 3])
@pytest.mark.parametrize("context_channels", [0, CONTEXT_CHANNELS])
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_the_block_is_its_formula(
    precision: Precision, context_channels: int, gate_kernel_size: int
) -> None:
    block = GatedBlock(
        WIDTH, precision, context_channels=context_channels, gate_kernel_size=gate_kernel_size
    )
    x, context = make_inputs()
    both = torch.cat if precision.activations == 1 else lambda *pair: F.elu(torch.cat(*pair))
    hidden = block.conv(both((x, -x), 1))
    if context_channels:
        hidden = hidden + block.project(both((context, -context), 1))
    gated = block.gate(both((hidden, -hidden), 1))
    expected = x + gated[:, :WIDTH] * gated[:, WIDTH:].sigmoid()
    torch.testing.assert_close(block(x, context), expected)
    kernels = {name: layer.padding for name, layer in convolutions(block).items()}
    assert kernels == {"conv": 1, "gate": gate_kernel_size // 2} | (
        {"project": 0} if context_channels else {}
    )


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_all_convolutions_have_the_precision(precision: Precision) -> None:
    layers = convolutions(make_block(precision))
    assert list(layers) == ["conv", "project", "gate"]
    for layer in layers.values():
        if precision.weights == 32:
            assert isinstance(layer, WeightNormConv2d)
        else:
            assert isinstance(layer, BinaryConv2d)
            assert layer.binary_input == (precision.activations == 1)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_initialization_gives_each_convolution_its_spread(precision: Precision) -> None:
    block, inputs = make_block(precision), make_inputs(64)
    initialize_from_data(block, *inputs)
    spreads: dict[str, Tensor] = {}
    for name, layer in convolutions(block).items():
        layer.register_forward_hook(
            lambda *call, name=name: spreads.update({name: call[-1].std((0, 2, 3), correction=0)})
        )
    block(*inputs)
    assert list(spreads) == ["conv", "project", "gate"]
    for name, std in {"conv": 0.1, "project": 1.0, "gate": 0.1}.items():
        expected = torch.full_like(spreads[name], std)
        torch.testing.assert_close(spreads[name], expected, atol=0, rtol=1e-4)


def test_a_missing_context_is_refused() -> None:
    with pytest.raises(TypeError, match="context"):
        make_block(PRECISIONS[0])(make_inputs()[0])


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_dropout_is_before_the_gate_and_in_training_only(precision: Precision) -> None:
    block, inputs = make_block(precision, dropout=0.5), make_inputs()
    seen: list[Tensor] = []
    block.gate.register_forward_pre_hook(lambda layer, arguments: seen.append(arguments[0]))
    without = make_block(precision)(*inputs)
    assert torch.equal(block.eval()(*inputs), without)
    assert not torch.equal(block.train()(*inputs), without)
    kept, some = seen
    dropped = some == 0
    assert 0.4 < dropped.float().mean() < 0.6
    torch.testing.assert_close(some[~dropped], 2 * kept[~dropped])


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_channels_last_stays_channels_last(precision: Precision) -> None:
    block = make_block(precision)
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in make_inputs()]
    streams: list[Tensor] = []
    for module in block.modules():
        if not isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda *call: streams.append(call[-1]))
    block(*inputs)
    assert len(streams) == 4
    assert all(s.is_contiguous(memory_format=torch.channels_last) for s in streams)
