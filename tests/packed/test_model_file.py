"""Models saved and loaded: the same densities, from the file alone, and never another model."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from tests.models.test_generative import LEVELS, SHAPE, SMALL, make_images
from tests.packed.packed_bytes import (
    flipped,
    header_of,
    take_apart,
    with_checksum,
    with_entry,
    with_header,
)
from torch import Tensor, nn

import tribin
import tribin_kernels
from tribin.models import MODELS, GenerativeModel
from tribin.nn import (
    BinaryConv2d,
    Precision,
    binarize,
    initialize_from_data,
    latent_weights,
    roundable_tensors,
)
from tribin.packed import PackedFormatError

PRECISIONS = {"W1A1": Precision(1, 1), "W1A32": Precision(1, 32), "W32A32": Precision(32, 32)}


def trained_model(name: str, precision: str = "W1A1") -> GenerativeModel:
    """A model all of whose layers do something: no gain is 0 as after initialization."""
    torch.manual_seed(0)
    model = MODELS[name](replace(SMALL[name], precision=PRECISIONS[precision]), SHAPE, LEVELS)
    initialize_from_data(model, make_images(16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
    return model.eval()


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> GenerativeModel:
    return trained_model(request.param)


@torch.no_grad()
def log_weight(model: nn.Module, images: Tensor) -> Tensor:
    assert isinstance(model, GenerativeModel)
    torch.manual_seed(1)
    return model.log_weight(images)


# --- there and back


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_is_the_saved_one(name: str, precision: str, path: Path) -> None:
    model, images = trained_model(name, precision), make_images()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tribin.save(model, path)
    loaded = tribin.load(path)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not latent_weights(loaded)
    assert torch.equal(log_weight(loaded, images), log_weight(model, images))
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_packed_and_trained_models_give_the_same_file(model: GenerativeModel, path: Path) -> None:
    tribin.save(model, path)
    data = path.read_bytes()
    tribin.save(tribin.pack(model), path)
    assert path.read_bytes() == data
    tribin.save(tribin.load(path), path)
    assert path.read_bytes() == data


def test_half_rounds_real_weights_to_bfloat16(model: GenerativeModel, path: Path) -> None:
    tribin.save(model, path)
    exact, size = tribin.load(path).state_dict(), path.stat().st_size
    tribin.save(model, path, half=True)
    loaded = tribin.load(path)
    roundable = roundable_tensors(loaded)
    assert path.stat().st_size < size
    for name, tensor in loaded.state_dict().items():
        rounded = exact[name].bfloat16().float() if name in roundable else exact[name]
        assert tensor.dtype == exact[name].dtype
        assert torch.equal(tensor, rounded)
    images = make_images()
    assert not torch.equal(log_weight(loaded, images), log_weight(model, images))


def test_the_header_says_what_the_file_holds(model: GenerativeModel, path: Path) -> None:
    recipe, provenance = {"seed": 3}, {"weights": "ema", "commit": None}
    tribin.save(model, path, half=True, recipe=recipe, provenance=provenance)
    header = header_of(path.read_bytes())
    assert header["model"]["image_shape"] == list(SHAPE)
    assert header["model"]["levels"] == LEVELS
    precision = header["model"]["config"]["precision"]
    assert (precision["weights"], precision["activations"]) == (1, 1)
    assert header["real_dtype"] == "bfloat16"
    assert header["recipe"] == recipe
    assert header["provenance"] == provenance
    payload = take_apart(path.read_bytes())[1]
    assert header["counts"]["packed_bytes"] == len(payload)
    binary = sum(weight.numel() for weight in latent_weights(model).values())
    assert header["counts"]["binary_parameters"] == binary


def test_loading_draws_no_random_numbers(model: GenerativeModel, path: Path) -> None:
    tribin.save(model, path)
    state = torch.get_rng_state()
    tribin.load(path)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", MODELS)
def test_no_float_weight_of_a_binary_layer_is_ever_made(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tribin.save(trained_model(name), path)
    made: list[int] = []

    def record(layer: BinaryConv2d, *arguments: Any, **options: Any) -> None:
        original(layer, *arguments, **options)
        made.append(layer.latent_weight.untyped_storage().nbytes())

    original = BinaryConv2d.__init__
    monkeypatch.setattr(BinaryConv2d, "__init__", record)
    tribin.load(path)
    assert made
    assert set(made) == {4}  # one float, seen at every place


# --- from the file alone


TORCH_NEEDS = "typing_extensions.py sympy mpmath networkx jinja2 markupsafe fsspec filelock"


@pytest.mark.parametrize("name", MODELS)
def test_a_process_needs_torch_einops_and_safetensors_alone(
    name: str, path: Path, tmp_path: Path
) -> None:
    model, images = trained_model(name), make_images()
    tribin.save(model, path)
    (tmp_path / "packages").mkdir()
    installed = Path(torch.__file__).parents[1]
    for package in (*["torch", "torchgen", "einops", "safetensors"], *TORCH_NEEDS.split()):
        (tmp_path / "packages" / package).symlink_to(installed / package)
    for ours in (tribin, tribin_kernels):
        folder = Path(str(ours.__file__)).parent
        (tmp_path / "packages" / folder.name).symlink_to(folder)
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")  # torch misses NumPy
import torch, tribin
model = tribin.load({str(path)!r})
# Modules that take more memory than the model.
print(sorted({{"sympy", "torch._dynamo"}} & set(sys.modules)))
images = torch.tensor({images.tolist()}, dtype=torch.uint8)
torch.manual_seed(1)
with torch.no_grad():
    print(model.log_weight(images).tolist())
    assert model.sample(2).shape == model.reconstruct(images[:2]).shape
for name in ("numpy", "pydantic", "triton"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{{name}} was not kept out")
"""
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],  # without the installed packages
        env={**os.environ, "PYTHONPATH": str(tmp_path / "packages")},
        check=True,
        capture_output=True,
        text=True,
    )
    heavy, densities = result.stdout.splitlines()
    assert heavy == "[]"
    assert json.loads(densities) == log_weight(model, images).tolist()


