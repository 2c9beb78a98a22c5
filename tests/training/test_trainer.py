"""What a run does with its images, its averages, its noise, and a step that is not finite."""

import copy
import itertools
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.runs import checkpoints, metrics, tensor_files, tiny_recipe
from torch import Tensor, nn

from tribin.data import load_images
from tribin.errors import InputError, NonFiniteError
from tribin.models import Objective, ResNetVAE
from tribin.nn import initialization, latent_weights
from tribin.recipe import Recipe
from tribin.training import trainer
from tribin.training.checkpoint import CheckpointStore
from tribin.training.optimizer import learning_rate, optimizer_tensors
from tribin.training.run_folder import build_model
from tribin.training.step import StepResult, train_step
from tribin.training.trainer import resume, train

SHORT = ("training.images=84", "checkpoints.every_images=null", "checkpoints.keep=99")
STEPS = 11  # ten of 8 images and one of 4


def records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in metrics(run_dir).splitlines()]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Have a function see (model, optimizer, images, result) after each step."""

    def start(see: Callable[..., None]) -> None:
        def step(model: Any, optimizer: Any, images: Tensor, *others: Any) -> StepResult:
            result = train_step(model, optimizer, images, *others)
            see(model, optimizer, images, result)
            return result

        monkeypatch.setattr(trainer, "train_step", step)

    return start


# Images


def test_a_run_sees_exactly_its_images_in_the_order_of_its_seed(
    tmp_path: Path, watch: Callable[..., None]
) -> None:
    seen: list[Tensor] = []
    watch(lambda model, optimizer, images, result: seen.append(images.clone()))
    train(tiny_recipe(*SHORT, "seed=5", "training.log_every_images=16"), tmp_path / "run")
    assert [len(images) for images in seen] == [8] * 10 + [4]
    data = load_images("digits", validation_images=40).train
    order = np.random.RandomState([5, 0]).permutation(len(data))
    assert torch.equal(torch.cat(seen), data[torch.from_numpy(order[:84])])
    logged = [record["images_seen"] for record in records(tmp_path / "run")]
    assert logged == [16, 32, 48, 64, 80, 84]


def test_the_network_is_initialized_on_the_first_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Tensor] = []
    monkeypatch.setattr(trainer, "initialize_from_data", lambda model, images: given.append(images))
    for count in (20, 9999):
        settings = ("training.images=8", f"training.initialization_images={count}")
        train(tiny_recipe(*settings, "seed=5"), tmp_path / str(count))
    data = load_images("digits", validation_images=40).train
    order = np.random.RandomState([5, 0]).permutation(len(data))
    assert torch.equal(given[0], data[torch.from_numpy(order[:20])])
    assert torch.equal(given[1], data[torch.from_numpy(order)])


def test_dropout_waits_for_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Callable[..., None]
) -> None:
    modes: list[bool] = []
    monkeypatch.setattr(
        trainer, "initialize_from_data", lambda model, images: modes.append(model.training)
    )
    watch(lambda model, *_: modes.append(model.training))
    train(tiny_recipe("training.images=16", "evaluation.every_images=8"), tmp_path / "run")
    assert modes == [False, True, True]


def test_what_happens_every_so_many_images_happens_at_the_first_step_from_there_on(
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "run"
    train(
        tiny_recipe(
            *SHORT,
            "checkpoints.every_images=20",
            "samples.every_images=30",
            "evaluation.every_images=40",
        ),
        run_dir,
    )
    assert checkpoints(run_dir) == [24, 40, 64, 80, 84]
    for folder in ("samples", "reconstructions"):
        assert sorted(file.name for file in (run_dir / folder).iterdir()) == [
            "32.png",
            "64.png",
            "84.png",
        ]
    validations = [r["images_seen"] for r in records(run_dir) if "validation/raw/bits_per_dim" in r]
    assert validations == [40, 80]


def test_metrics_are_on_the_disk_before_the_checkpoint_that_follows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    saved: list[tuple[int, int]] = []
    save, fsync = CheckpointStore.save, os.fsync

    def note_lines(descriptor: int) -> None:
        fsync(descriptor)
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/metrics.jsonl"):
            synced.append(len(records(tmp_path / "run")))

    def note_save(store: CheckpointStore, images_seen: int, *others: Any) -> None:
        saved.append((images_seen, synced[-1]))
        save(store, images_seen, *others)

    monkeypatch.setattr(os, "fsync", note_lines)
    monkeypatch.setattr(CheckpointStore, "save", note_save)
    train(tiny_recipe(*SHORT, "checkpoints.every_images=24"), tmp_path / "run")
    assert saved == [(24, 3), (48, 6), (72, 9), (84, 11)]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    settings = ("checkpoints.every_images=20", "checkpoints.keep=2")
    train(tiny_recipe(*SHORT, *settings), tmp_path / "run")
    assert checkpoints(tmp_path / "run") == [80, 84]


# Metrics


@pytest.mark.parametrize("activations", [1, 32])
def test_sign_flips_kl_and_rates_in_the_metrics(
    tmp_path: Path, watch: Callable[..., None], activations: int
) -> None:
    history: list[dict[str, Tensor]] = []
    norms: list[float] = []

    def see(model: Any, optimizer: Any, images: Tensor, result: StepResult) -> None:
        latents = {name: value.detach().clone() for name, value in latent_weights(model).items()}
        history.append(latents)
        norms.append(result.gradient_norm.item())

    watch(see)
    recipe = tiny_recipe(
        *SHORT,
        f"model.precision={{weights: 1, activations: {activations}}}",
        "optimizer.learning_rate=0.3",
        "optimizer.gradient_clip=null",
    )
    train(recipe, tmp_path / "run")
    assert all(value.abs().max() <= 1 for latents in history for value in latents.values())
    total = sum(value.numel() for value in history[0].values())
    found = records(tmp_path / "run")
    assert len(found) == len(history) == STEPS
    for step in range(1, STEPS):
        flips = {
            name: int(((history[step][name] >= 0) != (history[step - 1][name] >= 0)).sum())
            for name in history[step]
        }
        assert found[step]["sign_flips"] == sum(flips.values()) / total
        for name, count in flips.items():
            layer = f"sign_flips/{name.removesuffix('.latent_weight')}"
            assert found[step][layer] == count / history[step][name].numel()
    assert any(record["sign_flips"] > 0 for record in found[1:])

    for record in found:
        signs = [key for key in record if key.startswith("sign_input_rms/")]
        assert len(signs) == (len(flips) if activations == 1 else 0)
        for key in signs:
            share = record[key.replace("sign_input_rms", "gradients_passed")]
            assert record[key] >= 0  # the stream starts at 0 on its way down
            assert 0 <= share <= 1

    for step, record in enumerate(found):
        layers = record["kl/layer_00"] + record["kl/layer_01"]
        assert record["reconstruction"] + layers == pytest.approx(record["bits_per_dim"], rel=1e-5)
        assert record["learning_rate"] == learning_rate(recipe, 8 * step)
        assert record["gradient_norm"] == norms[step]
        assert record["skipped_steps"] == 0


@pytest.mark.parametrize(
    "setting", ["model.precision={weights: 32, activations: 32}", "model.residual=false"]
)
def test_a_model_without_binary_weights_trains(tmp_path: Path, setting: str) -> None:
    summary = train(tiny_recipe(*SHORT, setting), tmp_path / "run")
    assert summary["binary_parameters"] == 0
    assert summary["packed_bytes"] == summary["float_bytes"]
    assert not any("sign_flips" in record for record in records(tmp_path / "run"))


# Averaged weights


def test_the_average_is_exponential_and_starts_with_the_first_step(
    tmp_path: Path, watch: Callable[..., None]
) -> None:
    history: list[dict[str, Tensor]] = []
    watch(lambda model, *_: history.append(copy.deepcopy(model.state_dict())))
    train(tiny_recipe(*SHORT, "training.ema_decay=0.75"), tmp_path / "run")
    average = {name: value.double() for name, value in history[0].items()}
    for weights in history[1:]:
        for name, value in weights.items():
            average[name] = 0.75 * average[name] + 0.25 * value.double()
    saved = load_file(tmp_path / "run" / "checkpoints" / "84" / "ema.safetensors")
    assert saved.keys() == average.keys()
    for name, value in average.items():
        # Each of 10 updates rounds at most three times, by half a unit of 2⁻²⁴ of the largest.
        tolerance = 30 * 2**-24 * max(weights[name].abs().max().item() for weights in history)
        torch.testing.assert_close(saved[name].double(), value, rtol=0, atol=tolerance)


def test_validation_measures_both_and_the_summary_the_average(tmp_path: Path) -> None:
    recipe = tiny_recipe(*SHORT, "evaluation.every_images=84")
    summary = train(recipe, tmp_path / "run")
    *_, ema, raw = records(tmp_path / "run")
    assert ema.keys() == {
        "images_seen", "validation/ema/bits_per_dim", "validation/ema/standard_error"
    }  # fmt: skip
    assert raw.keys() == {
        "images_seen", "validation/raw/bits_per_dim", "validation/raw/standard_error"
    }  # fmt: skip
    assert ema["validation/ema/bits_per_dim"] != raw["validation/raw/bits_per_dim"]
    assert (summary["weights"], summary["images"]) == ("ema", 32)
    without = train(tiny_recipe(*SHORT, "training.ema_decay=null"), tmp_path / "other")
    assert without["weights"] == "raw"
    assert "ema.safetensors" not in tensor_files(tmp_path / "other", 84)


# Noise


def test_looking_at_a_run_does_not_change_it(tmp_path: Path) -> None:
    """Validation, samples and checkpoints leave the noise and the weights of training alone."""
    train(tiny_recipe(*SHORT), tmp_path / "alone")
    watched = tiny_recipe(
        *SHORT,
        "evaluation.every_images=8",
        "evaluation.importance_samples=2",
        "samples.every_images=16",
        "checkpoints.every_images=16",
    )
    train(watched, tmp_path / "watched")
    assert tensor_files(tmp_path / "alone", 84) == tensor_files(tmp_path / "watched", 84)
    training = [r for r in records(tmp_path / "watched") if "loss" in r]
    assert training == records(tmp_path / "alone")


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    for seed in (1, 2):
        train(tiny_recipe(*SHORT, f"seed={seed}"), tmp_path / str(seed))
    files = [tensor_files(tmp_path / seed, 84)["model.safetensors"] for seed in ("1", "2")]
    assert files[0] != files[1]
    assert metrics(tmp_path / "1") != metrics(tmp_path / "2")


def test_samples_are_drawn_from_the_same_noise_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    draw = ResNetVAE.sample

    def sample(model: ResNetVAE, count: int, temperature: float = 1.0) -> Tensor:
        with torch.random.fork_rng():
            drawn.append(torch.rand(()).item())
        return draw(model, count, temperature)

    monkeypatch.setattr(ResNetVAE, "sample", sample)
    train(tiny_recipe(*SHORT, "samples.every_images=16"), tmp_path / "run")
    assert len(drawn) == 6
    assert len(set(drawn)) == 1


# The guard


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Give the loss of those steps, counted from 0, a gradient that is not a number."""
    forward = ResNetVAE.forward
    calls = -2  # the first pass initializes the network

    def poisoned(model: ResNetVAE, images: Tensor) -> Objective:
        nonlocal calls
        calls += 1
        objective = forward(model, images)
        if calls not in steps:
            return objective
        return Objective(objective.loss * torch.nan, objective.metrics)

    monkeypatch.setattr(ResNetVAE, "forward", poisoned)


