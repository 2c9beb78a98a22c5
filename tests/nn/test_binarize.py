"""Binarizing torch models: what the layers compute, what stays, and what is refused."""

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, parametrizations, vector_to_parameters

from tribin.errors import InputError
from tribin.nn import (
    BinaryConv2d,
    BinaryLinear,
    binarize,
    clip_after_step,
    clip_latent_weights,
    latent_weights,
)


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Flatten()),
        nn.Linear(4 * 6 * 6, 3),
    )


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))


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


def snapshot(model: nn.Module) -> object:
    modules = {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}
    state = model.state_dict(keep_vars=True)
    return modules, {name: (id(value), value.tolist()) for name, value in state.items()}


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


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=5.0),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.3),
    "fused adam": lambda parameters: torch.optim.AdamW(parameters, lr=0.3, fused=True),
}


def objective(model: nn.Module) -> Tensor:
    labels = torch.arange(8) % 3
    return nn.functional.cross_entropy(model(images()), labels)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_changes_signs_and_keeps_latent_weights_in_range(
    make: Callable[[Any], torch.optim.Optimizer],
) -> None:
    model = classifier()
    binarize(model)
    optimizer = make(model.parameters())
    handle = clip_after_step(optimizer, model)
    before = {name: value < 0 for name, value in latent_weights(model).items()}

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(model)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        assert all(value.abs().max() <= 1 for value in latent_weights(model).values())
    assert all((latent_weights(model)[name] < 0).ne(value).any() for name, value in before.items())
    handle.remove()
    optimizer.step(closure)
    assert any(value.abs().max() > 1 for value in latent_weights(model).values())


def test_a_step_that_the_gradient_scaler_skips_changes_nothing() -> None:
    model = classifier()
    binarize(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    clip_after_step(optimizer, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = parameters_to_vector(model.parameters())
    for factor, changes in ((float("inf"), False), (1.0, True)):
        scaler.scale(factor * objective(model)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert parameters_to_vector(model.parameters()).ne(before).any() == changes
    assert all(value.abs().max() <= 1 for value in latent_weights(model).values())


def test_an_optimizer_from_before_binarization_is_refused() -> None:
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    binarize(model)
    with pytest.raises(InputError, match="holds no latent weight of the model"):
        clip_after_step(optimizer, model)


def test_clipping_after_steps_is_clipping_by_hand() -> None:
    models = [classifier(), classifier()]
    for model in models:
        binarize(model)
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.3) for model in models]
    clip_after_step(optimizers[0], models[0])
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            objective(model).backward()
            optimizer.step()
        clip_latent_weights(models[1])
    first, second = (parameters_to_vector(model.parameters()) for model in models)
    assert torch.equal(first, second)
