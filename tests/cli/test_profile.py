import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import Result
from tests.runs import tribin, tribin_process

from tribin.cli.profile import compile_only
from tribin_kernels.inspect.budget import Budgets
from tribin_kernels.inspect.case import TARGETS
from tribin_kernels.inspect.cases import CASES
from tribin_kernels.inspect.compile import Report
from tribin_kernels.launch_table import LaunchTableError

REPORT = Report(
    case="", kernel="", target="", registers=100, stack_bytes=0, shared_bytes=2048,
    tensor_memory_columns=0, instructions={"HGMMA": 8, "HGMMA register A": 4, "shuffle": 5},
    loop_conversions=2, shared_loop_conversions=1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def budgets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A compiler that answers each case with `REPORT`, and budgets of one's own."""

    def compile_cases(selected: list[tuple[int, str]]) -> Iterator[list[Report]]:
        for index, target in selected:
            case = CASES[index]
            yield [replace(REPORT, kernel=case.kernel, case=case.name, target=target)]

    file = tmp_path / "budgets.json"
    Budgets({}, {}).write(file)
    monkeypatch.setattr(compile_only, "compile_cases", compile_cases)
    monkeypatch.setattr(compile_only, "BUDGETS", file)
    # not the real knob: setting it would change the environment
    monkeypatch.setattr(
        compile_only, "knobs", SimpleNamespace(runtime=SimpleNamespace(interpret=False))
    )
    return file


def kernels(*arguments: object) -> Result:
    return tribin("profile", "kernels", "--compile-only", *arguments)


def reports(*arguments: object) -> list[dict[str, Any]]:
    return json.loads(kernels("--json", *arguments).stdout)


def test_all_kernels_for_all_targets() -> None:
    found = {(report["kernel"], report["case"], report["target"]) for report in reports()}
    everywhere = {(c.kernel, c.name, target) for c in CASES for target in TARGETS}
    missing = everywhere - found
    assert found < everywhere
    assert {kernel for kernel, _, _ in missing} == {"bit_mma", "border_table"}
    assert {target for _, _, target in missing} == {"sm_100", "gfx942"}


def test_selection() -> None:
    chosen = ["--kernel", "popcount", "--kernel", "border_table", "--target", "gfx942"]
    assert {(r["kernel"], r["target"]) for r in reports(*chosen)} == {("popcount", "gfx942")}


def test_a_budget_is_made_then_kept_then_broken(budgets: Path) -> None:
    chosen = ["--kernel", "popcount", "--target", "sm_90"]
    result = kernels(*chosen)
    assert (result.exit_code, result.stderr) == (
        1, "tribin: 1 of 1 kernels break their budget\n",
    )  # fmt: skip
    assert kernels(*chosen, "--update-budgets").exit_code == 0
    assert kernels(*chosen).exit_code == 0
    data = json.loads(budgets.read_text())
    data["required"]["popcount"] = {"sm_90": ["popcount"]}
    (ceilings,) = data["ceilings"]["popcount"].values()
    ceilings["sm_90"]["registers"] = 96
    budgets.write_text(json.dumps(data))
    result = kernels("--json", *chosen)
    assert result.exit_code == 1
    (report,) = json.loads(result.stdout)
    assert report["violations"] == ["registers 100 > 96", "no popcount"]


def test_table() -> None:
    result = kernels("--kernel", "popcount", "--target", "sm_90", "--target", "gfx942")
    header, *rows, empty, fault, other_fault = result.stdout.splitlines()
    assert header.split() == ["popcount", *" ".join(compile_only.COLUMNS).split()]
    name = next(case.name for case in CASES if case.kernel == "popcount")
    firsts = [row for row in rows if "HGMMA" in row]  # a long name goes on below
    for row, target in zip(firsts, ("sm_90", "gfx942"), strict=True):
        start, *cells = [cell.strip() for cell in row.split("  ") if cell]
        assert name.startswith(start)
        instructions = "8 HGMMA, 4 HGMMA register A"
        assert cells == [target, "100", "0", "2,048", instructions, "2 (1)", "broken"]
    assert (empty, fault) == ("", f"popcount, {name}, sm_90: no budget")
    assert other_fault == f"popcount, {name}, gfx942: no budget"


def test_help_names_the_commands_and_imports_none() -> None:
    code = "import sys; from tribin.cli import main; " + (
        "main(['profile', '--help'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    _, _, listed = process.stdout.partition("Commands:")
    names = [line.split()[0] for line in listed.splitlines() if line]
    assert names == ["kernels", "model", "step", "compare", "tune"]


def test_an_unknown_command() -> None:
    result = tribin("profile", "layers")
    assert result.exit_code == 2
    assert "No such command 'layers'" in result.stderr


def test_tuning_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = tribin("profile", "tune", "-o", "table.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "tribin: tuning times the kernels on a GPU, and there is none\n"
    assert not (tmp_path / "table.json").exists()


def test_the_interpreter_does_not_compile() -> None:
    result = tribin_process("profile", "kernels", "--compile-only")  # TRITON_INTERPRET is set
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("tribin: TRITON_INTERPRET is set: ")


def test_a_faulty_launch_table_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> Iterator[list[Report]]:
        raise LaunchTableError("table.json: 3 is wrong")

    monkeypatch.setattr(compile_only, "compile_cases", fail)
    result = kernels()
    assert (result.exit_code, result.stderr) == (2, "tribin: table.json: 3 is wrong\n")


@pytest.mark.parametrize("option", ["--kernel", "--target"])
def test_unknown_names(option: str) -> None:
    result = kernels(option, "sm_12")
    assert result.exit_code == 2
    assert f"Invalid value for '{option}': 'sm_12' is not one of" in result.stderr


def test_the_folder_of_the_tuned_table_must_exist(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    result = tribin("profile", "tune", "-o", tmp_path / "missing" / "table.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"tribin: --output: there is no folder {tmp_path / 'missing'}\n"
