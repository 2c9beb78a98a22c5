import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.kernels.toy_kernels import product_launch

from tribin_kernels.inspect.budget import BUDGETS, Budget, Budgets, check
from tribin_kernels.inspect.case import TARGETS, record_case
from tribin_kernels.inspect.cases import CASES
from tribin_kernels.inspect.compile import Report, compile_launch
from tribin_kernels.inspect.machine_code import read_amdgcn, read_sass
from tribin_kernels.launch_table import COMMITTED, entries, read_table


def compiling_process(*arguments: str) -> Any:
    """What a Python process that does not interpret kernels prints, parsed as JSON."""
    hidden = ("TRITON_INTERPRET", "TRIBIN_LAUNCH_TABLE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    process = subprocess.run(
        [sys.executable, "-m", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert process.stdout, process.stderr
    return json.loads(process.stdout)


# The kernels


def test_every_case_keeps_its_budget() -> None:
    reports = compiling_process("tribin", "profile", "kernels", "--compile-only", "--json")
    broken = {
        f"{report['kernel']}, {report['case']}, {report['target']}": report["violations"]
        for report in reports
        if report["violations"]
    }
    assert broken == {}
    found = {(report["kernel"], report["case"], report["target"]) for report in reports}
    assert len(found) == len(reports)  # else two kernels would share a budget
    budgets = Budgets.read(BUDGETS)
    assert found == {
        (kernel, case, target)
        for kernel, cases in budgets.ceilings.items()
        for case, targets in cases.items()
        for target in targets
    }


def test_the_smallest_layers_compile() -> None:
    reports = compiling_process("tests.kernels.compile_smallest")
    assert all(report["stack_bytes"] == 0 for report in reports)
    # every kernel but those for images and rows enough
    assert {report["kernel"] for report in reports} >= {
        "bit_mma", "border_table", "finish_sums", "finish_weight_gradient", "pack_activations",
        "pack_weights", "popcount", "real_mma", "scale_gradient", "unpack_rows", "weight_gradient",
    }  # fmt: skip


def test_every_committed_configuration_has_a_case() -> None:
    for section in read_table(str(COMMITTED)).values():
        for kernel, listed in section.items():
            for entry in listed:
                assert kernel == "routes" or any(
                    entry is next((e for e in entries(kernel, target) if e.holds(case.sizes)), None)
                    for target in TARGETS.values()
                    for case in CASES
                    if case.kernel == kernel and case.runs_on(target)
                ), entry.place


def test_case_names_are_unique() -> None:
    assert len({(case.kernel, case.name) for case in CASES}) == len(CASES)


def test_only_the_call_is_recorded_not_its_operands() -> None:
    case = next(case for case in CASES if case.kernel == "weight_gradient")
    launches = record_case(case, TARGETS["sm_90"])
    files = [launch.kernel.fn.__module__.rpartition(".")[2] for launch in launches]
    assert files == ["weight_gradient", "finish_weight_gradient"]


# Compiling


@pytest.fixture(scope="module")
def toys() -> Any:
    return compiling_process("tests.kernels.toy_kernels")


def toy_report(toys: Any, fault: str, target: str = "sm_90") -> Report:
    return Report(**toys["reports"][fault][target])


@pytest.mark.parametrize(
    ("target", "instruction"),
    [("sm_80", "HMMA"), ("sm_90", "HGMMA"), ("sm_100", "UTCHMMA"), ("gfx942", "MFMA")],
)
def test_a_good_kernel(toys: Any, target: str, instruction: str) -> None:
    report = toy_report(toys, "", target)
    assert (report.target, report.stack_bytes) == (target, 0)
    assert (report.loop_conversions, report.shared_loop_conversions) == (0, 0)
    assert list(report.tensor_core) == [instruction]
    # 3 stages of two tiles of 64 × 64 bfloat16, or 2 of them
    assert report.shared_bytes >= 2 * 2 * 64 * 64 * 2
    assert report.registers > 32  # of 64 × 64 sums, a thread of 4 warps holds 32
    assert (report.tensor_memory_columns > 0) == (target == "sm_100")
    assert check(report, Budget({"registers": 128}, [instruction])) == []


def test_a_spill_is_caught(toys: Any) -> None:
    report = toy_report(toys, "spills")
    assert report.instructions["local store"] > 0
    assert check(report, Budget({}, [])) == [
        f"stack_bytes {report.stack_bytes:,} > 0",
        f"shared_bytes {report.shared_bytes:,} > 232,448",
    ]


def test_a_missing_tensor_core_is_caught(toys: Any) -> None:
    budget = Budget({}, ["HGMMA"])
    assert check(toy_report(toys, "no tensor core"), budget) == ["no HGMMA"]


def test_a_layout_conversion_in_a_loop_is_caught(toys: Any) -> None:
    budget = Budget({"loop_conversions": 0, "shared_loop_conversions": 0}, [])
    assert check(toy_report(toys, "shared conversion"), budget) == [
        "loop_conversions 1 > 0",
        "shared_loop_conversions 1 > 0",
    ]
    report = toy_report(toys, "register conversion")
    assert check(report, budget) == ["loop_conversions 1 > 0"]
    assert report.instructions["HGMMA register A"] < report.instructions["HGMMA"]


def test_arguments_are_specialised_as_at_a_launch(toys: Any) -> None:
    signature = re.search(r"tt\.func public @arguments\((.*?)\) attributes", toys["arguments"])
    assert signature is not None
    parameters = re.sub(r" loc\(.*?\)\)", "", signature[1]).replace(
        "tt.divisibility = 16 : i32", "16"
    )
    assert parameters.split(", ") == [
        "%aligned: !tt.ptr<f32> {16}",
        "%shifted: !tt.ptr<f32>",
        "%sixteen: i32 {16}",
        "%odd: i32",
        "%large: i64",
        "%plain: i32",
        "%real: f32",
        "%flag: i1",
        "%out: !tt.ptr<f32> {16}",
    ]


def test_interpreted_kernels_cannot_be_compiled() -> None:
    with pytest.raises(RuntimeError, match="process without TRITON_INTERPRET"):
        compile_launch(product_launch(""), TARGETS["sm_90"])


# Machine code


def test_sass() -> None:
    code = read_sass("""
 Function f:
  REG:92 STACK:24 SHARED:0 LOCAL:0
        /*0090*/                   HGMMA.64x64x16.F32.BF16 R24, R68, gdesc[UR20].tnspB, R24 ;   /* 0x1 */
                                                                                                /* 0x2 */
        /*00a0*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ;         /* 0x1 */
        /*00b0*/                   BMMA.168256.AND.POPC R4, R44.ROW, R40.COL, R4 ;              /* 0x1 */
        /*00c0*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;                    /* 0x1 */
        /*00d0*/             @!UP1 LDG.E.U16 R4, desc[UR4][R2.64] ;                             /* 0x1 */
        /*00e0*/                   LDG.E R4, desc[UR4][R2.64] ;                                 /* 0x1 */
        /*00f0*/                   LDGSTS.E.BYPASS.128 [R3], [R4.64] ;                          /* 0x1 */
       /*10000*/                   STG.E.64 [R4.64], R2 ;                                       /* 0x1 */
       /*10010*/                   LDSM.16.M88.4 R4, [R3] ;                                     /* 0x1 */
       /*10020*/                   STL [R1], R3 ;                                               /* 0x1 */
       /*10030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;                                /* 0x1 */
       /*10040*/                   POPC R1, R2 ;                                                /* 0x1 */
       /*10050*/                   LDC R1, c[0x0][0x28] ;                                       /* 0x1 */
""")  # noqa: E501
    assert (code.registers, code.stack_bytes) == (92, 24)
    assert code.instructions == {
        "BMMA": 1,
        "HGMMA": 2,
        "HGMMA register A": 1,
        "async load 128": 1,
        "barrier": 1,
        "load 128": 1,
        "load 16": 1,
        "load 32": 1,
        "local store": 1,
        "popcount": 1,
        "shared load": 1,
        "store 64": 1,
    }


def test_amdgcn() -> None:
    code = read_amdgcn("""
f:                                      ; @f
	buffer_load_dwordx4 v[2:5], v1, s[8:11], 0 offen
	buffer_load_dword v1, s[8:11], 0 offen lds
	global_load_ushort v1, v0, s[8:11]
	global_store_dwordx2 v1, v[0:1], s[8:11]
	global_store_byte v1, v0, s[8:11]
	ds_read2st64_b32 v[2:3], v1
	ds_write_b64 v1, v[2:3]
	v_mfma_f32_32x32x8_bf16 v[0:15], v[16:17], v[18:19], v[0:15]
	v_bcnt_u32_b32 v1, v2, v3
	scratch_store_dword off, v1, s32
	s_barrier
; NumAgprs: 8
; TotalNumVgprs: 40
; ScratchSize: 12
""")
    assert (code.registers, code.stack_bytes) == (40, 12)
    assert code.instructions == {
        "MFMA": 1,
        "async load 32": 1,
        "barrier": 1,
        "load 128": 1,
        "load 16": 1,
        "local store": 1,
        "popcount": 1,
        "shared load": 1,
        "shared store": 1,
        "store 64": 1,
        "store 8": 1,
    }


# Budgets

REPORT = Report(
    case="a", kernel="k", target="sm_90", registers=170, stack_bytes=0, shared_bytes=1024,
    tensor_memory_columns=0, instructions={"BMMA": 3}, loop_conversions=2,
    shared_loop_conversions=1,
)  # fmt: skip


def test_a_refreshed_budget_is_kept_and_every_rise_breaks_it(tmp_path: Path) -> None:
    budgets = Budgets({"k": {"sm_90": ["BMMA"]}}, {})
    assert check(REPORT, budgets.of(REPORT)) == ["no budget"]
    budgets.refresh([REPORT])
    budgets.write(tmp_path / "budgets.json")
    budget = Budgets.read(tmp_path / "budgets.json").of(REPORT)
    assert check(REPORT, budget) == []
    assert check(replace(REPORT, registers=176), budget) == []  # the same step of registers
    worse = replace(
        REPORT, registers=177, stack_bytes=4, shared_bytes=2048, tensor_memory_columns=1,
        instructions={}, loop_conversions=3, shared_loop_conversions=2,
    )  # fmt: skip
    assert sorted(check(worse, budget)) == [
        "loop_conversions 3 > 2",
        "no BMMA",
        "registers 177 > 176",
        "shared_bytes 2,048 > 1,024",
        "shared_loop_conversions 2 > 1",
        "stack_bytes 4 > 0",
        "tensor_memory_columns 1 > 0",
    ]


@pytest.mark.parametrize(
    ("target", "limit"),
    [("sm_80", 166_912), ("sm_90", 232_448), ("sm_100", 232_448), ("gfx942", 65_536)],
)
def test_no_refresh_raises_the_limits_of_a_gpu(target: str, limit: int) -> None:
    report = replace(REPORT, target=target, shared_bytes=limit + 16, stack_bytes=8)
    budgets = Budgets({}, {})
    budgets.refresh([report])
    assert check(report, budgets.of(report)) == [
        f"shared_bytes {limit + 16:,} > {limit:,}",
        "stack_bytes 8 > 0",
    ]


def test_the_committed_file_is_as_it_would_be_written(tmp_path: Path) -> None:
    Budgets.read(BUDGETS).write(tmp_path / "budgets.json")
    assert (tmp_path / "budgets.json").read_text() == BUDGETS.read_text()


def test_tensor_memory_has_512_columns() -> None:
    report = replace(REPORT, target="sm_100", tensor_memory_columns=832)
    assert check(report, Budget({}, [])) == ["tensor_memory_columns 832 > 512"]
