"""The memory of a long run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runs import TINY

# The pages that the process holds, each 500 steps.
MEASURED = """
import itertools, json
from pathlib import Path
from tribin.cli import main
from tribin.training import trainer

steps, held, train_step = itertools.count(1), [], trainer.train_step

def measured_step(*arguments):
    if next(steps) % 500 == 0:
        held.append(int(Path("/proc/self/statm").read_text().split()[1]))
    return train_step(*arguments)

trainer.train_step = measured_step
main(prog_name="tribin", standalone_mode=False)
print(json.dumps(held))
"""


@pytest.mark.slow
def test_memory_is_flat_over_5000_steps(tmp_path: Path) -> None:
    """From step 1,000, when each kind of event has come twice, to step 5,000."""
    overrides = (
        "training.images=40000",
        "checkpoints.every_images=4000",
        "evaluation.every_images=4000",
        "samples.every_images=4000",
    )
    command = [sys.executable, "-c", MEASURED, "train", TINY, *overrides, "--run-dir", "run"]
    result = subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True, cwd=tmp_path
    )
    held = json.loads(result.stdout.splitlines()[-1])
    print("resident pages each 500 steps:", held)
    assert max(held[1:]) <= 1.01 * min(held[1:])
