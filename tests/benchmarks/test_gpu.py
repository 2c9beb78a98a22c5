"""The GPU benchmark as far as a CPU can run it: its problems, in the interpreter, and its table."""

import subprocess
import sys

import pytest
import torch
from benchmarks.gpu import check, race, races
from benchmarks.gpu.__main__ import floor_microseconds, report
from tests.kernels import bit_mma_meanings, interpreter, real_mma_meanings

interpreter.install()

PROBLEMS = {
    "packed convolution": lambda: races.packed_convolution(3, 2, mask=True, stream=True),
    "bit matmul": lambda: races.bit_matmul(128),
    "real matmul": lambda: races.real_matmul(16, 256, 64),
    "pack": lambda: races.pack(1, 64, 4),
    "training step": lambda: races.training_step("tiny", 2, 16, 8, 8, 16, 3),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_contenders_agree(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(races, "DEVICE", "cpu")
    monkeypatch.setattr(races, "COLD_BYTES", 1e4)
    problem = PROBLEMS[name]()
    problem.agree()
    assert problem.bytes_moved > 0
    assert problem.contenders[0].name == "tribin"


def test_the_floor_is_the_slower_of_moving_and_computing() -> None:
    rates = {"copy": 1e12, "bfloat16": 1e15, "bit": 1e16}
    problem = race.Race("a", 2e9, 1e6, (), "bfloat16", lambda: None)
    assert floor_microseconds(problem, rates) == pytest.approx(2)
    assert floor_microseconds(race.Race("b", 2e9, 1e7, (), "bit", lambda: None), rates) == 10


def test_the_report_gives_rates_floors_and_ratios() -> None:
    problem = race.Race("a", 2e9, 1e6, (), "bfloat16", lambda: None)
    laps = [race.Lap("tribin", 4.0, 3.5, 5.0, 9), race.Lap("other", 8.0, 8.0, 8.0, 9)]
    _, _, ours, theirs = report(problem, laps, {"copy": 1e12, "bfloat16": 1e15})
    assert ours.split() == ["tribin", "4.0", "µs", "3.5–5.0", "500", "250", "50%", "1.00"]
    assert theirs.split() == ["other", "8.0", "µs", "8.0–8.0", "250", "125", "25%", "2.00"]


def test_ragged_layers_are_valid_and_varied() -> None:
    layers = [check.ragged_layer(seed) for seed in range(check.RAGGED_LAYERS)]
    assert {len(layer.geometry) for layer in layers} == {0, 2}
    assert any(layer.x.shape[0] == 0 for layer in layers)
    assert all(min(layer.grad_y.shape[1:]) > 0 for layer in layers)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("option", ["--check", "--time"])
def test_without_a_gpu_it_says_so(option: str) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", option]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "benchmarks.gpu needs a GPU that torch can use; there is none\n"


__all__ = ["bit_mma_meanings", "real_mma_meanings"]
