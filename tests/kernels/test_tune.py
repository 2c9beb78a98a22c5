"""Tuning on a CPU: the kernel is a function, and the clock says what a test wants."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.errors import TritonError

from tribin_kernels.inspect.case import Case
from tribin_kernels.inspect.cases import CASES
from tribin_kernels.inspect.operands import Operands
from tribin_kernels.inspect.tune import CANDIDATES, Trial, launch_table, try_candidates
from tribin_kernels.launch_table import TUNABLE, choose
from tribin_kernels.popcount import PopcountConfig
from tribin_kernels.target import Target, assume

CPU = torch.device("cpu")
H200 = Target("cuda", 90, "NVIDIA H200")
WARPS = (1, 2, 4, 8)


@pytest.fixture(autouse=True)
def candidate_warps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CANDIDATES, "popcount", {"num_warps": WARPS})


def counted(_: Operands, __: str) -> Callable[[PopcountConfig], tuple[Tensor, None]]:
    """A call that is wrong with 1 warp, and impossible with 8."""

    def call(config: PopcountConfig) -> tuple[Tensor, None]:
        if config.num_warps == 8:
            raise TritonError("out of resource: registers\nand more")
        return torch.tensor(3 if config.num_warps == 1 else 2), None

    return call


def case(name: str) -> Case:
    return Case("popcount", counted, PopcountConfig, name)


def trial(name: str, num_warps: int, milliseconds: float, kernel: str = "popcount") -> Trial:
    one = Case(kernel, counted, PopcountConfig, name)
    return Trial(one, PopcountConfig(num_warps=num_warps), milliseconds)


def test_candidates_are_checked_and_then_timed() -> None:
    timed = []

    def timer(call: Callable[[], Any]) -> float:
        timed.append(call())
        return float(len(timed))

    with assume(H200):
        trials = list(try_candidates([case("vector 8192, bf16")], CPU, timer))
    in_use = PopcountConfig().num_warps
    others = [warps for warps in WARPS if warps != in_use]
    assert [t.config.num_warps for t in trials] == [in_use, *others]
    outcomes = {t.config.num_warps: (t.milliseconds, t.fault) for t in trials}
    assert outcomes == {
        4: (1.0, ""),
        1: (math.inf, "wrong result"),
        2: (2.0, ""),
        8: (math.inf, "out of resource: registers"),
    }
    assert timed == [(torch.tensor(2), None)] * 2


def test_cases_of_as_many_rows_share_the_configuration_that_is_best_for_all() -> None:
    many, also_many = "resnet 3x3, bf16", "flow++ 3x3, bf16"  # 32,768 rows each
    times = {(many, 2): 1.0, (many, 4): 3.0, (also_many, 2): 5.0, (also_many, 4): 1.5}
    trials = [trial(name, warps, time) for (name, warps), time in times.items()]
    trials.append(trial(many, 8, 0.1))  # what only one of them has in use
    trials += [trial("vector 8192, bf16", warps, 1.0 / warps) for warps in (2, 4)]
    assert launch_table(H200, trials) == {
        "NVIDIA H200": {"popcount": [{"config": asdict(PopcountConfig(num_warps=4))}]}
    }


def test_a_configuration_that_fails_once_is_not_chosen() -> None:
    many, also_many = "resnet 3x3, bf16", "flow++ 3x3, bf16"
    trials = [trial(many, 2, 0.001), trial(also_many, 2, math.inf)]
    trials += [trial(many, 4, 5.0), trial(also_many, 4, 5.0)]
    (entry,) = launch_table(H200, trials)["NVIDIA H200"]["popcount"]
    assert entry["config"]["num_warps"] == 4


def test_the_table_is_one_that_kernels_are_launched_by(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    best = {"vector 8192, bf16": 1, "linear 4096, bf16": 8, "linear 8192, bf16": 8,
            "resnet 3x3, bf16": 2}  # fmt: skip
    trials = [
        trial(name, warps, 1.0 if warps == fastest else 2.0)
        for name, fastest in best.items()
        for warps in WARPS
    ]
    table = launch_table(H200, trials)
    assert [entry.get("rows_at_most") for entry in table["NVIDIA H200"]["popcount"]] == [
        1, 8192, None,
    ]  # fmt: skip
    file = tmp_path / "table.json"
    file.write_text(json.dumps(table))
    monkeypatch.setenv("TRIBIN_LAUNCH_TABLE", str(file))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    with assume(H200):
        for rows, warps in {1: 1, 2: 8, 4096: 8, 8192: 8, 8193: 2, 10**6: 2}.items():
            assert choose(PopcountConfig, CPU, rows=rows, outputs=1).num_warps == warps


@pytest.mark.parametrize("kernel", TUNABLE)
def test_every_tunable_kernel_has_candidates(kernel: str) -> None:
    cases = [one for one in CASES if one.kernel == kernel]
    assert cases
    assert {field.name for field in fields(cases[0].config_class)} >= set(CANDIDATES[kernel])
