"""Where a result came from."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

import tribin.provenance
from tribin.provenance import device_name, provenance

CPU = torch.device("cpu")


def test_versions_device_and_date() -> None:
    record = provenance(CPU)
    assert record["torch"] == torch.__version__
    assert record["device"] == device_name(CPU)
    assert device_name(CPU).endswith(f", {torch.get_num_threads()} threads")
    assert record["date"] is not None
    age = datetime.now(UTC) - datetime.fromisoformat(record["date"])
    assert timedelta(0) <= age < timedelta(minutes=1)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_of_tribins_own_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "provenance.py"
    module.write_text("one")
    monkeypatch.setattr(tribin.provenance, "__file__", str(module))
    assert provenance(CPU)["commit"] is None  # no checkout at all

    git(tmp_path, "init")
    (tmp_path / "project.py").write_text("of somebody who has tribin installed here")
    git(tmp_path, "add", "project.py")
    git(tmp_path, "commit", "-m", "theirs")
    assert provenance(CPU)["commit"] is None

    git(tmp_path, "add", "provenance.py")
    git(tmp_path, "commit", "-m", "ours")
    head = git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "tag", "-a", "v1", "-m", "v1")
    assert provenance(CPU)["commit"] == head
    module.write_text("two")
    assert provenance(CPU)["commit"] == f"{head}-dirty"


def test_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance(CPU)["commit"] is None
