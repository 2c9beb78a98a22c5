"""Which layer a step that is not finite is blamed on: faults are planted, one at a time."""

import copy
import re
from collections.abc import Callable

import pytest
import torch
from tests.runs import FLOWPP, tiny_recipe
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tribin.data import load_images
from tribin.models import GenerativeModel
from tribin.models.flow import Flow
from tribin.models.logistic import Logistic
from tribin.nn import initialize_from_data
from tribin.recipe import Recipe
from tribin.seeding import seed_noise
from tribin.training.non_finite import first_non_finite
from tribin.training.optimizer import build_optimizer, optimizer_tensors
from tribin.training.run_folder import build_model
from tribin.training.step import train_step

Plant = Callable[[GenerativeModel], None]


def digits() -> Tensor:
    return load_images("digits", validation_images=40).train[:8].clone()


def built(*overrides: str) -> tuple[GenerativeModel, Recipe]:
    recipe = tiny_recipe(*overrides)
    seed_noise(0, "initialization")
    model = build_model(recipe)
    initialize_from_data(model.eval(), digits())
    return model.train(), recipe


def blame(model: GenerativeModel, recipe: Recipe, images: Tensor | None = None) -> str:
    """What a step that must not be finite is blamed on; the step itself is the guard's."""
    images = digits() if images is None else images
    seed_noise(0, "step")
    optimizer = build_optimizer(model, recipe)
    assert not train_step(model, optimizer, images, recipe).finite
    seed_noise(0, "step")
    return first_non_finite(model, images, recipe)


def fill(path: str, value: float, index: object = ...) -> Plant:
    """Set (a part of) a parameter."""

    def plant(model: GenerativeModel) -> None:
        with torch.no_grad():
            model.get_parameter(path)[index] = value

    return plant


# The forward pass


def narrow_and_far(model: GenerativeModel) -> None:
    """Each value of one coupling's parameters is finite; its mixture is not."""
    fill("main_flow.columns.step_3.coupling.conditioner.head.bias", 3e38, slice(4, 6))(model)
    fill("main_flow.columns.step_3.coupling.conditioner.head.bias", -7.0, slice(6, 8))(model)


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (
            fill("main_flow.columns.step_2.norm.log_gain", 1e4),
            "the output of main_flow.columns.step_2.norm (Norm), 512 of 512 values",
        ),
        (
            fill("dequantizer.noise_flow.columns.step_4.norm.log_gain", 1e4, (0, 0, 3, 1)),
            "the output of dequantizer.noise_flow.columns.step_4.norm (Norm), 8 of 512 values",
        ),
        (
            fill("main_flow.channels.step_1.pointwise.weight", 0.0, (0, 1)),
            "the log-determinant of main_flow.channels.step_1.pointwise (Pointwise), 8 of 8 values",
        ),
        (
            fill("main_flow.coarse_columns.step_3.coupling.conditioner.head.bias", torch.nan, 5),
            "parameter main_flow.coarse_columns.step_3.coupling.conditioner.head.bias, "
            "1 of 32 values",
        ),
        (
            fill("dequantizer.context_network.stem.gain", torch.inf),
            "parameter dequantizer.context_network.stem.gain, 32 of 32 values",
        ),
        (
            narrow_and_far,
            "the output of main_flow.columns.step_3.coupling (MixtureCoupling), 256 of 512 values",
        ),
    ],
)
def test_the_layer_of_a_flow(plant: Plant, expected: str) -> None:
    model, recipe = built(FLOWPP)
    plant(model)
    assert blame(model, recipe) == f"first not finite is {expected}"


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (
            fill("latent_layers.1.from_latent.direction", 0.0, 2),
            "the output of latent_layers.1.from_latent (WeightNormConv2d), 128 of 1,024 values",
        ),
        (fill("log_scale", torch.nan), "parameter log_scale"),
        (
            fill("log_scale", -100.0),  # of the layers everything is finite
            "the loss (bits_per_dim, reconstruction) of ResNetVAE",
        ),
    ],
)
def test_the_layer_of_a_vae(plant: Plant, expected: str) -> None:
    model, recipe = built()
    plant(model)
    assert blame(model, recipe) == f"first not finite is {expected}"


def test_the_layer_that_is_given_what_its_parent_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, recipe = built()
    monkeypatch.setattr(Logistic, "sample", lambda self: self.mean.square() * torch.inf)
    assert blame(model, recipe) == (
        "first not finite is the input of latent_layers.1.from_latent (WeightNormConv2d), "
        "256 of 256 values"
    )


class NotANumber(nn.Module):
    """The identity, but where the condition holds."""

    def __init__(self, condition: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.condition = condition

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.condition(x), torch.nan, x)


def test_a_micro_batch_that_is_not_the_first() -> None:
    model, recipe = built("training.accumulation=2")
    images = digits()
    images[5:7, :, 0, 0] = 16  # otherwise black
    model.stem = nn.Sequential(NotANumber(lambda x: x[:, :, :1, :1] == 1), model.stem)
    expected = "first not finite is the output of stem.0 (NotANumber), 128 of 256 values"
    assert blame(model, recipe, images) == expected


