"""How large a model is: parameters, and bytes as float32 and packed."""

import math
from dataclasses import dataclass

from torch import nn

from tribin.nn import latent_weights
from tribin_kernels.reference import words_per_row

FLOAT_BYTES = 4
WORD_BYTES = 4


@dataclass(frozen=True)
class LayerSize:
    """The parameters of one layer, without those of the layers inside it.

    Attributes:
        name: where the layer is in the model; empty for the model itself.
        kind: the layer's class.
        parameters: how many, in all.
        binary_parameters: how many of them are latent weights, of which only the sign is shipped.
        float_bytes: size with every parameter as float32.
        packed_bytes: size with the latent weights as row bits and the others as float32.
    """

    name: str
    kind: str
    parameters: int
    binary_parameters: int
    float_bytes: int
    packed_bytes: int


@dataclass(frozen=True)
class ModelSize:
    """The sums over `layers`; the attributes are those of `LayerSize`."""

    parameters: int
    binary_parameters: int
    float_bytes: int
    packed_bytes: int
    layers: list[LayerSize]


def model_size(model: nn.Module) -> ModelSize:
    """Measure a model, which may be on the meta device."""
    latent = {id(parameter) for parameter in latent_weights(model).values()}
    layers = [
        _layer_size(name, module, latent)
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    return ModelSize(
        parameters=sum(layer.parameters for layer in layers),
        binary_parameters=sum(layer.binary_parameters for layer in layers),
        float_bytes=sum(layer.float_bytes for layer in layers),
        packed_bytes=sum(layer.packed_bytes for layer in layers),
        layers=layers,
    )


def _layer_size(name: str, module: nn.Module, latent: set[int]) -> LayerSize:
    own = list(module.parameters(recurse=False))
    binary = [parameter for parameter in own if id(parameter) in latent]
    parameters = sum(parameter.numel() for parameter in own)
    binary_parameters = sum(parameter.numel() for parameter in binary)
    words = sum(len(rows) * words_per_row(math.prod(rows.shape[1:])) for rows in binary)
    return LayerSize(
        name=name,
        kind=type(module).__name__,
        parameters=parameters,
        binary_parameters=binary_parameters,
        float_bytes=FLOAT_BYTES * parameters,
        packed_bytes=WORD_BYTES * words + FLOAT_BYTES * (parameters - binary_parameters),
    )
