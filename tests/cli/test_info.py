"""``tribin info``: the paper's counts, from a recipe, without building the model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tests.runs import TINY, tribin
from torch import nn

COUNTS = ["parameters", "binary_parameters", "float_bytes", "packed_bytes"]


def info(*arguments: object) -> dict[str, Any]:
    result = tribin("info", *arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("recipe", "counts"),
    [
        ("resnet_vae/cifar10_w1a1", (56_153_223, 54_525_952, 224_612_892, 13_324_828)),
        ("resnet_vae/cifar10_w1a32", (56_153_223, 54_525_952, 224_612_892, 13_324_828)),
        ("resnet_vae/cifar10_w32a32", (56_153_223, 0, 224_612_892, 224_612_892)),
    ],
)
def test_the_papers_numbers(recipe: str, counts: tuple[int, ...]) -> None:
    size = info(recipe)
    assert list(size) == [*COUNTS, "layers"]
    assert tuple(size[name] for name in COUNTS) == counts
    for name in COUNTS:
        assert sum(layer[name] for layer in size["layers"]) == size[name]


def test_nothing_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = set()
    register = nn.Module.register_parameter

    def watch(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        assert parameter is not None
        devices.add(parameter.device.type)
        register(module, name, parameter)

    monkeypatch.setattr(nn.Module, "register_parameter", watch)
    info("resnet_vae/cifar10_w1a1")
    assert devices == {"meta"}
    assert torch.get_default_device().type == "cpu"


def test_overrides(tmp_path: Path) -> None:
    assert info("resnet_vae/cifar10_w1a1", "model.residual=false")["parameters"] == 1_594_503
    assert info("resnet_vae/cifar10_w1a1", "model.width=336")["parameters"] == 96_064_903


def test_a_run_and_its_recipe_have_the_size_of_the_saved_weights(trained_run: Path) -> None:
    size = info(trained_run)
    assert size == info(TINY) == info(trained_run / "recipe.yaml")
    file = trained_run / "checkpoints" / "1600" / "model.safetensors"
    with safe_open(file, "pt") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    assert size["parameters"] == sum(torch.Size(shape).numel() for shape in shapes)


def test_table() -> None:
    header, *layers, total, words = tribin("info", TINY).stdout.splitlines()
    size = info(TINY)
    assert header.split("  ")[0] == "layer"
    assert len(layers) == len(size["layers"])
    assert layers[0].split() == ["(model)", "ResNetVAE", "1", "0", "4", "4"]
    assert total.split() == ["total", *(f"{size[name]:,}" for name in COUNTS)]
    assert len({len(line) for line in (header, *layers, total)}) == 1
    assert words == "63.55% of the parameters are binary; packed, the model is 60.90% smaller " + (
        "than as float32"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no recipe 'nothing'"),
        (["."], ". is no run folder"),
        ([TINY, "model.width=0"], "model.width: 0 is not at least 1"),
        ([TINY, "data.name=folder", "data.image_shape=[1, 7, 8]"], "must be even, not 7x8"),
    ],
)
def test_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tribin("info", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("tribin: ")
    assert message in result.stderr


def test_a_runs_recipe_cannot_be_overridden(trained_run: Path) -> None:
    result = tribin("info", trained_run, "model.width=16")
    assert result.exit_code == 2
    assert result.stderr == "tribin: model.width=16: a run's recipe can't be overridden\n"
