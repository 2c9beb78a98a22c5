"""Flow++: the paper's counts, exact inverses and determinants, densities that integrate to 1."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.distributions import Normal

from tribin.errors import InputError
from tribin.evaluation import evaluate
from tribin.inspection import model_size
from tribin.models import FlowPP, FlowPPConfig
from tribin.models.flow import (
    Chain,
    Conditioner,
    Dequantizer,
    Flip,
    Flow,
    Inverse,
    MixtureCoupling,
    Norm,
    PixelLogit,
    Pointwise,
    Sigmoid,
    StripeSplit,
)
from tribin.nn import GatedBlock, LayerNorm2d, Precision, clip_latent_weights, initialize_from_data

W32A32, W1A32, W1A1 = Precision(32, 32), Precision(1, 32), Precision(1, 1)
VARIANTS: dict[str, dict[str, Any]] = {
    "W32A32": {"precision": W32A32},
    "W1A32": {"precision": W1A32},
    "W1A1": {"precision": W1A1},
    "without residual layers": {"residual": False},
}
Shape = tuple[int, int, int]


def make_model(
    variant: str = "W1A1", image_shape: Shape = (1, 4, 8), levels: int = 17, **fields: Any
) -> FlowPP:
    torch.manual_seed(0)
    small = {"width": 8, "blocks": 1, "dequantization_blocks": 2, "mixture_components": 3}
    return FlowPP(FlowPPConfig(**small | VARIANTS[variant] | fields), image_shape, levels)


def images_of(model: FlowPP, count: int = 4) -> Tensor:
    return torch.randint(0, model.levels, (count, *model.image_shape), dtype=torch.uint8)


def last_norm(flow: Flow) -> Norm:
    return [module for module in flow.modules() if isinstance(module, Norm)][-1]


@torch.no_grad()
def perturbed(variant: str = "W1A1", image_shape: Shape = (1, 4, 8), **fields: Any) -> FlowPP:
    """An initialized model with every parameter moved away from there."""
    model = make_model(variant, image_shape, **fields)
    initialize_from_data(model, images_of(model, 16))
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@cache
@torch.enable_grad()
def trained(variant: str = "W1A1", image_shape: Shape = (1, 4, 8)) -> FlowPP:
    """A model after a few steps; not to be changed."""
    model = make_model(variant, image_shape)
    images = images_of(model, 16)
    initialize_from_data(model, images)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model(images).loss.backward()
        optimizer.step()
        clip_latent_weights(model)
    return model.eval()


each_variant = pytest.mark.parametrize("variant", VARIANTS)


# Sizes and shapes


@pytest.mark.parametrize(
    ("fields", "parameters", "binary", "packed_bytes"),
    [
        ({}, 33_559_504, 31_273_728, 13_122_880),
        ({"width": 180}, 73_497_544, 70_112_448, None),
        ({"residual": False}, 2_212_720, 0, 8_850_880),
        ({"precision": W32A32}, 33_559_504, 0, 134_238_016),
    ],
)
def test_counts_are_the_papers(
    fields: dict[str, Any], parameters: int, binary: int, packed_bytes: int | None
) -> None:
    with torch.device("meta"):
        size = model_size(FlowPP(FlowPPConfig(**fields), (3, 32, 32), 256))
    assert (size.parameters, size.binary_parameters) == (parameters, binary)
    assert size.float_bytes == 4 * parameters
    if packed_bytes is not None:
        assert size.packed_bytes == packed_bytes


@each_variant
@pytest.mark.parametrize(
    ("image_shape", "levels"),
    [((1, 4, 8), 17), ((3, 6, 12), 256), ((1, 2, 4), 2), ((2, 4, 4), 16)],
)
@torch.no_grad()
def test_any_size_that_splits_channels_and_levels(
    variant: str, image_shape: Shape, levels: int
) -> None:
    model = make_model(variant, image_shape, levels)
    images = images_of(model, 8)
    initialize_from_data(model, images)
    assert model.log_weight(images).shape == (8,)
    assert torch.equal(model.reconstruct(images), images)
    samples = model.sample(3)
    assert (samples.shape, samples.dtype) == ((3, *image_shape), torch.uint8)
    assert int(samples.max()) < levels


@pytest.mark.parametrize(("height", "width"), [(7, 8), (8, 6), (28, 27)])
def test_images_that_do_not_split_are_refused(height: int, width: int) -> None:
    message = f"height must be even and width divisible by 4, not {height}x{width}"
    with pytest.raises(InputError, match=message):
        make_model(image_shape=(1, height, width))


# The flows and their determinants


DTYPES = {  # of the parameters and of x; the largest error, relative to the range of x
    (torch.float64, torch.float64): 1e-9,
    (torch.float32, torch.float64): 1e-9,
    (torch.float32, torch.float32): 1e-5,
}  # log-determinants are sums over 32 elements
INVERSIONS = [
    (variant, *dtypes, tolerance)
    for variant in VARIANTS
    for dtypes, tolerance in DTYPES.items()
    # On the way back the last bits of a float32 x differ, and some signs may with them.
    if not (variant == "W1A1" and dtypes[1] == torch.float32)
]


@pytest.mark.parametrize(("variant", "parameters", "inputs", "tolerance"), INVERSIONS)
@torch.no_grad()
def test_both_flows_invert_themselves(
    variant: str, parameters: torch.dtype, inputs: torch.dtype, tolerance: float
) -> None:
    model = perturbed(variant).to(parameters)
    images, noise = images_of(model), torch.randn(4, 1, 4, 8, dtype=inputs)

    u, log_det = model.dequantizer(noise, images.to(parameters))
    again, inverse_log_det = model.dequantizer.inverse(u, images.to(parameters))
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=32 * tolerance)
    if inputs == torch.float64:  # in float32, u near 1 has lost the last bits of the noise
        torch.testing.assert_close(again, noise, rtol=0, atol=tolerance)
    again, _ = model.dequantizer(again, images.to(parameters))
    torch.testing.assert_close(again, u, rtol=0, atol=tolerance)

    dequantized = images + u
    latents, log_det = model.main_flow(dequantized)
    again, inverse_log_det = model.main_flow.inverse(latents)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=32 * tolerance)
    torch.testing.assert_close(again, dequantized, rtol=0, atol=tolerance * model.levels)


@each_variant
def test_log_determinants_are_those_of_the_jacobians(variant: str) -> None:
    """Each coupling is triangular, whatever gradient the signs of its conditioner pass on."""
    model = perturbed(variant, (1, 2, 4)).double()
    images, noise = images_of(model).double(), torch.randn(4, 1, 2, 4, dtype=torch.float64)
    u, log_det = model.dequantizer(noise, images)
    expected = log_abs_det(lambda x: model.dequantizer(x, images)[0], noise)
    torch.testing.assert_close(log_det, expected, rtol=0, atol=1e-8)
    _, log_det = model.main_flow(images + u)
    expected = log_abs_det(lambda x: model.main_flow(x)[0], (images + u).detach())
    torch.testing.assert_close(log_det, expected, rtol=0, atol=1e-8)


def log_abs_det(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """log|det| of the Jacobian that autograd finds, of each element of the batch."""
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x).sum(0), x)
    matrices = rearrange(jacobian, "c h w n i j k -> n (c h w) (i j k)")
    return torch.linalg.slogdet(matrices).logabsdet


# The density


class SmoothConditioner(nn.Module):
    """Of one pixel, and smooth, so that a coarse grid integrates to many digits."""

    def __init__(self, context_channels: int = 0) -> None:
        super().__init__()
        outputs = MixtureCoupling.parameters_per_channel(3)
        self.hidden, self.out = nn.Linear(1 + context_channels, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = x if context is None else torch.cat((x, context), 1)
        return self.out(self.hidden(x.flatten(1)).tanh())[:, :, None, None]


def couplings_of_two_pixels(context_channels: int = 0) -> dict[str, Flow]:
    torch.manual_seed(0)
    steps = {
        f"step_{i}": Chain(
            norm=Norm((2, 1, 1, 1)),
            pointwise=Pointwise(1),
            coupling=MixtureCoupling(SmoothConditioner(context_channels), 3),
            flip=Flip(),
        )
        for i in range(3)
    }
    for parameter in Chain(**steps).parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return {"split": StripeSplit(), **steps, "merge": Inverse(StripeSplit())}


@torch.no_grad()
def integral_over_two_pixels(
    log_density: Callable[[Tensor], Tensor], lowest: float, highest: float
) -> float:
    """By the substitution x = lowest + (highest − lowest)·sigmoid(v), on a grid of v."""
    v = torch.linspace(-20, 20, 121, dtype=torch.float64)
    x = lowest + (highest - lowest) * v.sigmoid()
    dx = (highest - lowest) * v.sigmoid() * (-v).sigmoid() * (v[1] - v[0])
    grid = torch.cartesian_prod(x, x).view(-1, 1, 1, 2)
    return float(log_density(grid).exp() @ torch.outer(dx, dx).flatten())


def test_the_density_of_dequantized_pixels_integrates_to_1() -> None:
    levels = 5
    flow = Chain(logit=PixelLogit(levels), **couplings_of_two_pixels()).double()

    def log_density(x: Tensor) -> Tensor:
        latents, log_det = flow(x)
        return log_normal(latents) + log_det

    # Where 0.05 + 0.9·x/levels is in (0, 1).
    margin = levels / 18
    integral = integral_over_two_pixels(log_density, -margin, levels + margin)
    assert integral == pytest.approx(1, abs=1e-6)


def test_the_density_of_the_dequantization_noise_integrates_to_1() -> None:
    flow = Chain(**couplings_of_two_pixels(context_channels=4), sigmoid=Sigmoid())
    dequantizer = Dequantizer(nn.Conv2d(2, 4, 1), flow, levels=5).double()
    image = torch.tensor([1.0, 3.0], dtype=torch.float64).view(1, 1, 1, 2)

    def log_density(u: Tensor) -> Tensor:
        noise, log_det = dequantizer.inverse(u, image.expand_as(u))
        return log_normal(noise) + log_det

    assert integral_over_two_pixels(log_density, 0, 1) == pytest.approx(1, abs=1e-6)


def log_normal(x: Tensor) -> Tensor:
    return Normal(0, 1).log_prob(x).sum((1, 2, 3))


@torch.no_grad()
def test_all_images_have_the_probability_that_samples_are_images() -> None:
    """The probabilities of all 256 images of 2 levels, and the samples within the pixels' range.

    The rest of the density is in the margin beside that range.
    """
    model = make_model("W1A1", (1, 2, 4), 2, width=4, blocks=1)
    images = torch.cartesian_prod(*[torch.arange(2)] * 8).view(256, 1, 2, 4).to(torch.uint8)
    initialize_from_data(model.eval(), images)
    # A logit-normal noise is narrower than the uniform one, and importance weights would be wild.
    last_norm(model.dequantizer).log_gain.add_(math.log(2))

    draws = model.log_weight(images.repeat(60, 1, 1, 1)).view(60, 256).double().exp()
    probability = float(draws.mean(0).sum())
    samples, _ = model.main_flow.inverse(torch.randn(1500, *model.latent_shape).double())
    inside = ((samples >= 0) & (samples < 2)).flatten(1).all(1).double()
    error = math.sqrt(float(draws.var(0).sum()) / len(draws) + float(inside.var()) / len(inside))
    assert error < 0.03
    assert probability == pytest.approx(float(inside.mean()), abs=4 * error)


@each_variant
def test_the_bound_is_the_likelihood_under_the_noise(variant: str) -> None:
    """log p(x + u) − log q(u|x), put together from the two flows."""
    model = perturbed(variant)
    images = images_of(model)
    torch.manual_seed(1)
    metrics = model(images).metrics
    torch.manual_seed(1)
    log_weight = model.log_weight(images)
    torch.manual_seed(1)
    noise = torch.randn(images.shape)
    u, log_det = model.dequantizer(noise, images.float())
    log_noise_density = log_normal(noise) - log_det
    latents, log_det = model.main_flow(images + u)
    torch.testing.assert_close(log_weight, log_normal(latents) + log_det - log_noise_density)
    bits = {"bits_per_dim": -log_weight, "dequantization": log_noise_density}
    assert metrics.keys() == bits.keys()
    for name, nats in bits.items():
        torch.testing.assert_close(metrics[name], nats.detach().mean() / (32 * math.log(2)))


def test_more_importance_samples_give_a_tighter_bound() -> None:
    model = trained(image_shape=(1, 2, 4))
    images = images_of(model, 32)
    single, few, many = (
        evaluate(model, images, batch_size=32, importance_samples=count).bits_per_dim
        for count in (1, 4, 32)
    )
    assert many < few < single


# Gradients, initialization, noise


@each_variant
def test_gradients_reach_every_parameter(variant: str) -> None:
    model = make_model(variant)
    images = images_of(model, 16)
    initialize_from_data(model, images)
    model(images).loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # Only residual layers read the context, and the network is part of the published model.
    context = {f"dequantizer.context_network.stem.{p}" for p in ("direction", "gain", "bias")}
    assert without == (set() if model.config.residual else context)


@each_variant
def test_initialization_standardizes_what_the_couplings_take_and_give(variant: str) -> None:
    model = make_model(variant)
    images = images_of(model, 64)
    torch.manual_seed(1)
    initialize_from_data(model, images)
    seen: list[tuple[Tensor, float]] = []
    for module in model.modules():
        if isinstance(module, Norm):
            module.register_forward_hook(lambda *call: seen.append((call[-1][0], 1.0)))
        elif isinstance(module, Conditioner):
            module.register_forward_hook(
                lambda *call: seen.append((rearrange(call[-1], "n c h w -> (n h w) c"), 0.1))
            )
    torch.manual_seed(1)
    model(images)
    assert [target for _, target in seen] == [1.0, 0.1] * 13
    for y, target in seen:
        std, mean = torch.std_mean(y, dim=0, correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
        torch.testing.assert_close(std, torch.full_like(std, target), rtol=1e-4, atol=0)


@torch.no_grad()
def test_dropout_is_noise_of_training_alone() -> None:
    model = perturbed("W32A32", dropout=0.2)
    dequantized, noise = torch.rand(4, 1, 4, 8) + 8, torch.randn(4, 1, 4, 8)
    for training in (True, False):
        model.train(training)
        for flow, x in ((model.main_flow, dequantized), (model.dequantizer, noise)):
            first, second = (flow(x, dequantized)[0] for _ in range(2))
            assert torch.equal(first, second) != training


# Samples and latents


@each_variant
@pytest.mark.parametrize("make", [perturbed, trained])
@torch.no_grad()
def test_latents_decode_to_the_images(variant: str, make: Callable[[str], FlowPP]) -> None:
    model = make(variant)
    images = images_of(model, 16)
    latents = model.encode(images)
    assert (latents.shape, latents.dtype) == ((16, 4, 2, 4), torch.float64)
    assert torch.equal(model.decode(latents), images)
    dequantized, _ = model.main_flow.inverse(latents)
    torch.testing.assert_close(model.main_flow(dequantized)[0], latents, rtol=0, atol=1e-9)


@torch.no_grad()
def test_noise_that_rounds_to_1_leaves_the_images_alone() -> None:
    model = perturbed()
    last_norm(model.dequantizer).bias.add_(20)  # in float32, the sigmoid of 20 is 1
    images = images_of(model)
    assert torch.equal(model.reconstruct(images), images)


@torch.no_grad()
def test_temperature_scales_the_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    model = perturbed()
    decode = model.decode
    decoded: list[Tensor] = []

    def spy(latents: Tensor) -> Tensor:
        decoded.append(latents)
        return decode(latents)

    monkeypatch.setattr(model, "decode", spy)
    for temperature in (1.0, 0.5, 0.0):
        torch.manual_seed(1)
        images = model.sample(3, temperature)
    assert decoded[0].shape == (3, 4, 2, 4)
    assert torch.equal(decoded[1], decoded[0] / 2)
    assert torch.equal(images, decode(torch.zeros(1, 4, 2, 4)).expand(3, -1, -1, -1))


@torch.no_grad()
def test_interpolation_begins_and_ends_with_the_images() -> None:
    model = perturbed(image_shape=(3, 4, 8))
    first, second = images_of(model), images_of(model)
    rows = model.interpolate(first, second, steps=5)
    assert (rows.shape, rows.dtype) == ((4, 5, 3, 4, 8), torch.uint8)
    assert torch.equal(rows[:, 0], first)
    assert torch.equal(rows[:, -1], second)


@torch.no_grad()
def test_an_image_interpolates_to_itself() -> None:
    model = perturbed()
    images = images_of(model)
    rows = model.interpolate(images, images, steps=3)
    assert torch.equal(rows, images.unsqueeze(1).expand_as(rows))


class TwoLatents(Flow):
    """Black images to one latent, all others to another; remembers which latents it inverts."""

    def __init__(self, black: Tensor, other: Tensor) -> None:
        super().__init__()
        self.black, self.other = black, other
        self.inverted: list[Tensor] = []

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.where(x[:, :, :1, :1] < 1, self.black, self.other), x.new_zeros(len(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.inverted.append(y)
        return y.new_zeros(len(y), 1, 4, 8), y.new_zeros(len(y))


@pytest.mark.parametrize("degrees", [90, 60, 0, 180])
@torch.no_grad()
def test_interpolation_keeps_the_norm_of_latents(degrees: int) -> None:
    """Along the arc of a circle, but straight where two latents have no arc between them."""
    model = make_model().eval()
    x, y = torch.linalg.qr(torch.randn(32, 2, dtype=torch.float64)).Q.T.view(2, 1, 4, 2, 4)

    def at(angle: float) -> Tensor:
        return 8 * (math.cos(angle) * x + math.sin(angle) * y)

    angle = math.radians(degrees)
    model.main_flow = TwoLatents(black=at(0), other=at(angle))
    black = torch.zeros(1, 1, 4, 8, dtype=torch.uint8)
    model.interpolate(black, black + 16, steps=5)
    shares = [i / 4 for i in range(5)]
    arc, straight = (
        [at(share * angle) for share in shares],
        [at(0) + share * (at(angle) - at(0)) for share in shares],
    )
    expected = torch.stack(straight if degrees in (0, 180) else arc)
    torch.testing.assert_close(torch.stack(model.main_flow.inverted), expected)


# Numerics


@each_variant
def test_autocast_lowers_the_conditioners_and_not_the_likelihood(variant: str) -> None:
    model = make_model(variant)
    images = images_of(model)
    initialize_from_data(model, images)
    torch.manual_seed(1)
    exact = model.log_weight(images)
    dtypes: dict[type, set[torch.dtype]] = {Flow: set(), Conditioner: set()}
    for module in model.modules():
        if isinstance(module, Flow):
            module.register_forward_hook(
                lambda *call: dtypes[Flow].update(y.dtype for y in call[-1])
            )
        elif isinstance(module, Conditioner):
            module.register_forward_hook(lambda *call: dtypes[Conditioner].add(call[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        lowered = model.log_weight(images)
    assert dtypes == {Flow: {torch.float32}, Conditioner: {torch.bfloat16}}
    assert lowered.dtype == torch.float32
    torch.testing.assert_close(lowered, exact, rtol=0.02, atol=0)


@torch.no_grad()
def test_autocast_changes_nothing_but_the_conditioners() -> None:
    """Conditioners that give constants of 8 bits give the same in both."""
    model = perturbed()
    for module in model.modules():
        if isinstance(module, Conditioner):
            module.head.gain.zero_()
            module.head.bias.copy_(module.head.bias.bfloat16())
    images = images_of(model)
    torch.manual_seed(1)
    exact = model.log_weight(images)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        assert torch.equal(model.log_weight(images), exact)


@each_variant
@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_trunk_streams_are_channels_last(variant: str, channels: int) -> None:
    model = make_model(variant, (channels, 4, 8))
    streams: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, GatedBlock | LayerNorm2d):
            module.register_forward_hook(lambda *call: streams.append(call[-1]))
    model(images_of(model))
    model.sample(2)
    assert streams
    assert all(s.is_contiguous(memory_format=torch.channels_last) for s in streams)
