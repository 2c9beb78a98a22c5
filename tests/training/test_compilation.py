import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import FLOWPP, metrics, tensor_files, tiny_recipe

from tribin.errors import InputError, NonFiniteError
from tribin.training.checkpoint import Checkpoint
from tribin.training.compilation import compile_or_tell
from tribin.training.run_folder import build_model
from tribin.training.trainer import _check_same_training as check_same_training
from tribin.training.trainer import train

SHORT = ("training.images=44", "training.log_every_images=8", "evaluation.every_images=16")
COMPILED = "training.compile=true"


def records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in metrics(run_dir).splitlines()]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes of the calls of what is compiled, which here is what it was before."""
    sizes: list[int] = []

    def compiled(function: Callable[..., Any], options: dict[str, bool]) -> Callable[..., Any]:
        assert options == {"fallback_random": True}

        def call(images: torch.Tensor) -> Any:
            sizes.append(len(images))
            return function(images)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    return sizes


def test_the_trial_changes_nothing_and_evaluation_is_not_compiled(
    tmp_path: Path, calls: list[int]
) -> None:
    train(tiny_recipe(*SHORT), tmp_path / "plain")
    assert not calls
    train(tiny_recipe(*SHORT, COMPILED), tmp_path / "compiled")
    assert sorted(calls[:2]) == [4, 8]  # the trial
    assert calls[2:] == [8] * 5 + [4]
    assert metrics(tmp_path / "compiled") == metrics(tmp_path / "plain")
    assert tensor_files(tmp_path / "compiled", 44) == tensor_files(tmp_path / "plain", 44)


def test_a_trial_leaves_no_gradient_and_no_buffer_changed() -> None:
    model = build_model(tiny_recipe())
    model.register_buffer("seen", torch.zeros(()))

    def trial() -> None:
        model.seen.add_(1)
        next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
        raise ValueError("no\n")

    told: list[str] = []
    compile_or_tell(model, trial, told.append)
    assert told == ["warning: the model runs without torch.compile: ValueError: no"]
    assert model.seen == 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("when", ["at once", "at the first call"])
def test_where_it_fails_the_run_is_eager_and_says_so_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    when: str,
) -> None:
    train(tiny_recipe(*SHORT), tmp_path / "plain")

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: none found\n\nmore")

    compiled = fail if when == "at once" else lambda *_, **__: fail
    monkeypatch.setattr(torch, "compile", compiled)
    capsys.readouterr()
    train(tiny_recipe(*SHORT, COMPILED), tmp_path / "run")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [
        "warning: the model runs without torch.compile: "
        "RuntimeError: backend='inductor' raised: InvalidCxxCompiler: none found"
    ]
    assert metrics(tmp_path / "run") == metrics(tmp_path / "plain")


def test_the_layer_of_a_step_that_is_not_finite_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compiled runs no hooks, so that the search for the layer must not be."""
    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **_: torch_compile(f, backend="eager"))
    recipe = tiny_recipe(*SHORT, COMPILED, "optimizer.learning_rate=1e30")
    with pytest.raises(NonFiniteError, match="first not finite is "):
        train(recipe, tmp_path / "run", debug_non_finite=True)


def test_a_run_of_an_older_version_resumes() -> None:
    recipe = tiny_recipe()
    older = recipe.model_dump(mode="json")
    del older["training"]["compile"]
    check_same_training(recipe, Checkpoint(Path("8"), 8, {"recipe": older}))
    with pytest.raises(InputError, match=r"training in recipe\.yaml is not that of checkpoint 8"):
        check_same_training(tiny_recipe(COMPILED), Checkpoint(Path("8"), 8, {"recipe": older}))


@pytest.mark.parametrize(
    "model", [None, pytest.param(FLOWPP, marks=pytest.mark.slow)], ids=["resnet_vae", "flowpp"]
)
@pytest.mark.parametrize("activations", [1, 32])
def test_a_model_is_one_graph(model: str | None, activations: int) -> None:
    precision = f"model.precision={{weights: 1, activations: {activations}}}"
    built = build_model(tiny_recipe(*filter(None, [model]), precision)).train()
    images = torch.randint(17, (8, 1, 8, 8), dtype=torch.uint8)
    explained = torch._dynamo.explain(built)(images)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("model", [None, FLOWPP])
def test_compiled_and_eager_runs_have_the_same_metrics(tmp_path: Path, model: str | None) -> None:
    overrides = (*SHORT, *filter(None, [model]))
    train(tiny_recipe(*overrides), tmp_path / "plain")
    train(tiny_recipe(*overrides, COMPILED), tmp_path / "compiled")
    plain, compiled = records(tmp_path / "plain"), records(tmp_path / "compiled")
    for one, other in zip(plain, compiled, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-3)
