"""The mixture coupling against its formula, with a conditioner whose results are given."""

import pytest
import torch
from tests.models.flow.blocks import CONTEXT_CHANNELS, PRECISIONS, build, draw, make_coupling
from torch import Tensor, nn

from tribin.models.flow import MixtureCoupling
from tribin.nn import Precision

COMPONENTS = 3
SHAPE = (2, 2, 3, 4)


class Given(nn.Module):
    """A conditioner whose result is its parameter."""

    def __init__(self, raw: Tensor) -> None:
        super().__init__()
        self.raw = nn.Parameter(raw)
        self.calls: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        self.calls.append((x, context))
        return self.raw


def make_given(parameters: Tensor) -> MixtureCoupling:
    """The coupling of log-scale, shift, logits, means, log-scales in [N, C, parameter, H, W]."""
    return MixtureCoupling(Given(parameters.flatten(1, 2)), (parameters.shape[2] - 2) // 3)


def test_the_second_half_is_mapped_by_the_formula() -> None:
    torch.manual_seed(0)
    count = MixtureCoupling.parameters_per_channel(COMPONENTS)
    parameters = torch.randn(5, 2, count, 3, 4).double()
    coupling = make_given(parameters)
    x = torch.randn(5, *SHAPE).double().requires_grad_()
    y, log_det = coupling(x)

    log_scale, shift, *mixture = parameters.unbind(2)
    logits, means, log_scales = (torch.stack(mixture[i : i + 3], -1) for i in (0, 3, 6))
    second = x[:, 1].unsqueeze(-1)
    cdf = (logits.softmax(-1) * ((second - means) / log_scales.exp()).sigmoid()).sum(-1)
    expected = (cdf / (1 - cdf)).log() * log_scale.tanh().exp() + shift
    assert torch.equal(y[:, 0], x[:, 0])
    torch.testing.assert_close(y[:, 1], expected, atol=1e-11, rtol=1e-11)
    (slopes,) = torch.autograd.grad(expected.sum(), x)
    sums = slopes[:, 1].log().sum((1, 2, 3))
    torch.testing.assert_close(log_det, sums, atol=1e-9, rtol=0)


def test_a_single_logistic_is_an_affine_map() -> None:
    parameters = torch.tensor([-0.8, 1.5, 3.0, -0.4, 0.7], dtype=torch.float64)
    scale, shift, _, mean, log_scale = parameters
    coupling = make_given(parameters.view(1, 1, 5, 1, 1))
    x = torch.linspace(-50, 50, 9, dtype=torch.float64).view(9, 1, 1, 1, 1).expand(9, 2, 1, 1, 1)
    y, log_det = coupling(x)
    gain = (scale.tanh() - log_scale).exp()
    affine = (x[:, 1] - mean) * gain + shift
    torch.testing.assert_close(y[:, 1], affine, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(log_det, gain.log().expand(9), atol=1e-12, rtol=0)


def test_components_are_no_narrower_than_the_floor() -> None:
    torch.manual_seed(0)
    count = MixtureCoupling.parameters_per_channel(COMPONENTS)
    parameters = torch.randn(5, 2, count, 3, 4)
    x = torch.randn(5, *SHAPE)
    results = {}
    for log_scale in (-6.9, -7.0, -20.0):
        parameters[:, :, -COMPONENTS:] = log_scale
        results[log_scale] = make_given(parameters)(x)
    assert all(map(torch.equal, results[-20.0], results[-7.0]))
    assert not any(map(torch.equal, results[-6.9], results[-7.0]))


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_the_conditioner_gets_the_first_half_in_its_own_dtype_and_the_context(
    direction: str,
) -> None:
    coupling = make_given(torch.randn(5, 2, 5, 3, 4))
    x, context = torch.randn(5, *SHAPE).double(), torch.randn(5, 1, 3, 4)
    getattr(coupling, direction)(x, context)
    ((given, given_context),) = coupling.conditioner.calls
    assert given.dtype == torch.float32
    assert torch.equal(given, x[:, 0].float())
    assert given_context is context


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_the_context_changes_the_map(precision: Precision) -> None:
    name = f"coupling_with_context_{precision}"
    flow = build(name)
    x, _, context = draw(name, flow)
    y, _ = flow(x, context)
    other, _ = flow(x, context.flip(0))
    assert torch.equal(other[:, 0], y[:, 0])
    assert not torch.equal(other[:, 1], y[:, 1])


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_conditioner_that_lacks_its_context_is_refused(direction: str) -> None:
    coupling = make_coupling(PRECISIONS[2], context_channels=CONTEXT_CHANNELS)
    with pytest.raises(TypeError, match="context"):
        getattr(coupling, direction)(torch.randn(5, *SHAPE))


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@torch.no_grad()
def test_autocast_costs_no_digit_of_the_map(precision: Precision) -> None:
    """The conditioner reads the same bits both ways; in bfloat16 the rest would lose 5 digits."""
    name = f"coupling_{precision}"
    flow = build(name)
    x, _, context = draw(name, flow)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = flow(x, context)
        back, _ = flow.inverse(y, context)
    torch.testing.assert_close(back, x, atol=1e-5, rtol=1e-5)
