"""The ceilings of a machine whose rates are known, and once of the real one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.kernels.cpu_calls import require_library
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tribin.profiling import ceilings
from tribin.profiling.ceilings import measure_ceilings
from tribin_kernels.cpu import int8, popcount_peak

CPU = torch.device("cpu")
READ, BIT = 5e10, 7e12
GEMM = {torch.float32: 1e11, torch.bfloat16: 3e11, torch.int8: 4e11}
CONVOLUTION = {torch.float32: 2e11, torch.bfloat16: 2e11, torch.uint8: 1e11}


class Machine(TorchDispatchMode):
    """A clock that each operation moves on: products by torch's own count, the others by bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.slow_until = 0.0
        self.copy = 4e10
        self.sizes: dict[torch.dtype, set[int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in ("aten::mm", "aten::_int_mm"):
            self.sizes.setdefault(args[0].dtype, set()).add(len(args[0]))
            operations = flop_registry[torch.ops.aten.mm](*args, out_val=result)
            self.passes(operations / GEMM[args[0].dtype])
        elif name == "aten::convolution":
            operations = flop_registry[func._overloadpacket](*args, out_val=result)
            self.passes(operations / CONVOLUTION[args[0].dtype])
        elif name == "onednn::qconv2d_pointwise":
            self.passes(2 * result.numel() * 256 * 9 / CONVOLUTION[args[0].dtype])
        elif name in ("aten::copy_", "aten::sum"):
            moved = sum(x.nbytes for x in tree_leaves(args) if isinstance(x, Tensor))
            self.passes(moved / (self.copy if name == "aten::copy_" else READ))
        return result

    def passes(self, seconds: float) -> None:
        self.now += 2 * seconds if self.now < self.slow_until else seconds

    def popcount_peak(self, steps: int) -> int:
        self.passes(2 * 100 * steps / BIT)
        return 100 * steps


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    if not int8.is_available():
        pytest.skip("torch has no oneDNN here")
    machine = Machine()
    monkeypatch.setattr(ceilings, "clock_of", lambda device: lambda: machine.now)
    monkeypatch.setattr(ceilings, "popcount_peak", machine.popcount_peak)
    monkeypatch.setattr(ceilings, "COPY_BYTES", 2**22)
    monkeypatch.setattr(ceilings, "MATRIX_SIZES", (512, 1024, 2048))
    monkeypatch.setattr(ceilings, "BATCHES", (1, 2))
    monkeypatch.setattr(ceilings, "PROBE_SECONDS", 0.01)
    return machine


RATES = {"copy": READ, "float32": 2e11, "bfloat16": 3e11, "int8": 4e11, "bit": BIT}
"""The faster of a copy and a sum, and of a matrix product and a convolution."""


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("copy", [4e10, 6e10])
def test_rates_are_those_of_the_machine(machine: Machine, quick: bool, copy: float) -> None:
    machine.copy = copy
    with machine:
        found = measure_ceilings(CPU, quick=quick)
    assert found == pytest.approx({**RATES, "copy": max(copy, READ)})


def test_a_slow_phase_does_not_count(machine: Machine) -> None:
    with machine:
        measure_ceilings(CPU)
        once, machine.now = machine.now / ceilings.ROUNDS, 0.0
        machine.slow_until = once
        assert measure_ceilings(CPU) == pytest.approx(RATES)


def test_nothing_larger_follows_a_long_call(machine: Machine) -> None:
    with machine:
        measure_ceilings(CPU)
    assert machine.sizes[torch.float32] == {512, 1024}  # 2.7 ms, 21 ms


def test_the_real_machine() -> None:
    found = measure_ceilings(CPU, quick=True)
    assert {"copy", "float32", "bfloat16", "int8"} <= found.keys()
    assert found.keys() <= RATES.keys()
    assert all(math.isfinite(rate) and rate > 0 for rate in found.values())


def test_without_a_compiler_the_rate_of_bits_is_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    popcount_peak._library.cache_clear()
    assert "bit" not in measure_ceilings(CPU, quick=True)


def test_with_a_compiler_it_is_known() -> None:
    require_library()
    assert "bit" in measure_ceilings(CPU, quick=True)


def test_a_product_that_the_device_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*operands: Tensor) -> Tensor:
        raise NotImplementedError("no int8 here")

    monkeypatch.setattr(torch, "_int_mm", refuse)
    monkeypatch.setattr(int8, "is_available", lambda: False)
    assert "int8" not in measure_ceilings(CPU, quick=True)
