"""A packed model computes what the model computes, from bits."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.models.small_flowpp import W1A1, W1A32, W32A32
from tests.nn.packable_models import (
    CONFIGS,
    after_seed,
    classifier,
    make_images,
    make_model,
    modules_of,
    randomized,
    results,
    tensors,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tribin.models import GenerativeModel, ResNetVAE
from tribin.nn import (
    BinaryConv2d,
    BinaryLinear,
    GatedBlock,
    PackedConv2d,
    PackedGatedBlock,
    PackedLinear,
    PackedResidualBlock,
    ResidualBlock,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    pack,
)


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> GenerativeModel:
    return make_model(request.param)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several cut a tensor into parts, at whose ends torch rounds exponentials otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_packed_model_gives_the_same_numbers(model: GenerativeModel) -> None:
    model.eval()
    for expected, result in zip(results(model), results(pack(model)), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("name", ["vae W1A32 elu", "vae W1A32 tanh", "vae W1A1", "flow W1A1"])
def test_the_numbers_depend_on_every_packed_layer(name: str) -> None:
    """So that the test before can fail."""
    packed = pack(make_model(name))
    if isinstance(packed, ResNetVAE):  # its topmost blocks get zeros, and give what nothing reads
        packed.latent_layers[-1].up_block = packed.latent_layers[-1].down_block = nn.Identity()
    before = after_seed(1, packed.log_weight, make_images())
    for layer in modules_of(packed, PackedConv2d).values():
        layer.weight_bits ^= 1  # the sign of every 32nd weight
        assert not torch.equal(after_seed(1, packed.log_weight, make_images()), before)
        layer.weight_bits ^= 1


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("flow")])
@torch.no_grad()
def test_the_latents_of_a_packed_flow_decode_to_the_images(name: str) -> None:
    packed, images = pack(make_model(name)), make_images(16)
    assert torch.equal(packed.decode(packed.encode(images)), images)


@torch.no_grad()
def test_every_layer_gives_the_same(model: GenerativeModel) -> None:
    """Where layers have taken over what follows them, their block does."""
    packed = pack(model.eval())
    twins = modules_of(
        packed, PackedResidualBlock, PackedGatedBlock, nn.Linear, nn.Conv2d, nn.ConvTranspose2d
    )
    twins |= {
        name: layer
        for name, layer in packed.named_modules()
        if name.endswith(".conv") and getattr(layer, "slope", None) is None
    }
    seen: list[list[tuple[str, Tensor]]] = []
    for each in (model, packed):
        calls: list[tuple[str, Tensor]] = []
        for name in twins:
            each.get_submodule(name).register_forward_hook(
                lambda module, inputs, y, calls=calls, name=name: calls.append((name, y))
            )
        after_seed(1, each.log_weight, make_images())
        seen.append(calls)
    for (name, y), (packed_name, packed_y) in zip(*seen, strict=True):
        assert packed_name == name
        assert torch.equal(packed_y, y), name
        assert packed_y.stride() == y.stride()
    assert {name for name, _ in seen[0]} == set(twins)


BARE: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (BinaryLinear(70, 5), (3, 4, 70)),
    "linear w1a1": (BinaryLinear(70, 5, bias=False, binary_input=True), (70,)),
    "conv2d": (BinaryConv2d(35, 5, 3, padding=1), (2, 35, 6, 5)),
    "conv2d w1a1": (
        BinaryConv2d(35, 5, (2, 3), stride=(2, 1), padding=(0, 4), bias=False, binary_input=True),
        (2, 35, 6, 5),
    ),
    "weight norm linear": (WeightNormLinear(7, 5), (3, 4, 7)),
    "weight norm conv2d": (WeightNormConv2d(7, 5, 3, stride=2, padding=2), (2, 7, 6, 5)),
    "weight norm conv transpose2d": (
        WeightNormConvTranspose2d(7, 5, 5, stride=2, padding=2, output_padding=1),
        (2, 7, 6, 5),
    ),
    "residual block elu": (ResidualBlock(40, 3, W1A32, "elu"), (2, 40, 6, 5)),
    "residual block tanh": (ResidualBlock(40, 5, W1A32, "tanh"), (2, 40, 6, 5)),
    "residual block w1a1": (ResidualBlock(40, 3, W1A1, "elu"), (2, 40, 6, 5)),
    "real residual block": (ResidualBlock(8, 3, W32A32, "elu"), (2, 8, 6, 5)),
    "gated block": (GatedBlock(20, W1A32, gate_kernel_size=3, dropout=0.5), (2, 20, 6, 5)),
    "gated block w1a1": (GatedBlock(20, W1A1, dropout=0.5), (2, 20, 6, 5)),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("layer", "shape"), BARE.values(), ids=BARE)
@torch.no_grad()
def test_a_bare_layer_can_be_packed(
    layer: nn.Module, shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    layer, x = randomized(layer), torch.randn(shape)
    if len(shape) == 4:
        layer, x = layer.to(memory_format=memory_format), x.contiguous(memory_format=memory_format)
    expected, y = layer.eval()(x), pack(layer)(x)
    if isinstance(layer, BinaryLinear) and not layer.binary_input:
        # The one sum of real numbers that is made in another order.
        bound = x.abs().sum(-1, keepdim=True) * layer.gain.abs() / 70**0.5 + layer.bias.abs()
        assert (y - expected).abs().le(72 * 2.0**-23 * bound).all()
    else:
        assert torch.equal(y, expected)


@pytest.mark.parametrize("precision", [W1A32, W1A1], ids=str)
@torch.no_grad()
def test_a_gated_block_with_a_context(precision: Any) -> None:
    block = randomized(GatedBlock(20, precision, context_channels=7))
    packed, x, context = pack(block), torch.randn(2, 20, 6, 5), torch.randn(2, 7, 6, 5)
    assert torch.equal(packed(x, context), block(x, context))
    with pytest.raises(TypeError, match="context"):
        packed(x)


@torch.no_grad()
def test_a_users_model() -> None:
    model, x = classifier(), torch.randn(4, 3, 6, 7)
    packed = pack(model)
    # Sums of real numbers may be made in another order.
    torch.testing.assert_close(packed(x), model.eval()(x), rtol=1e-5, atol=1e-5)
    kinds = {name: type(module) for name, module in packed.named_modules()}
    assert kinds["features.1"] is nn.BatchNorm2d
    assert [kinds["features.2"], kinds["features.4"]] == [PackedConv2d] * 2
    assert [kinds["shared"], kinds["head.binary"]] == [PackedLinear] * 2
    assert kinds["head.real"] is nn.Linear
    assert packed.shared is packed.block[0] is packed.block[2]
    assert packed.features[2].bias is packed.shared.bias is None
    assert len(tensors(packed)) == len(tensors(model)) - 1  # a weight norm's gain


class Doubled(BinaryConv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Negated(ResidualBlock):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


@torch.no_grad()
def test_a_layer_with_another_forward_keeps_it() -> None:
    outer, inner, gated = Negated(8, 3, W1A1, "elu"), ResidualBlock(8, 3, W1A1, "elu"), None
    inner.second = Doubled(8, 8, 3, padding=1, binary_input=True)
    gated = GatedBlock(8, W1A1, context_channels=3)
    gated.project = nn.Conv2d(6, 8, 1)
    model = randomized(nn.ModuleList([outer, inner, gated]))
    packed, x, context = pack(model), torch.randn(2, 8, 5, 5), torch.randn(2, 3, 5, 5)
    for layer, twin in zip(model, packed, strict=True):
        inputs = (x, context) if isinstance(layer, GatedBlock) else (x,)
        assert torch.equal(twin(*inputs), layer(*inputs))
    assert isinstance(packed[0].first, PackedConv2d)
    assert [type(packed[1].first), type(packed[1].second)] == [PackedConv2d, Doubled]
    assert [type(packed[2].conv), type(packed[2].project)] == [PackedConv2d, nn.Conv2d]


class Calls(TorchDispatchMode):
    """The calls of packed_conv2d: dtype of x, and the names of the steps that were asked for."""

    STEPS = ("binary_input", "gate", "elu", "to_bits")

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[torch.dtype, set[str]]] = []

    def __torch_dispatch__(
        self, op: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: Any = None
    ) -> Any:
        if op is torch.ops.tribin.packed_conv2d.default:
            x, _, _, _, _, residual, *_ = arguments
            steps = {name for name, on in zip(self.STEPS, arguments[9:], strict=True) if on}
            self.made.append((x.dtype, steps | ({"residual"} if residual is not None else set())))
        return op(*arguments, **(keywords or {}))


def calls_of(block: nn.Module) -> list[tuple[torch.dtype, set[str]]]:
    with Calls() as calls:
        pack(block)(torch.randn(2, 40, 6, 5))
    return calls.made


def test_bits_pass_from_one_binary_layer_to_the_next() -> None:
    first, second = calls_of(ResidualBlock(40, 3, W1A1, "elu"))
    assert first == (torch.float32, {"binary_input", "to_bits"})
    assert second == (torch.int32, {"binary_input", "residual"})


def test_what_follows_a_layer_is_part_of_it() -> None:
    real = torch.float32
    assert calls_of(ResidualBlock(40, 3, W1A32, "elu")) == [(real, {"elu"}), (real, {"residual"})]
    assert calls_of(ResidualBlock(40, 3, W1A32, "tanh")) == [(real, set()), (real, {"residual"})]
    assert calls_of(GatedBlock(40, W1A32)) == [(real, set()), (real, {"gate", "residual"})]
