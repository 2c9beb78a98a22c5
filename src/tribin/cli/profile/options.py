"""Options that several ``tribin profile`` commands share."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

from tribin.errors import InputError

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _device(context: click.Context, parameter: click.Parameter, name: str | None) -> torch.device:
    there_is_a_gpu = torch.cuda.is_available()
    if name == "cuda" and not there_is_a_gpu:
        raise InputError("--device: there is no cuda device here; cpu would do")
    if name == "cpu" or not there_is_a_gpu:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


device_option = click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    callback=_device,
    help="The GPU by default, where there is one.",
)


def _output(context: click.Context, parameter: click.Parameter, folder: Path | None) -> Path | None:
    """Find out before minutes are spent on what can't be kept."""
    if folder is not None:
        nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            raise InputError(f"--output: {folder} cannot be made in {nearest}")
    return folder


output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    callback=_output,
    help="Folder of the results, the table and the plots; profiles/<kind>-<date and time> by "
    "default.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

rounds_option = click.option(
    "--rounds",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="How often each contender has its turn.",
)


def selection_option(option: str, names: Iterable[str]) -> Callable[[_Command], _Command]:
    """A repeatable option that takes some of the names; all by default."""
    names = list(names)
    choice = click.Choice(names)
    return click.option(f"--{option}", f"{option}s", type=choice, multiple=True, default=names)
