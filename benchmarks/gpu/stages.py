"""The stages of a campaign, the most valuable ones first."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.gpu.bench import Bench, strict
from benchmarks.gpu.campaign import Stage
from benchmarks.gpu.check import checks
from benchmarks.gpu.contender import STATE
from benchmarks.gpu.environment import environment
from benchmarks.gpu.images import read_images
from benchmarks.gpu.kernels import PARTS, layer_problems, linear_problems, profile_what_works
from benchmarks.gpu.recipes import MODEL_NAMES, PRECISIONS, build_model, read_recipe
from benchmarks.gpu.side_by_side import train_side_by_side
from tribin.atomic_file import write_atomically
from tribin.profiling.ceilings import measure_ceilings
from tribin.profiling.kernels.problem import Problem
from tribin.profiling.kernels.profile import profile_kernels
from tribin.profiling.model.arms import arms_of, initialize_on_noise
from tribin.profiling.model.memory import peak_memory_of_arms
from tribin.profiling.model.profile import profile_model
from tribin.profiling.report import table, write_report
from tribin.profiling.result import FILE_NAME, Result
from tribin.profiling.step.profile import StepArm, profile_step
from tribin.profiling.timing import ROUNDS
from tribin.provenance import provenance

CHECK_SECONDS = {"real_layers": 60, "ragged_layers": 90, "packed_layers": 120, "dispatch": 60}
KERNEL_SECONDS = {"resnet_vae": 12, "flowpp": 50}
"""For each op of a model's layers."""

TINY_SECONDS = 30
TINY_ROUNDS = 2
TINY_BASELINES = ("torch float32", "simulated")


@dataclass(frozen=True)
class Settings:
    """What a campaign is.

    Attributes:
        output: its folder.
        device: where everything runs.
        tiny: small models and shapes.
        data: images to train on, see `benchmarks.gpu.images`; None for no training.
        test: images to evaluate training on; None for those of `data` that are held out.
    """

    output: Path
    device: torch.device
    tiny: bool = False
    data: Path | None = None
    test: Path | None = None

    @property
    def rounds(self) -> int:
        """How often each contender has its turn."""
        return TINY_ROUNDS if self.tiny else ROUNDS


Run = Callable[[Settings, Path, float], None]
"""What a stage does, given its folder and the seconds that it may take."""


def stages(settings: Settings) -> list[Stage]:
    """All of them."""
    return [
        Stage(name, TINY_SECONDS if settings.tiny else seconds, partial(run, settings), rest)
        for name, seconds, run, rest in _stages(settings)
    ]


def run_stage(settings: Settings, name: str, folder: Path, seconds: float) -> None:
    """Do the stage of that name; see `Stage.run`."""
    (stage,) = (stage for stage in stages(settings) if stage.name == name)
    stage.run(folder, seconds)


def _stages(settings: Settings) -> Iterator[tuple[str, float, Run, bool]]:
    """Name, seconds, what to do, and whether it takes the rest of the time."""
    yield "environment", 10, _environment, False
    for check in checks(settings.device):
        yield f"check.{check}", CHECK_SECONDS.get(check, 20), partial(_check, check), False
    yield "ceilings", 15, _ceilings, False
    for part, (_, ops) in PARTS.items():
        for model in MODEL_NAMES:
            seconds = 20 + len(ops) * KERNEL_SECONDS[model]
            yield f"kernels.{part}.{model}", seconds, partial(_kernels, model, part), False
    yield "kernels.linear", 90, _linear_kernels, False
    for model in MODEL_NAMES:
        yield f"model.{model}", 60, partial(_model, model), False
    for model in MODEL_NAMES:
        yield f"step.{model}", 60, partial(_step, model), False
    if settings.data:
        for model in MODEL_NAMES:
            yield f"training.{model}", 150, partial(_training, model), True


def _environment(settings: Settings, folder: Path, seconds: float) -> None:
    _write(folder, environment(settings.device))