# --- models of others


class Classifier(nn.Module):
    """Layers of torch alone, among them one whose state is an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 40, (3, 1), stride=(2, 1), padding=(1, 0), bias=False)
        self.norm = nn.BatchNorm2d(40)
        self.hidden = nn.Linear(40, 35)
        self.head = nn.Linear(35, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).mean((2, 3))
        return self.head(self.hidden(x))


def binarized_classifier(seed: int) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier()
    model(torch.randn(8, 3, 6, 6))  # statistics for the norm
    binarize(model, lambda name, _: name != "head", binary_input=True)
    return model


def test_a_model_of_others_is_loaded_into_its_architecture(path: Path) -> None:
    model, other = binarized_classifier(0), binarized_classifier(1)
    tribin.save(model, path)
    x, before = torch.randn(2, 3, 6, 6), other.state_dict()["conv.latent_weight"].clone()
    for skeleton in (other, tribin.pack(other)):
        loaded = tribin.load(path, skeleton)
        assert torch.equal(loaded(x), model.eval()(x))
        assert loaded.state_dict()["norm.num_batches_tracked"] == 1
    assert torch.equal(other.state_dict()["conv.latent_weight"], before)
    assert other.training


def test_a_file_of_such_a_model_names_no_code(path: Path) -> None:
    tribin.save(binarized_classifier(0), path)
    assert header_of(path.read_bytes())["model"] is None
    with pytest.raises(PackedFormatError, match=r"none of tribin's: load\(path, model\) takes its"):
        tribin.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.append(nn.Linear(2, 2)), "it holds another model, which differs in"),
        (lambda model: model.pop(-1), "it holds another model, which differs in"),
        (lambda model: model.__setitem__(1, nn.Linear(9, 3)), r"tensor '1.weight' is .*\[3, 8\]"),
    ],
)
def test_another_architecture_is_refused(change: Any, message: str, path: Path) -> None:
    tribin.save(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), path)
    skeleton = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    change(skeleton)
    with pytest.raises(PackedFormatError, match=message):
        tribin.load(path, skeleton)


@pytest.mark.parametrize(
    "other",
    [
        {"binary_input": False},
        {"binary_input": True, "stride": 2},
        {"binary_input": True, "padding": (0, 1)},
    ],
)
def test_layers_of_other_settings_are_refused(other: dict[str, Any], path: Path) -> None:
    tribin.save(nn.Sequential(BinaryConv2d(3, 2, 3, binary_input=True)), path)
    tribin.load(path, nn.Sequential(BinaryConv2d(3, 2, 3, stride=(1, 1), binary_input=True)))
    with pytest.raises(PackedFormatError, match=r"layer '0' is PackedConv2d\(3, 2, .* in the file"):
        tribin.load(path, nn.Sequential(BinaryConv2d(3, 2, 3, **other)))


def test_a_binary_layer_is_no_real_one(path: Path) -> None:
    tribin.save(binarized_classifier(0), path)
    with pytest.raises(PackedFormatError, match="it holds another model: layer 'conv' is"):
        tribin.load(path, Classifier())


# --- hostile descriptions, their checksum made right


def described(data: bytes, **changes: Any) -> bytes:
    model = header_of(data)["model"]
    return with_header(data, model={**model, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "os.system"}, "its model is none of resnet_vae, flowpp"),
        ({"name": ["resnet_vae"]}, "its model is none of"),
        ({"config": None}, "has the fields precision, width"),
        ({"image_shape": [1, 4]}, "its images have no shape"),
        ({"image_shape": [1, 4, -8]}, "its images have no shape"),
        ({"image_shape": [1, 4, 2**40]}, "its images have no shape"),
        ({"image_shape": "1x4x8"}, "its images have no shape"),
        ({"levels": 0}, "its images have no shape"),
        ({"levels": 1.5}, "its images have no shape"),
        ({"image_shape": [1, 5, 7]}, "not 5x7"),
        ({"image_shape": [3, 4, 8]}, "tensor '.*' is .*, the model's is|too few, or too small"),
    ],
)
def test_a_description_that_cannot_be(
    model: GenerativeModel, changes: dict[str, Any], message: str, path: Path
) -> None:
    tribin.save(model, path)
    path.write_bytes(described(path.read_bytes(), **changes))
    with pytest.raises(PackedFormatError, match=message):
        tribin.load(path)


@pytest.mark.parametrize("value", [0, 2**20, 2**40, 10**30, -1, 1.0, True, None, "8", [], {}])
@pytest.mark.parametrize("name", MODELS)
def test_no_number_in_a_configuration_costs_time_or_memory(
    name: str, value: object, path: Path
) -> None:
    tribin.save(trained_model(name), path)
    data = path.read_bytes()
    config = header_of(data)["model"]["config"]
    for field in config:
        path.write_bytes(described(data, config={**config, field: value}))
        try:
            tribin.load(path)
        except PackedFormatError:
            continue
        # What changes no tensor's shape, as free bits do, is the writer's to say.
        assert field in ("free_bits", "dropout", "residual"), (field, value)


def test_other_numbers_of_layers_and_channels(model: GenerativeModel, path: Path) -> None:
    tribin.save(model, path)
    data = path.read_bytes()
    config = header_of(data)["model"]["config"]
    for field, value in config.items():
        if type(value) is int:
            for other in (value + 1, 2 * value, 40):
                path.write_bytes(described(data, config={**config, field: other}))
                with pytest.raises(PackedFormatError):
                    tribin.load(path)


def test_bits_beyond_a_row_are_refused(path: Path) -> None:
    tribin.save(nn.Sequential(BinaryConv2d(3, 2, 1)), path)
    index, payload = take_apart(path.read_bytes())
    begin, end = json.loads(index)["*.weight_bits"]["data_offsets"]
    rows = torch.frombuffer(bytearray(payload[begin:end]), dtype=torch.int32)
    assert torch.equal(rows & ~0b111, torch.zeros_like(rows))
    position = path.read_bytes().index(payload) + begin
    path.write_bytes(with_checksum(flipped(path.read_bytes(), position, bit=3)))
    with pytest.raises(PackedFormatError, match=r"'0\.weight_bits' has bits of 1 beyond its rows"):
        tribin.load(path, nn.Sequential(BinaryConv2d(3, 2, 1)))


def test_a_tensor_of_another_kind(model: GenerativeModel, path: Path) -> None:
    tribin.save(model, path)
    data = path.read_bytes()
    entries = json.loads(take_apart(data)[0])
    name = next(name for name in entries if name.endswith("weight_bits"))
    path.write_bytes(with_entry(data, name, dtype="F32", shape=entries[name]["shape"]))
    with pytest.raises(PackedFormatError, match=r"weight_bits' is (torch\.float32|not finite)"):
        tribin.load(path)


DAMAGES = 300


@pytest.mark.parametrize("name", MODELS)
def test_damaged_files_of_real_models(name: str, path: Path) -> None:
    tribin.save(trained_model(name), path)
    data, random = path.read_bytes(), Random(0)
    for _ in range(DAMAGES):
        place = random.randrange(len(data))
        damaged = random.choice(
            [data[:place], flipped(data, place, random.randrange(8)), data + data[place:]]
        )
        if damaged == data:
            continue
        path.write_bytes(damaged)
        with pytest.raises(PackedFormatError, match=str(path)):
            tribin.load(path)
