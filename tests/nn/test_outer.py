"""The convolutions around residual layers, with real and with binary weights."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tribin.models import MODELS, FlowPPConfig, ResNetVAEConfig
from tribin.nn import (
    BinaryConv2d,
    Precision,
    WeightNormConv2d,
    latent_weights,
    outer_conv2d,
    outer_upsampling_conv2d,
)
from tribin.nn.outer import ZerosBetween

ALL = Precision(1, 1, layers="all")


@pytest.mark.parametrize("precision", [Precision(32, 32), Precision(1, 32), Precision(1, 1), ALL])
@pytest.mark.parametrize("stride", [1, 2])
def test_weights_are_binary_where_all_are_and_the_input_never_is(
    precision: Precision, stride: int
) -> None:
    layer = outer_conv2d(3, 4, 5, precision, stride=stride, init_std=0.1)
    assert type(layer) is (BinaryConv2d if precision.all_binary else WeightNormConv2d)
    assert not getattr(layer, "binary_input", False)
    assert layer.init_std == 0.1
    assert layer(torch.randn(2, 3, 8, 6)).shape == (2, 4, 8 // stride, 6 // stride)


def transposed(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv_transpose2d(x, weight, stride=2, padding=2, output_padding=1)


def test_binary_upsampling_is_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    layer = outer_upsampling_conv2d(3, 4, 5, ALL)
    x = torch.randn(2, 3, 4, 6)
    weight = torch.where(layer[1].latent_weight < 0, -1.0, 1.0) / 75**0.5
    # as a transposed convolution has its weight: [in, out, kh, kw], turned by half a circle
    expected = transposed(x, weight.flip(2, 3).transpose(0, 1))
    torch.testing.assert_close(layer(x), expected)


def test_zeros_between_keep_the_memory_format() -> None:
    x = torch.randn(2, 3, 4, 6).contiguous(memory_format=torch.channels_last)
    y = ZerosBetween()(x)
    assert y.shape == (2, 3, 8, 12)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y[:, :, ::2, ::2], x)
    assert y.abs().sum() == x.abs().sum()


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_all_convolutions_of_a_model_are_binary(name: str, residual: bool) -> None:
    small = {
        "resnet_vae": ResNetVAEConfig(ALL, width=4, latent_layers=1, residual=residual),
        "flowpp": FlowPPConfig(ALL, width=4, blocks=1, residual=residual),
    }
    model = MODELS[name](small[name], (1, 4, 8), 17)
    assert latent_weights(model)
    assert not [key for key, _ in model.named_parameters() if key.endswith("direction")]
