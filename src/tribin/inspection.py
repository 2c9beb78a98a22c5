"""How large a model is: parameters, and bytes as float32 and packed."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from tribin.nn import (
    BinaryConv2d,
    BinaryLinear,
    PackedConv2d,
    PackedLinear,
    needs_full_precision,
)
from tribin_kernels.reference import words_per_row

FLOAT_BITS = 32
WORD_BYTES = 4


@dataclass(frozen=True)
class LayerSize:
    """The parameters of one layer, without those of the layers inside it.

    Gains, scales and biases are parameters. Buffers that a state dict holds, such as the statistics
    of a batch norm, are none, but have their bytes.

    Attributes:
        name: where the layer is in the model; empty for the model itself.
        kind: the layer's class.
        parameters: how many, in all.
        binary_parameters: how many of them are weights of which only the sign is shipped.
        bits: of a weight in the packed model: 1 in binary layers.
        float_bytes: size with every real number as float32.
        packed_bytes: size with the binary weights as row bits, dense as in a packed file.
    """

    name: str
    kind: str
    parameters: int
    binary_parameters: int
    bits: int
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


def model_size(model: nn.Module, *, real_bits: int = FLOAT_BITS) -> ModelSize:
    """Measure a model as it is trained, or packed; it may be on the meta device.

    Args:
        model: any torch model. A packed one has somewhat fewer parameters than the one that was
            trained, as its real layers hold their weights already normalized.
        real_bits: of each real number in the packed model, 16 where it is rounded to bfloat16;
            layers that need full precision have 32.
    """
    layers = [_layer_size(name, module, real_bits) for name, module in model.named_modules()]
    layers = [layer for layer in layers if layer.float_bytes]
    return ModelSize(
        parameters=sum(layer.parameters for layer in layers),
        binary_parameters=sum(layer.binary_parameters for layer in layers),
        float_bytes=sum(layer.float_bytes for layer in layers),
        packed_bytes=sum(layer.packed_bytes for layer in layers),
        layers=layers,
    )


def _layer_size(name: str, module: nn.Module, real_bits: int) -> LayerSize:
    weight, rows, row_length = _binary_weight(module)
    real_bits = FLOAT_BITS if needs_full_precision(module) else real_bits
    binary = rows * row_length
    own = {key: value for key, value in module.state_dict().items() if "." not in key}
    others = {key: value for key, value in own.items() if key != weight}
    real = [value for key, value in others.items() if _is_parameter(module, key)]
    return LayerSize(
        name=name,
        kind=type(module).__name__,
        parameters=binary + sum(value.numel() for value in real),
        binary_parameters=binary,
        bits=1 if binary else real_bits,
        float_bytes=FLOAT_BITS // 8 * binary + _bytes(others, FLOAT_BITS),
        packed_bytes=WORD_BYTES * rows * words_per_row(row_length) + _bytes(others, real_bits),
    )


def _binary_weight(module: nn.Module) -> tuple[str, int, int]:
    """The name of a layer's binary weight, its rows, and how many bits each has."""
    match module:
        case BinaryLinear() | BinaryConv2d():
            rows, *row = module.latent_weight.shape
            return "latent_weight", rows, math.prod(row)
        case PackedLinear():
            return "weight_bits", len(module.weight_bits), module.in_features
        case PackedConv2d():
            rows, *kernel, _ = module.weight_bits.shape
            return "weight_bits", rows, math.prod(kernel) * module.in_channels
    return "", 0, 0


def _is_parameter(module: nn.Module, key: str) -> bool:
    # All that a packed layer holds are buffers, as nothing trains them.
    return isinstance(module, PackedLinear | PackedConv2d) or key in module._parameters


def _bytes(tensors: dict[str, Tensor], real_bits: int) -> int:
    return sum(
        value.numel() * (real_bits // 8 if value.is_floating_point() else value.element_size())
        for value in tensors.values()
    )
