"""``tribin profile model``: of a recipe, a run and a packed file; what it refuses."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from tests.runs import FLOWPP, TINY, tiny_recipe, tribin

from tribin import save
from tribin.cli.profile import model as command
from tribin.nn import pack
from tribin.profiling.model import profile as profiling
from tribin.profiling.result import read_result
from tribin.profiling.timing import run_races
from tribin.profiling.wrong_result import WrongResultError
from tribin.training.run_folder import build_model

FLOATS = ["float32", "float32, norms folded"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that is known already, and a clock that is soon content."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "measure_ceilings", lambda _: {"copy": 1e10, "float32": 1e11})
    monkeypatch.setattr(profiling, "run_races", partial(run_races, seconds=0))


def profile_model(*arguments: object) -> Result:
    return tribin("profile", "model", *arguments, "--device", "cpu", "--rounds", 2)


def arms(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(entry["contender"] for entry in result["entries"]))


def test_a_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(arms: Mapping[str, object], device: torch.device, batch_size: int) -> Any:
        return {"imports": 1_000_000, **dict.fromkeys(arms, 1_000_000 * batch_size)}

    monkeypatch.setattr(command, "peak_memory_of_arms", measure)
    result = profile_model(TINY, "--batch-size", 2, "--batch-size", 1, "-o", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (
        0, f"tribin: the results are in {tmp_path / 'out'}\n",
    )  # fmt: skip
    names = {"results.json", "table.txt", "layers.png", "speed.png"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    assert result.stdout == (tmp_path / "out" / "table.txt").read_text()
    assert max(map(len, result.stdout.splitlines())) <= 100
    found = read_result(tmp_path / "out")
    assert found.details["memory"]["packed"] == 2_000_000
    assert found.settings == {
        "source": str(TINY), "overrides": [], "batch_sizes": [2, 1], "rounds": 2,
    }  # fmt: skip
    problems = dict.fromkeys(entry.problem for entry in found.entries)
    assert list(problems) == [
        "evaluate, batch 2", "sample, batch 2", "evaluate, batch 1", "sample, batch 1",
    ]  # fmt: skip


QUICKLY = ("--no-memory", "--batch-size", 1, "--json")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([FLOWPP], [*FLOATS, "trained", "packed"]),
        (["model.precision={weights: 32, activations: 32}"], FLOATS),
    ],
)
def test_json_of_a_recipe_that_is_overridden(overrides: list[str], expected: list[str]) -> None:
    result = profile_model(TINY, *overrides, *QUICKLY)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["kind"], found["settings"]["overrides"]) == ("model", overrides)
    assert arms(found) == list(found["details"]["layers"]) == expected
    assert "memory" not in found["details"]
    (folder,) = Path("profiles").iterdir()  # by default
    assert json.loads((folder / "results.json").read_text()) == found


def test_a_run_and_a_packed_file(trained_run: Path, tmp_path: Path) -> None:
    result = profile_model(trained_run, *QUICKLY, "-o", "run")
    assert arms(json.loads(result.stdout)) == [*FLOATS, "trained", "packed"]
    save(build_model(tiny_recipe()), "model")  # without a recipe, and known by what it holds
    result = profile_model("model", *QUICKLY, "-o", "file")
    assert arms(json.loads(result.stdout)) == [*FLOATS, "packed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no recipe 'nothing'"),
        (["x" * 5000], "no recipe 'xxx"),
        (["."], ". is no run folder"),
        (["empty.safetensors"], "empty.safetensors: the file is empty"),
        (["described.safetensors"], "described.safetensors: the model is none of tribin's"),
        (["model.safetensors", "seed=1"], "seed=1: a packed file's recipe can't be overridden"),
        ([".", "seed=1"], "seed=1: a run's recipe can't be overridden"),
        ([TINY, "model.width=0"], "model.width: 0 is not at least 1"),
        ([TINY, "--no-memory", "-o", "taken"], "--output: taken cannot be written"),
    ],
)
def test_bad_input(arguments: list[object], message: str) -> None:
    Path("empty.safetensors").touch()
    save(build_model(tiny_recipe()), "model.safetensors")
    save(torch.nn.Linear(2, 2), "described.safetensors")
    Path("taken").mkdir()
    Path("taken", "results.json").mkdir()
    result = profile_model(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("tribin: ")
    assert message in result.stderr
    assert not Path("profiles").exists()


def test_a_damaged_file() -> None:
    save(pack(build_model(tiny_recipe())), "model.safetensors")
    content = bytearray(Path("model.safetensors").read_bytes())
    content[-1] ^= 1
    Path("model.safetensors").write_bytes(content)
    result = profile_model("model.safetensors")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("tribin: model.safetensors: the file is damaged")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--batch-size", 0, "0 is not in the range x>=1"), ("--rounds", 1, "1 is not in the range")],
)
def test_bad_numbers(option: str, value: int, message: str) -> None:
    result = tribin("profile", "model", TINY, option, value)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_wrong_result_is_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise WrongResultError("the density of 'packed' differs")

    monkeypatch.setattr(command, "profile_model", refuse)
    result = profile_model(TINY, "--no-memory")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "tribin: the density of 'packed' differs\n"
    assert not Path("profiles").exists()
