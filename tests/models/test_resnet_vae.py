"""ResNet VAE: the paper's counts, the bound it reports, gradients, shapes."""

import math

import pytest
import torch

from tribin.errors import InputError
from tribin.inspection import model_size
from tribin.models import ResNetVAE, ResNetVAEConfig
from tribin.models.resnet_vae import LatentLayer
from tribin.nn import Precision, initialize_from_data

PRECISIONS = [Precision(32, 32), Precision(1, 32), Precision(1, 1)]


def make_model(
    precision: Precision = PRECISIONS[2],
    image_shape: tuple[int, int, int] = (1, 8, 8),
    levels: int = 17,
    **fields: object,
) -> ResNetVAE:
    torch.manual_seed(0)
    small = {"width": 8, "latent_layers": 2, "latent_channels": 2, "extra_blocks": 1, **fields}
    return ResNetVAE(ResNetVAEConfig(precision=precision, **small), image_shape, levels)


def make_images(
    count: int = 4, image_shape: tuple[int, int, int] = (1, 8, 8), levels: int = 17
) -> torch.Tensor:
    return torch.randint(0, levels, (count, *image_shape), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("fields", "parameters", "binary", "packed_bytes"),
    [
        ({}, 56_153_223, 54_525_952, 13_324_828),
        ({"width": 336}, 96_064_903, 93_929_472, None),
        ({"residual": False}, 1_594_503, 0, 6_378_012),
        ({"precision": Precision(32, 32)}, 56_153_223, 0, 224_612_892),
    ],
)
def test_counts_are_the_papers(
    fields: dict[str, object], parameters: int, binary: int, packed_bytes: int | None
) -> None:
    with torch.device("meta"):
        size = model_size(ResNetVAE(ResNetVAEConfig(**fields), (3, 32, 32), 256))
    assert (size.parameters, size.binary_parameters) == (parameters, binary)
    assert size.float_bytes == 4 * parameters
    if packed_bytes is not None:
        assert size.packed_bytes == packed_bytes


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize(
    ("image_shape", "levels"), [((1, 8, 8), 17), ((3, 6, 10), 256), ((1, 2, 2), 2)]
)
def test_any_even_size_channels_and_levels(
    precision: Precision, image_shape: tuple[int, int, int], levels: int
) -> None:
    model = make_model(precision, image_shape, levels)
    images = make_images(3, image_shape, levels)
    initialize_from_data(model, images)
    assert model.log_weight(images).shape == (3,)
    for drawn in (model.sample(3), model.reconstruct(images)):
        assert (drawn.shape, drawn.dtype) == (images.shape, torch.uint8)
        assert int(drawn.max()) < levels


def test_odd_images_are_refused() -> None:
    with pytest.raises(InputError, match="must be even, not 28x27"):
        make_model(image_shape=(1, 28, 27))


def test_the_objective_differs_from_the_bound_by_the_free_bits() -> None:
    images = make_images()
    objectives = {}
    for free_bits in (0.0, 0.1, 1000.0):
        model = make_model(free_bits=free_bits)
        torch.manual_seed(1)
        objectives[free_bits] = model(images)
    without = objectives[0.0]
    torch.testing.assert_close(without.loss.detach(), without.metrics["bits_per_dim"])
    assert objectives[0.1].metrics["bits_per_dim"] == without.metrics["bits_per_dim"]
    # Far above every channel's KL, the objective is the reconstruction plus 2·2 channels' worth.
    constant = 4 * 1000 / (64 * math.log(2))
    difference = objectives[1000.0].loss - without.metrics["reconstruction"]
    assert float(difference.detach()) == pytest.approx(constant, rel=1e-5)


def test_without_free_bits_the_objective_is_the_bound_of_every_draw() -> None:
    model, image = make_model(free_bits=0.0), make_images(1)
    for seed in range(20):  # some draws have a channel whose log q/p is negative
        torch.manual_seed(seed)
        objective = model(image)
        torch.testing.assert_close(objective.loss.detach(), objective.metrics["bits_per_dim"])


def test_log_weight_and_metrics_are_the_same_bound() -> None:
    model, images = make_model(), make_images()
    torch.manual_seed(1)
    metrics = model(images).metrics
    torch.manual_seed(1)
    bound = model.to_bits_per_dim(-model.log_weight(images).mean())
    torch.testing.assert_close(bound, metrics["bits_per_dim"])
    layers = metrics["kl/layer_00"] + metrics["kl/layer_01"]
    torch.testing.assert_close(layers + metrics["reconstruction"], metrics["bits_per_dim"])


def test_the_importance_weighted_bound_reaches_the_exact_likelihood() -> None:
    """One pixel block of 2 levels: the sum of p(x) over all images must be 1."""
    model = make_model(PRECISIONS[0], (1, 2, 2), 2, width=4, latent_layers=1)
    images = torch.cartesian_prod(*[torch.arange(2)] * 4).view(16, 1, 2, 2).to(torch.uint8)
    initialize_from_data(model, images)
    with torch.no_grad():
        draws = torch.cat(
            [model.log_weight(images.repeat(250, 1, 1, 1)).view(250, 16) for _ in range(16)]
        ).double()
    likelihood = (draws.logsumexp(0) - math.log(len(draws))).exp()
    assert float(likelihood.sum()) == pytest.approx(1, abs=0.02)
    elbo = draws.mean(0)
    assert (elbo <= likelihood.log() + 1e-9).all()


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_gradients_reach_every_parameter(precision: Precision) -> None:
    model, images = make_model(precision), make_images(16)
    initialize_from_data(model, images)
    with torch.no_grad():  # a branch of gain 0 passes no gradient to its first convolution
        for name, parameter in model.named_parameters():
            if name.endswith("second.gain"):
                parameter.fill_(0.1)
    model(images).loss.backward()
    top = len(model.latent_layers) - 1
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # The topmost layer sees a constant 0 from above, and nothing is above its upward block.
    unreachable = tuple(
        f"latent_layers.{top}.{part}" for part in ("up_block", "down_parameters", "down_block")
    )
    assert all(name.startswith(unreachable) for name in without), without


def test_autocast_lowers_the_trunk_and_not_the_likelihood() -> None:
    model, images = make_model(PRECISIONS[0]), make_images()
    dtypes = []
    model.stem.register_forward_hook(lambda *call: dtypes.append(call[-1].dtype))
    torch.manual_seed(1)
    exact = model.log_weight(images)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        lowered = model.log_weight(images)
    assert dtypes == [torch.float32, torch.bfloat16]
    assert lowered.dtype == torch.float32
    torch.testing.assert_close(lowered, exact, rtol=0.02, atol=0)


def test_trunk_streams_are_channels_last() -> None:
    model = make_model()
    streams = []
    for module in model.modules():
        if isinstance(module, LatentLayer):
            module.down_block.register_forward_hook(lambda *call: streams.append(call[-1]))
    model(make_images())
    model.sample(4)
    assert len(streams) == 4
    assert all(s.is_contiguous(memory_format=torch.channels_last) for s in streams)


def test_the_baseline_has_no_residual_layers() -> None:
    model = make_model(residual=False)
    assert not any("block" in name for name, _ in model.named_parameters())
    model(make_images()).loss.backward()
