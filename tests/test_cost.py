"""Multiply-adds against loops that count them, without computing or allocating anything."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.runs import FLOWPP, tiny_recipe
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tribin.cost import (
    OperationCost,
    evaluation,
    evaluation_multiply_adds,
    multiply_adds,
    operation_costs,
    sampling_multiply_adds,
)
from tribin.models import FlowPP, FlowPPConfig, GenerativeModel, ResNetVAE, ResNetVAEConfig
from tribin.nn import (
    BinaryConv2d,
    BinaryLinear,
    GatedBlock,
    Precision,
    ResidualBlock,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    pack,
)
from tribin.training.run_folder import build_model

PRECISIONS = [Precision(1, 1), Precision(1, 32), Precision(32, 32)]


def count(model: nn.Module, *shapes: tuple[int, ...]) -> dict[str, int] | None:
    return multiply_adds(model, lambda copied: copied(*map(torch.zeros, shapes)))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("binary_input", [None, False, True])
@given(
    channels=st.integers(1, 40),
    outputs=st.integers(1, 5),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    size=st.tuples(st.integers(1, 3), st.integers(3, 7), st.integers(3, 7)),
)
def test_convolutions(
    packed: bool,
    binary_input: bool | None,
    channels: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    size: tuple[int, int, int],
) -> None:
    """One for each output, channel and tap, wherever the kernel fits into the padded image."""
    sizes = {"stride": stride, "padding": padding}
    layer: nn.Module = WeightNormConv2d(channels, outputs, kernel, **sizes)
    if binary_input is not None:
        layer = BinaryConv2d(channels, outputs, kernel, **sizes, binary_input=binary_input)
    batch, height, width = size
    products = 0
    for row, column in itertools.product(range(height + 2 * padding), range(width + 2 * padding)):
        fits = row + kernel <= height + 2 * padding and column + kernel <= width + 2 * padding
        if fits and row % stride == column % stride == 0:
            products += batch * outputs * channels * kernel**2
    layer = pack(layer) if packed else layer
    assert count(layer, (batch, channels, height, width)) == {"": products}


@pytest.mark.parametrize("convert", [lambda x: x, pack], ids=["trained", "packed"])
@pytest.mark.parametrize(
    "layer",
    [WeightNormLinear(33, 5), BinaryLinear(33, 5), BinaryLinear(33, 5, binary_input=True)],
    ids=["real", "W1A32", "W1A1"],
)
def test_linear_layers(layer: nn.Module, convert: Callable[[nn.Module], nn.Module]) -> None:
    assert count(convert(layer), (2, 3, 33)) == {"": 2 * 3 * 33 * 5}


def test_transposed_convolution() -> None:
    """Each pixel of the input gives to each output channel at each tap."""
    layer = WeightNormConvTranspose2d(4, 3, 5, stride=2, padding=2, output_padding=1)
    assert (
        count(layer, (2, 4, 6, 7)) == count(pack(layer), (2, 4, 6, 7)) == {"": 2 * 42 * 4 * 3 * 25}
    )


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("convert", [lambda x: x, pack], ids=["trained", "packed"])
def test_blocks(precision: Precision, convert: Callable[[nn.Module], nn.Module]) -> None:
    """With their gates, and bits that pass from layer to layer."""
    residual = convert(ResidualBlock(6, 3, precision, "elu"))
    found = count(residual, (1, 6, 4, 5))
    assert found is not None
    assert {name: found[name] for name in ("first", "second")} == {
        "first": 20 * 6 * 6 * 9, "second": 20 * 6 * 6 * 9,
    }  # fmt: skip
    gated = convert(GatedBlock(6, precision, context_channels=2))
    found = count(gated, (1, 6, 4, 5), (1, 2, 4, 5))
    assert found is not None
    assert {name: found[name] for name in ("conv", "project", "gate")} == {
        "conv": 20 * 12 * 6 * 9, "project": 20 * 4 * 6, "gate": 20 * 12 * 12,
    }  # fmt: skip


def resnet_vae_products(config: ResNetVAEConfig) -> tuple[int, int]:
    """For evaluating and for sampling a CIFAR-10 image, whose streams have 16·16 pixels."""
    width, latent, pixels = config.width, config.latent_channels, 16 * 16
    stem = head = pixels * 3 * width * 25
    extra_blocks = config.extra_blocks * 2 * pixels * width**2 * 25
    block = 2 * pixels * width**2 * 9
    up = config.latent_layers * (pixels * width * 2 * latent * 9 + block)
    down = config.latent_layers * (pixels * width * (4 * latent + latent) * 9 + block)
    return stem + extra_blocks + up + down + extra_blocks + head, down + extra_blocks + head


def test_the_papers_resnet_vae() -> None:
    config = ResNetVAEConfig(Precision(1, 1))
    with torch.device("meta"):
        model = ResNetVAE(config, (3, 32, 32), 256)
        packed = pack(model)
    evaluation, sampling = resnet_vae_products(config)
    assert (evaluation, sampling) == (14_364_835_840, 7_267_352_576)
    for twin in (model, packed):
        assert total(evaluation_multiply_adds(twin)) == evaluation
        assert total(sampling_multiply_adds(twin)) == sampling


def flowpp_products(config: FlowPPConfig) -> int:
    """For evaluating a CIFAR-10 image."""
    width, context = config.width, 32

    def step(channels: int, pixels: int, blocks: int, context_channels: int) -> int:
        stem = channels * width * 9
        project = 2 * context_channels * width
        block = 2 * width * width * 9 + project + 2 * width * 2 * width
        head = width * channels * (2 + 3 * config.mixture_components) * 9
        pointwise = 2 * channels * channels
        return pixels * (stem + blocks * block + head + pointwise)

    context_block = 2 * context * context * 9 + 2 * context * 2 * context * 9
    return (
        32 * 16 * (6 * context * 9 + 3 * context_block)
        + 4 * step(3, 32 * 16, config.dequantization_blocks, context)
        + 4 * step(3, 32 * 16, config.blocks, 0)
        + 2 * step(6, 16 * 16, config.blocks, 0)
        + 3 * step(12, 16 * 8, config.blocks, 0)
    )


def test_the_papers_flowpp() -> None:
    config = FlowPPConfig(Precision(1, 1))
    assert flowpp_products(config) == 11_323_969_536
    with torch.device("meta"):
        model = FlowPP(config, (3, 32, 32), 256)
    found = evaluation_multiply_adds(model)
    assert total(found) == flowpp_products(config)
    # Of layers whose parents are never called themselves, too.
    name = "main_flow.coarse_columns.step_3.coupling.conditioner.blocks.9.conv"
    assert found is not None
    assert found[name] == 16 * 8 * 2 * 120 * 120 * 9


@pytest.mark.parametrize("overrides", [(), (FLOWPP,)], ids=["resnet_vae", "flowpp"])
def test_a_packed_model_and_a_real_one_take_as_many(overrides: tuple[str, ...]) -> None:
    binary = build_model(tiny_recipe(*overrides))
    real = build_model(tiny_recipe(*overrides, "model.precision={weights: 32, activations: 32}"))
    found = [total(evaluation_multiply_adds(model)) for model in (binary, pack(binary), real)]
    assert found == found[:1] * 3


def test_what_depends_on_values_is_not_known() -> None:
    """As the root finding of Flow++ does, which goes on until all roots are found."""
    assert sampling_multiply_adds(build_model(tiny_recipe(FLOWPP))) is None


def total(counts: dict[str, int] | None) -> int:
    assert counts is not None
    return sum(counts.values())


class Attention(nn.Module):
    """A layer without parameters that multiplies."""

    def forward(self, x: Tensor) -> Tensor:
        return (x @ x.mT).softmax(-1) @ x


class Recurrent(nn.Module):
    """Layers that run more than once, inside each other, and a product of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(7, 7), Attention())
        self.weight = nn.Parameter(torch.zeros(7, 2))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.inner(x)
        return x @ self.weight


