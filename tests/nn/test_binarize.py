"""Binarizing torch models: what the layers compute, and what stays."""

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.nn.binarizable import classifier, images
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tribin.nn import (
    BinaryConv2d,
    BinaryLinear,
    binarize,
)


def signs(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, -1.0, 1.0)


def expected_conv2d(layer: nn.Conv2d, x: np.ndarray, padding: tuple[int, int]) -> np.ndarray:
    """The sum over each window, with signs for weights, times the mean |w|, plus the bias."""
    weight = layer.weight.detach().double().numpy()
    outputs, _, *kernel = weight.shape
    bias = np.zeros(outputs) if layer.bias is None else layer.bias.detach().double().numpy()
    padded = np.pad(x, ((0, 0), (0, 0), *((size, size) for size in padding)))
    size = [
        (padded.shape[2 + i] - kernel[i]) // layer.stride[i] + 1 for i in range(2)
    ]  # rows and columns
    y = np.zeros((len(x), outputs, *size))
    for n, o, i, j in itertools.product(*map(range, y.shape)):
        top, left = i * layer.stride[0], j * layer.stride[1]
        window = padded[n, :, top : top + kernel[0], left : left + kernel[1]]
        y[n, o, i, j] = (window * signs(weight[o])).sum() * abs(weight[o]).mean() + bias[o]
    return y


CONVOLUTIONS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "plain": ({"kernel_size": 3}, (0, 0)),
    "no bias": ({"kernel_size": 3, "bias": False}, (0, 0)),
    "pairs": ({"kernel_size": (1, 4), "stride": (2, 1), "padding": (0, 3)}, (0, 3)),
    "strided": ({"kernel_size": 2, "stride": 2, "padding": 1}, (1, 1)),
    "valid": ({"kernel_size": (2, 3), "padding": "valid"}, (0, 0)),
    "same": ({"kernel_size": (5, 3), "padding": "same"}, (2, 1)),
}


