"""Flow++: the paper's counts, exact inverses and determinants, gradients, dtypes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from einops import rearrange
from tests.models.small_flowpp import (
    VARIANTS,
    W32A32,
    Shape,
    each_variant,
    images_of,
    make_model,
    perturbed,
)
from torch import Tensor

from tribin.errors import InputError
from tribin.inspection import model_size
from tribin.models import FlowPP, FlowPPConfig
from tribin.models.flow import (
    Conditioner,
    Flow,
    Norm,
)
from tribin.nn import GatedBlock, LayerNorm2d, initialize_from_data

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
