"""Check and time the kernels on the GPU at hand.

    python -m benchmarks.gpu --check
    python -m benchmarks.gpu --time [--output FILE.json]

`--check` compares every op, forward and each gradient, with float64 on the real shapes and on 200
ragged ones, and tries graphs, compilation and layouts; it ends with exit code 1 if anything is
wrong. `--time` checks each problem and then times it beside its baselines; with `--output` it
writes FILE.json, and the table as FILE.md.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

# cuBLAS is reproducible only with a workspace of fixed size.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import triton

from benchmarks.gpu import race
from benchmarks.gpu.ceilings import ceilings
from benchmarks.gpu.check import check_all
from benchmarks.gpu.races import races
from tribin.provenance import provenance


def main() -> int:
    """Run what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with float64")
    parser.add_argument("--time", action="store_true", help="time beside the baselines")
    parser.add_argument("--output", type=Path, help="JSON file for the times")
    arguments = parser.parse_args()
    if not arguments.check and not arguments.time:
        parser.error("ask for --check, --time or both")
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a GPU that torch can use; there is none", file=sys.stderr)
        return 2
    passed = _checked() if arguments.check else True
    if arguments.time:
        _timed(arguments.output)
    return 0 if passed else 1


def _checked() -> bool:
    """Run the checks with every uninitialized output poisoned, see torch.utils.deterministic.

    A library's float32 products are to be float32 here, not tf32.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True)
    try:
        passed = check_all()
    finally:
        torch.use_deterministic_algorithms(False)
    print("\nall checks passed" if passed else "\nNOT all checks passed")
    return passed


def _timed(output: Path | None) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    result: dict[str, Any] = {
        "benchmark": "gpu",
        **provenance(device),
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "ceilings": ceilings(),
        "races": [],
    }
    lines = [_heading(result), *_ceiling_lines(result["ceilings"])]
    print("\n".join(lines))
    for problem in races():
        laps = race.run(problem)
        table = report(problem, laps, result["ceilings"])
        print("\n".join(table), flush=True)
        lines += table
        result["races"].append(
            {
                "name": problem.name,
                "operations": problem.operations,
                "bytes": problem.bytes_moved,
                "microseconds": [asdict(lap) for lap in laps],
            }
        )
        torch.cuda.empty_cache()
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")
        output.with_suffix(".md").write_text("```\n" + "\n".join(lines) + "\n```\n")


def _heading(result: dict[str, Any]) -> str:
    return (
        f"{result['device']}, torch {result['torch']}, triton {result['triton']}, "
        f"CUDA {result['cuda']}, {result['date']}"
    )


def _ceiling_lines(rates: dict[str, float]) -> list[str]:
    units = {"copy": (1e12, "TB/s"), "bfloat16": (1e12, "TFLOP/s"), "bit": (1e15, "P op/s")}
    return [
        f"measured ceiling, {name}: {rate / units[name][0]:.2f} {units[name][1]}"
        for name, rate in rates.items()
    ]


def report(problem: race.Race, laps: list[race.Lap], rates: dict[str, float]) -> list[str]:
    """One line a contender: median with spread, rates, and the time over the floor and tribin's."""
    floor = floor_microseconds(problem, rates)
    lines = [
        f"\n{problem.name}; floor {floor:.1f} µs",
        f"  {'':<30}{'median':>10}{'spread':>18}{'T op/s':>9}{'GB/s':>8}{'floor':>7}{'×':>8}",
    ]
    ours = laps[0].median
    for lap in laps:
        lines.append(
            f"  {lap.name:<30}{lap.median:>7.1f} µs{lap.fastest:>9.1f}–{lap.slowest:<8.1f}"
            f"{problem.operations / lap.median / 1e6:>9.0f}"
            f"{problem.bytes_moved / lap.median / 1e3:>8.0f}"
            f"{floor / lap.median:>7.0%}{lap.median / ours:>8.2f}"
        )
    return lines


def floor_microseconds(problem: race.Race, rates: dict[str, float]) -> float:
    """The larger of bytes over bandwidth and operations over the ceiling, in microseconds."""
    moving = problem.bytes_moved / rates["copy"]
    computing = 0.0 if problem.ceiling == "copy" else problem.operations / rates[problem.ceiling]
    return 1e6 * max(moving, computing)


if __name__ == "__main__":
    sys.exit(main())
