"""What a packed model is made of: bits, nothing of the model it was made from, all of its state."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.models.small_flowpp import W1A1
from tests.nn.packable_models import (
    CONFIGS,
    Classifier,
    build,
    classifier,
    make_model,
    modules_of,
    randomized,
    results,
    tensors,
)
from torch import Tensor, nn

from tribin.models import GenerativeModel
from tribin.nn import (
    BinaryConv2d,
    BinaryLinear,
    PackedConv2d,
    ResidualBlock,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    latent_weights,
    pack,
    packed_when_registered,
)


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> GenerativeModel:
    return make_model(request.param)


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
    convolution = BinaryConv2d(35, 4, (1, 3), stride=(2, 1), padding=(0, 1), bias=False)
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
