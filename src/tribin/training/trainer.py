"""The trainer: from a recipe to a run folder with checkpoints, metrics, samples and a summary."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor

from tribin import distributed
from tribin.atomic_file import write_atomically
from tribin.data import ImageSplits, batch_indices
from tribin.errors import InputError, NonFiniteError, StoppedError
from tribin.evaluation import Evaluation, image_bits
from tribin.inspection import model_size
from tribin.models import GenerativeModel
from tribin.nn import initialize_from_data, pack
from tribin.provenance import device_name, provenance
from tribin.recipe import Recipe, recipe_from_json
from tribin.seeding import seed_noise
from tribin.tracking import SilentTracker, Tracker, pair_up, save_image_grid
from tribin.tracking.progress import print_line
from tribin.training.checkpoint import Checkpoint
from tribin.training.compilation import compile_or_tell
from tribin.training.data_parallel import check_agreement, check_shareable, data_parallel
from tribin.training.guard import LAG, Guard, TakenStep
from tribin.training.non_finite import first_non_finite
from tribin.training.optimizer import (
    build_average,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from tribin.training.phases import phase
from tribin.training.run_folder import (
    RunFolder,
    build_model,
    check_new,
    default_device,
    is_run,
    load_data,
)
from tribin.training.sign_inputs import measured_sign_inputs
from tribin.training.step import Model, SignFlips, StepResult, backward, train_step
from tribin.training.stop_signal import StopSignal
from tribin.training.transfer import on_host, to_device
from tribin.training.writing import writing

RECONSTRUCTED_IMAGES = 32

TEST_BITS = "test_bits.safetensors"
"""The bits/dim of each test image, in their order: runs are compared image by image."""

Report = Tracker | SilentTracker


def train(recipe: Recipe, run_dir: Path, *, debug_non_finite: bool = False) -> dict[str, Any]:
    """Train a new run and return its summary; `debug_non_finite` is that of `Trainer`.

    Where ``torchrun`` starts processes again by itself, a run that is in the folder goes on.

    Raises:
        InputError: if data, model and recipe don't fit or the folder exists; nothing is written.
        DisagreementError: if processes that train together have different weights.
        NonFiniteError: if the guard stops the run.
        StoppedError: if a signal stops it; it can be resumed.
    """
    if distributed.restarts_by_itself() and distributed.on_first(lambda: is_run(run_dir)):
        _check_same_recipe(run_dir, recipe)
        return resume(run_dir, debug_non_finite=debug_non_finite)
    distributed.on_first(lambda: check_new(run_dir))
    trainer = Trainer(recipe, load_data(recipe), debug_non_finite=debug_non_finite)
    path = distributed.on_first(lambda: RunFolder.create(run_dir, recipe, trainer.device).path)
    return _run(trainer, RunFolder(path, recipe))


def resume(run_dir: Path, *, debug_non_finite: bool = False) -> dict[str, Any]:
    """Go on with a run from its newest intact checkpoint, bit for bit as if it had not stopped.

    `debug_non_finite` is that of `Trainer`. All processes read the folder.

    Raises:
        InputError: if the folder holds no run or only damaged checkpoints, or if its recipe was
            changed.
        DisagreementError: if processes that train together have different weights.
        NonFiniteError: if the guard stops the run.
        StoppedError: if a signal stops it; it can be resumed.
    """
    run = RunFolder.open(run_dir)
    checkpoint = distributed.on_first(lambda: run.checkpoints.newest_intact(print_line))
    trainer = Trainer(run.recipe, load_data(run.recipe), debug_non_finite=debug_non_finite)
    if checkpoint is None:
        print_line(f"{run_dir} holds no checkpoint yet: starting from the beginning")
        return _run(trainer, run, resume=True)
    _check_same_training(run.recipe, checkpoint)
    print_line(f"resuming after {checkpoint.images_seen:,} images, from {checkpoint.folder}")
    trainer.restore(checkpoint)
    return _run(trainer, run, resume=True, wandb_run_id=checkpoint.metadata["wandb_run_id"])


def _check_same_recipe(run_dir: Path, recipe: Recipe) -> None:
    if RunFolder.open(run_dir).recipe != recipe:
        raise InputError(f"{run_dir} holds a run of another recipe; name another with --run-dir")


def _check_same_training(recipe: Recipe, checkpoint: Checkpoint) -> None:
    # An older version's recipe has fewer fields.
    before = recipe_from_json(checkpoint.metadata["recipe"]).model_dump(mode="json")
    now = recipe.model_dump(mode="json")
    now["data"]["path"] = before["data"]["path"]  # the same images may have moved
    for section in ("seed", "model", "data", "optimizer", "training"):
        if before[section] != now[section]:
            raise InputError(
                f"{section} in recipe.yaml is not that of checkpoint {checkpoint.folder}; "
                "a run resumes as it began, train another for another recipe"
            )


def _run(
    trainer: "Trainer", run: RunFolder, *, resume: bool = False, wandb_run_id: str | None = None
) -> dict[str, Any]:
    try:
        with (
            trainer.stop_signal.listening(),
            writing(run),
            _tracker(trainer, run, resume, wandb_run_id) as tracker,
        ):
            if trainer.images_seen == 0:
                trainer.initialize()
            return trainer.run(run, tracker)
    except StoppedError as error:
        distributed.wait_for_all()  # torchrun kills the others, which may write, once one has left
        raise StoppedError(f"{error}; go on by `tribin resume {run.path}`") from error


def _tracker(trainer: "Trainer", run: RunFolder, resume: bool, wandb_run_id: str | None) -> Report:
    if not distributed.is_first():
        return SilentTracker()
    recipe = run.recipe
    return Tracker(
        run.path,
        recipe.model_dump(mode="json"),
        total_images=recipe.training.images,
        start_images=trainer.images_seen,
        wandb_mode=recipe.tracking.wandb,
        wandb_project=recipe.tracking.project,
        wandb_entity=recipe.tracking.entity,
        wandb_run_id=wandb_run_id,
        resume=resume,
    )


class Trainer:
    """The state of a run, and the loop over it.

    Args:
        recipe: what to do.
        images: what to do it on.
        debug_non_finite: whether to run a step that is not finite again, to name the layer.

    Raises:
        InputError: if the model can't have such images, or there are processes that can't train it
            together.
    """

    def __init__(self, recipe: Recipe, images: ImageSplits, *, debug_non_finite: bool) -> None:
        torch.backends.cudnn.deterministic = True
        check_shareable(recipe)
        self.recipe = recipe
        self.images = images
        self.debug_non_finite = debug_non_finite
        self.device = default_device()
        seed_noise(recipe.seed, "initialization")
        self.model = build_model(recipe).to(self.device)
        self.optimizer = build_optimizer(self.model, recipe)
        self._parallel_model: Model = self.model  # until all processes are there
        self.average = build_average(self.model, recipe)
        self.images_seen = 0
        self.skipped_steps = 0
        # To name the layer takes the weights as they were before the step.
        self._guard = Guard(0 if debug_non_finite else LAG[self.device.type])
        self.stop_signal = StopSignal()
        self._due: list[str] = []  # what the newest step still brings with it
        self._saved_at: int | None = None
        self._train_images = images.train.to(self.device)

    def initialize(self) -> None:
        """Data-dependent initialization on the images that training sees first, if on any."""
        count = min(self.recipe.training.initialization_images, len(self._train_images))
        if not count:
            return
        print_line(f"initializing on {count:,} images")
        with self.stop_signal.stopping_within(self.model):
            initialize_from_data(self.model.eval(), self._batch(count))  # without dropout

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take the state of a checkpoint."""
        self.model.load_state_dict(checkpoint.tensors("model"))
        load_optimizer_tensors(self.optimizer, self.model, checkpoint.tensors("optimizer"))
        self.images_seen = self._saved_at = checkpoint.images_seen
        self.skipped_steps = checkpoint.metadata["skipped_steps"]
        self._due = checkpoint.metadata.get("due", [])
        if self.average is not None:
            self.average.module.load_state_dict(checkpoint.tensors("ema"))
            self.average.n_averaged.fill_(checkpoint.metadata["averaged_steps"])

    def compile(self, tracker: Report) -> None:
        """Have the steps that follow run compiled, where that can be."""
        training = self.recipe.training
        counts = {min(training.batch_size, training.images), training.images % training.batch_size}

        def trial() -> None:
            for count in counts - {0}:  # those of the last step too
                backward(self._parallel_model, self._batch(count), self.recipe)

        self._parallel_model.train()
        compile_or_tell(self.model, trial, tracker.message)

    def run(self, run: RunFolder, tracker: Report) -> dict[str, Any]:
        """Train to the end; return the summary, which is also written to the run folder.

        Raises:
            StoppedError: if a signal stops the run; its state is saved then.
        """
        size = model_size(self.model)
        tracker.message(self.images.source)
        tracker.message(f"{self.recipe.model.name}: {size.parameters:,} parameters")
        self._parallel_model = data_parallel(self.model, self.recipe)
        try:
            self._after_step(run, tracker)
            if self.recipe.training.compile:
                self.compile(tracker)
            while self.images_seen < self.recipe.training.images:
                self.stop_signal.check()
                self._step(tracker)
                self._after_step(run, tracker)
        except StoppedError:
            self._skip_not_finite(tracker, settle=True)
            if self._saved_at != self.images_seen:
                self._save(run, tracker)
            raise
        if self._saved_at != self.images_seen:
            self._save(run, tracker)
        return self._finish(run, tracker)

    def _step(self, tracker: Report) -> None:
        training = self.recipe.training
        before = self.images_seen
        with phase("data"):
            images = self._batch(min(training.batch_size, training.images - before))
        self.images_seen = before + len(images)
        done = self.images_seen == training.images
        logs = done or self._passed(training.log_every_images, before)

        rate = set_learning_rate(self.optimizer, self.recipe, before)
        with phase("logging"):
            flips = SignFlips(self.model) if logs else None
        seed_noise(self.recipe.seed, "step", before)
        self._parallel_model.train()
        with measured_sign_inputs(self.model, enabled=logs) as inputs:
            result = train_step(
                self._parallel_model, self.optimizer, images, self.recipe, self.average
            )
        every = {
            "validation": self.recipe.evaluation.every_images,
            "samples": self.recipe.samples.every_images,
            "checkpoint": self.recipe.checkpoints.every_images,
        }
        self._due = [task for task, count in every.items() if self._passed(count, before)]
        self._guard.watch(TakenStep(result, images, self.images_seen))
        self._skip_not_finite(tracker, settle=logs or bool(self._due))

        if flips is not None:
            with phase("logging"):
                metrics = self._metrics(result, rate) | flips.rates() | on_host(inputs)
                tracker.log(self.images_seen, metrics)

    def _after_step(self, run: RunFolder, tracker: Report) -> None:
        """Do what is due; a run that is stopped in it resumes with the rest."""
        while self._due:
            match self._due[0]:
                case "validation":
                    self._validate(tracker)
                case "samples":
                    self._draw(run, tracker)
            if self._due.pop(0) == "checkpoint":
                self._save(run, tracker)

    def _passed(self, every: int | None, before: int) -> bool:
        return every is not None and self.images_seen // every > before // every

    def _batch(self, count: int) -> Tensor:
        indices = batch_indices(self.recipe.seed, self.images_seen, count, len(self._train_images))
        return self._train_images[to_device(indices, self.device)]

    def _skip_not_finite(self, tracker: Report, *, settle: bool) -> None:
        """Act on the steps found not to be finite; with `settle`, look at all that were taken."""
        for step in self._guard.not_finite(settle=settle):
            self._skip(step, tracker)

    def _skip(self, step: TakenStep, tracker: Report) -> None:
        training = self.recipe.training
        self.skipped_steps += 1
        reason = f"{step.result} after {step.images_seen:,} images"
        where = self._where(step)
        if training.non_finite == "stop":
            raise NonFiniteError(f"{reason}: stopped before the update{where}")
        if self.skipped_steps > training.maximum_skipped_steps:
            skipped = f"{self.skipped_steps:,} steps were skipped"
            raise NonFiniteError(f"{reason}: stopped, {skipped}{where}")
        tracker.message(f"warning: {reason}: step skipped{where}")

    def _where(self, step: TakenStep) -> str:
        """What the message about the step ends with."""
        if not self.debug_non_finite:
            return " (--debug-non-finite names the layer)"
        seed_noise(self.recipe.seed, "step", step.images_seen - len(step.images))
        return f"; {first_non_finite(self.model, step.images, self.recipe)}"

    def _metrics(self, result: StepResult, rate: float) -> dict[str, float]:
        values = result.values()
        return {  # the first four are those that the terminal shows
            "bits_per_dim": values["bits_per_dim"],
            "loss": values["loss"],
            "gradient_norm": values["gradient_norm"],
            "learning_rate": rate,
            **values,
            "skipped_steps": self.skipped_steps,
        }

    def _weights(self) -> dict[str, GenerativeModel]:
        """The models to measure, the one that the run's results are of first."""
        if self.average is None:
            return {"raw": self.model}
        return {"ema": cast(GenerativeModel, self.average.module), "raw": self.model}

    def _validate(self, tracker: Report) -> None:
        results = {
            weights: self._evaluate(model, self.images.validation)
            for weights, model in self._weights().items()
        }
        for weights, result in results.items():
            keys = ("bits_per_dim", "standard_error")
            tracker.log(self.images_seen, {f"validation/{weights}/{k}": result[k] for k in keys})

    def _evaluate(self, model: GenerativeModel, images: Tensor) -> dict[str, Any]:
        bits = self._image_bits(model, images)
        return asdict(Evaluation.of_bits(bits, self.recipe.evaluation.importance_samples))

    def _image_bits(self, model: GenerativeModel, images: Tensor) -> Tensor:
        section = self.recipe.evaluation
        return image_bits(
            model.eval(),
            images[: section.images],
            batch_size=section.batch_size,
            importance_samples=section.importance_samples,
            seed=self.recipe.seed,
            around_batch=lambda: self.stop_signal.stopping_within(model),
        )

    def _draw(self, run: RunFolder, tracker: Report) -> None:
        """Samples from noise that is the same at every call, and reconstructions."""
        model = next(iter(self._weights().values())).eval()
        with self.stop_signal.stopping_within(model):
            if distributed.is_first():
                self._draw_with(model, run, tracker)

    @torch.no_grad()
    def _draw_with(self, model: GenerativeModel, run: RunFolder, tracker: Report) -> None:
        seed_noise(self.recipe.seed, "samples")
        samples = model.sample(self.recipe.samples.count, self.recipe.samples.temperature)
        held_out = self.images.validation if len(self.images.validation) else self.images.test
        inputs = held_out[:RECONSTRUCTED_IMAGES].to(self.device)
        pairs = pair_up(inputs, model.reconstruct(inputs))
        for folder, images in {"samples": samples, "reconstructions": pairs}.items():
            path = run.path / folder / f"{self.images_seen}.png"
            save_image_grid(images, path, levels=self.images.format.levels)
            tracker.image(folder, self.images_seen, path)

    def _save(self, run: RunFolder, tracker: Report) -> None:
        check_agreement(self.model, self.images_seen)
        self._saved_at = self.images_seen
        if not distributed.is_first():
            return
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.model),
        }
        metadata = {
            "skipped_steps": self.skipped_steps,
            "due": self._due,
            "wandb_run_id": tracker.wandb_run_id,
            "recipe": self.recipe.model_dump(mode="json"),
            "provenance": provenance(self.device),
        }
        if self.average is not None:
            tensors["ema"] = self.average.module.state_dict()
            metadata["averaged_steps"] = int(self.average.n_averaged)
        with phase("checkpoint"):
            tracker.sync()
            run.checkpoints.save(self.images_seen, tensors, metadata)

    def _finish(self, run: RunFolder, tracker: Report) -> dict[str, Any]:
        self._draw(run, tracker)
        if distributed.is_first():
            newest = run.path / "samples" / f"{self.images_seen}.png"
            write_atomically(run.path / "samples.png", newest.read_bytes())
        weights, model = next(iter(self._weights().items()))
        half = self.recipe.export.half
        size = asdict(model_size(self.model, real_bits=16 if half else 32))
        del size["layers"]
        bits = self._image_bits(pack(model, half=True) if half else model, self.images.test)
        if distributed.is_first():
            write_atomically(run.path / TEST_BITS, save({"bits_per_dim": bits}))
        summary = {
            **asdict(Evaluation.of_bits(bits, self.recipe.evaluation.importance_samples)),
            "weights": weights,
            "half": half,
            "images_seen": self.images_seen,
            **size,
            "data": self.images.source,
            "device": device_name(self.device),
        }
        run.checkpoints.wait()
        tracker.finish(summary)
        return summary
