"""``tribin profile tune``."""

import json
from dataclasses import asdict
from pathlib import Path

import click
import torch

from tribin.atomic_file import write_atomically
from tribin.cli.profile.options import selection_option
from tribin.errors import InputError
from tribin_kernels.inspect.cases import CASES
from tribin_kernels.inspect.tune import CANDIDATES, Trial, launch_table, try_candidates
from tribin_kernels.target import target_of


@click.command()
@selection_option("kernel", CANDIDATES)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="JSON file of the launch table, which TRIBIN_LAUNCH_TABLE may then name.",
)
def tune(kernels: tuple[str, ...], output: Path) -> None:
    """Time configurations of the kernels on this GPU and write a launch table of the fastest.

    A configuration must give the result of the one in use, bit for bit. --kernel selects, and can
    be repeated.
    """
    if not torch.cuda.is_available():
        raise InputError("tuning times the kernels on a GPU, and there is none")
    if not output.parent.is_dir():
        raise InputError(f"--output: there is no folder {output.parent}")
    device = torch.device("cuda", torch.cuda.current_device())
    target = target_of(device)
    cases = [
        case
        for case in CASES
        if case.config_class and case.kernel in kernels and case.runs_on(target)
    ]
    trials = []
    for trial in try_candidates(cases, device):
        click.echo(_line(trial))
        trials.append(trial)
    table = launch_table(target, trials)
    write_atomically(output, (json.dumps(table, indent=2) + "\n").encode())


def _line(trial: Trial) -> str:
    fields = ", ".join(f"{name} {value}" for name, value in asdict(trial.config).items())
    result = trial.fault or f"{1000 * trial.milliseconds:,.1f} µs"
    return f"{trial.case.kernel}, {trial.case.name}: {fields}: {result}"
