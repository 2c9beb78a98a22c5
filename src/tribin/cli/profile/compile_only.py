"""What the compiler makes of the kernels, for GPUs that need not be there."""

import json
from collections.abc import Collection
from dataclasses import asdict

import click
from tqdm import tqdm
from triton import knobs

from tribin.errors import InputError
from tribin.profiling.report.text import fitted_columns, paragraph
from tribin_kernels.inspect.budget import BUDGETS, Budgets, check
from tribin_kernels.inspect.case import TARGETS
from tribin_kernels.inspect.cases import CASES
from tribin_kernels.inspect.compile import Report
from tribin_kernels.inspect.run import compile_cases, select

__all__ = ["KERNELS", "TARGETS", "compile_only"]

COLUMNS = ("target", "registers", "stack", "shared", "tensor core", "converts", "budget")
"""Stack and shared memory in bytes; layout conversions in loops, in brackets through the latter."""

KERNELS = sorted({case.kernel for case in CASES})


def compile_only(
    kernels: Collection[str], targets: Collection[str], *, update_budgets: bool, as_json: bool
) -> int:
    """Compile kernels, print a table or JSON of what came out, and hold it to its budgets.

    Args:
        kernels: of `KERNELS`.
        targets: of `TARGETS`.
        update_budgets: make what comes out the new ceilings.
        as_json: print a JSON list of reports.

    Returns:
        The exit code: 1 if a budget is broken.

    Raises:
        InputError: if Triton interprets kernels, as it can't compile them then.
    """
    if knobs.runtime.interpret:
        raise InputError("TRITON_INTERPRET is set: interpreted kernels cannot be compiled")
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
    return 1 if broken else 0


def _json(reports: list[Report], violations: list[list[str]]) -> str:
    pairs = zip(reports, violations, strict=True)
    return json.dumps([{**asdict(report), "violations": broken} for report, broken in pairs])


def _table(reports: list[Report], violations: list[list[str]]) -> str:
    """A table for each kernel, at most 100 columns wide, and a line for each broken budget."""
    rows: dict[str, list[tuple[str, ...]]] = {}
    for report, broken in zip(reports, violations, strict=True):
        rows.setdefault(report.kernel, []).append(_row(report, broken))
    tables = [fitted_columns([(kernel, *COLUMNS), *of_it]) for kernel, of_it in rows.items()]
    faults = [
        paragraph(f"{report.kernel}, {report.case}, {report.target}: {'; '.join(broken)}")
        for report, broken in zip(reports, violations, strict=True)
        if broken
    ]
    return "\n\n".join([*tables, *(["\n".join(faults)] if faults else [])])


def _row(report: Report, broken: list[str]) -> tuple[str, ...]:
    return (
        report.case,
        report.target,
        str(report.registers),
        str(report.stack_bytes),
        f"{report.shared_bytes:,}",
        ", ".join(f"{count} {kind}" for kind, count in report.tensor_core.items()) or "-",
        f"{report.loop_conversions} ({report.shared_loop_conversions})",
        "broken" if broken else "kept",
    )
