import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tribin_kernels.bit_mma import BitMmaConfig
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.launch_table import (
    COMMITTED,
    TUNABLE,
    LaunchTableError,
    choose,
    read_table,
    w1a1_route,
)
from tribin_kernels.real_mma import RealMmaConfig
from tribin_kernels.target import Target, assume

META = torch.device("meta")
H200 = Target("cuda", 90, "NVIDIA H200")
H100 = Target("cuda", 90, "NVIDIA H100 80GB HBM3")
MI300 = Target("hip", "gfx942", "AMD Instinct MI300X")
FEW, MANY = Conv2dShape(16, 64, 1, 1, 8), Conv2dShape(17, 64, 1, 1, 8)


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user's table, and the mode in which it counts."""
    monkeypatch.setenv("TRIBIN_LAUNCH_TABLE", str(tmp_path / "table.json"))
    with deterministic(False):
        yield tmp_path / "table.json"


@contextmanager
def deterministic(mode: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(mode)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def warps(target: Target, rows: int = 1, outputs: int = 1) -> int:
    with assume(target):
        return choose(RealMmaConfig, META, rows=rows, outputs=outputs).num_warps


def entry(num_warps: int, **conditions: int) -> dict[str, Any]:
    return {**conditions, "config": {"num_warps": num_warps}}


def test_the_first_entry_that_holds_wins(own_table: Path) -> None:
    listed = [entry(1, rows_at_most=8, outputs_at_most=4), entry(2, rows_at_most=16), entry(4)]
    own_table.write_text(json.dumps({"default": {"real_mma": listed}}))
    sizes = [(8, 4), (8, 5), (9, 1), (16, 100), (17, 1)]
    assert [warps(H200, *size) for size in sizes] == [1, 2, 2, 2, 4]


def test_sections_are_searched_from_the_gpu_to_the_default(own_table: Path) -> None:
    table = {
        "default": {"real_mma": [entry(1)]},
        "sm_90": {"real_mma": [entry(2, rows_at_most=64)]},
        "NVIDIA H200": {"bit_mma": [], "real_mma": [entry(8, rows_at_most=32)]},
    }
    own_table.write_text(json.dumps(table))
    assert [warps(H200, rows) for rows in (32, 64, 65)] == [8, 2, 1]
    assert [warps(H100, rows) for rows in (32, 64, 65)] == [2, 2, 1]
    assert warps(MI300, 32) == 1


def test_what_no_entry_says_is_the_kernels_default(own_table: Path) -> None:
    own_table.write_text(json.dumps({"default": {"real_mma": [entry(2, rows_at_most=8)]}}))
    with assume(H200):
        assert choose(RealMmaConfig, META, rows=8, outputs=1) == RealMmaConfig(num_warps=2)
        assert choose(BitMmaConfig, META, rows=8, outputs=1) == BitMmaConfig()


def test_deterministic_mode_pins_the_committed_table(
    own_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_table.write_text(json.dumps({"default": {"real_mma": [entry(1)]}}))
    assert warps(H200) == 1
    with deterministic(True):
        pinned = warps(H200)
    monkeypatch.delenv("TRIBIN_LAUNCH_TABLE")
    assert warps(H200) == pinned != 1


@pytest.mark.parametrize(
    ("target", "many"),
    [
        (Target("cuda", 75), "int8_mma"),
        (Target("cuda", 80), "bit_mma"),
        (Target("cuda", 89), "bit_mma"),
        (H200, "bit_mma"),
        (Target("cuda", 100), "int8_mma"),
        (MI300, "int8_mma"),
    ],
)
def test_committed_routes(monkeypatch: pytest.MonkeyPatch, target: Target, many: str) -> None:
    monkeypatch.delenv("TRIBIN_LAUNCH_TABLE")
    few_pixels = Conv2dShape(1, 64, 4, 4, 8, (3, 3), (1, 1), (1, 1))
    with assume(target):
        assert w1a1_route(META, FEW) == "popcount"
        assert w1a1_route(META, few_pixels) == many  # popcounts are for linear layers
        assert w1a1_route(META, MANY) == many


def test_routes_of_a_users_table(own_table: Path) -> None:
    routes = [{"outputs_at_most": 8, "route": "bit_mma"}, {"route": "popcount"}]
    own_table.write_text(json.dumps({"default": {"routes": routes}}))
    with assume(H200):
        assert w1a1_route(META, MANY) == "bit_mma"
    with assume(MI300):
        assert w1a1_route(META, MANY) == "popcount"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{", "is no JSON file: "),
        ([], "{file}: [] is not an object of sections"),
        ({"sm_90": []}, "{file}: sm_90: [] is not an object of kernels"),
        ({"sm_90": {"relu": []}}, "{file}: sm_90: 'relu' is not one of bit_mma, int8_mma, pack_"),
        ({"sm_90": {"real_mma": {}}}, "{file}: sm_90.real_mma: {} is not a list of entries"),
        (
            {"sm_90": {"real_mma": [{"rows_at_most": 1}]}},
            "{file}: sm_90.real_mma[0]: {'rows_at_most': 1} is not an object with 'config'",
        ),
        (
            {"sm_90": {"real_mma": [entry(1), entry(1, rows_at_least=3)]}},
            "{file}: sm_90.real_mma[1]: 'rows_at_least' is not one of rows_at_most, outputs_at_",
        ),
        (
            {"sm_90": {"real_mma": [entry(1, rows_at_most=True)]}},
            "{file}: sm_90.real_mma[0].rows_at_most: True is not a positive integer",
        ),
        (
            {"sm_90": {"real_mma": [{"config": 3}]}},
            "{file}: sm_90.real_mma[0].config: 3 is not an object of integers",
        ),
        (
            {"sm_90": {"real_mma": [entry(0)]}},
            "{file}: sm_90.real_mma[0].config.num_warps: 0 is not a positive integer",
        ),
        (
            {"sm_90": {"real_mma": [{"config": {"warps": 1}}]}},
            "{file}: sm_90.real_mma[0].config: 'warps' is not one of block_",
        ),
        (
            {"sm_90": {"routes": [{"route": "fp8_mma"}]}},
            "{file}: sm_90.routes[0].route: 'fp8_mma' is not one of bit_mma, int8_mma, popcount",
        ),
    ],
)
def test_faults(own_table: Path, table: Any, message: str) -> None:
    own_table.write_text(table if isinstance(table, str) else json.dumps(table))
    with pytest.raises(LaunchTableError) as error:
        warps(H200)
    assert message.replace("{file}", str(own_table)) in str(error.value)
    assert str(own_table) in str(error.value)


def test_a_missing_file(own_table: Path) -> None:
    with pytest.raises(LaunchTableError, match=r"table\.json cannot be read: No such file"):
        w1a1_route(META, FEW)


def test_every_tunable_kernel_has_one_config_class_of_integers() -> None:
    for kernel in TUNABLE:
        module = import_module(f"tribin_kernels.{kernel}")
        (config_class,) = (
            value
            for name, value in vars(module).items()
            if name.endswith("Config") and value.__module__ == module.__name__
        )
        assert all(type(getattr(config_class(), f.name)) is int for f in fields(config_class))


def test_the_committed_table_is_right_for_every_target() -> None:
    """Every configuration can be made: no field is unknown, no value refused."""
    for section in read_table(str(COMMITTED)).values():
        for kernel, listed in section.items():
            if kernel != "routes":
                module = import_module(f"tribin_kernels.{kernel}")
                (config_class,) = (v for n, v in vars(module).items() if n.endswith("Config"))
                for one in listed:
                    config_class(**one.value)


def test_the_table_needs_no_triton() -> None:
    code = "import sys, tribin_kernels.launch_table; sys.exit('triton.language' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
