"""Turn the convolutions and linear layers of any torch model into 1-bit layers."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tribin.errors import InputError
from tribin.nn.binary import BinaryConv2d, BinaryLinear, latent_weights

RealLayer = nn.Conv2d | nn.Linear

# In evaluation their fused kernels read the weights of the linear layers inside them.
_READERS_OF_WEIGHTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


@dataclass(frozen=True)
class BinarizationReport:
    """What `binarize` did.

    Attributes:
        binarized: names of the layers that are binary now.
        kept: names of the Conv2d and Linear layers that are still real, and why.
        parameters: of the model as it is now.
        binary_parameters: how many of them are latent weights, of which only the sign counts.
    """

    binarized: tuple[str, ...]
    kept: dict[str, str]
    parameters: int
    binary_parameters: int

    def __str__(self) -> str:
        binary, layers = len(self.binarized), len(self.binarized) + len(self.kept)
        return (
            f"{binary} of {layers} Conv2d and Linear layers are binary now, "
            f"{self.binary_parameters:,} of {self.parameters:,} parameters"
        ) + _listed({f"{name} is real": why for name, why in self.kept.items()})


def binarize(
    model: nn.Module,
    select: Callable[[str, RealLayer], bool] | None = None,
    *,
    binary_input: bool = False,
) -> BinarizationReport:
    """Swap layers of the model for `BinaryConv2d` and `BinaryLinear`, in place.

    The weights w become latent weights w/max|w| and, per output, the scale mean|w|, which is the
    least-squares optimum of ‖w − α·sign(w)‖ (XNOR-Net, Rastegari et al., 2016). Shape, stride,
    padding, bias, device, dtype, mode and `requires_grad` stay, and so does the rest of the model.
    The new layers have new parameters: make the optimizer afterwards, and see `clip_after_step`.

    Args:
        model: any module that contains torch.nn.Conv2d or torch.nn.Linear layers.
        select: tells, from its name and itself, whether such a layer is to become binary. By
            default all are, save those that may compute something else than their class does:
            subclasses, layers with hooks or a forward pass of their own, and those whose weights
            torch's attention and transformer layers read directly. The report names what is kept.
            A layer that is in several places is asked about once, and stays shared.
        binary_input: whether the binary layers take the sign of their input.

    Raises:
        InputError: where there is nothing to swap, or something selected can't be. The message
            names every such layer with the reasons, and the model is as it was.
    """
    layers = _layers(model)
    unusual = _unusual(model, layers)
    wanted = select or (lambda name, layer: name not in unusual)
    selected = {name: layer for name, layer in layers.items() if wanted(name, layer)}
    kept = {
        name: "not selected" if select else unusual[name] for name in layers if name not in selected
    }
    _check(model, selected, unusual, kept)
    _swap(model, {layer: _binary_twin(layer, binary_input) for layer in selected.values()})
    return BinarizationReport(
        binarized=tuple(selected),
        kept=kept,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        binary_parameters=sum(latent.numel() for latent in latent_weights(model).values()),
    )


def _layers(model: nn.Module) -> dict[str, RealLayer]:
    if isinstance(model, RealLayer):
        raise InputError(
            f"binarize: the model is a single {type(model).__name__}, which can't be swapped in "
            "place; wrap it, as in torch.nn.Sequential(layer)"
        )
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise InputError(f"binarize: {', '.join(lazy)} have no shape yet; run the model once first")
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, RealLayer)}


def _unusual(model: nn.Module, layers: dict[str, RealLayer]) -> dict[str, str]:
    """Why layers may compute something else than their class does, by name."""
    readers = {
        child: type(parent).__name__
        for parent in model.modules()
        if isinstance(parent, _READERS_OF_WEIGHTS)
        for child in parent.children()
    }
    reasons: dict[str, str] = {}
    for name, layer in layers.items():
        hooks = [kind for kind, hooks in vars(layer).items() if kind.endswith("_hooks") and hooks]
        if layer in readers:
            reasons[name] = f"{readers[layer]} reads its weight without calling it"
        elif type(layer) not in (nn.Conv2d, nn.Linear):
            reasons[name] = f"its class is {type(layer).__name__}, not Conv2d or Linear itself"
        elif hooks:
            reasons[name] = f"it has {', '.join(kind.strip('_') for kind in hooks)}"
        elif "forward" in vars(layer):
            reasons[name] = "its forward has been replaced"
    return reasons


def _check(
    model: nn.Module, selected: dict[str, RealLayer], unusual: dict[str, str], kept: dict[str, str]
) -> None:
    """Raise an InputError that names every selected layer which can't be binary."""
    if not selected:
        raise InputError(f"binarize: no Conv2d or Linear layer is selected{_listed(kept)}")
    holders = _holders(model)
    faults = {
        name: unusual.get(name) or "; ".join([*_faults(layer), *_ties(layer, holders)])
        for name, layer in selected.items()
    }
    if any(faults.values()):
        listed = _listed({name: why for name, why in faults.items() if why})
        raise InputError(f"binarize: layers that can't be binary are selected{listed}")