def state(model: ResNetVAE, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict() | optimizer_tensors(optimizer, model))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_guard_stops_before_the_update_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Callable[..., None]
) -> None:
    states: list[dict[str, Tensor]] = []
    watch(lambda model, optimizer, images, result: states.append(state(model, optimizer)))
    poison(monkeypatch, {7})
    run_dir = tmp_path / "run"
    settings = ("checkpoints.every_images=16", "checkpoints.keep=1")
    with pytest.raises(NonFiniteError, match=r"loss nan, .* after 64 images: stopped before"):
        train(tiny_recipe(*SHORT, *settings), run_dir)
    assert len(states) == 8
    assert same(states[6], states[7])
    assert not same(states[5], states[6])
    assert checkpoints(run_dir) == [48]
    assert same(load_file(run_dir / "checkpoints/48/model.safetensors"), weights_of(states[5]))
    assert len(records(run_dir)) == 7
    assert not (run_dir / "summary.json").exists()


def plant_in_weight(model: ResNetVAE) -> None:
    next(iter(latent_weights(model).values())).data[0, 0, 0, 0] = math.nan


def plant_in_gradient(model: ResNetVAE) -> None:
    parameter = model.head.direction
    hook = parameter.register_hook(lambda gradient: gradient * math.nan)
    model.head.register_full_backward_hook(lambda *_: hook.remove())


