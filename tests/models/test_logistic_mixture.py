"""Logistic mixtures against their definition in 60 digits, and their inverse by its bracket."""

import math
from decimal import Context, Decimal, localcontext

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from tribin.models import logistic_mixture
from tribin.models.logistic_mixture import LogisticMixture

DTYPES = [torch.float32, torch.float64]
SIXTY_DIGITS = Context(prec=60, Emax=10**9, Emin=-(10**9))
Components = list[tuple[float, float, float]]
"""The logit, mean and log-scale of each."""

MIXTURES = st.lists(
    st.tuples(st.floats(-5, 5), st.floats(-100, 100), st.floats(-7, 5)), min_size=1, max_size=6
)
PLATEAU = [(0.3, -100.0, -3.0), (0.0, 100.0, -3.0)]
PLATEAUS = [(-0.8, -3.7, -7.0), (2.8, -6.8, -7.0), (2.2, -0.8, -7.0)]


def make_mixture(components: Components, dtype: torch.dtype = torch.float64) -> LogisticMixture:
    return LogisticMixture(*torch.tensor(components, dtype=dtype).T)


def random_mixture(*shape: int) -> LogisticMixture:
    """Components of moderate width that overlap."""
    mean = torch.randn(shape, dtype=torch.float64)
    return LogisticMixture(torch.randn_like(mean), mean, torch.randn_like(mean) / 2)


def exact(components: Components, x: float) -> tuple[Decimal, Decimal]:
    """The logit of the distribution function, and the logarithm of its derivative."""
    with localcontext(SIXTY_DIGITS):
        weights, below, above, density = [], [], [], []
        for logit, mean, log_scale in components:
            scale = Decimal(log_scale).exp()
            centred = (Decimal(x) - Decimal(mean)) / scale
            weights.append(Decimal(logit).exp())
            below.append(weights[-1] / (1 + (-centred).exp()))
            above.append(weights[-1] / (1 + centred.exp()))
            density.append(below[-1] * above[-1] / weights[-1] / scale)
        slope = sum(density) * sum(weights) / (sum(below) * sum(above))
        return (sum(below) / sum(above)).ln(), slope.ln()


def rounding(components: Components, logit: float) -> float:
    """A bound of the error of `logit_cdf` in float64, where its result is `logit`.

    Its summands, log-weights and log-sigmoids, each have a few roundings relative to their sizes.
    Those that matter to the sum are no larger than its parts, log F and log(1 - F), and the
    logarithms of the weights.
    """
    logits = [component[0] for component in components]
    log_weights = max(logits) - min(logits) + math.log(len(logits))
    return 8 * torch.finfo(torch.float64).eps * (1 + abs(logit) + log_weights)


@given(components=MIXTURES, x=st.floats(-150, 150))
@example(components=PLATEAU, x=17.0)
def test_logit_cdf_is_its_definition(components: Components, x: float) -> None:
    logit, log_slope = make_mixture(components).logit_cdf(torch.tensor(x, dtype=torch.float64))
    expected_logit, expected_log_slope = map(float, exact(components, x))
    bound = rounding(components, expected_logit)
    assert abs(float(logit) - expected_logit) < bound
    # Its numerator is the logarithm of the density, which has parts of its own.
    assert abs(float(log_slope) - expected_log_slope) < 2 * bound + 4e-15 * abs(expected_log_slope)


