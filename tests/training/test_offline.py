"""A run on local data, with W&B disabled, asks nothing of the network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.image_files import pictures, write_parquet
from tests.runs import TINY

SHORT = ("training.images=16", "evaluation.images=4", "data.validation_images=4")

# What Python does with a socket is heard by its audit hooks, whoever does it.
WITHOUT_NETWORK = """
import os, sys

def refuse(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
        os.write(2, f"network: {event} {arguments}".encode())
        os._exit(99)

sys.addaudithook(refuse)
from tribin.cli import main
main(prog_name="tribin")
"""


def without_network(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_NETWORK, *map(str, arguments)]
    unset = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "WANDB_MODE"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("data", ["digits", "parquet"])
def test_no_network_is_asked(tmp_path: Path, data: str) -> None:
    overrides = [*SHORT, "--run-dir", tmp_path / "run"]
    if data == "parquet":
        train, test = pictures(20, 3, 32, 32), pictures(4, 3, 32, 32, seed=1)
        folder = write_parquet(tmp_path / "images", train=train, test=test)
        overrides += ["data.name=cifar10", f"data.path={folder}"]
    result = without_network("train", TINY, *overrides)
    assert result.returncode == 0, result.stderr


def test_the_network_would_have_been_noticed(tmp_path: Path) -> None:
    result = without_network("train", TINY, *SHORT, "data.name=cifar10")
    assert result.returncode == 99
    assert "network: socket." in result.stderr
