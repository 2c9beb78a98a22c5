"""``tribin profile model``: evaluation and sampling, packed beside float32."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import torch
from tqdm import tqdm

from tribin.cli.profile.finish import finish
from tribin.cli.profile.options import device_option, json_option, output_option, rounds_option
from tribin.cli.source import is_packed, refuse_overrides
from tribin.models import GenerativeModel
from tribin.packed import load
from tribin.profiling.ceilings import measure_ceilings
from tribin.profiling.model.arms import arms_of, initialize_on_noise
from tribin.profiling.model.memory import peak_memory_of_arms
from tribin.profiling.model.profile import profile_model
from tribin.profiling.result import Result
from tribin.profiling.wrong_result import WrongResultError
from tribin.recipe import load_recipe
from tribin.trained_model import load_trained_model
from tribin.training.run_folder import build_model

BATCH_SIZES = (16, 1)


@click.command()
@click.argument("source", metavar="RECIPE|RUN|FILE")
@click.argument("overrides", metavar="[KEY.PATH=VALUE]...", nargs=-1)
@click.option(
    "--batch-size",
    "batch_sizes",
    type=click.IntRange(min=1),
    multiple=True,
    default=BATCH_SIZES,
    show_default=True,
    help="Images at a time; can be repeated. Layers are timed and memory is measured at the first.",
)
@device_option
@rounds_option
@click.option("--memory/--no-memory", default=True, help="Measure peak memory; the default.")
@output_option
@json_option
@click.pass_context
def model(
    context: click.Context,
    source: str,
    overrides: tuple[str, ...],
    batch_sizes: tuple[int, ...],
    device: torch.device,
    rounds: int,
    memory: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Time a model's evaluation and sampling, trained and packed, beside float32.

    That is the same architecture with real weights, as it is and with its weight normalization
    folded into them. Layer by layer it says where the time goes, and what the cost model predicts
    for this machine. Images are noise; so are the weights of a recipe.

    Before the clock starts, a packed model's density must be that of the model it was packed from;
    the exit code is 1 if it is not.
    """
    arms = arms_of(_model_of(source, overrides, device))
    settings = {"source": source, "overrides": list(overrides)}
    try:
        result = _profile(arms, device, batch_sizes, rounds, memory, settings)
    except WrongResultError as error:
        click.echo(f"tribin: {error}", err=True)
        context.exit(1)
    finish(result, output, as_json)


def _model_of(source: str, overrides: Sequence[str], device: torch.device) -> GenerativeModel:
    """The recipe's with random weights, the run's newest, or the file's, in eval mode."""
    if is_packed(Path(source)):
        refuse_overrides(overrides, "packed file")
        packed = load(source)
        assert isinstance(packed, GenerativeModel)  # a file alone describes no other
        return packed.to(device)
    if os.path.isdir(source):
        refuse_overrides(overrides, "run")
        return load_trained_model(Path(source), device).model
    torch.manual_seed(0)
    return initialize_on_noise(build_model(load_recipe(source, overrides)).to(device))


def _profile(
    arms: Mapping[str, GenerativeModel],
    device: torch.device,
    batch_sizes: Sequence[int],
    rounds: int,
    memory: bool,
    settings: Mapping[str, object],
) -> Result:
    ceilings = measure_ceilings(device)
    peaks = peak_memory_of_arms(arms, device, batch_sizes[0]) if memory else None
    with tqdm(total=2 * len(set(batch_sizes)) * rounds, disable=None, leave=False) as bar:

        def progress(problem: str) -> None:
            bar.set_postfix_str(problem)
            bar.update()

        return profile_model(
            arms, device, batch_sizes=batch_sizes, ceilings=ceilings, rounds=rounds,
            settings=settings, memory=peaks, progress=progress,
        )  # fmt: skip