@pytest.mark.parametrize(
    ("plant", "message"),
    [  # A latent weight that is not a number has a sign: it is noticed when it is saved.
        (plant_in_weight, "latent_weight of the .* is not finite, so it is not saved"),
        (plant_in_gradient, "after 64 images: stopped before the update"),
    ],
)
def test_after_a_fault_of_the_machine_the_run_resumes_from_before_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[ResNetVAE], None],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A value that is not a number appears once; what was before it is intact."""
    settings = (*SHORT, "checkpoints.every_images=16")
    train(tiny_recipe(*settings), tmp_path / "undisturbed")
    steps, step = itertools.count(), trainer.train_step

    def step_with_fault(model: ResNetVAE, *others: Any) -> StepResult:
        if next(steps) == 7:
            plant(model)
        return step(model, *others)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", step_with_fault)
        with pytest.raises(NonFiniteError, match=message):
            train(tiny_recipe(*settings), tmp_path / "run")
    resume(tmp_path / "run")
    assert "resuming after 48 images, from " in capsys.readouterr().err
    for folder in (tmp_path / "run", tmp_path / "undisturbed"):
        assert checkpoints(folder) == [16, 32, 48, 64, 80, 84]
    assert tensor_files(tmp_path / "run", 84) == tensor_files(tmp_path / "undisturbed", 84)
    assert records(tmp_path / "run") == records(tmp_path / "undisturbed")


def weights_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if ":" not in name}


def test_skipped_steps_are_counted_and_change_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    watch: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    states: list[dict[str, Tensor]] = []
    watch(lambda model, optimizer, images, result: states.append(state(model, optimizer)))
    poison(monkeypatch, {3, 7})
    recipe = tiny_recipe(*SHORT, "training.non_finite=skip", "training.maximum_skipped_steps=2")
    train(recipe, tmp_path / "run")
    unchanged = [step for step in range(1, STEPS) if same(states[step - 1], states[step])]
    assert unchanged == [3, 7]
    found = records(tmp_path / "run")
    assert [record["skipped_steps"] for record in found] == [0] * 3 + [1] * 4 + [2] * 4
    assert [record["loss"] == "NaN" for record in found] == [i in (3, 7) for i in range(STEPS)]
    assert [found[step]["sign_flips"] for step in (3, 7)] == [0, 0]
    manifest = json.loads((tmp_path / "run" / "checkpoints" / "84" / "manifest.json").read_text())
    assert (manifest["skipped_steps"], manifest["averaged_steps"]) == (2, STEPS - 2)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 2
    hint = "(--debug-non-finite names the layer)"
    assert warnings[0].endswith(f"loss nan, gradient norm nan after 32 images: step skipped {hint}")


@pytest.mark.parametrize("maximum", [0, 2])
def test_too_many_skipped_steps_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maximum: int
) -> None:
    poison(monkeypatch, {1, 2, 4, 5})
    recipe = tiny_recipe(
        *SHORT, "training.non_finite=skip", f"training.maximum_skipped_steps={maximum}"
    )
    with pytest.raises(NonFiniteError, match=f"stopped, {maximum + 1} steps were skipped"):
        train(recipe, tmp_path / "run")
    assert len(records(tmp_path / "run")) == {0: 1, 2: 4}[maximum]


class SometimesNotANumber(nn.Module):
    """A layer that fails in training, by chance."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(torch.rand(()) < 0.3 * self.training, torch.nan, x)


