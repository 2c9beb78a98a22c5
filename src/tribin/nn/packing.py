"""From a trained model to its packed twin, which computes the same from bits."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from tribin import ops
from tribin.nn.binary import BinaryConv2d, BinaryLinear, without_latent_weights
from tribin.nn.gated import GatedBlock
from tribin.nn.other_norms import BatchNormBinaryConv2d, WeightNormBinaryConv2d
from tribin.nn.packed import PackedConv2d, PackedLinear
from tribin.nn.packed_blocks import PackedGatedBlock, PackedResidualBlock
from tribin.nn.residual import ACTIVATIONS, ResidualBlock
from tribin.nn.weight_norm import WeightNormConv2d, WeightNormConvTranspose2d, WeightNormLinear
from tribin_kernels.reference import weight_scale, words_per_row

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def pack(model: Model, *, half: bool = False) -> Model:
    """A copy of the model for inference, whose binary layers hold bits; the model stays as it is.

    Binary layers become `PackedConv2d` and `PackedLinear`, the real layers around them lose their
    weight normalization, and everything else is copied: so are layers of your own, whose `forward`
    may differ, that inherit from these. The copy is in eval mode and has no gradients.

    Args:
        model: any torch model, or a packed one, which comes out as it went in.
        half: round `roundable_tensors` to bfloat16; they keep their dtype.
    """
    twins: dict[int, nn.Module] = {}
    _collect_twins(model, twins)
    packed = copy.deepcopy(model, twins)
    if half:
        for tensor in roundable_tensors(packed).values():
            tensor.copy_(tensor.bfloat16())
    return packed.eval().requires_grad_(False)


def needs_full_precision(module: nn.Module) -> bool:
    """Whether the module says, by an attribute `full_precision`, that rounding would ruin it."""
    return bool(getattr(module, "full_precision", False))


def roundable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The real tensors of the model's state, by name, that bfloat16 is good enough for."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
        and not needs_full_precision(model.get_submodule(name.rpartition(".")[0]))
    }


@contextmanager
def packed_when_registered() -> Iterator[None]:
    """Layers come out packed as they become parts of a model that is built inside.

    So the model is there without its latent weights ever being; those packed are zeros.
    """
    hook = register_module_module_registration_hook(
        lambda _, __, module: _twin(module)  # type: ignore[arg-type]
    )
    try:
        with torch.no_grad(), without_latent_weights():
            yield
    finally:
        hook.remove()


def _collect_twins(module: nn.Module, twins: dict[int, nn.Module]) -> None:
    """By id, as deepcopy wants to know what is copied already."""
    if id(module) in twins:
        return
    twin = _twin(module)
    if twin is not None:
        twins[id(module)] = twin
        return
    for child in module.children():
        _collect_twins(child, twins)


def _twin(module: nn.Module) -> nn.Module | None:
    # What inherits from a layer may have another forward.
    return packed_twin(module) if type(module) in packed_twin.registry else None


@singledispatch
def packed_twin(module: nn.Module) -> nn.Module | None:
    """The module that takes this one's place in a packed model; None to look inside it."""
    return None


@packed_twin.register
def _(layer: BinaryLinear) -> PackedLinear:
    return PackedLinear(
        _row_bits(layer.latent_weight),
        weight_scale(layer.gain, layer.latent_weight),
        _copied(layer.bias),
        in_features=layer.latent_weight.shape[1],
        binary_input=layer.binary_input,
    )


@packed_twin.register(BinaryConv2d)
@packed_twin.register(WeightNormBinaryConv2d)
def _(layer: BinaryConv2d) -> PackedConv2d:
    return _with_gain_and_bias(layer, layer.gain, _copied(layer.bias))


@packed_twin.register
def _(layer: BatchNormBinaryConv2d) -> PackedConv2d:
    return _with_gain_and_bias(layer, *layer.folded())


def _with_gain_and_bias(layer: BinaryConv2d, gain: Tensor, bias: Tensor | None) -> PackedConv2d:
    return PackedConv2d(
        _row_bits(layer.latent_weight.permute(0, 2, 3, 1)),
        weight_scale(gain, layer.latent_weight),
        bias,
        in_channels=layer.latent_weight.shape[1],
        stride=layer.stride,
        padding=layer.padding,
        binary_input=layer.binary_input,
    )


def _row_bits(latent_weight: Tensor) -> Tensor:
    if not any(latent_weight.stride()):  # of `without_latent_weights`
        *rows, length = latent_weight.shape
        return torch.zeros(*rows, words_per_row(length), dtype=torch.int32)
    return ops.pack_signs(latent_weight)


@packed_twin.register
def _(block: ResidualBlock) -> nn.Module | None:
    first = _packed_conv2d(block.first, block.first_prelu)
    second = _packed_conv2d(block.second, block.second_prelu)
    if first is None or second is None:
        return None
    return PackedResidualBlock(first, second, ACTIVATIONS[block.activation], block.shortcut)


@packed_twin.register
def _(block: GatedBlock) -> nn.Module | None:
    conv, gate = _packed_conv2d(block.conv), _packed_conv2d(block.gate)
    project = None if block.project is None else _packed_conv2d(block.project)
    if conv is None or gate is None or (project is None) != (block.project is None):
        return None
    thresholds = copy.deepcopy((block.conv_thresholds, block.gate_thresholds))
    return PackedGatedBlock(conv, project, gate, *thresholds)


def _packed_conv2d(layer: nn.Module, prelu: nn.PReLU | None = None) -> PackedConv2d | None:
    twin = copy.deepcopy(layer) if isinstance(layer, PackedConv2d) else _twin(layer)
    if not isinstance(twin, PackedConv2d):
        return None
    if prelu is not None:
        twin.slope = prelu.weight.detach().clone()
    return twin


@packed_twin.register
def _(layer: WeightNormLinear) -> nn.Linear:
    outputs, inputs = layer.direction.shape
    return _with_weight(nn.Linear(inputs, outputs, device="meta"), layer)


@packed_twin.register
def _(layer: WeightNormConv2d) -> nn.Conv2d:
    outputs, inputs, kernel, _ = layer.direction.shape
    sizes = inputs, outputs, kernel, layer.stride, layer.padding
    return _with_weight(nn.Conv2d(*sizes, device="meta"), layer)


@packed_twin.register
def _(layer: WeightNormConvTranspose2d) -> nn.ConvTranspose2d:
    inputs, outputs, kernel, _ = layer.direction.shape
    sizes = inputs, outputs, kernel, layer.stride, layer.padding, layer.output_padding
    return _with_weight(nn.ConvTranspose2d(*sizes, device="meta"), layer)


Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def _with_weight(
    twin: Layer, layer: WeightNormLinear | WeightNormConv2d | WeightNormConvTranspose2d
) -> Layer:
    # It was made on the meta device, where nothing is drawn for what is replaced here.
    twin.weight = nn.Parameter(layer.normalized_weight(layer.gain))
    assert layer.bias is not None
    twin.bias = nn.Parameter(layer.bias.clone())
    return twin


def _copied(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()
