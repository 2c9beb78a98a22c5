"""What the compiler may make of each case: the limits of each GPU, and a budget for each kernel.

budgets.json has two parts. "required" is written by hand: kernel → target → the kinds of
instructions that the kernel's code must hold. "ceilings" is what came out when they were last
refreshed: kernel → case → target → ceilings by field of `Report`.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tribin_kernels.inspect.compile import Report

BUDGETS = Path(__file__).with_name("budgets.json")

LIMITS = {
    "sm_80": {"stack_bytes": 0, "shared_bytes": 163 << 10},
    "sm_89": {"stack_bytes": 0, "shared_bytes": 99 << 10},
    "sm_90": {"stack_bytes": 0, "shared_bytes": 227 << 10},
    "sm_100": {"stack_bytes": 0, "shared_bytes": 227 << 10, "tensor_memory_columns": 512},
    "gfx942": {"stack_bytes": 0, "shared_bytes": 64 << 10},
}
"""What no budget can exceed: nothing may spill, and a program must fit on its GPU."""

REGISTER_STEP = 8
"""Registers are given out in steps of so many a thread: a ceiling between two has no meaning."""

MEASURED = ("shared_bytes", "tensor_memory_columns", "loop_conversions", "shared_loop_conversions")


@dataclass(frozen=True)
class Budget:
    """What a kernel may use in one case on one target.

    Args:
        ceilings: by field of `Report`.
        required: kinds of instructions of which there must be at least one.
    """

    ceilings: dict[str, int]
    required: list[str]


@dataclass(frozen=True)
class Budgets:
    """The two parts of budgets.json."""

    required: dict[str, dict[str, list[str]]]
    ceilings: dict[str, dict[str, dict[str, dict[str, int]]]]

    @classmethod
    def read(cls, file: Path) -> "Budgets":
        """Read a file that `write` wrote."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def write(self, file: Path) -> None:
        """Write a file, each target's values on one line."""
        text = json.dumps({"required": self.required, "ceilings": self.ceilings}, indent=2)
        innermost = re.compile(r"([\[{])\s+([^][{}]*?)\s+([]}])")
        lines = innermost.sub(lambda m: m[1] + re.sub(r"\s+", " ", m[2]) + m[3], text)
        file.write_text(lines + "\n", encoding="utf-8")

    def of(self, report: Report) -> Budget | None:
        """The budget that a report is to keep, if there is one."""
        ceilings = self.ceilings.get(report.kernel, {}).get(report.case, {}).get(report.target)
        if ceilings is None:
            return None
        return Budget(ceilings, self.required.get(report.kernel, {}).get(report.target, []))

    def refresh(self, reports: Iterable[Report]) -> None:
        """Make what came out the ceilings; the limits of the GPUs stay as they are."""
        for report in reports:
            registers = -(-report.registers // REGISTER_STEP) * REGISTER_STEP
            ceilings = {"registers": registers} | {name: getattr(report, name) for name in MEASURED}
            cases = self.ceilings.setdefault(report.kernel, {})
            cases.setdefault(report.case, {})[report.target] = ceilings


def check(report: Report, budget: Budget | None) -> list[str]:
    """Name each violation of the GPU's limits and of the budget, with the value and the limit."""
    ceilings, required = (budget.ceilings, budget.required) if budget else ({}, [])
    limits = {**ceilings, **LIMITS[report.target]}
    for field in ceilings:
        limits[field] = min(limits[field], ceilings[field])
    over = [
        f"{field} {getattr(report, field):,} > {limit:,}"
        for field, limit in limits.items()
        if getattr(report, field) > limit
    ]
    missing = [f"no {kind}" for kind in required if kind not in report.instructions]
    return over + missing + ([] if budget else ["no budget"])
