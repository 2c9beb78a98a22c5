"""A packed model computes what the model computes, from bits, and is a model of its own."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import torch
from tests.models.small_flowpp import W1A1, W1A32, W32A32
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tribin.models import FlowPP, FlowPPConfig, GenerativeModel, ResNetVAE, ResNetVAEConfig
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
    initialize_from_data,
    latent_weights,
    pack,
    packed_when_registered,
)

Module = TypeVar("Module", bound=nn.Module)

SHAPE, LEVELS = (1, 4, 8), 17
VAE = {"width": 40, "latent_layers": 2, "latent_channels": 2, "extra_blocks": 1}
FLOW = {"width": 40, "blocks": 1, "dequantization_blocks": 2, "mixture_components": 3}
CONFIGS: dict[str, ResNetVAEConfig | FlowPPConfig] = {
    "vae W32A32": ResNetVAEConfig(precision=W32A32, **VAE),
    "vae W1A32 elu": ResNetVAEConfig(precision=W1A32, **VAE),
    "vae W1A32 tanh": ResNetVAEConfig(precision=W1A32, activation="tanh", **VAE),
    "vae W1A1": ResNetVAEConfig(precision=W1A1, **VAE),
    "vae without residual layers": ResNetVAEConfig(residual=False, **VAE),
    "flow W32A32": FlowPPConfig(precision=W32A32, **FLOW),
    "flow W1A32": FlowPPConfig(precision=W1A32, dropout=0.2, **FLOW),
    "flow W1A1": FlowPPConfig(precision=W1A1, dropout=0.2, **FLOW),
    "flow without residual layers": FlowPPConfig(residual=False, **FLOW),
}


@torch.no_grad()
def make_model(name: str) -> GenerativeModel:
    """A model in training, every parameter of which does something."""
    torch.manual_seed(0)
    model = build(name)
    initialize_from_data(model, make_images(16))
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def build(name: str) -> GenerativeModel:
    model_class = ResNetVAE if isinstance(CONFIGS[name], ResNetVAEConfig) else FlowPP
    return model_class(CONFIGS[name], SHAPE, LEVELS)


def make_images(count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, LEVELS, (count, *SHAPE), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def randomized(module: Module) -> Module:
    """Every parameter drawn at random, as gains and biases of 0 hide much."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.normal_()
    return module


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


@torch.no_grad()
def results(model: GenerativeModel) -> list[Tensor]:
    images = make_images()
    return [
        after_seed(1, model.log_weight, images),
        after_seed(1, model.sample, 4),
        after_seed(1, model.sample, 4, 0.5),
        after_seed(1, model.reconstruct, images),
    ]


def after_seed(seed: int, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    torch.manual_seed(seed)
    return function(*arguments)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, by name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def modules_of(model: nn.Module, *types: type[nn.Module]) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, types)}


# --- what a packed model computes


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
    twins |= {name: layer for name, layer in packed.named_modules() if name.endswith(".conv")}
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


