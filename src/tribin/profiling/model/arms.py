"""The forms of one architecture that a profile compares: float32 and binary, packed and not."""

from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from tribin.models import GenerativeModel
from tribin.models.generative import ModelClass
from tribin.nn import (
    BinaryConv2d,
    BinaryLinear,
    NormalizedLayer,
    PackedConv2d,
    PackedLinear,
    Precision,
    initialize_from_data,
    pack,
)

FLOAT, FOLDED, TRAINED, PACKED = "float32", "float32, norms folded", "trained", "packed"

INITIALIZATION_IMAGES = 8

RESIDUAL_GAIN = 0.1
"""Of layers that start at 0."""

Model = TypeVar("Model", bound=GenerativeModel)


def arms_of(model: GenerativeModel) -> dict[str, GenerativeModel]:
    """What there is to compare of a model, by name, in this order.

    - ``"float32"``: the same architecture at W32A32, with random weights unless the model is it;
    - ``"float32, norms folded"``: the packed twin of that, without weight normalization;
    - ``"trained"``: a model with binary layers;
    - ``"packed"``: its packed twin.

    Of a packed model there is none that was trained, and without a `Precision` in its config no
    float32 one. Weights change no time but that of sampling from a Flow++, which solves equations
    until they hold.

    Args:
        model: in eval mode, trained or packed.
    """
    binary = _has(model, BinaryConv2d, BinaryLinear, PackedConv2d, PackedLinear)
    name, twin = (TRAINED, PACKED) if binary else (FLOAT, FOLDED)
    arms = {twin: model} if is_packed(model) else {name: model, twin: pack(model)}
    if binary and isinstance(getattr(model.config, "precision", None), Precision):
        return arms_of(_in_float32(model)) | arms
    return arms


def is_packed(model: nn.Module) -> bool:
    """Whether no layer of the model is normalized any more."""
    return not _has(model, NormalizedLayer)


def _has(model: nn.Module, *layers: type[nn.Module]) -> bool:
    return any(isinstance(module, layers) for module in model.modules())


def _in_float32(model: GenerativeModel) -> GenerativeModel:
    config = replace(model.config, precision=Precision(32, 32))
    float_model = cast(ModelClass, type(model))(config, model.image_shape, model.levels)
    return initialize_on_noise(float_model.to(model.device))


@torch.no_grad()
def initialize_on_noise(model: Model) -> Model:
    """Data-dependent initialization on random images, for a model that is not trained.

    Layers that start at 0, as the last ones of residual blocks do, get a gain: nothing of the model
    is without effect on the density. The model is in eval mode then.
    """
    initialize_from_data(model.eval(), random_images(model, INITIALIZATION_IMAGES))
    for layer in model.modules():
        if isinstance(layer, NormalizedLayer) and layer.init_std == 0:
            layer.gain.fill_(RESIDUAL_GAIN)
    return model


def random_images(model: GenerativeModel, count: int) -> Tensor:
    """Noise, uint8 [count, C, H, W], of the shape and the levels of the model's images."""
    shape = (count, *model.image_shape)
    return torch.randint(0, model.levels, shape, dtype=torch.uint8).to(model.device)
