"""``tribin profile``: what the compiler makes of the kernels, and which configurations are fast."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from tqdm import tqdm
from triton import knobs

from tribin.atomic_file import write_atomically
from tribin.errors import InputError
from tribin_kernels.inspect.budget import BUDGETS, Budgets, check
from tribin_kernels.inspect.case import TARGETS
from tribin_kernels.inspect.cases import CASES
from tribin_kernels.inspect.compile import Report
from tribin_kernels.inspect.run import compile_cases, select
from tribin_kernels.inspect.tune import CANDIDATES, Trial, launch_table, try_candidates
from tribin_kernels.target import target_of

KERNELS = sorted({case.kernel for case in CASES})
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _selection(option: str, names: Iterable[str]) -> Callable[[_Command], _Command]:
    """A repeatable option that takes some of the names; all by default."""
    names = list(names)
    choice = click.Choice(names)
    return click.option(f"--{option}", f"{option}s", type=choice, multiple=True, default=names)


@click.group()
def profile() -> None:
    """Inspect and tune the kernels.

    They are launched in the configurations of the committed launch table, or of the file that the
    environment variable TRIBIN_LAUNCH_TABLE names.
    """


@profile.command()
@click.option("--compile-only", is_flag=True, help="Compile, for GPUs that need not be there.")
@_selection("kernel", KERNELS)
@_selection("target", TARGETS)
@click.option("--update-budgets", is_flag=True, help="Make what comes out the new ceilings.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of reports.")
@click.pass_context
def kernels(
    context: click.Context,
    compile_only: bool,
    kernels: tuple[str, ...],
    targets: tuple[str, ...],
    update_budgets: bool,
    as_json: bool,
) -> None:
    """Compile the kernels and check them against their budgets.

    The exit code is 1 if a budget is broken. --kernel and --target select, and can be repeated.
    """
    _require_compiler(compile_only)
    selected = select(kernels, targets)
    compiled = tqdm(compile_cases(selected), total=len(selected), disable=None, leave=False)
    reports = [report for of_case in compiled for report in of_case]
    budgets = Budgets.read(BUDGETS)
    if update_budgets:
        budgets.refresh(reports)
        budgets.write(BUDGETS)
    violations = [check(report, budgets.of(report)) for report in reports]
    click.echo(_json(reports, violations) if as_json else _table(reports, violations))
    broken = sum(map(bool, violations))
    if broken:
        click.echo(f"tribin: {broken} of {len(reports)} kernels break their budget", err=True)
        context.exit(1)


def _require_compiler(compile_only: bool) -> None:
    if not compile_only:
        raise InputError("timing needs a GPU, see benchmarks/gpu; --compile-only needs none")
    if knobs.runtime.interpret:
        raise InputError("TRITON_INTERPRET is set: interpreted kernels cannot be compiled")


def _json(reports: list[Report], violations: list[list[str]]) -> str:
    pairs = zip(reports, violations, strict=True)
    return json.dumps([{**asdict(report), "violations": broken} for report, broken in pairs])


def _table(reports: list[Report], violations: list[list[str]]) -> str:
    header = ("kernel", "case", "target", "registers", "stack", "shared", "tensor core",
              "loop conversions", "budget")  # fmt: skip
    rows = [
        (
            report.kernel,
            report.case,
            report.target,
            str(report.registers),
            str(report.stack_bytes),
            f"{report.shared_bytes:,}",
            ", ".join(f"{count} {kind}" for kind, count in report.tensor_core.items()) or "-",
            f"{report.loop_conversions} ({report.shared_loop_conversions} shared)",
            "; ".join(broken) or "kept",
        )
        for report, broken in zip(reports, violations, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows))


@profile.command()
@_selection("kernel", CANDIDATES)
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
