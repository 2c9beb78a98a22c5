"""Training by several processes, started by torchrun, against training by one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.runs import FLOWPP, TINY, checkpoints, metrics, tensor_files, tiny_recipe, tribin

from tribin import distributed
from tribin.errors import DisagreementError, InputError
from tribin.training import data_parallel
from tribin.training.data_parallel import check_agreement, check_shareable
from tribin.training.trainer import train

SHORT = ("training.images=120", "checkpoints.every_images=40", "evaluation.every_images=80")


def torchrun(processes: int, *arguments: object, launcher: tuple[str, ...] = ()) -> Any:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={processes}", *launcher),
        *map(str, arguments),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(processes: int, *arguments: object, launcher: tuple[str, ...] = ()) -> tuple[str, str]:
    process = torchrun(processes, *arguments, launcher=launcher)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output, errors


def train_with(processes: int, run_dir: Path, *overrides: str) -> None:
    run(processes, "-m", "tribin", "train", TINY, *overrides, "--run-dir", run_dir)


def assert_close(run_dir: Path, expected_dir: Path) -> None:
    """Equal but for the order of float sums: metrics, summary, weights and their average."""
    lines = [metrics(folder).splitlines() for folder in (run_dir, expected_dir)]
    for line, expected in zip(*lines, strict=True):
        assert json.loads(line) == pytest.approx(json.loads(expected), rel=1e-5, abs=1e-6)
    assert checkpoints(run_dir) == checkpoints(expected_dir)
    newest = checkpoints(run_dir)[-1]
    for name in ("model", "ema"):
        files = (f / f"checkpoints/{newest}/{name}.safetensors" for f in (run_dir, expected_dir))
        torch.testing.assert_close(*map(load_file, files), rtol=1e-4, atol=1e-5)
    summaries = [json.loads((f / "summary.json").read_bytes()) for f in (run_dir, expected_dir)]
    assert summaries[0]["images"] == summaries[1]["images"]
    assert summaries[0]["bits_per_dim"] == pytest.approx(summaries[1]["bits_per_dim"], rel=1e-6)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes."""
    run_dir = tmp_path_factory.mktemp("runs") / "two"
    train_with(2, run_dir, *SHORT)
    return run_dir


def test_two_processes_train_as_one(two: Path, tmp_path: Path) -> None:
    train(tiny_recipe(*SHORT), tmp_path / "one")
    assert_close(two, tmp_path / "one")


def test_flowpp_with_dropout_accumulation_and_ragged_batches(tmp_path: Path) -> None:
    """Batches of 10 in 2 micro-batches for 3 processes; the last batch has 1 image."""
    overrides = (FLOWPP.replace("}", ", dropout: 0.2}"), "training.images=41")
    overrides += ("training.batch_size=10", "training.accumulation=2", "evaluation.images=31")
    train(tiny_recipe(*overrides), tmp_path / "one")
    train_with(3, tmp_path / "three", *overrides)
    assert_close(tmp_path / "three", tmp_path / "one")


def test_compressed_gradients_are_close(tmp_path: Path) -> None:
    images = "training.images=40"
    train(tiny_recipe(images), tmp_path / "one")
    train_with(2, tmp_path / "two", images, "training.gradient_compression=float16")
    lines = [json.loads(metrics(tmp_path / name).splitlines()[-1]) for name in ("one", "two")]
    assert lines[0] != lines[1]
    assert lines[0]["bits_per_dim"] == pytest.approx(lines[1]["bits_per_dim"], rel=1e-2)


# Rank 1 dies before its tenth step, where it was not started again.
KILLED = """
import itertools, os, signal
from tribin.cli import main
from tribin.training import trainer

steps, train_step = itertools.count(), trainer.train_step

def step_or_die(*arguments):
    first_start = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if next(steps) == 9 and os.environ["RANK"] == "1" and first_start:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(*arguments)

trainer.train_step = step_or_die
main(prog_name="tribin")
"""


