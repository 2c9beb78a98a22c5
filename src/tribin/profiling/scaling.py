"""How the time of kernels and models grows with width, batch and image size."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch

from tribin.cost import evaluation, operation_costs
from tribin.models import GenerativeModel
from tribin.profiling.kernels.problem import Problem
from tribin.profiling.kernels.profile import profile_kernels
from tribin.profiling.model.agreement import check_twins
from tribin.profiling.model.arms import FLOAT, PACKED, arms_of, initialize_on_noise, random_images
from tribin.profiling.prediction import predicted_seconds
from tribin.profiling.result import Entry, Result
from tribin.profiling.timing import ROUNDS, Contender, Race, Timing, run_races

BASELINES = ("torch float32",)
"""Of kernels."""

BATCHES = 2
"""Of images, which take turns."""


@dataclass(frozen=True)
class Sizes:
    """What a cost depends on.

    Attributes:
        width: channels.
        batch: images.
        side: height and width of an image.
    """

    width: int
    batch: int
    side: int

    def __str__(self) -> str:
        return f"width {self.width}, batch {self.batch}, side {self.side}"


@dataclass(frozen=True)
class Sweep:
    """Sizes that differ in one.

    Attributes:
        axis: which: a field of `Sizes`.
        values: three of it at least.
        base: the other sizes.
    """

    axis: str
    values: tuple[int, ...]
    base: Sizes

    @property
    def sizes(self) -> list[Sizes]:
        """One after the other."""
        return [replace(self.base, **{self.axis: value}) for value in self.values]


Kernel = Callable[[Sizes], Problem]
Model = Callable[[Sizes], GenerativeModel]
"""Binary, with weights of its own, on a CPU."""


@dataclass(frozen=True)
class Scaling:
    """How the time of one contender at one subject grows along a sweep.

    Attributes:
        subject: such as "binary_conv2d_w1a1".
        contender: such as "tribin".
        axis: the field of `Sizes` that varies.
        values: of it.
        seconds: the median at each of them.
        predicted: what the cost model says, in seconds; None where a ceiling is not known.
        exponent: of the power of the size that fits the seconds best.
        standard_error: of the exponent.
        expected: the exponent that fits the number of operations.
    """

    subject: str
    contender: str
    axis: str
    values: list[int]
    seconds: list[float]
    predicted: list[float | None]
    exponent: float
    standard_error: float
    expected: float


class _Setup(NamedTuple):
    device: torch.device
    ceilings: Mapping[str, float]
    rounds: int
    progress: Callable[[str], None]


class _Measured(NamedTuple):
    entry: Entry
    predicted: float | None


_Measurements = dict[tuple[str, str, Sizes], _Measured]
"""By subject, contender and sizes."""


def profile_scaling(
    kernels: Mapping[str, Kernel],
    kernel_sweeps: Sequence[Sweep],
    models: Mapping[str, Model],
    model_sweeps: Sequence[Sweep],
    device: torch.device,
    *,
    ceilings: Mapping[str, float],
    rounds: int = ROUNDS,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda problem: None,
) -> Result:
    """Time every subject along every sweep, and fit seconds ∝ size^exponent to each.

    Kernels run beside torch, both on float32 activations. Models evaluate random images, one draw
    of each one's density, packed and in float32. What is timed is compared with float64, or with
    its twin, before.

    The details have ``"sweeps"``, a list with the fields of `Scaling`.

    Args:
        kernels: the subjects of the kernel sweeps, by name.
        kernel_sweeps: their sizes.
        models: the subjects of the model sweeps, by name.
        model_sweeps: their sizes.
        device: where.
        ceilings: of `Result`.
        rounds: how often each contender has its turn, at least 2.
        settings: of `Result`; the rounds join them.
        progress: called with the name of each problem that is on.

    Raises:
        WrongResultError: if a contender computes something else than it should.
    """
    setup = _Setup(device, ceilings, rounds, progress)
    measured = _measure_kernels(kernels, _all_sizes(kernel_sweeps), setup)
    measured |= _measure_models(models, _all_sizes(model_sweeps), setup)
    scalings = [
        *_scalings(kernels, kernel_sweeps, measured), *_scalings(models, model_sweeps, measured)
    ]  # fmt: skip
    return Result.of_now(
        "scaling",
        device,
        {**(settings or {}), "rounds": rounds},
        ceilings,
        [one.entry for one in measured.values()],
        {"sweeps": [asdict(scaling) for scaling in scalings]},
    )


def _all_sizes(sweeps: Sequence[Sweep]) -> list[Sizes]:
    """Each once."""
    return list(dict.fromkeys(sizes for sweep in sweeps for sizes in sweep.sizes))


def _measure_kernels(
    kernels: Mapping[str, Kernel], all_sizes: Sequence[Sizes], setup: _Setup
) -> _Measurements:
    if not kernels:
        return {}
    places = {
        kernel(sizes): (subject, sizes)
        for subject, kernel in kernels.items()
        for sizes in all_sizes
    }
    result = profile_kernels(
        list(places),
        setup.device,
        dtype=torch.float32,
        ceilings=setup.ceilings,
        baselines=BASELINES,
        rounds=setup.rounds,
        progress=setup.progress,
    )
    names = {problem.name: place for problem, place in places.items()}
    measured = {}
    for entry in result.entries:
        subject, sizes = names[entry.problem]
        measured[subject, entry.contender, sizes] = _Measured(entry, result.floor(entry))
    return measured


def _measure_models(
    models: Mapping[str, Model], all_sizes: Sequence[Sizes], setup: _Setup
) -> _Measurements:
    arms = {
        (subject, sizes): _arms(model(sizes).to(setup.device))
        for (subject, model), sizes in product(models.items(), all_sizes)
    }
    races = [
        Race(_name(*place), partial(_contenders, of_model, place[1]))
        for place, of_model in arms.items()
    ]
    with torch.inference_mode():
        timings = run_races(races, setup.device, rounds=setup.rounds, progress=setup.progress)
    return {
        (subject, arm, sizes): _measured(
            _name(subject, sizes), arm, model, sizes, timings[_name(subject, sizes), arm], setup
        )
        for (subject, sizes), of_model in arms.items()
        for arm, model in of_model.items()
    }


def _arms(model: GenerativeModel) -> dict[str, GenerativeModel]:
    arms = arms_of(initialize_on_noise(model))
    check_twins(arms)
    return {arm: arms[arm] for arm in (PACKED, FLOAT)}


def _name(subject: str, sizes: Sizes) -> str:
    return f"{subject} evaluate, {sizes}"


def _contenders(arms: Mapping[str, GenerativeModel], sizes: Sizes) -> list[Contender]:
    return [
        Contender(
            arm,
            [partial(model.log_weight, random_images(model, sizes.batch)) for _ in range(BATCHES)],
            captured=False,
        )
        for arm, model in arms.items()
    ]


def _measured(
    problem: str, arm: str, model: GenerativeModel, sizes: Sizes, timing: Timing, setup: _Setup
) -> _Measured:
    costs = operation_costs(model, evaluation(sizes.batch)) or []
    entry = Entry.of_costs(problem, arm, timing, costs, sizes.batch)
    return _Measured(entry, predicted_seconds(costs, setup.ceilings))


def _scalings(
    subjects: Iterable[str], sweeps: Sequence[Sweep], measured: _Measurements
) -> Iterator[Scaling]:
    for subject in subjects:
        contenders = dict.fromkeys(contender for name, contender, _ in measured if name == subject)
        for sweep, contender in product(sweeps, contenders):
            points = [measured[subject, contender, sizes] for sizes in sweep.sizes]
            yield _scaling(subject, contender, sweep, points)


def _scaling(subject: str, contender: str, sweep: Sweep, points: Sequence[_Measured]) -> Scaling:
    seconds = [point.entry.timing.median for point in points]
    exponent, standard_error = power_law(sweep.values, seconds)
    expected, _ = power_law(sweep.values, [point.entry.operations for point in points])
    return Scaling(
        subject, contender, sweep.axis, list(sweep.values), seconds,
        [point.predicted for point in points], exponent, standard_error, expected,
    )  # fmt: skip


def power_law(sizes: Sequence[float], amounts: Sequence[float]) -> tuple[float, float]:
    """The exponent of the power of the size that fits best, and its standard error.

    By least squares of the logarithms.

    Args:
        sizes: three or more, not all the same, above 0.
        amounts: as many, above 0.
    """
    x, y = ([math.log(value) for value in values] for values in (sizes, amounts))
    exponent, intercept = statistics.linear_regression(x, y)
    residuals = (b - intercept - exponent * a for a, b in zip(x, y, strict=True))
    variance = sum(residual**2 for residual in residuals) / (len(x) - 2)
    spread = statistics.pvariance(x) * len(x)
    return exponent, math.sqrt(variance / spread)
