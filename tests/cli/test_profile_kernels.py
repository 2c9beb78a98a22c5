"""``tribin profile kernels`` as far as it times; what it compiles is in test_profile.py."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from tests.runs import TINY, tribin

from tribin.cli.profile import kernels as command
from tribin.profiling.kernels import profile as kernels
from tribin.profiling.kernels.baselines import BASELINES
from tribin.profiling.kernels.candidate import Candidate
from tribin.profiling.kernels.operands import Layer
from tribin.profiling.kernels.problem import Problem
from tribin.profiling.result import Result as ProfileResult
from tribin.recipe import Recipe

CEILINGS = {"copy": 1e10, "float32": 1e11, "bit": 1e12}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that is known already, and whose caches are small."""
    monkeypatch.setattr(command, "measure_ceilings", lambda device: CEILINGS)
    monkeypatch.setattr(kernels, "cold_bytes", lambda device: 10_000)
    monkeypatch.chdir(tmp_path)


def profile(*arguments: object) -> Result:
    return tribin("profile", "kernels", "--device", "cpu", *arguments)


def test_the_ops_of_a_recipe(tmp_path: Path) -> None:
    result = profile("--recipe", TINY, "--batch-size", 3, "--rounds", 2, "--op", "packed_conv2d",
                     "--op", "binary_conv2d_w1a1", "--baseline", "torch float32",
                     "--json", "-o", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text())
    assert printed["kind"] == "kernels"
    assert printed["ceilings"] == CEILINGS
    assert printed["settings"] == {
        "recipes": [str(TINY)], "batch_size": 3, "dtype": "float32", "rounds": 2,
    }  # fmt: skip
    problems = ["binary_conv2d_w1a1 3x8x4x4:8x3", "packed_conv2d 3x8x4x4:8x3,bits,residual",
                "packed_conv2d 3x8x4x4:8x3,signs,to_bits"]  # fmt: skip
    assert [(entry["problem"], entry["contender"]) for entry in printed["entries"]] == [
        (problem, name) for problem in problems for name in ("tribin", "torch float32")
    ]
    assert list(printed["details"]["errors"]) == problems
    assert f"the results are in {tmp_path / 'out'}" in result.stderr


def test_a_shape_by_hand(tmp_path: Path) -> None:
    shapes = ["3x40:6", "5x40:6", "3x40:6"]
    options = [word for shape in shapes for word in ("--shape", shape)]
    result = profile("--op", "binary_linear", *options, "--dtype", "bfloat16", "--rounds", 2,
                     "--baseline", "simulated", "-o", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0
    assert "binary_linear" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    assert saved["settings"] == {"shapes": shapes, "dtype": "bfloat16", "rounds": 2}
    assert [(entry["problem"], entry["contender"]) for entry in saved["entries"]] == [
        (f"binary_linear {shape}", name) for shape in shapes[:2] for name in ("tribin", "simulated")
    ]


@pytest.mark.parametrize(
    ("device", "batch_size", "dtype"),
    [("cpu", 16, torch.float32), ("cuda", 128, torch.bfloat16)],
)
def test_what_is_timed_by_default(
    monkeypatch: pytest.MonkeyPatch, device: str, batch_size: int, dtype: torch.dtype
) -> None:
    """The W1A1 and W1A32 models for CIFAR-10, in the way of the device, by everyone."""
    recipes: list[str] = []
    asked: dict[str, Any] = {}

    def problems_of(recipe: Recipe, batch_size: int) -> list[Problem]:
        precision = recipe.model.precision
        recipes.append(f"{recipe.model.name} {recipe.data.name} {precision.activations}")
        return [Problem("pack_signs", (batch_size,))]

    def profile_kernels(
        problems: list[Problem], device: torch.device, **options: Any
    ) -> ProfileResult:
        asked.update(problems=problems, device=device, **options)
        return ProfileResult.of_now("kernels", torch.device("cpu"), {}, {}, [])

    monkeypatch.setattr(command, "build_model", lambda recipe: recipe)
    monkeypatch.setattr(command, "problems_of", problems_of)
    monkeypatch.setattr(command, "profile_kernels", profile_kernels)
    command._profile((), (), (), None, None, torch.device(device), tuple(BASELINES), 5)
    assert recipes == [f"{name} cifar10 {activations}" for name in ("resnet_vae", "flowpp")
                       for activations in (1, 32)]  # fmt: skip
    assert asked["problems"] == [Problem("pack_signs", (batch_size,))]
    assert (asked["device"].type, asked["dtype"], asked["rounds"]) == (device, dtype, 5)
    assert asked["settings"] == {"recipes": command.RECIPES, "batch_size": batch_size}


def test_a_wrong_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong(problem: Problem, layer: Layer) -> Candidate:
        return Candidate((), lambda: lambda: -layer.x, lambda x: {"x": x}, None, None)

    monkeypatch.setitem(BASELINES, "copy", wrong)
    result = profile("--op", "pack_signs", "--shape", "3x40", "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("tribin: pack_signs 3x40: copy is wrong: the error of 'x' is ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "3x40"],
         "--shape: it is the shape of one --op, which must be given; got none"),
        (["--op", "pack_signs", "--op", "packed_linear", "--shape", "3x40"],
         "--shape: it is the shape of one --op, which must be given; "
         "got pack_signs and packed_linear"),
        (["--op", "pack_signs", "--shape", "3x40", "--batch-size", "2"],
         "--shape takes the place of --recipe and --batch-size; leave them out"),
        (["--op", "pack_signs", "--shape", "3x40", "--recipe", str(TINY)],
         "--shape takes the place of --recipe and --batch-size; leave them out"),
        (["--op", "binary_linear", "--shape", "4x4"],
         "--shape: '4x4': binary_linear: a shape is ROWSxLENGTH:OUTPUTS, such as 4096x1024:512"),
        (["--op", "pack_signs", "--recipe", str(TINY)],
         f"--op: none of {TINY} calls pack_signs; give its --shape"),
        (["--kernel", "popcount"], "--kernel needs --compile-only"),
        (["--target", "sm_90"], "--target needs --compile-only"),
        (["--update-budgets"], "--update-budgets needs --compile-only"),
        (["--compile-only", "--op", "pack_signs"], "--op has no meaning with --compile-only"),
        (["--compile-only", "--rounds", "3"], "--rounds has no meaning with --compile-only"),
        (["--compile-only", "-o", "out"], "--output has no meaning with --compile-only"),
    ],
)  # fmt: skip
def test_bad_input(arguments: list[str], message: str) -> None:
    result = tribin("profile", "kernels", *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"tribin: {message}\n")


@pytest.mark.parametrize("option", ["--op", "--dtype", "--baseline", "--device"])
def test_unknown_names(option: str) -> None:
    result = tribin("profile", "kernels", option, "popcounts")
    assert result.exit_code == 2
    assert f"Invalid value for '{option}': 'popcounts' is not one of" in result.stderr
    assert list(Path().iterdir()) == []