def test_a_killed_rank_is_started_again_and_the_run_ends_as_if_it_had_not_been(
    two: Path, tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    arguments = (script, "train", TINY, *SHORT, "--run-dir", tmp_path / "run")
    run(2, *arguments, launcher=("--max-restarts=1",))
    assert tensor_files(tmp_path / "run", 120) == tensor_files(two, 120)
    assert metrics(tmp_path / "run") == metrics(two)


# Its saves take longer than torchrun gives the others once a process has left.
SLOW = """
import time
from tribin.cli import main
from tribin.training import checkpoint

write = checkpoint.write_verified

def write_slowly(*arguments):
    time.sleep(1)
    return write(*arguments)

checkpoint.write_verified = write_slowly
main(prog_name="tribin")
"""


def test_signals_stop_all_processes_after_the_save_and_another_number_of_them_goes_on(
    tmp_path: Path,
) -> None:
    script, run_dir = tmp_path / "slow.py", tmp_path / "run"
    script.write_text(SLOW)
    recipe = ("training.images=4000", "checkpoints.every_images=40")
    launcher = torchrun(2, script, "train", TINY, *recipe, "--run-dir", run_dir)
    while not (run_dir / "checkpoints" / "latest").exists():
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.05)
    os.kill(_worker_of(launcher.pid, rank=1), signal.SIGTERM)
    time.sleep(0.2)  # rank 0 stops with the other; torchrun's signal is then its second one
    os.kill(_worker_of(launcher.pid, rank=0), signal.SIGTERM)
    _, errors = launcher.communicate(timeout=60)
    assert errors.count("stopped by SIGTERM; go on by `tribin resume") == 1
    assert re.search(r"exitcode\s+: 75", errors)
    newest = checkpoints(run_dir)[-1]
    assert newest == json.loads(metrics(run_dir).splitlines()[-1])["images_seen"] < 4000

    assert tribin("resume", run_dir).exit_code == 0
    assert checkpoints(run_dir)[-1] == 4000


def _worker_of(launcher: int, rank: int) -> int:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    ranks = {_rank_of(int(pid)): int(pid) for pid in children}
    return ranks[rank]


def _rank_of(pid: int) -> int:
    environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return int(dict(line.split("=", 1) for line in environment if line).get("RANK", -1))


def test_bad_input_ends_all_processes_without_a_traceback(two: Path) -> None:
    process = torchrun(2, "-m", "tribin", "train", TINY, "--run-dir", two)
    _, errors = process.communicate(timeout=60)
    assert f"tribin: {two} exists" in errors
    assert re.search(r"exitcode\s+: 2 ", errors)
    assert "Traceback (most recent call last)" not in errors.partition("elastic")[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("training.batch_size=8", "training.accumulation=4"),
            "training.batch_size 8 in 4 micro-batches: 2 images can't be shared by 3 processes",
        ),
        (("training.gradient_compression=bfloat16",), "bfloat16: processes without a GPU can't"),
        (
            ("model.precision.weights=1", "model.precision.normalization=batch_norm"),
            "normalization batch_norm: each process would take the statistics of its own images",
        ),
    ],
)
def test_recipes_that_processes_cannot_train(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], message: str
) -> None:
    check_shareable(tiny_recipe(*overrides))
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(InputError, match=message):
        check_shareable(tiny_recipe(*overrides))


def test_processes_that_disagree_stop_before_they_save(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "gather", lambda digest: [digest, digest, digest])
    check_agreement(model, 10)
    first = data_parallel.digest(other)
    monkeypatch.setattr(distributed, "gather", lambda digest: [digest, digest, first])
    with pytest.raises(DisagreementError, match=r"after 1,000 images the weights of rank 2 differ"):
        check_agreement(model, 1000)


def test_restarts_need_the_name_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    result = tribin("train", TINY)
    assert result.exit_code == 2
    assert result.stderr == (
        "tribin: --max-restarts takes --run-dir, where a restart finds the run\n"
    )


def test_a_restart_does_not_go_on_with_the_run_of_another_recipe(
    monkeypatch: pytest.MonkeyPatch, two: Path
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    result = tribin("train", TINY, *SHORT, "seed=1", "--run-dir", two)
    assert result.exit_code == 2
    assert "holds a run of another recipe" in result.stderr


def test_restarts_on_several_hosts_need_a_store_for_each_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "GROUP_WORLD_SIZE": "2",
        "TORCHELASTIC_MAX_RESTARTS": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }.items():
        monkeypatch.setenv(name, value)
    result = tribin("train", TINY, "--run-dir", tmp_path / "run")
    assert result.exit_code == 2
    assert "takes --rdzv-backend=c10d, and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in result.stderr


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "8",
        "RANK": "5",
        "LOCAL_RANK": "5",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    result = tribin("train", TINY, "--run-dir", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr == (
        "tribin: --nproc-per-node 8: this host has 4 GPUs, and each process takes one\n"
    )
