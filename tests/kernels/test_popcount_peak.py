"""The loop that measures the rate of popcounts: it counts what it says, by each instruction set."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.kernels.cpu_calls import require_library

from tribin_kernels.cpu import popcount_peak as module
from tribin_kernels.cpu.popcount_peak import popcount_peak


@pytest.fixture(autouse=True)
def library() -> Iterator[None]:
    require_library()
    module._library.cache_clear()
    yield
    module._library.cache_clear()


def lanes() -> list[int]:
    """Of a vector, if each step multiplies eight of them, and finds that all their bits differ."""
    of_a_lane = torch.get_num_threads() * 8 * 32
    return [popcount_peak(steps) // (steps * of_a_lane) for steps in (1, 10, 1000)]


def test_this_machine() -> None:
    assert lanes() in ([16] * 3, [8] * 3, [4] * 3)
    assert popcount_peak(0) == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86-64")
@pytest.mark.parametrize(("architecture", "expected"), [("haswell", 8), ("x86-64", 4)])
def test_other_instruction_sets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, architecture: str, expected: int
) -> None:
    if architecture == "haswell" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this machine has no AVX2")
    monkeypatch.setenv("CXXFLAGS", f"-march={architecture}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert lanes() == [expected] * 3