def test_logit_cdf_is_its_formula_in_the_centre() -> None:
    torch.manual_seed(0)
    mixture = random_mixture(50, 4)
    x = torch.randn(50, dtype=torch.float64)
    sigmoid = 1 / (1 + (-(x.unsqueeze(1) - mixture.mean) / mixture.log_scale.exp()).exp())
    weights = mixture.logits.exp() / mixture.logits.exp().sum(1, keepdim=True)
    cdf = (weights * sigmoid).sum(1)
    density = (weights * sigmoid * (1 - sigmoid) / mixture.log_scale.exp()).sum(1)
    logit, log_slope = mixture.logit_cdf(x)
    torch.testing.assert_close(logit, (cdf / (1 - cdf)).log(), atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, (density / cdf / (1 - cdf)).log(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("log_scale", [-7.0, -3.3, 0.0, 5.0])
def test_a_single_logistic_is_a_straight_line(log_scale: float, dtype: torch.dtype) -> None:
    """Also where its distribution function is 0 or 1, to rounding of the logit itself."""
    x = torch.tensor([-1e4, -30.0, -1.0, 0.4, 2.0, 55.0, 1e4], dtype=dtype)
    logit, log_slope = make_mixture([(1.7, 0.4, log_scale)], dtype).logit_cdf(x)
    line = (x.double() - torch.tensor(0.4, dtype=dtype)) / math.exp(log_scale)
    error = 4 * torch.finfo(dtype).eps * (1 + abs(log_scale) + line.abs())
    assert ((logit - line).abs() < error).all()
    assert ((log_slope + log_scale).abs() < error).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_results_are_finite_however_far_and_narrow(dtype: torch.dtype) -> None:
    mixture = make_mixture([(3.0, -100.0, -7.0), (-3.0, 0.0, -7.0), (0.0, 100.0, 5.0)], dtype)
    x = torch.linspace(-1e4, 1e4, 1001, dtype=dtype).unsqueeze(1)
    expanded = LogisticMixture(*(p.expand(1001, 1, 3) for p in vars(mixture).values()))
    for result in expanded.logit_cdf(x):
        assert result.dtype == dtype
        assert result.isfinite().all()


def test_a_symmetric_mixture_is_an_odd_function() -> None:
    mixture = make_mixture([(0.5, -2.0, -1.0), (0.0, 0.0, 1.0), (0.5, 2.0, -1.0)])
    x = torch.linspace(0, 50, 30, dtype=torch.float64)
    logit, log_slope = mixture.logit_cdf(x)
    mirrored, mirrored_log_slope = mixture.logit_cdf(-x)
    torch.testing.assert_close(mirrored, -logit, atol=1e-13, rtol=1e-14)
    torch.testing.assert_close(mirrored_log_slope, log_slope, atol=1e-13, rtol=1e-14)


def test_the_logit_grows() -> None:
    mixture = make_mixture([(0.5, -2.0, -2.0), (0.0, 1.0, 1.0), (-2.0, 7.0, -3.0)])
    logit, _ = mixture.logit_cdf(torch.linspace(-20, 20, 2001, dtype=torch.float64))
    assert (logit.diff() > 0).all()


def test_the_log_slope_is_that_of_autograd() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, dtype=torch.float64, requires_grad=True)
    logit, log_slope = random_mixture(50, 4).logit_cdf(x)
    (slope,) = torch.autograd.grad(logit.sum(), x)
    torch.testing.assert_close(log_slope, slope.log(), atol=1e-12, rtol=0)


def assert_root(components: Components, target: float) -> None:
    """The equation's root lies within 1e-10 of what was found.

    Unless the target is within rounding of a plateau: there any point of the plateau will do.
    """
    mixture = make_mixture(components)
    root = float(mixture.inverse_logit_cdf(torch.tensor(target, dtype=torch.float64)))
    margin = 1e-10 * max(1, abs(root))
    bound = rounding(components, target)
    below, above = (float(exact(components, x)[0]) for x in (root - margin, root + margin))
    assert below - bound <= target <= above + bound


@given(components=MIXTURES, target=st.floats(-50, 50))
@example(components=[(0.0, -100.0, -7.0), (0.0, 100.0, -7.0)], target=0.0)
def test_the_inverse_finds_the_root(components: Components, target: float) -> None:
    assert_root(components, target)


@given(components=MIXTURES, x=st.floats(-150, 150), ulps=st.integers(-3, 3))
@example(components=PLATEAU, x=17.0, ulps=0)
@example(components=PLATEAUS, x=-5.25, ulps=-1)
def test_the_inverse_finds_the_root_of_what_the_mixture_gives(
    components: Components, x: float, ulps: int
) -> None:
    """Such a target may lie on a plateau between two components, or a rounding beside it."""
    logit, _ = make_mixture(components).logit_cdf(torch.tensor(x, dtype=torch.float64))
    assert_root(components, float(logit) * (1 + ulps * torch.finfo(torch.float64).eps))


def test_the_inverse_does_not_depend_on_the_order_of_the_components() -> None:
    torch.manual_seed(0)
    mixture, target = random_mixture(200, 4), 10 * torch.randn(200, dtype=torch.float64)
    reversed_mixture = LogisticMixture(*(p.flip(-1) for p in vars(mixture).values()))
    torch.testing.assert_close(
        reversed_mixture.inverse_logit_cdf(target),
        mixture.inverse_logit_cdf(target),
        atol=1e-12,
        rtol=1e-12,
    )


def test_the_gradient_of_the_inverse_is_that_of_its_differences() -> None:
    torch.manual_seed(0)
    mixture, target = random_mixture(5, 3), torch.randn(5, dtype=torch.float64)
    inputs = [p.requires_grad_() for p in (*vars(mixture).values(), target)]

    def inverse(logits: Tensor, mean: Tensor, log_scale: Tensor, target: Tensor) -> Tensor:
        return LogisticMixture(logits, mean, log_scale).inverse_logit_cdf(target)

    assert torch.autograd.gradcheck(inverse, inputs)


def test_the_derivative_of_the_inverse_is_one_over_that_of_the_function() -> None:
    torch.manual_seed(0)
    mixture, target = random_mixture(50, 4), torch.randn(50, dtype=torch.float64).requires_grad_()
    root = mixture.inverse_logit_cdf(target)
    (derivative,) = torch.autograd.grad(root.sum(), target)
    _, log_slope = mixture.logit_cdf(root)
    torch.testing.assert_close(derivative.log(), -log_slope, atol=1e-12, rtol=0)


def test_a_root_that_is_no_number_keeps_the_others() -> None:
    torch.manual_seed(0)
    mixture, target = random_mixture(3, 4), torch.tensor([0.5, torch.nan, -0.5]).double()
    root = mixture.inverse_logit_cdf(target)
    assert root.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(mixture.logit_cdf(root)[0][[0, 2]], target[[0, 2]])


def test_float32_is_solved_in_float64() -> None:
    torch.manual_seed(0)
    mixture, target = random_mixture(50, 4), torch.randn(50)
    single = LogisticMixture(*(p.float() for p in vars(mixture).values()))
    double = LogisticMixture(*(p.double() for p in vars(single).values()))
    root = single.inverse_logit_cdf(target)
    assert root.dtype == torch.float32
    assert torch.equal(root, double.inverse_logit_cdf(target.double()).float())


@pytest.mark.parametrize("spread", [1.0, 10.0, 100.0])
def test_the_search_ends_long_before_its_limit(
    spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bisection alone takes log2(15,000/1e-12) = 54 steps from the widest bracket here.

    Newton's steps shorten that or, where they mislead, add to it a little.
    """
    torch.manual_seed(0)
    mean = spread * (2 * torch.rand(5000, 5, dtype=torch.float64) - 1)
    mixture = LogisticMixture(torch.randn_like(mean), mean, 12 * torch.rand_like(mean) - 7)
    arbitrary = 100 * torch.rand(5000, dtype=torch.float64) - 50
    taken, _ = mixture.logit_cdf(spread * torch.randn(5000, dtype=torch.float64))
    calls, logit_cdf = [], LogisticMixture.logit_cdf

    def counted(self: LogisticMixture, x: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(x)
        return logit_cdf(self, x)

    monkeypatch.setattr(LogisticMixture, "logit_cdf", counted)
    for target in (arbitrary, taken.clamp(-50, 50)):
        calls.clear()
        mixture.inverse_logit_cdf(target)
        assert len(calls) < 80 < logistic_mixture._MAXIMUM_ITERATIONS
