"""Which forms of a model there are to compare, and models without data."""

from dataclasses import dataclass, replace

import pytest
import torch
from tests.models.small_flowpp import W32A32
from tests.nn.packable_models import CONFIGS, LEVELS, SHAPE, build, tensors
from torch import Tensor, nn

from tribin.models import GenerativeModel, Objective
from tribin.nn import (
    BinaryConv2d,
    BinaryLinear,
    NormalizedLayer,
    PackedConv2d,
    PackedLinear,
    WeightNormLinear,
    pack,
)
from tribin.profiling.model.arms import arms_of, initialize_on_noise, random_images

FLOATS = ["float32", "float32, norms folded"]
BINARY = ["vae W1A32 elu", "vae W1A1", "flow W1A32", "flow W1A1"]
REAL = ["vae W32A32", "flow W32A32", "vae without residual layers"]


def has(model: nn.Module, *layers: type[nn.Module]) -> bool:
    return any(isinstance(module, layers) for module in model.modules())


def check_kinds(arms: dict[str, GenerativeModel]) -> None:
    """What layers the arms have: real or binary ones, normalized or packed."""
    found = {
        name: (
            has(model, BinaryConv2d, BinaryLinear), has(model, PackedConv2d, PackedLinear),
            has(model, NormalizedLayer),
        )
        for name, model in arms.items()
    }  # fmt: skip
    expected = {
        "float32": (False, False, True), "float32, norms folded": (False, False, False),
        "trained": (True, False, True), "packed": (False, True, False),
    }  # fmt: skip
    assert found == {name: expected[name] for name in arms}


@pytest.mark.parametrize("name", BINARY)
def test_a_trained_binary_model_has_them_all(name: str) -> None:
    model = build(name).eval()
    arms = arms_of(model)
    assert list(arms) == [*FLOATS, "trained", "packed"]
    assert arms["trained"] is model
    check_kinds(arms)
    for name in FLOATS:
        assert arms[name].config == replace(model.config, precision=W32A32)
        assert (arms[name].image_shape, arms[name].levels) == (SHAPE, LEVELS)
    assert arms["packed"].config == model.config
    assert not any(arm.training for arm in arms.values())


@pytest.mark.parametrize("name", REAL)
def test_a_real_model_has_no_packed_twin_but_folded_norms(name: str) -> None:
    model = build(name).eval()
    arms = arms_of(model)
    assert list(arms) == FLOATS
    assert arms["float32"] is model
    check_kinds(arms)


@pytest.mark.parametrize("name", BINARY)
def test_of_a_packed_model_none_was_trained(name: str) -> None:
    model = pack(build(name))
    arms = arms_of(model)
    assert list(arms) == [*FLOATS, "packed"]
    assert arms["packed"] is model
    check_kinds(arms)


def test_of_a_packed_real_model_there_is_itself() -> None:
    model = pack(build("vae W32A32"))
    assert arms_of(model) == {"float32, norms folded": model}


@dataclass(frozen=True)
class OwnConfig:
    width: int = 3


class Own(GenerativeModel):
    """A model whose config knows no precision."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__((1, 2, 2), 4)
        self.config = OwnConfig()
        self.layer = layer

    def forward(self, images: Tensor) -> Objective:
        raise NotImplementedError

    def log_weight(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1).float()).sum(1)

    def sample(self, count: int, temperature: float = 1.0) -> Tensor:
        raise NotImplementedError

    def reconstruct(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def test_without_a_precision_there_is_no_float_twin_to_build() -> None:
    assert list(arms_of(Own(BinaryLinear(4, 1)))) == ["trained", "packed"]
    assert list(arms_of(Own(WeightNormLinear(4, 1)))) == FLOATS


@pytest.mark.parametrize("name", CONFIGS)
def test_after_initialization_on_noise_every_normalized_layer_shows(name: str) -> None:
    model = initialize_on_noise(build(name))
    assert not model.training
    images = random_images(model, 2)
    with torch.no_grad():
        for layer in (layer for layer in model.modules() if isinstance(layer, NormalizedLayer)):
            assert (layer.gain != 0).all()
        torch.manual_seed(1)
        density = model.log_weight(images)
        assert density.isfinite().all()


@pytest.mark.parametrize("name", ["vae W1A1", "vae W1A32 elu"])
def test_the_last_layers_of_residual_blocks_change_the_density(name: str) -> None:
    model = initialize_on_noise(build(name))
    images = random_images(model, 2)
    with torch.no_grad():
        torch.manual_seed(1)
        before = model.log_weight(images)
        model.stem_blocks[0].second.latent_weight.neg_()
        torch.manual_seed(1)
        assert not torch.equal(model.log_weight(images), before)


def test_random_images_have_every_level() -> None:
    images = random_images(build("vae W1A1"), 500)
    assert (images.dtype, images.shape) == (torch.uint8, (500, *SHAPE))
    assert images.unique().tolist() == list(range(LEVELS))


def test_the_model_itself_stays_as_it_is() -> None:
    model = build("flow W1A1").eval()
    before = {name: value.clone() for name, value in tensors(model).items()}
    arms_of(model)
    assert all(torch.equal(value, before[name]) for name, value in tensors(model).items())
