"""``tribin profile kernels``."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource
from tqdm import tqdm

from tribin.cli.profile.compile_only import KERNELS, TARGETS, compile_only
from tribin.cli.profile.finish import finish
from tribin.cli.profile.options import (
    device_option,
    json_option,
    output_option,
    rounds_option,
    selection_option,
)
from tribin.errors import InputError
from tribin.profiling.ceilings import measure_ceilings
from tribin.profiling.kernels.baselines import BASELINES
from tribin.profiling.kernels.problem import OPS, Problem
from tribin.profiling.kernels.problems import in_order, problems_of
from tribin.profiling.kernels.profile import WrongResultError, profile_kernels
from tribin.profiling.result import Result
from tribin.recipe import load_recipe
from tribin.training.run_folder import build_model

RECIPES = (
    "resnet_vae/cifar10_w1a1",
    "resnet_vae/cifar10_w1a32",
    "flowpp/cifar10_w1a1",
    "flowpp/cifar10_w1a32",
)
BATCH_SIZES = {"cpu": 16, "cuda": 128}
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}


@click.command()
@click.option("--compile-only", "only_compile", is_flag=True, help="Compile, and time nothing.")
@selection_option("kernel", KERNELS)
@selection_option("target", TARGETS)
@click.option("--update-budgets", is_flag=True, help="Make what comes out the new ceilings.")
@click.option("--op", "ops", type=click.Choice(OPS), multiple=True, help="All by default.")
@click.option("--shape", "shapes", multiple=True, help="Of the one --op, in place of the recipes'.")
@click.option("--recipe", "recipes", multiple=True, help="Whose shapes; four shipped by default.")
@click.option("--batch-size", type=click.IntRange(min=1), help="16 on a CPU, 128 on a GPU.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the activations; float32 on a CPU, bfloat16 on a GPU.",
)
@device_option
@selection_option("baseline", BASELINES)
@rounds_option
@output_option
@json_option
@click.pass_context
def kernels(
    context: click.Context,
    /,
    only_compile: bool,
    kernels: tuple[str, ...],
    targets: tuple[str, ...],
    update_budgets: bool,
    output: Path | None,
    as_json: bool,
    **timing: Any,
) -> None:
    """Time the ops beside their baselines, or compile the kernels.

    Each op is timed at the shapes that the recipes' models give it, in training and packed in
    evaluation, or at each --shape: 16x256x16x16:256x3 is a convolution of 16 images of 256
    channels to 256 by a kernel of 3, 4096x1024:512 a linear layer of 4096 rows, 16x16x16x256 signs
    to pack. All results are checked before the clock starts; the exit code is 1 if one is wrong.

    With --compile-only, for GPUs that need not be there, the kernels are compiled and held to
    their budgets; the exit code is 1 if one is broken.

    Options that select can be repeated.
    """
    if only_compile:
        _refuse(context, ["output", *timing], "has no meaning with --compile-only")
        context.exit(compile_only(kernels, targets, update_budgets=update_budgets, as_json=as_json))
    _refuse(context, ["kernels", "targets", "update_budgets"], "needs --compile-only")
    try:
        result = _profile(**timing)
    except WrongResultError as error:
        click.echo(f"tribin: {error}", err=True)
        context.exit(1)
    finish(result, output, as_json)


def _refuse(context: click.Context, names: Collection[str], reason: str) -> None:
    """Raise an InputError for the first of the options that was given."""
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and parameter.name in names:
            raise InputError(f"{parameter.opts[-1]} {reason}")


def _profile(
    ops: tuple[str, ...],
    shapes: tuple[str, ...],
    recipes: tuple[str, ...],
    batch_size: int | None,
    dtype: str | None,
    device: torch.device,
    baselines: tuple[str, ...],
    rounds: int,
) -> Result:
    settings: dict[str, Any]
    if shapes:
        if recipes or batch_size:
            raise InputError("--shape takes the place of --recipe and --batch-size; leave them out")
        problems, settings = _by_hand(ops, shapes), {"shapes": shapes}
    else:
        recipes, batch_size = recipes or RECIPES, batch_size or BATCH_SIZES[device.type]
        problems = _of_recipes(ops, recipes, batch_size)
        settings = {"recipes": recipes, "batch_size": batch_size}
    ceilings = measure_ceilings(device)
    steps = len(problems) * (1 + rounds)
    with tqdm(total=steps, disable=None, leave=False) as bar:

        def progress(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        return profile_kernels(
            problems, device, dtype=getattr(torch, dtype or DTYPES[device.type]),
            baselines=baselines, ceilings=ceilings, rounds=rounds, settings=settings,
            progress=progress,
        )  # fmt: skip


def _by_hand(ops: Sequence[str], shapes: Iterable[str]) -> list[Problem]:
    if len(ops) != 1:
        given = " and ".join(ops) or "none"
        raise InputError(f"--shape: it is the shape of one --op, which must be given; got {given}")
    return list(dict.fromkeys(Problem.parse(ops[0], shape) for shape in shapes))


def _of_recipes(ops: Sequence[str], recipes: Iterable[str], batch_size: int) -> list[Problem]:
    """Those of the ops, or all."""
    problems: list[Problem] = []
    for recipe in recipes:
        with torch.device("meta"):
            model = build_model(load_recipe(recipe))
        problems += problems_of(model, batch_size)
    called = {problem.op for problem in problems}
    for op in ops:
        if op not in called:
            raise InputError(f"--op: none of {', '.join(recipes)} calls {op}; give its --shape")
    return in_order(problem for problem in problems if problem.op in (ops or called))