def _check(name: str, settings: Settings, folder: Path, seconds: float) -> None:
    check = checks(settings.device)[name]
    lines: list[str] = []
    print(check.__doc__)
    with strict():
        for line in check(Bench(settings.device, settings.tiny)):
            print(f"  {line}")
            lines.append(line)
    _write(folder, {"check": name, "saw": lines, **provenance(settings.device)})


def _ceilings(settings: Settings, folder: Path, seconds: float) -> None:
    rates = measure_ceilings(settings.device, quick=settings.tiny)
    for name, rate in rates.items():
        print(f"  {name}: {rate:.3g} {'bytes' if name == 'copy' else 'operations'}/s")
    _write(folder, rates)


def _known_ceilings(settings: Settings) -> dict[str, float]:
    """Those of the stage, or measured here where it was not done."""
    file = settings.output / "ceilings" / FILE_NAME
    if not file.exists():
        return measure_ceilings(settings.device, quick=settings.tiny)
    rates: dict[str, float] = json.loads(file.read_bytes())
    return rates


def _kernels(model: str, part: str, settings: Settings, folder: Path, seconds: float) -> None:
    _profile_kernels(layer_problems(model, part, tiny=settings.tiny), settings, folder)


def _linear_kernels(settings: Settings, folder: Path, seconds: float) -> None:
    _profile_kernels(linear_problems(tiny=settings.tiny), settings, folder)


def _profile_kernels(problems: Sequence[Problem], settings: Settings, folder: Path) -> None:
    ceilings = _known_ceilings(settings)

    def profile(problems: Sequence[Problem]) -> Result:
        return profile_kernels(
            problems,
            settings.device,
            dtype=torch.bfloat16 if settings.device.type == "cuda" else torch.float32,
            ceilings=ceilings,
            baselines=TINY_BASELINES if settings.tiny else None,
            rounds=settings.rounds,
        )

    result, faults = profile_what_works(problems, profile)
    if result:
        _report(result, folder)
    if faults:
        raise AssertionError("; ".join(faults))


def _model(name: str, settings: Settings, folder: Path, seconds: float) -> None:
    recipe = read_recipe(name, "w1a1", tiny=settings.tiny)
    arms = arms_of(initialize_on_noise(build_model(recipe).to(settings.device)))
    batch_sizes = recipe.training.batch_size, 1
    on_gpu = settings.device.type == "cuda"
    result = profile_model(
        arms,
        settings.device,
        batch_sizes=batch_sizes,
        ceilings=_known_ceilings(settings),
        rounds=settings.rounds,
        settings={"model": name},
        memory=peak_memory_of_arms(arms, settings.device, batch_sizes[0]) if on_gpu else None,
    )
    _report(result, folder)


def _step(name: str, settings: Settings, folder: Path, seconds: float) -> None:
    recipes = {p.upper(): read_recipe(name, p, tiny=settings.tiny) for p in PRECISIONS}
    arms = {arm: StepArm(build_model(recipe), cast(Any, recipe)) for arm, recipe in recipes.items()}
    result = profile_step(
        arms,
        settings.device,
        batch_size=recipes["W1A1"].training.batch_size,
        ceilings=_known_ceilings(settings),
        rounds=settings.rounds,
        settings={"model": name},
    )
    _report(result, folder)


def _training(model: str, settings: Settings, folder: Path, seconds: float) -> None:
    assert settings.data is not None
    images = read_images(settings.data, settings.test)
    code = train_side_by_side(
        model, images, folder, settings.device, seconds=seconds, tiny=settings.tiny, report=print
    )
    if code == 1:
        raise AssertionError("a precision failed, see above")
    for state in folder.glob(f"*/{STATE}"):  # gigabytes, and the stage is done
        state.unlink()


def _report(result: Result, folder: Path) -> None:
    write_report(result, folder)
    print(table(result))


def _write(folder: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, default=vars)
    write_atomically(folder / FILE_NAME, f"{text}\n".encode())