@pytest.mark.parametrize("binary_input", [False, True])
@pytest.mark.parametrize(("settings", "padding"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolution_multiplies_with_signs(
    settings: dict[str, Any], padding: tuple[int, int], binary_input: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, **settings, dtype=torch.float64)
    model = nn.Sequential(layer)
    binarize(model, binary_input=binary_input)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    values = signs(x.numpy()) if binary_input else x.numpy()
    expected = torch.from_numpy(expected_conv2d(layer, values, padding))
    torch.testing.assert_close(model(x), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("binary_input", [False, True])
def test_a_linear_layer_multiplies_with_signs(binary_input: bool, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(7, 5, bias=bias, dtype=torch.float64)
    model = nn.Sequential(layer)
    binarize(model, binary_input=binary_input)
    x = torch.randn(2, 3, 7, dtype=torch.float64)
    values = signs(x.numpy()) if binary_input else x.numpy()
    weight = layer.weight.detach().numpy()
    expected = values @ (signs(weight) * abs(weight).mean(1, keepdims=True)).T
    if bias:
        expected = expected + layer.bias.detach().numpy()
    torch.testing.assert_close(model(x), torch.from_numpy(expected), atol=1e-12, rtol=1e-12)


def test_no_other_signs_and_no_other_scale_are_closer_to_the_weights() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 3, dtype=torch.float64)
    model = nn.Sequential(layer)
    binarize(model)
    binary = model(torch.eye(6, dtype=torch.float64)).T - layer.bias[:, None]
    weight = layer.weight
    distances = (weight - binary).square().sum(1)
    for factor in (0.99, 1.01):
        assert ((weight - factor * binary).square().sum(1) > distances).all()
    for candidate in itertools.product((-1.0, 1.0), repeat=6):
        pattern = torch.tensor(candidate, dtype=torch.float64)
        best_scale = weight @ pattern / 6
        others = (weight - best_scale[:, None] * pattern).square().sum(1)
        assert (others >= distances - 1e-12).all()


def test_latent_weights_are_the_weights_up_to_one_factor_and_fill_the_range() -> None:
    layer = nn.Conv2d(3, 4, 3)
    model = nn.Sequential(layer)
    binarize(model)
    latent = model[0].latent_weight
    assert latent.abs().max() == 1
    torch.testing.assert_close(latent * layer.weight.abs().max(), layer.weight)


def test_a_layer_of_zeros_gives_its_bias() -> None:
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    model = nn.Sequential(layer)
    binarize(model)
    assert not model[0].latent_weight.any()
    assert torch.equal(model(torch.randn(4, 3)), layer.bias.expand(4, 2))


def test_the_model_is_changed_in_place_and_only_where_it_is_binarized() -> None:
    model = classifier()
    seen: list[nn.Module] = []
    model[1].register_forward_hook(lambda layer, *_: seen.append(layer))
    modules, others = dict(model.named_modules()), model[1].state_dict(keep_vars=True)
    report = binarize(model, lambda name, layer: name != "0")
    assert report.binarized == ("3.0", "4")
    assert report.kept == {"0": "not selected"}
    assert [type(model[3][0]), type(model[4])] == [BinaryConv2d, BinaryLinear]
    assert model[3][0].bias is None
    now = dict(model.named_modules())
    assert list(now) == list(modules)
    assert {name for name in now if now[name] is not modules[name]} == {"3.0", "4"}
    assert all(value is others[name] for name, value in model[1].state_dict(keep_vars=True).items())
    model(images())
    assert seen == [model[1]]


def test_the_layer_that_was_there_shares_no_memory_with_the_new_one() -> None:
    layer = nn.Linear(3, 2)
    before = {name: value.tolist() for name, value in layer.state_dict().items()}
    model = nn.Sequential(layer)
    binarize(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert {name: value.tolist() for name, value in layer.state_dict().items()} == before


def test_dtype_mode_memory_format_and_requires_grad_stay() -> None:
    model = classifier().bfloat16().to(memory_format=torch.channels_last)
    model[3].eval()
    model[3][0].weight.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    binarize(model, binary_input=True)
    assert [layer.training for layer in (model[0], model[3][0], model[4])] == [True, False, True]
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    assert model[3][0].latent_weight.is_contiguous(memory_format=torch.channels_last)
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert frozen == ["3.0.gain", "3.0.latent_weight", "4.bias"]
    assert all(layer.binary_input for layer in (model[0], model[3][0], model[4]))


def test_no_random_number_is_drawn() -> None:
    model = classifier()
    state = torch.get_rng_state()
    binarize(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_models_on_the_meta_device_stay_there() -> None:
    with torch.device("meta"):
        model = classifier()
        report = binarize(model)
    assert all(parameter.is_meta for parameter in model.parameters())
    expected = classifier()
    assert binarize(expected) == report
    assert shapes(model) == shapes(expected)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def test_the_report_counts_and_reads_well() -> None:
    report = binarize(classifier(), lambda name, layer: isinstance(layer, nn.Conv2d))
    assert report.binary_parameters == 4 * 9 + 4 * 4 * 9
    assert report.parameters == report.binary_parameters + (4 + 4) + (4 + 4) + 4 + 3 * 145
    assert str(report).splitlines() == [
        "2 of 3 Conv2d and Linear layers are binary now, 180 of 635 parameters",
        "  4 is real: not selected",
    ]


def test_select_sees_names_and_layers() -> None:
    model, asked = classifier(), {}

    def select(name: str, layer: nn.Module) -> bool:
        asked[name] = layer
        return True

    layers = {"0": model[0], "3.0": model[3][0], "4": model[4]}
    binarize(model, select)
    assert asked == layers


def test_a_second_call_takes_the_layers_that_are_still_real() -> None:
    model = classifier()
    binarize(model, lambda name, layer: name == "4")
    report = binarize(model)
    assert report.binarized == ("0", "3.0")
    assert report.binary_parameters == 4 * 9 + 4 * 4 * 9 + 3 * 144


def test_a_shared_layer_stays_shared() -> None:
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": nn.Sequential(shared, nn.Tanh(), shared), "b": shared})
    report = binarize(model)
    assert report.binarized == ("a.0",)
    assert model["a"][0] is model["a"][2] is model["b"]
    assert isinstance(model["b"], BinaryLinear)
    assert len(list(model.parameters())) == 3


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_state_dicts_give_the_same(
    duplicate: Callable[[nn.Module], nn.Module],
) -> None:
    model = classifier()
    binarize(model, binary_input=True)
    twin = duplicate(model.eval())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in twin.parameters()}
    assert torch.equal(twin(images()), model(images()))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.normal_()
    assert not torch.equal(twin(images()), model(images()))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(images()), model(images()))


def test_parameters_go_to_a_vector_and_back() -> None:
    model, other = classifier(), classifier()
    for each in (model, other):
        binarize(each)
    vector = parameters_to_vector(model.parameters())
    with torch.no_grad():
        vector_to_parameters(2 * vector, other.parameters())
    assert torch.equal(parameters_to_vector(other.parameters()), 2 * vector)