def _faults(layer: RealLayer) -> Iterator[str]:
    if not layer.weight.numel():
        yield f"its weight is empty, {list(layer.weight.shape)}"
    if not layer.weight.is_floating_point():
        yield f"its dtype is {layer.weight.dtype}, must be floating point"
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1:
            yield f"groups is {layer.groups}, must be 1"
        if layer.dilation != (1, 1):
            yield f"dilation is {layer.dilation}, must be 1"
        if layer.padding_mode != "zeros":
            yield f"padding_mode is {layer.padding_mode!r}, must be 'zeros'"
        if layer.padding == "same" and not all(size % 2 for size in layer.kernel_size):
            yield f"padding is 'same', which is uneven for kernel_size {layer.kernel_size}"


def _holders(model: nn.Module) -> dict[int, list[str]]:
    """The names of each parameter, by its id, with one for each module that holds it."""
    holders: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            holders[id(parameter)].append(f"{name}.{kind}" if name else kind)
    return holders


def _ties(layer: RealLayer, holders: dict[int, list[str]]) -> Iterator[str]:
    for kind, parameter in layer.named_parameters(recurse=False):
        names = holders[id(parameter)]
        if len(names) > 1:
            yield f"its {kind} is one parameter with several names, {', '.join(names)}"


@torch.no_grad()
def _binary_twin(layer: RealLayer, binary_input: bool) -> BinaryConv2d | BinaryLinear:
    with torch.device("meta"):  # neither memory nor random numbers for what is replaced below
        twin = _with_settings_of(layer, binary_input)
    weight, trained = layer.weight, layer.weight.requires_grad
    largest = weight.abs().max()
    gain = weight.abs().flatten(1).mean(1) * math.sqrt(weight[0].numel())
    twin.latent_weight = nn.Parameter(weight / torch.where(largest > 0, largest, 1), trained)
    twin.gain = nn.Parameter(gain, trained)
    if layer.bias is not None:
        twin.bias = nn.Parameter(layer.bias.clone(), layer.bias.requires_grad)
    return twin.train(layer.training)


def _with_settings_of(layer: RealLayer, binary_input: bool) -> BinaryConv2d | BinaryLinear:
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return BinaryLinear(
            layer.in_features, layer.out_features, bias=bias, binary_input=binary_input
        )
    return BinaryConv2d(
        layer.in_channels,
        layer.out_channels,
        _pair(layer.kernel_size),
        stride=_pair(layer.stride),
        padding=_padding(layer),
        bias=bias,
        binary_input=binary_input,
    )


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    if layer.padding == "same":
        return _pair([size // 2 for size in layer.kernel_size])
    return (0, 0) if isinstance(layer.padding, str) else _pair(layer.padding)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    vertical, horizontal = values
    return vertical, horizontal


def _swap(model: nn.Module, twins: dict[RealLayer, nn.Module]) -> None:
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in twins:
            model.set_submodule(name, twins[module])


def _listed(reasons: dict[str, str]) -> str:
    return "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())
