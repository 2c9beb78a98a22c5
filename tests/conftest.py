"""Fixtures that several packages' tests share."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, and torch may import it

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import settings
from tests.runs import tiny_recipe

from tribin.training.trainer import train

settings.register_profile("tribin", deadline=None)  # machines are slow now and then
settings.load_profile("tribin")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; runs with --slow only"))


def pytest_configure(config: pytest.Config) -> None:
    """Keep the user's accounts and caches, and the network, out of the tests."""
    folder = TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "HF_DATASETS_CACHE"):
        os.environ.pop(name, None)
    # Small models gain nothing from a second thread, and lose much where the cores are shared.
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
    os.environ |= {
        "HF_HOME": f"{folder.name}/huggingface",
        "HF_HUB_OFFLINE": "1",
        "NETRC": f"{folder.name}/no-netrc",
        "WANDB_CONFIG_DIR": f"{folder.name}/wandb-config",
        "WANDB_CACHE_DIR": f"{folder.name}/wandb-cache",
        "WANDB_ERROR_REPORTING": "false",
        "XDG_CACHE_HOME": f"{folder.name}/cache",  # where the CPU kernels are compiled to
    }
    config.addinivalue_line("markers", "slow: takes minutes; runs with --slow only")
    config.addinivalue_line("filterwarnings", "ignore:tribin can't compile")  # int8 stands in


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of tiny.yaml: 200 steps; to be read only."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny_recipe(), run_dir)
    return run_dir


@dataclass
class WandbSegment:
    """What one process wrote of an offline W&B run, as W&B's own inspector prints it."""

    folder: Path
    run: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        update = self.run["config"]["update"]
        return {name: value for name, value in update.items() if name != "_wandb"}


@pytest.fixture
def read_wandb_run() -> Callable[[Path], list[WandbSegment]]:
    """Read the offline segments of a run folder, oldest first; needs no network."""

    def read(run_dir: Path) -> list[WandbSegment]:
        return [_read(folder) for folder in sorted((run_dir / "wandb").glob("offline-run-*"))]

    return read


def _read(folder: Path) -> WandbSegment:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    segment = WandbSegment(folder)
    for record in map(json.loads, output.splitlines()):
        match record["type"]:
            case "run":
                segment.run = record["run"]
            case "history":
                segment.history.append(record["history"]["item"])
            case "summary":
                segment.summary.update(record["summary"].get("update", {}))
            case "metric":
                segment.metrics.append(record["metric"])
            case "exit":
                segment.exit_code = record["exit"]["exit_code"]
    return segment
