"""Layers that can't be binary, or may compute something else: kept, or refused by name."""

from collections.abc import Callable

import pytest
import torch
from tests.nn.binarizable import classifier
from torch import nn
from torch.nn.utils import parametrizations

from tribin.errors import InputError
from tribin.nn import (
    binarize,
    latent_weights,
)


def snapshot(model: nn.Module) -> object:
    modules = {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}
    state = model.state_dict(keep_vars=True)
    return modules, {name: (id(value), value.tolist()) for name, value in state.items()}


class OwnLinear(nn.Linear):
    pass


def with_hook() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_pre_hook(lambda *_: None)
    return layer


def with_old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(4, 4))


def with_own_forward() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x
    return layer


UNUSUAL: dict[str, tuple[Callable[[], nn.Module], list[str], str]] = {
    "subclass": (lambda: OwnLinear(4, 4), ["1"], "its class is OwnLinear"),
    "parametrized": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
        ["1"],
        "its class is ParametrizedLinear",
    ),
    "weight norm": (with_old_weight_norm, ["1"], "it has forward_pre_hooks"),
    "hook": (with_hook, ["1"], "it has forward_pre_hooks"),
    "own forward": (with_own_forward, ["1"], "its forward has been replaced"),
    "attention": (
        lambda: nn.MultiheadAttention(4, 2),
        ["1.out_proj"],
        "MultiheadAttention reads its weight",
    ),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        ["1.self_attn.out_proj", "1.linear1", "1.linear2"],
        "reads its weight without calling it",
    ),
}


@pytest.mark.parametrize(("make", "names", "reason"), UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_layers_are_kept_and_reported_or_refused_where_selected(
    make: Callable[[], nn.Module], names: list[str], reason: str
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), make())
    unchanged = snapshot(model)
    with pytest.raises(InputError) as caught:
        binarize(model, lambda name, layer: True)
    assert all(f"{name}: " in str(caught.value) for name in names)
    assert reason in str(caught.value)
    assert snapshot(model) == unchanged
    report = binarize(model)
    assert report.binarized == ("0",)
    assert list(report.kept) == names
    assert reason in report.kept[names[0]]
    assert reason in str(report)


def test_a_transformer_still_computes_the_same_in_evaluation_and_training() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Linear(4, 4), encoder)
    binarize(model)
    x = torch.randn(2, 5, 4)
    expected = model(x)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(x), expected)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "groups": (lambda: nn.Conv2d(4, 4, 3, groups=2), "groups is 2"),
    "dilation": (lambda: nn.Conv2d(4, 4, 3, dilation=(1, 2)), r"dilation is \(1, 2\)"),
    "padding mode": (
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        "padding_mode is 'reflect'",
    ),
    "same": (
        lambda: nn.Conv2d(4, 4, (3, 2), padding="same"),
        r"padding is 'same', .* \(3, 2\)",
    ),
    "dtype": (lambda: nn.Linear(4, 4, dtype=torch.complex64), "its dtype is torch.complex64"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_no_binary_layer_can_do_is_refused_by_name(
    make: Callable[[], nn.Module], reason: str
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(make()))
    unchanged = snapshot(model)
    with pytest.raises(InputError, match=rf"1\.0: {reason}") as caught:
        binarize(model)
    assert "\n  0:" not in str(caught.value)
    assert snapshot(model) == unchanged
    assert binarize(model, lambda name, layer: name == "0").kept == {"1.0": "not selected"}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_empty_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"0: its weight is empty, \[3, 0\]"):
        binarize(nn.Sequential(nn.Linear(0, 3)))


def test_every_fault_of_every_layer_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, dilation=2), nn.Conv2d(4, 4, 3, groups=4))
    with pytest.raises(InputError) as caught:
        binarize(model)
    assert str(caught.value).splitlines()[1:] == [
        "  0: groups is 2, must be 1; dilation is (2, 2), must be 1",
        "  1: groups is 4, must be 1",
    ]


def test_tied_parameters_are_refused_by_name() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "free": nn.Linear(4, 4)})
    model["head"] = nn.Linear(4, 5)
    model["head"].weight = model["embed"].weight
    unchanged = snapshot(model)
    with pytest.raises(InputError, match=r"head: its weight .*embed\.weight, head\.weight"):
        binarize(model)
    assert snapshot(model) == unchanged
    assert binarize(model, lambda name, layer: name == "free").binarized == ("free",)


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 2, 1), nn.Linear(2, 2), OwnLinear(2, 2)])
def test_a_single_layer_is_refused(layer: nn.Module) -> None:
    with pytest.raises(InputError, match=f"single {type(layer).__name__}.*wrap it"):
        binarize(layer)


def test_a_model_with_nothing_to_swap_is_refused() -> None:
    transposed = nn.Sequential(nn.ConvTranspose2d(2, 2, 3), nn.ReLU())
    with pytest.raises(InputError, match=r"no Conv2d or Linear layer is selected$"):
        binarize(transposed)
    with pytest.raises(InputError, match=r"no .* is selected\n  0: its class is OwnLinear"):
        binarize(nn.Sequential(OwnLinear(2, 2)))
    model = classifier()
    with pytest.raises(InputError, match=r"no .* is selected\n  0: not selected\n  3\.0: not"):
        binarize(model, lambda name, layer: False)
    assert latent_weights(model) == {}


def test_layers_without_a_shape_are_refused_until_they_have_one() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Conv2d(4, 4, 1))
    with pytest.raises(InputError, match=r"0\.weight, 0\.bias have no shape yet"):
        binarize(model)
    model(torch.randn(1, 2, 5, 5))
    assert binarize(model).binarized == ("0", "1")
