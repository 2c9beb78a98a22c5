"""Models built again elsewhere, and the memory that they take there."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from tests.nn.packable_models import CONFIGS, build, make_images, tensors

from tribin.inspection import model_size
from tribin.models import GenerativeModel, ResNetVAE, ResNetVAEConfig
from tribin.nn import Precision, pack
from tribin.profiling.model.memory import Blueprint, peak_memory_of_arms

SPAWN = multiprocessing.get_context("spawn")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_is_built_with_other_weights(name: str, packed: bool) -> None:
    model = pack(build(name)) if packed else build(name)
    twin = Blueprint.of(model).build()
    forms = [{name: (type(module)) for name, module in x.named_modules()} for x in (model, twin)]
    assert forms[0] == forms[1]
    shapes = [{name: x.shape for name, x in tensors(y).items()} for y in (model, twin)]
    assert shapes[0] == shapes[1]
    assert not twin.training
    with torch.no_grad():
        assert twin.log_weight(make_images()).shape == (4,)


def test_a_blueprint_says_all_to_another_process() -> None:
    blueprint = Blueprint.of(pack(build("vae W1A1")))
    with ProcessPoolExecutor(1, SPAWN) as process:
        assert process.submit(_echo, blueprint).result() == blueprint


def _echo(blueprint: Blueprint) -> Blueprint:
    return blueprint


def test_a_float_model_takes_its_weights_and_a_packed_one_never_has_them() -> None:
    arms: dict[str, GenerativeModel] = {}
    config = {"width": 400, "latent_layers": 1, "extra_blocks": 2}
    with torch.device("meta"):
        real = ResNetVAE(ResNetVAEConfig(precision=Precision(32, 32), **config), (1, 4, 4), 17)
        arms = {
            "float32": real,
            "packed": pack(ResNetVAE(ResNetVAEConfig(**config), (1, 4, 4), 17)),
        }
    weights = model_size(real).float_bytes
    assert weights > 100e6
    memory = peak_memory_of_arms(arms, torch.device("cpu"), 2)
    assert list(memory) == ["imports", "float32", "packed"]
    assert memory["float32"] - memory["imports"] > weights
    assert 0 < memory["packed"] - memory["imports"] < weights / 2
