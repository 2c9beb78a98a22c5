"""``tribin info``: the paper's counts from a recipe, without building the model; packed files."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tests.runs import FLOWPP, TINY, tiny_recipe, tribin
from torch import nn

from tribin import save
from tribin.training.run_folder import build_model

COUNTS = ["parameters", "binary_parameters", "float_bytes", "packed_bytes"]
KEYS = [*COUNTS, "multiply_adds", "sampling_multiply_adds", "layers"]


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
    assert list(size) == KEYS
    assert tuple(size[name] for name in COUNTS) == counts
    assert (size["multiply_adds"], size["sampling_multiply_adds"]) == (14364835840, 7267352576)
    for name in (*COUNTS, "multiply_adds"):
        assert sum(layer[name] for layer in size["layers"]) == size[name]
    bits = {layer["bits"] for layer in size["layers"] if layer["kind"] == "BinaryConv2d"}
    assert bits == ({1} if counts[1] else set())


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
    header, *layers, total, share, products = tribin("info", TINY).stdout.splitlines()
    size = info(TINY)
    assert header.split("  ")[0] == "layer"
    assert len(layers) == len(size["layers"])
    assert layers[0].split() == ["(model)", "ResNetVAE", "1", "0", "32", "4", "4", "0"]
    assert total.split() == ["total", *(f"{size[name]:,}" for name in (*COUNTS, "multiply_adds"))]
    assert len({len(line) for line in (header, *layers, total)}) == 1
    assert share == "63.55% of the parameters are binary; packed, the model is 60.90% smaller " + (
        "than as float32"
    )
    assert products == "112,384 multiply-adds evaluate an image, 63,104 draw one"


def test_what_sampling_takes_depends_on_values_in_flowpp() -> None:
    assert info(TINY, FLOWPP)["sampling_multiply_adds"] is None
    assert tribin("info", TINY, FLOWPP).stdout.endswith("evaluate an image, unknown draw one\n")


@pytest.fixture(scope="module", params=[32, 16])
def exported(request: pytest.FixtureRequest, trained_run: Path, tmp_path_factory: Any) -> Path:
    file = tmp_path_factory.mktemp("exported") / f"model{request.param}.safetensors"
    options = ("--half",) if request.param == 16 else ()
    result = tribin("export", trained_run, "-o", file, "--no-evaluate", *options)
    assert result.exit_code == 0
    return file


def test_a_packed_file(exported: Path, trained_run: Path) -> None:
    size, trained = info(exported), info(trained_run)
    assert list(size) == ["file", *KEYS]
    facts, real_bits = size["file"], int(exported.stem.removeprefix("model"))
    assert facts["path"] == str(exported)
    assert facts["bytes"] == exported.stat().st_size
    assert (facts["format_version"], facts["tribin"]) == (1, version("tribin"))
    assert facts["sha256"].encode() == exported.read_bytes()[49:113]
    assert (facts["model"], facts["weights"], facts["images_seen"]) == ("resnet_vae", "ema", 1600)
    assert facts["real_bits"] == real_bits
    assert facts["recipe"] == tiny_recipe().model_dump(mode="json")
    assert {layer["bits"] for layer in size["layers"]} == {1, real_bits}
    for name in ("binary_parameters", "multiply_adds", "sampling_multiply_adds"):
        assert size[name] == trained[name]
    with safe_open(exported, "pt") as tensors:
        values = [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118
    assert size["packed_bytes"] == sum(value.nbytes for value in values)


def test_the_text_of_a_packed_file(exported: Path) -> None:
    size = info(exported)
    facts = size["file"]
    smaller = 100 * (1 - facts["bytes"] / size["float_bytes"])
    assert tribin("info", exported).stdout.splitlines()[-4:] == [
        f"file     {exported}: {facts['bytes']:,} bytes on disk, {smaller:.2f}% smaller than as "
        "float32",
        f"sha256   {facts['sha256']}",
        f"format   1, written by tribin {version('tribin')}, real weights in "
        f"{'bfloat16' if exported.stem == 'model16' else 'float32'}",
        "model    resnet_vae, ema weights after 1,600 images",
    ]


def test_a_file_without_recipe_and_provenance(tmp_path: Path) -> None:
    file = tmp_path / "model"  # known by what it holds, not by its name
    save(build_model(tiny_recipe()), file)
    facts = info(file)["file"]
    assert (facts["weights"], facts["images_seen"], facts["recipe"]) == (None, None, None)
    assert "unknown weights after unknown images" in tribin("info", file).stdout


@pytest.mark.parametrize("name", ["model.safetensors", "model"])
def test_a_damaged_file(exported: Path, tmp_path: Path, name: str) -> None:
    content = bytearray(exported.read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    result = tribin("info", tmp_path / name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"tribin: {tmp_path / name}: the file is damaged: its bytes don't " + (
        "have the checksum it states\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no recipe 'nothing'"),
        (["."], ". is no run folder"),
        (["nothing.safetensors"], "no recipe 'nothing.safetensors'"),
        (["x" * 5000], "no recipe 'xxx"),
        (["empty.safetensors"], "empty.safetensors: the file is empty"),
        (["empty.yaml"], "the file is empty"),
        ([TINY, "model.width=0"], "model.width: 0 is not at least 1"),
        ([TINY, "data.name=folder", "data.image_shape=[1, 7, 8]"], "must be even, not 7x8"),
    ],
)
def test_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty.safetensors", "empty.yaml"):
        Path(name).touch()
    result = tribin("info", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("tribin: ")
    assert message in result.stderr


def test_only_a_recipe_can_be_overridden(trained_run: Path, exported: Path) -> None:
    for source, kind in ((trained_run, "run"), (exported, "packed file")):
        result = tribin("info", source, "model.width=16")
        message = f"tribin: model.width=16: a {kind}'s recipe can't be overridden\n"
        assert (result.exit_code, result.stderr) == (2, message)
