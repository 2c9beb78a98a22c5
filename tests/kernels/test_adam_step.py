import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tribin_kernels.adam_step import BLOCK, AdamStep
from tribin_kernels.reference import AdamSettings, AdamTensors, adam_step

SHAPES = [(), (3,), (BLOCK,), (BLOCK + 1,), (0, 4), (2 * BLOCK - 1, 2), (3, 5, 3, 3)]
STATE = ("parameter", "exp_avg", "exp_avg_sq", "average")
EXACT = 2.0**-24


def normal(seed: int, *shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def at_start(seed: int, shapes: list[tuple[int, ...]], *, averages: bool) -> list[AdamTensors]:
    """Every second one latent, and the last one without a gradient."""
    return [
        AdamTensors(
            parameter := normal(seed + i, *shape),
            *(torch.zeros_like(parameter) for _ in range(3)),
            torch.zeros(()),
            torch.full_like(parameter, 7.0) if averages else None,
            latent=i % 2 == 1,
        )
        for i, shape in enumerate(shapes)
    ]


def with_gradients(tensors: list[AdamTensors], seed: int, scale: float) -> list[AdamTensors]:
    given = [
        replace(each, gradient=scale * normal(seed + i, *each.parameter.shape))
        for i, each in enumerate(tensors[:-1])
    ]
    return [*given, replace(tensors[-1], gradient=None, exp_avg=None, exp_avg_sq=None, step=None)]


def norm_of(tensors: list[AdamTensors]) -> Tensor:
    gradients = [each.gradient for each in tensors if each.gradient is not None]
    return nn.utils.get_total_norm(gradients)


class TorchSteps:
    """The same steps by torch's own parts, in float64."""

    def __init__(self, tensors: list[AdamTensors], settings: AdamSettings) -> None:
        self.settings, self.latent = settings, [each.latent for each in tensors]
        self.parameters = [nn.Parameter(each.parameter.double()) for each in tensors]
        self.averages: list[Tensor] = []
        self.optimizer = torch.optim.Adam(
            self.parameters, settings.learning_rate, settings.betas, settings.epsilon
        )

    def take(self, tensors: list[AdamTensors]) -> None:
        for parameter, each in zip(self.parameters, tensors, strict=True):
            parameter.grad = None if each.gradient is None else each.gradient.double()
        nn.utils.clip_grad_norm_(self.parameters, self.settings.max_norm)
        self.optimizer.step()
        with torch.no_grad():
            for parameter, latent in zip(self.parameters, self.latent, strict=True):
                parameter.clamp_(*((-1, 1) if latent else (None, math.inf)))
        now = [parameter.detach() for parameter in self.parameters]
        if not self.averages:
            self.averages = [parameter.clone() for parameter in now]
        else:
            get_ema_multi_avg_fn(self.settings.decay)(self.averages, now, 0)

    def state(self, index: int) -> dict[str, Tensor]:
        parameter = self.parameters[index]
        state = self.optimizer.state.get(parameter, {})
        return {"parameter": parameter, "average": self.averages[index], **state}


def assert_close(got: Tensor, wanted: Tensor, steps: int, size: float) -> None:
    """Within a dozen roundings a step of values up to `size`."""
    bound = 12 * steps * EXACT * (size + wanted.abs())
    assert bool(((got.double() - wanted).abs() <= bound).all())


@settings(max_examples=10)
@given(
    seed=st.integers(0, 10**6),
    shapes=st.lists(st.sampled_from(SHAPES), min_size=2, max_size=6),
    max_norm=st.sampled_from([math.inf, 1.0]),
    beta2=st.sampled_from([0.999, 0.9999, 0.0]),
    averages=st.booleans(),
    step=st.sampled_from([AdamStep, lambda: adam_step]),
)
def test_steps_are_torchs(
    seed: int,
    shapes: list[tuple[int, ...]],
    max_norm: float,
    beta2: float,
    averages: bool,
    step: Callable[[], Callable[..., None]],
) -> None:
    numbers = AdamSettings(0.1, (0.9, beta2), 1e-3, max_norm, 0.9)
    tensors = at_start(seed, shapes, averages=averages)
    expected, take = TorchSteps(tensors, numbers), step()
    averaged = torch.tensor(0) if averages else None
    for k in range(3):
        tensors = with_gradients(tensors, seed + 100 * (k + 1), 10.0 ** (k - 1))
        expected.take(tensors)
        take(tensors, norm_of(tensors), torch.tensor(True), averaged, numbers)
    for index, each in enumerate(tensors):
        wanted = expected.state(index)
        for name in STATE:
            if (got := getattr(each, name)) is not None:
                assert_close(got, wanted[name], 3, 10.0 ** (2 if name == "exp_avg_sq" else 0))
        assert each.step is None or int(each.step) == 3
    assert averaged is None or int(averaged) == 3


@pytest.mark.parametrize("step", [AdamStep(), adam_step])
def test_a_step_that_is_not_finite_changes_nothing(step: Callable[..., None]) -> None:
    tensors = with_gradients(at_start(0, [(5,), (BLOCK + 3,), (2,)], averages=True), 9, math.nan)
    averaged, before = torch.tensor(2), copy.deepcopy(tensors)
    step(tensors, norm_of(tensors), torch.tensor(False), averaged, AdamSettings(1, (0.9, 0.9), 1))
    for each, old in zip(tensors, before, strict=True):
        for name in (*STATE, "step"):
            got, wanted = getattr(each, name), getattr(old, name)
            assert wanted is None or torch.equal(got, wanted)
    assert int(averaged) == 2


@pytest.mark.parametrize("offset", [0, 1])
def test_strides_and_alignment_of_gradients(offset: int) -> None:
    """A gradient may be contiguous under a channels-last parameter, or a part of a bucket."""
    parameter = normal(0, 3, 5, 2, 2)
    gradient = torch.cat([torch.full((offset,), math.nan), normal(1, 60)])[offset:].view(3, 5, 2, 2)
    results = []
    for step in (AdamStep(), adam_step):
        each = AdamTensors(
            parameter.clone(), gradient, *(torch.zeros_like(parameter) for _ in range(2)),
            torch.zeros(()),
        )  # fmt: skip
        step([each], torch.tensor(1.0), torch.tensor(True), None, AdamSettings(0.1, (0.9, 0.9), 1))
        results.append(each.parameter)
    assert_close(results[0], results[1].double(), 1, 1.0)


def test_moments_that_move_are_found_again() -> None:
    """Such as those of a checkpoint, put in the place of others."""
    numbers, step = AdamSettings(0.1, (0.9, 0.9), 1), AdamStep()
    each = with_gradients(at_start(0, [(9,), (9,)], averages=False), 5, 1.0)[0]
    arguments = (torch.tensor(1.0), torch.tensor(True), None, numbers)
    step([each], *arguments)
    moved = replace(each, exp_avg=torch.zeros(9), exp_avg_sq=torch.zeros(9), step=torch.zeros(()))
    step([moved], *arguments)
    assert torch.equal(moved.exp_avg, each.exp_avg)
    assert int(each.step) == int(moved.step) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"parameter": torch.zeros(4).double()}, TypeError, "parameter has the dtype torch.float6"),
        ({"gradient": torch.zeros(4).half()}, TypeError, "gradient has the dtype torch.float16"),
        ({"parameter": torch.zeros(8)[::2]}, ValueError, r"the strides \(2,\), with gaps"),
        ({"average": torch.zeros(8)[::2]}, ValueError, r"average has .* \(2,\), wanted .* \(1,\)"),
    ],
)
def test_bad_input(change: dict[str, Tensor], error: type[Exception], message: str) -> None:
    each = AdamTensors(*(torch.zeros(4) for _ in range(4)), torch.zeros(()))
    with pytest.raises(error, match=message):
        AdamStep()(
            [replace(each, **change)],
            torch.tensor(1.0),
            torch.tensor(True),
            None,
            AdamSettings(1, (0.9, 0.9), 1),
        )