def test_a_module_has_what_it_multiplies_itself() -> None:
    found = count(Recurrent(), (5, 7))
    assert found is not None
    assert {name: value for name, value in found.items() if value} == {
        "": 5 * 7 * 2, "inner.0": 3 * 5 * 7 * 7, "inner.1": 3 * 2 * 5 * 5 * 7,
    }  # fmt: skip


def test_nothing_is_allocated_or_computed() -> None:
    size = 10**6  # 4 TB of weights, 10^12 multiply-adds
    with torch.device("meta"):
        model = nn.Linear(size, size)
    assert count(model, (1, size)) == {"": size * size}


def test_the_model_stays_as_it_is() -> None:
    model = build_model(tiny_recipe()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert isinstance(model, GenerativeModel)
    evaluation_multiply_adds(model)
    assert model.training
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_error_of_the_model_is_not_hidden() -> None:
    with pytest.raises(TypeError, match="was given none"):
        count(GatedBlock(6, Precision(1, 1), context_channels=2), (1, 6, 4, 5))


def of_operation(costs: list[OperationCost] | None, operation: str) -> OperationCost:
    assert costs is not None
    (cost,) = (cost for cost in costs if cost.operation == operation)
    return cost


BATCH, CHANNELS, SIZE, OUTPUTS = 2, 40, 5, 3  # 40 channels are 2 words of bits
PIXELS = BATCH * SIZE * SIZE
PRODUCTS = PIXELS * OUTPUTS * CHANNELS * 9
PARAMETERS = OUTPUTS * CHANNELS * 9 + 2 * OUTPUTS  # with gain and bias


@pytest.mark.parametrize("binary_input", [False, True])
def test_a_small_convolution_by_hand(binary_input: bool) -> None:
    layer = BinaryConv2d(CHANNELS, OUTPUTS, 3, padding=1, binary_input=binary_input)

    def run(copied: nn.Module) -> None:
        x = torch.zeros(BATCH, CHANNELS, SIZE, SIZE, requires_grad=True)
        copied(x).sum().backward()

    costs = operation_costs(layer, run, training=True)
    name = "tribin::binary_conv2d" + "_w1a1" * binary_input
    x, y, bits = PIXELS * CHANNELS, PIXELS * OUTPUTS, PIXELS * 2
    saved = 4 * 2 * bits if binary_input else 0  # signs and mask
    assert of_operation(costs, name) == OperationCost(
        module="",
        operation=name,
        multiply_adds=PRODUCTS,
        bytes=4 * (x + y + PARAMETERS) + saved,
        arithmetic="bit" if binary_input else "float32",
    )
    backward = of_operation(costs, f"{name}_backward")
    read = 4 * (1 + PARAMETERS - OUTPUTS) + (
        saved if binary_input else 4 * x
    )  # sum's gradient is one
    assert backward.multiply_adds == 2 * PRODUCTS
    assert backward.bytes == read + 4 * (x + PARAMETERS)
    assert backward.arithmetic == "float32"


def test_a_packed_convolution_by_hand() -> None:
    layer = pack(BinaryConv2d(CHANNELS, OUTPUTS, 3, padding=1, binary_input=True))

    def run(copied: nn.Module) -> None:
        copied(torch.zeros(BATCH, SIZE, SIZE, 2, dtype=torch.int32), to_bits=True)

    cost = of_operation(operation_costs(layer, run), "tribin::packed_conv2d")
    assert cost.multiply_adds == PRODUCTS
    assert cost.bytes == 4 * (PIXELS * 2 + OUTPUTS * 9 * 2 + 2 * OUTPUTS + PIXELS * 1)
    assert cost.arithmetic == "bit"


@pytest.mark.parametrize("overrides", [(), (FLOWPP,)], ids=["resnet_vae", "flowpp"])
def test_a_float_model_costs_what_torch_counts(overrides: tuple[str, ...]) -> None:
    """Forward and backward, with values, by the counter of torch."""
    recipe = tiny_recipe(*overrides, "model.precision={weights: 32, activations: 32}")
    model = build_model(recipe)
    images = torch.randint(0, model.levels, (3, *model.image_shape), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        model.train()(images).loss.backward()

    def run(copied: GenerativeModel) -> None:
        copied(torch.zeros(3, *copied.image_shape, dtype=torch.uint8)).loss.backward()

    costs = operation_costs(model, run, training=True)
    assert costs is not None
    assert 2 * sum(cost.multiply_adds for cost in costs) == counter.get_total_flops() > 0


def test_views_and_repeated_elements_move_nothing() -> None:
    def run(copied: nn.Module) -> None:
        x = torch.zeros(6, 4)
        copied(x.view(4, 6).T[None])
        torch.ones(1).expand(1000) + torch.zeros(1000)

    costs = operation_costs(nn.Identity(), run)
    assert costs is not None
    moved = {cost.operation: cost.bytes for cost in costs}
    assert moved["aten::view"] == moved["aten::expand"] == 0
    assert moved["aten::add"] == 4 * (1 + 1000 + 1000)


def test_operations_are_listed_by_module() -> None:
    costs = operation_costs(build_model(tiny_recipe()), evaluation(2))
    assert costs is not None
    by_module = multiply_adds(build_model(tiny_recipe()), evaluation(2))
    assert by_module is not None
    for name, count in by_module.items():
        assert count == sum(cost.multiply_adds for cost in costs if cost.module == name)
