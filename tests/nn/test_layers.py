"""Normalized layers: unit norms, exact data-dependent initialization, clipping."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tribin.nn import (
    BinaryConv2d,
    BinaryLinear,
    NormalizedLayer,
    Precision,
    ResidualBlock,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    clip_latent_weights,
    initialize_from_data,
    latent_weights,
)

IMAGES = (16, 5, 8, 6)
LAYERS = {
    "binary_linear": (lambda std: BinaryLinear(5, 7, init_std=std), (64, 5)),
    "binary_linear_w1a1": (
        lambda std: BinaryLinear(5, 7, binary_input=True, init_std=std),
        (64, 5),
    ),
    "linear": (lambda std: WeightNormLinear(5, 7, init_std=std), (64, 5)),
    "binary_conv2d": (lambda std: BinaryConv2d(5, 7, 3, padding=1, init_std=std), IMAGES),
    "binary_conv2d_w1a1": (
        lambda std: BinaryConv2d(5, 7, 3, padding=1, binary_input=True, init_std=std),
        IMAGES,
    ),
    "conv2d": (lambda std: WeightNormConv2d(5, 7, 3, stride=2, init_std=std), IMAGES),
    "conv_transpose2d": (
        lambda std: WeightNormConvTranspose2d(
            5, 7, 5, stride=2, padding=2, output_padding=1, init_std=std
        ),
        IMAGES,
    ),
}
PRECISIONS = [Precision(32, 32), Precision(1, 32), Precision(1, 1)]


def channels_first(y: Tensor) -> Tensor:
    return y.movedim(1 if y.ndim == 4 else -1, 0).flatten(1)


@pytest.mark.parametrize("std", [1.0, 0.1])
@pytest.mark.parametrize("name", LAYERS)
def test_initialization_gives_each_channel_mean_0_and_the_asked_std(name: str, std: float) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, x = make(std), 3 * torch.randn(shape) + 1
    initialize_from_data(layer, x)
    y = channels_first(layer(x)).double()
    torch.testing.assert_close(y.mean(1), torch.zeros(7).double(), atol=1e-4 * std, rtol=0)
    torch.testing.assert_close(
        y.std(1, correction=0), torch.full((7,), std).double(), atol=0, rtol=1e-4
    )


@pytest.mark.parametrize("name", LAYERS)
def test_a_target_of_0_gives_exactly_0(name: str) -> None:
    make, shape = LAYERS[name]
    layer, x = make(0.0), torch.randn(shape)
    initialize_from_data(layer, x)
    assert not layer(x).any()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda bias: BinaryLinear(5, 7, bias=bias, init_std=0.5), (64, 5)),
        (lambda bias: BinaryConv2d(5, 7, 3, bias=bias, binary_input=True, init_std=0.5), IMAGES),
    ],
    ids=["linear", "conv2d"],
)
def test_without_a_bias_initialization_sets_the_gain_alone(
    make: Callable[[bool], NormalizedLayer], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer, twin = make(False), make(True)
    assert layer.bias is None
    assert list(layer.state_dict()) == ["gain", "latent_weight"]
    assert list(twin.state_dict()) == ["gain", "bias", "latent_weight"]
    twin.latent_weight = layer.latent_weight
    x = 3 * torch.randn(shape) + 1
    for each in (layer, twin):
        initialize_from_data(each, x)
    assert torch.equal(layer.gain, twin.gain)
    difference = channels_first(twin(x) - layer(x))
    torch.testing.assert_close(difference, twin.bias[:, None].expand_as(difference))


@pytest.mark.parametrize("binary_input", [False, True])
def test_a_convolution_takes_pairs(binary_input: bool) -> None:
    layer = BinaryConv2d(
        3, 4, (1, 3), stride=(2, 1), padding=(0, 2), bias=False, binary_input=binary_input
    )
    weight, x = layer.latent_weight, torch.randn(2, 3, 7, 6)
    values = torch.where(x < 0, -1.0, 1.0) if binary_input else x
    signs = torch.where(weight < 0, -1.0, 1.0)
    expected = nn.functional.conv2d(values, signs / 3, stride=(2, 1), padding=(0, 2))
    torch.testing.assert_close(layer(x), expected)


def test_printed_layers_show_their_settings() -> None:
    convolution = BinaryConv2d(3, 4, (1, 3), stride=2, padding=(0, 1), bias=False)
    assert repr(convolution) == (
        "BinaryConv2d(3, 4, kernel_size=(1, 3), stride=2, padding=(0, 1), bias=False, "
        "binary_input=False)"
    )
    linear = BinaryLinear(5, 7, binary_input=True)
    assert repr(linear) == "BinaryLinear(5, 7, bias=True, binary_input=True)"


def test_a_constant_channel_keeps_the_target_as_its_gain() -> None:
    layer = WeightNormConv2d(3, 4, 3, init_std=0.5)
    initialize_from_data(layer, torch.zeros(2, 3, 8, 8))
    assert torch.equal(layer.gain, torch.full((4,), 0.5))
    assert not layer.bias.any()


def test_layers_are_initialized_in_turn_on_what_the_ones_before_give() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        WeightNormConv2d(3, 8, 3, padding=1),
        nn.ELU(),
        BinaryConv2d(8, 8, 3, padding=1, binary_input=True),
        BinaryConv2d(8, 4, 3, padding=1, init_std=0.3),
    )
    x = torch.rand(16, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        initialize_from_data(model, x)
    y = channels_first(model(x)).double()
    torch.testing.assert_close(
        y.std(1, correction=0), torch.full((4,), 0.3).double(), atol=0, rtol=1e-4
    )


def test_only_the_first_call_of_a_shared_layer_initializes_it() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = WeightNormLinear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x) + 5)

    torch.manual_seed(0)
    model, x = Twice(), torch.randn(64, 4)
    initialize_from_data(model, x)
    std = model.layer(x).std(0, correction=0)
    torch.testing.assert_close(std, torch.ones(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("layer", "dimensions"),
    [
        (WeightNormLinear(5, 7), (1,)),
        (WeightNormConv2d(5, 7, 3), (1, 2, 3)),
        (WeightNormConvTranspose2d(5, 7, 3), (0, 2, 3)),
    ],
)
def test_weight_norm_is_that_of_torch(layer: NormalizedLayer, dimensions: tuple[int, ...]) -> None:
    plain = {2: nn.Linear, 4: nn.Conv2d}[layer.direction.ndim]
    kernel = [3] if layer.direction.ndim == 4 else []
    if isinstance(layer, WeightNormConvTranspose2d):
        plain = nn.ConvTranspose2d
    dimension = 1 if plain is nn.ConvTranspose2d else 0
    twin = nn.utils.parametrizations.weight_norm(plain(5, 7, *kernel), dim=dimension)
    with torch.no_grad():
        layer.gain.uniform_(0.5, 2)
        layer.bias.normal_()
        twin.parametrizations.weight.original0.copy_(
            layer.gain.view_as(twin.parametrizations.weight.original0)
        )
        twin.parametrizations.weight.original1.copy_(layer.direction)
        twin.bias.copy_(layer.bias)
    x = torch.randn(2, 5, 6, 6) if kernel else torch.randn(2, 5)
    torch.testing.assert_close(layer(x), twin(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ["elu", "tanh"])
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_an_initialized_residual_block_is_exactly_the_identity(
    precision: Precision, activation: str
) -> None:
    block, x = ResidualBlock(6, 3, precision, activation), torch.randn(8, 6, 5, 5)
    initialize_from_data(block, x)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_the_residual_block_is_its_formula(precision: Precision) -> None:
    block, x = ResidualBlock(6, 5, precision, "elu"), torch.randn(2, 6, 5, 5)
    inner: list[Tensor] = []
    block.first.register_forward_hook(lambda layer, inputs, output: inner.append(inputs[0]))
    with torch.no_grad():
        block.second.gain.fill_(0.7)
        y = block(x)
        expected_input = x if precision.activations == 1 else nn.functional.elu(x)
        assert torch.equal(inner[0], expected_input)
        first = block.first(expected_input)
        second_input = first if precision.activations == 1 else nn.functional.elu(first)
        assert torch.equal(y, x + block.second(second_input))
    binary = [isinstance(layer, BinaryConv2d) for layer in (block.first, block.second)]
    assert binary == [precision.weights == 1] * 2


def test_clipping_bounds_latent_weights_and_nothing_else() -> None:
    model = nn.Sequential(BinaryLinear(3, 3), WeightNormLinear(3, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(-5)
        model[0].latent_weight[0, 0] = 0.25
    clip_latent_weights(model)
    assert model[0].latent_weight.min() == -1
    assert model[0].latent_weight[0, 0] == 0.25
    assert model[0].gain.max() == model[1].direction.max() == -5


def test_latent_weights_have_their_parameter_names() -> None:
    model = nn.Sequential(BinaryLinear(3, 3), nn.Sequential(BinaryConv2d(3, 3, 1)))
    assert list(latent_weights(model)) == ["0.latent_weight", "1.0.latent_weight"]
    assert list(latent_weights(BinaryLinear(3, 3))) == ["latent_weight"]


def test_binary_activations_on_real_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="W32A1"):
        Precision(32, 1)
