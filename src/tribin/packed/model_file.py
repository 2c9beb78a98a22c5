"""Packed models to files and back."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from tribin.inspection import model_size
from tribin.models import MODELS, GenerativeModel
from tribin.models.config_from_json import config_from_json
from tribin.nn import (
    PackedConv2d,
    PackedLinear,
    pack,
    packed_when_registered,
    roundable_tensors,
)
from tribin.packed.dense_rows import from_dense_rows, pads_with_zeros, to_dense_rows
from tribin.packed.format import PackedFile, PackedFormatError, read_packed, write_packed
from tribin.provenance import tribin_version
from tribin_kernels.reference import WORD_BITS

MAX_SIZE = 2**16
"""What no side of an image, and no number of pixel values, reaches."""

REGISTRATIONS = 8
"""How often, at most, a tensor of a file is registered on the way to its packed layer."""


def save(
    model: nn.Module,
    path: str | Path,
    *,
    half: bool = False,
    recipe: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a model, packed first where it is not, as one safetensors file (docs/packed_format.md).

    Args:
        model: any torch model; one of tribin's is also described, so that the file alone loads.
        path: replaced if it exists.
        half: round real weights to bfloat16, but for layers that this would ruin.
        recipe: JSON to keep with it: what the model was trained by.
        provenance: JSON to keep with it: where the weights come from.

    Raises:
        PackedFormatError: if a tensor is not finite, or of a dtype that the format doesn't have.
        OSError: if the file can't be written; what was there before stays.
    """
    packed = pack(model)
    size = asdict(model_size(packed, real_bits=16 if half else 32))
    del size["layers"]
    header = {
        "tribin": tribin_version(),
        "model": _description(model),
        "layers": _layers(packed),
        "real_dtype": "bfloat16" if half else "float32",
        "counts": size,
        "recipe": recipe,
        "provenance": provenance,
    }
    tensors = _to_file(packed)
    if half:
        tensors |= {name: x.bfloat16() for name, x in roundable_tensors(packed).items()}
    write_packed(Path(path), tensors, header)


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Read a packed model, in eval mode on the CPU; every byte of the file is checked first.

    Args:
        path: a file that `save` wrote.
        model: where the model is none of tribin's: one of the same architecture, with the same
            layers binarized, or packed. It stays as it is.

    Raises:
        PackedFormatError: if the file is damaged, or holds another model.
    """
    return restore(read_packed(Path(path)), path, model)


def restore(file: PackedFile, path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """What `load` returns, from a file that is read already.

    Raises:
        PackedFormatError: as `load`; it names `path`.
    """
    try:
        skeleton = _described_model(file) if model is None else pack(model)
        _check_layers(skeleton, file.header.get("layers"))
        skeleton.load_state_dict(_from_file(skeleton, file.tensors))
    except (ValueError, RuntimeError) as fault:
        raise PackedFormatError(f"{path}: {fault!s:.400}") from fault
    return skeleton


def _description(model: nn.Module) -> dict[str, Any] | None:
    names = {model_class: name for name, model_class in MODELS.items()}
    name = names.get(type(model))  # type: ignore[call-overload]
    if name is None:
        return None
    assert isinstance(model, GenerativeModel)
    return {
        "name": name,
        "config": asdict(model.config),
        "image_shape": list(model.image_shape),
        "levels": model.levels,
    }


def _layers(model: nn.Module) -> dict[str, str] | None:
    """What the tensors of each packed layer don't say; tribin's own models are described."""
    if _description(model) is not None:
        return None
    return {
        name: f"{type(layer).__name__}({layer.extra_repr()})"
        for name, layer in model.named_modules()
        if isinstance(layer, PackedConv2d | PackedLinear)
    }


def _check_layers(model: nn.Module, layers: Any) -> None:
    expected = _layers(model)
    if layers == expected:
        return
    if not isinstance(layers, dict) or expected is None:
        raise ValueError("its layers are not those of the model")
    for name in sorted(layers.keys() | expected.keys()):
        if layers.get(name) != expected.get(name):
            raise ValueError(
                f"it holds another model: layer {name!r} is {layers.get(name)!s:.150} in the file, "
                f"{expected.get(name)} in the model"
            )


def _described_model(file: PackedFile) -> GenerativeModel:
    """The model that the header describes, whose binary layers are packed, with any weights."""
    description = file.header.get("model")
    if description is None:
        raise ValueError("the model is none of tribin's: load(path, model) takes its architecture")
    if not isinstance(description, dict) or description.get("name") not in list(MODELS):
        raise ValueError(f"its model is none of {', '.join(MODELS)}")
    model_class = MODELS[description["name"]]
    config = config_from_json(model_class.Config, description.get("config"))
    image_shape, levels = _image_form(description)
    _check_size(asdict(config), file.tensors)
    # Not on the meta device, which takes 140 MB of Python modules to import.
    with _bounded_by(file.tensors), packed_when_registered(), torch.random.fork_rng(devices=[]):
        return model_class(config, image_shape, levels).eval().requires_grad_(False)


def _image_form(description: Mapping[str, Any]) -> tuple[tuple[int, int, int], int]:
    match description:
        case {"image_shape": [int(channels), int(height), int(width)], "levels": int(levels)} if (
            all(0 < number < MAX_SIZE for number in (channels, height, width, levels))
        ):
            return (channels, height, width), levels
    raise ValueError("its images have no shape [channels, height, width] and number of levels")


def _check_size(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse numbers of channels or layers that no model of these tensors has."""
    largest = max([len(tensors), *(size for tensor in tensors.values() for size in tensor.shape)])
    for name, value in config.items():
        if isinstance(value, int) and value > largest:
            raise ValueError(f"its tensors are too small for a model whose {name} is {value}")