@pytest.fixture
def fails_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(recipe: Recipe) -> Any:
        model: Any = build_model(recipe)
        model.head_blocks.append(SometimesNotANumber())
        return model

    monkeypatch.setattr(trainer, "build_model", build)


BY_CHANCE = "first not finite is the output of head_blocks.0 (SometimesNotANumber), "


@pytest.mark.usefixtures("fails_by_chance")
def test_to_name_the_layer_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step is run again with its own noise: whatever failed fails again."""
    recipe = tiny_recipe(*SHORT, "training.non_finite=skip", "seed=1")
    train(recipe, tmp_path / "plain")
    capsys.readouterr()
    train(recipe, tmp_path / "debug", debug_non_finite=True)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == records(tmp_path / "debug")[-1]["skipped_steps"] >= 2
    assert all(f" images: step skipped; {BY_CHANCE}" in line for line in warnings)
    assert tensor_files(tmp_path / "debug", 84) == tensor_files(tmp_path / "plain", 84)
    assert metrics(tmp_path / "debug") == metrics(tmp_path / "plain")


@pytest.mark.usefixtures("fails_by_chance")
def test_a_run_that_stopped_is_resumed_to_name_the_layer(tmp_path: Path) -> None:
    recipe = tiny_recipe(*SHORT, "checkpoints.every_images=8", "seed=1")
    with pytest.raises(NonFiniteError, match="names the layer") as stopped:
        train(recipe, tmp_path / "run")
    before = checkpoints(tmp_path / "run")
    with pytest.raises(NonFiniteError, match=re.escape(BY_CHANCE)) as again:
        trainer.resume(tmp_path / "run", debug_non_finite=True)
    assert str(again.value).partition(";")[0] == str(stopped.value).partition(" (")[0]
    assert checkpoints(tmp_path / "run") == before


def test_an_initialization_that_is_not_finite_is_named_at_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def standardization(y: Tensor, dim: int, std: float = 1.0) -> tuple[Tensor, Tensor]:
        gain, bias = initialization.standardization(y, dim, std)
        return (gain * torch.nan if std == 0.0 else gain), bias

    monkeypatch.setattr("tribin.nn.normalized_layer.standardization", standardization)
    message = "after 8 images: .*; first not finite is parameter latent_layers.0.up_block.0.second"
    with pytest.raises(NonFiniteError, match=message):
        train(tiny_recipe(*SHORT), tmp_path / "run", debug_non_finite=True)


def test_skipped_steps_are_remembered_by_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("training.non_finite=skip", "training.maximum_skipped_steps=1")
    recipe = tiny_recipe(*SHORT, *settings, "checkpoints.every_images=16")
    with monkeypatch.context() as patch:
        poison(patch, {1, 5})
        with pytest.raises(NonFiniteError, match="2 steps were skipped"):
            train(recipe, tmp_path / "run")
    trainer.resume(tmp_path / "run")
    assert records(tmp_path / "run")[-1]["skipped_steps"] == 1


def test_validation_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResNetVAE, "log_weight", lambda model, images: torch.full((16,), torch.nan))
    with pytest.raises(NonFiniteError, match="density of 32 of 32 images"):
        train(tiny_recipe(*SHORT, "evaluation.every_images=40"), tmp_path / "run")
    assert records(tmp_path / "run")[-1]["images_seen"] == 40


def test_a_folder_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists; name another folder with --run-dir, or go on"):
        train(tiny_recipe(), tmp_path)
    assert list(tmp_path.iterdir()) == []
