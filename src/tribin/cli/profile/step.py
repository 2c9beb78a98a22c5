"""``tribin profile step``: the phases of a recipe's training step, and what it keeps in memory."""

from pathlib import Path

import click
import torch

from tribin.cli.profile.finish import finish
from tribin.cli.profile.options import device_option, json_option, output_option, rounds_option
from tribin.profiling.ceilings import measure_ceilings
from tribin.profiling.step.profile import StepArm, profile_step
from tribin.profiling.step.trace import write_trace
from tribin.profiling.step.training_steps import TrainingSteps
from tribin.recipe import Recipe, load_recipe
from tribin.seeding import seed_noise
from tribin.training.run_folder import build_model

CPU_BATCH_SIZE = 8
"""What a CPU takes of the recipe's batch, so that a large model's step takes seconds."""


@click.command()
@click.argument("recipe_name", metavar="RECIPE")
@click.argument("overrides", metavar="[KEY.PATH=VALUE]...", nargs=-1)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help=f"The recipe's by default, on a CPU {CPU_BATCH_SIZE} of it.",
)
@device_option
@rounds_option
@click.option(
    "--trace", is_flag=True, help="Also write torch profiler's trace, and what takes memory."
)
@output_option
@json_option
def step(
    recipe_name: str,
    overrides: tuple[str, ...],
    batch_size: int | None,
    device: torch.device,
    rounds: int,
    trace: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Time the phases of a recipe's training step on random images.

    They are data, forward, backward, clip, optimizer and logging. Beside them stand images/s, and
    the bytes that each layer keeps for the backward pass.

    --trace writes trace.json, with the phases by name, for Perfetto or chrome://tracing, and on a
    GPU memory_snapshot.pickle for pytorch.org/memory_viz, on a CPU memory.txt.
    """
    recipe = load_recipe(recipe_name, overrides)
    seed_noise(recipe.seed, "initialization")
    model = build_model(recipe)
    batch_size = batch_size or _batch_size(recipe, device)
    result = profile_step(
        {"recipe": StepArm(model, recipe)},
        device,
        batch_size=batch_size,
        ceilings=measure_ceilings(device),
        rounds=rounds,
        settings={"recipe": recipe_name, "overrides": list(overrides)},
    )
    folder = finish(result, output, as_json)
    if trace:
        write_trace(TrainingSteps(model, recipe, device, batch_size), folder)


def _batch_size(recipe: Recipe, device: torch.device) -> int:
    recipes: int = recipe.training.batch_size
    return recipes if device.type == "cuda" else min(recipes, CPU_BATCH_SIZE)
