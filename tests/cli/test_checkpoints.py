"""``tribin checkpoints``: what is intact, what is not, and where a resume goes on."""

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.runs import tiny_recipe, tribin
from torch import device

from tribin.training.run_folder import RunFolder


@pytest.fixture
def run_dir(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def listed(run_dir: Path, exit_code: int = 0) -> dict[str, Any]:
    result = tribin("checkpoints", run_dir, "--json")
    assert result.exit_code == exit_code
    return json.loads(result.stdout)


def damage(run_dir: Path, images_seen: int) -> None:
    file = run_dir / "checkpoints" / str(images_seen) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def test_oldest_to_newest(run_dir: Path) -> None:
    record = listed(run_dir)
    assert list(record) == ["checkpoints", "resumes_from"]
    assert record["resumes_from"] == 1600
    assert [row["images_seen"] for row in record["checkpoints"]] == [800, 1600]
    for row in record["checkpoints"]:
        assert list(row) == ["folder", "images_seen", "bytes", "saved", "intact", "damage"]
        folder = run_dir / "checkpoints" / str(row["images_seen"])
        assert row["folder"] == str(folder)
        assert row["bytes"] == sum(len(file.read_bytes()) for file in folder.iterdir())
        manifest = json.loads((folder / "manifest.json").read_text())
        assert row["saved"] == manifest["provenance"]["date"]
        assert datetime.fromisoformat(row["saved"]).tzinfo is not None
        assert (row["intact"], row["damage"]) == (True, None)


def test_a_damaged_one_is_named_and_passed_over(run_dir: Path) -> None:
    damage(run_dir, 1600)
    record = listed(run_dir)
    assert record["resumes_from"] == 800
    assert [row["intact"] for row in record["checkpoints"]] == [True, False]
    assert record["checkpoints"][1]["damage"] == "damaged or missing model.safetensors"

    header, *lines = tribin("checkpoints", run_dir).stdout.splitlines()
    assert header.split() == ["images", "seen", "bytes", "saved", "state"]
    assert lines[0].endswith("  intact, a resume takes this one")
    assert lines[1].endswith("  damaged or missing model.safetensors")
    assert [line.split()[0] for line in lines] == ["800", "1,600"]


def test_only_damaged_ones(run_dir: Path) -> None:
    damage(run_dir, 800)
    damage(run_dir, 1600)
    assert listed(run_dir, exit_code=2)["resumes_from"] is None
    result = tribin("checkpoints", run_dir)
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == f"tribin: {run_dir} holds no intact checkpoint\n"


def test_none_yet(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", tiny_recipe(), device("cpu"))
    assert listed(run.path) == {"checkpoints": [], "resumes_from": None}
    result = tribin("checkpoints", run.path)
    assert result.stdout == "no checkpoint yet: a resume starts from the beginning\n"


def test_what_is_no_run(tmp_path: Path) -> None:
    result = tribin("checkpoints", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"tribin: {tmp_path} is no run folder")
