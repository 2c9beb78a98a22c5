"""A process's peak of memory, against what it allocates."""

import subprocess
import sys

import pytest

ALLOCATE = """
import torch
from tribin.peak_memory import peak_memory
before = peak_memory(torch.device("cpu"))
torch.ones(50_000_000)
print(before, peak_memory(torch.device("cpu")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's memory is Linux's pitfall")
def test_peak_memory_is_that_of_the_process_alone() -> None:
    parents = b"\1" * 700_000_000
    result = subprocess.run(
        [sys.executable, "-c", ALLOCATE], check=True, capture_output=True, text=True
    )
    before, after = map(int, result.stdout.split())
    assert before < len(parents)
    assert after - before == pytest.approx(200_000_000, rel=0.05)