def test_a_fault_of_autocast_alone() -> None:
    model, recipe = built("training.autocast=bfloat16")
    model.stem_blocks = NotANumber(lambda x: torch.tensor(x.dtype == torch.bfloat16))
    assert "of stem_blocks (NotANumber), 1,024 of 1,024 values" in blame(model, recipe)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_fault_of_some_noise_alone(dropout: float) -> None:
    """The same noise is drawn again, dropout's too: the count of bad values tells."""
    model, recipe = built(FLOWPP.replace("}", f", dropout: {dropout}}}"))
    counts: list[int] = []

    def condition(x: Tensor) -> Tensor:
        bad = torch.randn_like(x) > 2
        counts.append(int(bad.sum()))
        return bad

    conditioner = model.get_submodule("main_flow.channels.step_2.coupling.conditioner")
    conditioner.norms[0] = nn.Sequential(conditioner.norms[0], NotANumber(condition))
    found = blame(model, recipe)
    assert counts[0] == counts[1] > 0
    assert found.endswith(f"norms.0.1 (NotANumber), {counts[0]} of 1,024 values")


# The backward pass


class Steep(nn.Module):
    """The identity, with a slope of infinity."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x - x.detach()).sqrt()


class SteepFlow(Steep, Flow):
    """The same between two couplings."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().forward(x), x.new_zeros(len(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class SteepParameter(nn.Module):
    """The identity, whose parameter has a gradient that is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift[1:].sqrt().sum()


class SteepLayer(SteepParameter):
    """The gradient for its input is not finite either."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.shift.sum() + x - x.detach()).sqrt()


def test_the_gradient_for_the_output_of_a_coupling() -> None:
    model, recipe = built(FLOWPP)
    model.get_submodule("main_flow.columns.step_2").flip = SteepFlow()
    assert blame(model, recipe) == (
        "first not finite is the gradient for the output of "
        "main_flow.columns.step_2.coupling (MixtureCoupling), 512 of 512 values"
    )


def test_the_gradient_for_the_output_of_a_convolution() -> None:
    model, recipe = built()
    model.stem_blocks = nn.Sequential(Steep())
    expected = "the gradient for the output of stem (WeightNormConv2d), 1,024 of 1,024 values"
    assert blame(model, recipe) == f"first not finite is {expected}"


@pytest.mark.parametrize(("layer", "bad"), [(SteepParameter, 3), (SteepLayer, 4)])
def test_the_gradient_of_a_parameter(layer: type[SteepParameter], bad: int) -> None:
    """It names a layer with parameters itself, not the one before it."""
    model, recipe = built()
    model.head_blocks = nn.Sequential(layer())
    expected = f"the gradient of parameter head_blocks.0.shift, {bad} of 4 values"
    assert blame(model, recipe) == f"first not finite is {expected}"


class Amplifier(nn.Module):
    """The identity, with a slope of 1e30."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1e30 * (x - x.detach())


def test_gradients_that_are_finite_and_their_norm_is_not() -> None:
    model, recipe = built()
    seed_noise(0, "step")
    model(digits()).loss.backward()
    largest = {n: p.grad.abs().max().item() for n, p in model.named_parameters() if "stem" in n}
    model.zero_grad()
    model.stem = nn.Sequential(model.stem, Amplifier())
    found = re.fullmatch(
        "each gradient is finite, and their norm is not: the largest, (.*), "
        r"is that of parameter stem\.0\.(.*)",
        blame(model, recipe),
    )
    assert found is not None
    value, name = found.groups()
    assert float(value) == pytest.approx(1e30 * largest[f"stem.{name}"], rel=1e-2)
    assert largest[f"stem.{name}"] == max(largest.values())


def test_a_step_that_is_finite_when_it_is_run_again() -> None:
    model, recipe = built()
    assert first_non_finite(model, digits(), recipe) == "run again, the step was finite"


# What is left


def test_nothing_is_changed_and_no_hook_is_left() -> None:
    model, recipe = built("training.accumulation=2")
    optimizer = build_optimizer(model, recipe)
    average = AveragedModel(model)

    def state() -> dict[str, Tensor]:
        tensors = optimizer_tensors(optimizer, model) | average.state_dict()
        return copy.deepcopy(model.state_dict() | tensors)

    assert train_step(model, optimizer, digits(), recipe).finite
    average.update_parameters(model)
    before = state()
    model.stem_blocks.append(Steep())
    assert not train_step(model, optimizer, digits(), recipe).finite
    assert "stem (WeightNormConv2d)" in first_non_finite(model, digits(), recipe)

    after = state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert no_hooks(model)
    assert all(parameter.grad is None for parameter in model.parameters())
    del model.stem_blocks[-1]
    assert train_step(model, optimizer, digits(), recipe).finite


def no_hooks(model: nn.Module) -> bool:
    hooks = [m._forward_hooks | m._forward_pre_hooks | m._backward_hooks for m in model.modules()]
    return not any([*hooks, *(parameter._backward_hooks for parameter in model.parameters())])


def test_no_hook_is_left_after_an_error() -> None:
    class BrokenError(Exception):
        pass

    def broken(x: Tensor) -> Tensor:
        raise BrokenError

    model, recipe = built()
    model.head_blocks = NotANumber(broken)
    with pytest.raises(BrokenError):
        first_non_finite(model, digits(), recipe)
    assert no_hooks(model)
