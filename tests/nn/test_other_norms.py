"""Other normalizations of binary weights: what they compute, their gradients, their twins."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tribin.nn import BinaryConv2d, initialize_from_data, pack
from tribin.nn.other_norms import BatchNormBinaryConv2d, WeightNormBinaryConv2d
from tribin.nn.precision import Precision
from tribin.nn.residual import ResidualBlock


def make(kind: type[BinaryConv2d], **others: bool | float) -> BinaryConv2d:
    torch.manual_seed(0)
    layer = kind(5, 7, 3, padding=1, **others)
    with torch.no_grad():
        layer.gain.uniform_(0.5, 2)
        layer.bias.normal_()
    return layer


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(16, 5, 8, 6, generator=generator) + 0.3


def signs(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0)


@pytest.mark.parametrize("binary_input", [False, True])
def test_weight_norm_computes_what_binary_weight_norm_does(binary_input: bool) -> None:
    ours = make(WeightNormBinaryConv2d, binary_input=binary_input)
    theirs = make(BinaryConv2d, binary_input=binary_input)
    torch.testing.assert_close(ours(images()), theirs(images()))


def test_the_gradient_of_weight_norm_has_no_part_along_the_signs() -> None:
    layer = make(WeightNormBinaryConv2d)
    layer(images()).square().sum().backward()
    s = signs(layer.latent_weight.detach()).flatten(1).double().requires_grad_()
    # in float64, with the norm written out
    weight = s / s.norm(dim=1, keepdim=True) * layer.gain.detach().double()[:, None]
    y = F.conv2d(images().double(), weight.view(7, 5, 3, 3), layer.bias.detach().double(), 1, 1)
    y.square().sum().backward()
    gradient = layer.latent_weight.grad.flatten(1)
    torch.testing.assert_close(gradient.double(), s.grad, rtol=1e-4, atol=1e-3)
    along = (gradient * s.detach().float()).sum(1)
    assert along.abs().max() < 1e-3 * gradient.abs().sum(1).min()


@pytest.mark.parametrize("binary_input", [False, True])
def test_batch_norm_standardizes_the_batch_and_keeps_averages(binary_input: bool) -> None:
    layer = make(BatchNormBinaryConv2d, binary_input=binary_input)
    x = images()
    weight = signs(layer.latent_weight.detach()) / 45**0.5
    product = F.conv2d(signs(x) if binary_input else x, weight, padding=1)
    norm = torch.nn.BatchNorm2d(7)
    with torch.no_grad():
        norm.weight.copy_(layer.gain)
        norm.bias.copy_(layer.bias)
    for _ in range(3):
        torch.testing.assert_close(layer.train()(x), norm.train()(product))
    torch.testing.assert_close(layer.eval()(x), norm.eval()(product))


@pytest.mark.parametrize("std", [1.0, 0.1])
def test_initialization_gives_batch_norm_the_statistics_of_the_data(std: float) -> None:
    layer = make(BatchNormBinaryConv2d, init_std=std)
    initialize_from_data(layer.eval(), images())
    y = layer(images()).movedim(1, 0).flatten(1)
    # of torch's ε, and of the batch's variance, which is the unbiased one
    torch.testing.assert_close(y.std(1), torch.full((7,), std), rtol=1e-3, atol=0)
    torch.testing.assert_close(y.mean(1), layer.bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalization", ["weight_norm", "batch_norm"])
@pytest.mark.parametrize("activations", [1, 32])
def test_packed_twins_compute_the_same(normalization: str, activations: int) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 3, Precision(1, activations, normalization=normalization), "elu")
    x = torch.randn(4, 8, 6, 6)
    with torch.no_grad():
        block(3 * x)  # running averages other than those of x
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected = block.eval()(x)
    torch.testing.assert_close(pack(block)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("field", "value"), [("layers", "all"), ("normalization", "batch_norm")])
def test_real_weights_have_no_such_choice(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{field}: {value} .* needs weights: 1"):
        Precision(32, 32, **{field: value})