class Classifier(nn.Module):
    """A user's model: layers of torch and of tribin, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 20, 3, padding=1, bias=False),
            nn.BatchNorm2d(20),
            BinaryConv2d(20, 36, (1, 3), stride=(2, 1), padding=(0, 2), bias=False),
            nn.Dropout(),
            BinaryConv2d(36, 20, 3, padding=1, binary_input=True),
        )
        self.shared = BinaryLinear(20, 20, bias=False, binary_input=True)
        self.block = nn.Sequential(self.shared, nn.Tanh(), self.shared)
        self.head = nn.ModuleDict({"real": WeightNormLinear(20, 5), "binary": BinaryLinear(20, 5)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.features(x).mean((2, 3)))
        return self.head["real"](x) + self.head["binary"](x)


def classifier() -> Classifier:
    model = randomized(Classifier())
    model(torch.randn(8, 3, 6, 7))  # gives batch normalization its statistics
    return model


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


# --- how it computes it


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
            x, _, _, _, residual, *_ = arguments
            steps = {name for name, on in zip(self.STEPS, arguments[8:], strict=True) if on}
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


# --- what it is made of


def test_the_model_stays_as_it_is(model: GenerativeModel) -> None:
    next(model.parameters()).requires_grad_(False)
    next(model.children()).eval()
    modules = list(model.named_modules())
    flags = [module.training for _, module in modules]
    parameters = tensors(model)
    values = {name: value.detach().clone() for name, value in parameters.items()}
    gradients = {name: value.requires_grad for name, value in parameters.items()}
    random_state = torch.get_rng_state()
    packed = pack(model)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert list(model.named_modules()) == modules
    assert [module.training for _, module in modules] == flags
    now = tensors(model)
    assert all(now[name] is value for name, value in parameters.items())
    assert all(torch.equal(now[name], value) for name, value in values.items())
    assert {name: value.requires_grad for name, value in now.items()} == gradients
    assert not any(module.training for module in packed.modules())
    assert not any(value.requires_grad for value in tensors(packed).values())


@torch.no_grad()
def test_the_two_share_no_memory(model: GenerativeModel) -> None:
    packed = pack(model.eval())
    expected = results(packed)
    places = [
        {t.untyped_storage().data_ptr() for t in tensors(m).values()} for m in (model, packed)
    ]
    assert not places[0] & places[1]
    for value in tensors(model).values():
        value.neg_()
    assert all(torch.equal(a, b) for a, b in zip(results(packed), expected, strict=True))


def test_no_float_of_a_binary_weight_is_left(model: GenerativeModel) -> None:
    packed = pack(model)
    assert not modules_of(packed, BinaryConv2d, BinaryLinear)
    assert not [name for name in tensors(packed) if name.endswith(("latent_weight", "direction"))]
    real_gains = sum(
        layer.gain.numel()
        for layer in modules_of(
            model, WeightNormConv2d, WeightNormConvTranspose2d, WeightNormLinear
        ).values()
    )
    binary = sum(value.numel() for value in latent_weights(model).values())
    bits = [layer.weight_bits for layer in modules_of(packed, PackedConv2d).values()]
    reals = [value for value in tensors(packed).values() if value.is_floating_point()]
    floats = sum(value.numel() for value in tensors(model).values())
    assert sum(value.numel() for value in reals) == floats - binary - real_gains
    assert len(tensors(packed)) == len(reals) + len(bits)
    assert sum(value.numel() for value in bits) * 32 >= binary


@pytest.mark.parametrize(
    "layer",
    [BinaryConv2d(256, 64, 3), BinaryLinear(1024, 256), ResidualBlock(96, 3, W1A1, "elu")],
    ids=["conv2d", "linear", "block"],
)
def test_a_packed_layer_has_the_size_of_its_bits(layer: nn.Module) -> None:
    binary = sum(value.numel() for value in latent_weights(layer).values())
    reals = sum(value.numel() for value in layer.parameters()) - binary
    assert binary / 8 < len(pickle.dumps(pack(layer))) < binary / 8 + 4 * reals + 5000


def test_packing_twice_changes_nothing(model: GenerativeModel) -> None:
    packed = pack(model)
    again = pack(packed)
    assert again is not packed
    assert repr(again) == repr(packed)
    assert_same_tensors(again, packed)
    assert all(torch.equal(a, b) for a, b in zip(results(again), results(packed), strict=True))


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda packed: pickle.loads(pickle.dumps(packed)),
    "state_dict": lambda packed: with_state(packed.state_dict()),
}


def with_state(state: dict[str, Tensor]) -> Classifier:
    packed = pack(Classifier())
    packed.load_state_dict(state)
    return packed


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
@torch.no_grad()
def test_a_copy_of_a_packed_model(make_copy: Callable[[Any], Any]) -> None:
    packed, x = pack(classifier()), torch.randn(4, 3, 6, 7)
    twin = make_copy(packed)
    assert_same_tensors(twin, packed)
    assert torch.equal(twin(x), packed(x))


def assert_same_tensors(a: nn.Module, b: nn.Module) -> None:
    first, second = tensors(a), tensors(b)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_without_memory(name: str) -> None:
    """Its packed twin has none either, and the forms of one that has."""
    with torch.device("meta"):
        packed = pack(build(name))
    forms = [
        {key: (value.shape, value.dtype, value.stride()) for key, value in tensors(each).items()}
        for each in (packed, pack(make_model(name)))
    ]
    assert forms[0] == forms[1]
    assert all(value.is_meta for value in tensors(packed).values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@torch.no_grad()
def test_other_dtypes(dtype: torch.dtype) -> None:
    """The model's own, before packing or after it; bits are bits."""
    block = randomized(ResidualBlock(40, 3, W1A1, "elu"))
    x, packed = torch.randn(2, 40, 6, 5), pack(block)
    expected = packed(x)
    for twin in (pack(copy.deepcopy(block).to(dtype)), packed.to(dtype)):
        y = twin(x.to(dtype))
        assert (y.dtype, twin.first.weight_bits.dtype) == (dtype, torch.int32)
    if dtype == torch.float64:
        torch.testing.assert_close(y.float(), expected)


def test_printed_layers_show_their_settings() -> None:
    convolution = BinaryConv2d(35, 4, (1, 3), stride=2, padding=(0, 1), bias=False)
    linear = BinaryLinear(35, 7, binary_input=True)
    for layer in (convolution, linear):
        assert repr(pack(layer)) == repr(layer).replace("Binary", "Packed")


@pytest.mark.parametrize("name", ["vae W1A1", "flow W1A32"])
def test_a_model_that_is_built_of_packed_layers(name: str) -> None:
    """It has the forms of one that is packed later, and layers that come after it are as usual."""
    with packed_when_registered():
        built = build(name)
    packed = pack(make_model(name))
    built.load_state_dict(packed.state_dict())
    assert_same_tensors(built, packed)
    assert repr(built) == repr(packed)
    assert isinstance(nn.Sequential(BinaryLinear(3, 3))[0], BinaryLinear)
