"""The phases of a step, as a listener and torch's profiler hear of them; training is the same."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from tests.runs import metrics, tensor_files, tiny_recipe
from torch.profiler import ProfilerActivity, profile

from tribin.models import GenerativeModel
from tribin.nn import initialize_from_data
from tribin.recipe import Recipe
from tribin.training.optimizer import build_optimizer
from tribin.training.phases import PHASES, listening, phase
from tribin.training.run_folder import build_model
from tribin.training.step import train_step
from tribin.training.trainer import train

MICRO_BATCH = ["forward", "backward"]
SHORT = ("training.images=40", "training.log_every_images=16", "checkpoints.every_images=null")


class Recorder:
    """Keeps the names that it hears, and sees that no phase begins in another."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.running: str | None = None

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        assert self.running is None, f"{name} in {self.running}"
        self.running = name
        yield
        self.running = None
        self.names.append(name)


def setting(*overrides: str) -> tuple[GenerativeModel, torch.optim.Optimizer, torch.Tensor, Recipe]:
    recipe = tiny_recipe(*overrides)
    model = build_model(recipe)
    images = torch.randint(17, (8, 1, 8, 8), dtype=torch.uint8)
    initialize_from_data(model, images)
    return model, build_optimizer(model, recipe), images, recipe


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_phases_of_a_step(accumulation: int) -> None:
    recorder, step = Recorder(), setting(f"training.accumulation={accumulation}")
    with listening(recorder):
        train_step(*step)
    update = ["clip", "optimizer", "clip", "optimizer"]  # update, latent weights, no gradient left
    assert recorder.names == accumulation * MICRO_BATCH + update


def test_a_step_that_is_not_finite_updates_nothing() -> None:
    model, *others = setting()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with listening(recorder := Recorder()):
        assert not train_step(model, *others).finite
    assert recorder.names == [*MICRO_BATCH, "clip", "optimizer"]


def test_the_phases_of_a_run(tmp_path: Path) -> None:
    """Five steps, of which the second, the fourth and the last log; each updates the average."""
    with listening(recorder := Recorder()):
        train(tiny_recipe(*SHORT), tmp_path / "run")
    before = ["data", "logging"]  # the signs before the step
    step = [*MICRO_BATCH, "clip", "optimizer", "clip", "optimizer", "optimizer"]
    expected = []
    for logs in (False, True, False, True, True):
        expected += [*before, *step, *(["logging"] if logs else [])]
    assert recorder.names == [*expected, "checkpoint"]
    assert set(expected) == set(PHASES)


@pytest.mark.parametrize("bits", [1, 32])
def test_a_run_that_is_listened_to_is_the_same_bit_for_bit(tmp_path: Path, bits: int) -> None:
    recipe = tiny_recipe(*SHORT, f"model.precision={{weights: {bits}, activations: {bits}}}")
    train(recipe, tmp_path / "alone")
    with listening(Recorder()), profile(activities=[ProfilerActivity.CPU]):
        train(recipe, tmp_path / "heard")
    alone, heard = tmp_path / "alone", tmp_path / "heard"
    assert len(tensor_files(alone, 40)) == 3
    assert tensor_files(alone, 40) == tensor_files(heard, 40)
    assert metrics(alone) == metrics(heard)


def test_torchs_profiler_shows_the_phases() -> None:
    step = setting()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        train_step(*step)
    calls = {event.key: event.count for event in profiler.key_averages()}
    assert {name: calls.get(name) for name in PHASES} == {
        "data": None, "forward": 1, "backward": 1, "clip": 2, "optimizer": 2, "logging": None,
    }  # fmt: skip


def test_a_listener_hears_until_its_context_ends() -> None:
    outer, inner = Recorder(), Recorder()
    with listening(outer):
        with suppress(ZeroDivisionError), listening(inner):
            with phase("data"):
                pass
            raise ZeroDivisionError
        with phase("clip"):
            pass
    with phase("forward"):
        pass
    assert (outer.names, inner.names) == (["clip"], ["data"])


BARE = """
import sys
for name in {blocked!r}.split():
    sys.modules[name] = None  # importing it fails
from types import SimpleNamespace
import torch
from tribin.models import ResNetVAE, ResNetVAEConfig
from tribin.profiling.step.profile import StepArm, profile_step
import tribin.profiling.report.step, tribin.profiling.step.trace
recipe = SimpleNamespace(
    optimizer=SimpleNamespace(
        learning_rate=2e-3, betas=(0.9, 0.999), epsilon=1e-8, schedule="exponential",
        decay=0.999995, final_learning_rate=5e-4, warmup_images=0, gradient_clip=1.0,
    ),
    training=SimpleNamespace(
        images=1000, batch_size=4, accumulation=1, autocast="none", ema_decay=None,
    ),
)
model = ResNetVAE(ResNetVAEConfig(width=8, latent_layers=1, extra_blocks=0), (1, 8, 8), 17)
device = torch.device("cpu")
arms = {{"W1A1": StepArm(model, recipe)}}
result = profile_step(arms, device, batch_size=4, ceilings={{}}, rounds=2)
print(len(result.entries))
"""


def test_steps_need_torch_and_einops_alone() -> None:
    blocked = "pydantic numpy yaml click tqdm safetensors matplotlib PIL wandb datasets"
    code = BARE.format(blocked=blocked)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "8\n"), run.stderr