@contextmanager
def _bounded_by(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Stop the building of a model that has more, or larger, parameters than the tensors hold."""
    # An element of bits is 32 weights.
    elements = REGISTRATIONS * sum(
        tensor.numel() * (1 if tensor.is_floating_point() else WORD_BITS)
        for tensor in tensors.values()
    )
    parameters = REGISTRATIONS * len(tensors)

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal elements, parameters
        elements -= 0 if parameter is None else parameter.numel()
        parameters -= 1
        if min(elements, parameters) < 0:
            raise ValueError("its tensors are too few, or too small, for its model")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _packed_weights(model: nn.Module) -> dict[str, PackedConv2d | PackedLinear]:
    return {
        f"{name}.weight_bits" if name else "weight_bits": layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, PackedConv2d | PackedLinear)
    }


def _to_file(model: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = model.state_dict()
    for name, layer in _packed_weights(model).items():
        if isinstance(layer, PackedConv2d):
            tensors[name] = to_dense_rows(layer.weight_bits, layer.in_channels)
    return tensors


def _from_file(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the model, with the tensors' names, shapes and dtypes checked against it."""
    expected = _to_file(model)
    if tensors.keys() != expected.keys():
        names = ", ".join(sorted(tensors.keys() ^ expected.keys())[:3])
        raise ValueError(f"it holds another model, which differs in {names}")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or _kind(tensor) != _kind(wanted):
            raise ValueError(
                f"tensor {name!r} is {tensor.dtype} {list(tensor.shape)}, "
                f"the model's is {wanted.dtype} {list(wanted.shape)}"
            )
    return {**tensors, **_weight_bits(model, tensors)}


def _kind(tensor: Tensor) -> torch.dtype | str:
    return "real" if tensor.is_floating_point() else tensor.dtype


def _weight_bits(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = {}
    for name, layer in _packed_weights(model).items():
        rows = tensors[name]
        if isinstance(layer, PackedLinear):
            length, weight_bits = layer.in_features, rows
        else:
            _, *kernel, _ = layer.weight_bits.shape
            length = math.prod(kernel) * layer.in_channels
            weight_bits = from_dense_rows(rows, (kernel[0], kernel[1]), layer.in_channels)
        if not pads_with_zeros(rows, length):
            raise ValueError(f"tensor {name!r} has bits of 1 beyond its rows of {length}")
        weights[name] = weight_bits
    return weights
