"""The profile of a model: what it refuses, what it counts, and what becomes of it in a file."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.runs import FLOWPP, tiny_recipe
from torch.utils.flop_counter import FlopCounterMode

from tribin.cost import evaluation_multiply_adds, sampling_multiply_adds
from tribin.models import GenerativeModel
from tribin.nn import PackedConv2d, WeightNormConv2d
from tribin.profiling.model import profile as profiling
from tribin.profiling.model.arms import arms_of, initialize_on_noise, random_images
from tribin.profiling.model.profile import profile_model
from tribin.profiling.report import table
from tribin.profiling.result import Result, read_result, write_result
from tribin.profiling.timing import run_races
from tribin.profiling.wrong_result import WrongResultError
from tribin.training.run_folder import build_model

CPU = torch.device("cpu")
CEILINGS = {"copy": 1e10, "float32": 1e11, "bit": 1e12}
ARMS = ["float32", "float32, norms folded", "trained", "packed"]


def make_arms(*overrides: str) -> dict[str, GenerativeModel]:
    torch.manual_seed(0)
    return arms_of(initialize_on_noise(build_model(tiny_recipe(*overrides))))


@pytest.fixture(scope="module", params=[(), (FLOWPP,)], ids=["resnet_vae", "flowpp"])
def arms(request: pytest.FixtureRequest) -> dict[str, GenerativeModel]:
    return make_arms(*request.param)


@pytest.fixture(scope="module")
def result(arms: dict[str, GenerativeModel]) -> Result:
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiling, "run_races", partial(run_races, seconds=0))
        found = profile_model(
            arms, CPU, batch_sizes=[3, 3], ceilings=CEILINGS, rounds=2,
            settings={"source": "tiny"}, memory={"imports": 5, "packed": 7}, progress=seen.append,
        )  # fmt: skip
    assert seen == 2 * ["evaluate, batch 3", "sample, batch 3"]
    return found


def test_every_arm_at_every_problem(result: Result) -> None:
    assert (result.kind, result.ceilings) == ("model", CEILINGS)
    assert result.settings == {"source": "tiny", "batch_sizes": [3], "rounds": 2}
    assert [(entry.problem, entry.contender, entry.images) for entry in result.entries] == [
        (f"{work}, batch 3", arm, 3) for work in ("evaluate", "sample") for arm in ARMS
    ]
    assert all(entry.timing.median > 0 for entry in result.entries)
    assert result.details["memory"] == {"imports": 5, "packed": 7}


def test_operations_are_those_of_torchs_counter_and_of_info(
    arms: dict[str, GenerativeModel], result: Result
) -> None:
    runs = {
        "evaluate": (lambda model, count: model.log_weight(random_images(model, count)),
                     evaluation_multiply_adds),
        "sample": (lambda model, count: model.sample(count), sampling_multiply_adds),
    }  # fmt: skip
    for entry in result.entries:
        run, of_one_image = runs[entry.problem.partition(",")[0]]
        assert entry.images is not None
        counts = of_one_image(arms[entry.contender])
        if counts is None:  # the roots that a Flow++ finds depend on values
            assert (entry.operations, entry.bytes, entry.arithmetic) == (0, 0, None)
            continue
        assert entry.operations == 2 * entry.images * sum(counts.values())
        assert entry.bytes > 0
        if entry.contender.startswith("float32"):
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                run(arms[entry.contender], entry.images)
            assert entry.operations == counter.get_total_flops()
            assert entry.arithmetic == "float32"
        else:
            assert entry.arithmetic is None  # some layers are real, others binary


def test_the_layers_of_the_first_problem_add_up(
    arms: dict[str, GenerativeModel], result: Result
) -> None:
    layers = result.details["layers"]
    assert list(layers) == ARMS
    for entry in result.entries[: len(ARMS)]:
        arm = entry.contender
        of_arm = layers[arm]
        modules = dict(arms[arm].named_modules())
        assert all(x["kind"] == type(modules[x["name"]]).__name__ for x in of_arm)
        assert sum(layer["share"] for layer in of_arm) == pytest.approx(1)
        assert sum(layer["operations"] for layer in of_arm) == entry.operations
        assert sum(layer["bytes"] for layer in of_arm) == entry.bytes
        predicted = result.details["predicted"][entry.problem][arm]
        assert sum(x["predicted_seconds"] for x in of_arm) == pytest.approx(predicted)
        # The layers that multiply are there, by name.
        kind = PackedConv2d if arm == "packed" else WeightNormConv2d
        if arm in ("packed", "float32"):
            names = {name for name, module in modules.items() if isinstance(module, kind)}
            assert names <= {layer["name"] for layer in of_arm if layer["operations"]}


def test_a_prediction_is_at_least_what_bytes_and_operations_take(result: Result) -> None:
    for entry in result.entries:
        predicted = result.details["predicted"][entry.problem][entry.contender]
        if entry.bytes == 0:
            assert predicted is None
            continue
        floors = entry.bytes / CEILINGS["copy"], entry.operations / CEILINGS["bit"]
        for floor in (*floors, result.floor(entry)):
            assert floor is not None
            assert predicted >= floor * (1 - 1e-9)  # sums in another order


def test_through_a_file(result: Result, tmp_path: Path) -> None:
    write_result(result, tmp_path)
    again = read_result(tmp_path)
    assert again == result
    assert table(again) == table(result)
    assert max(map(len, table(again).splitlines())) <= 100


def test_the_density_of_flipped_bits_is_refused_before_the_clock_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arms = make_arms()
    monkeypatch.setattr(profiling, "run_races", lambda *_, **__: pytest.fail("it was timed"))
    for layer in arms["packed"].modules():
        if isinstance(layer, PackedConv2d):
            layer.weight_bits.bitwise_not_()
    with pytest.raises(WrongResultError, match=r"'packed' differs from that of 'trained' by"):
        profile_model(arms, CPU, batch_sizes=[1], ceilings=CEILINGS)


@torch.no_grad()
@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_the_density_of_a_wrong_folded_weight_is_refused(value: float) -> None:
    arms = make_arms()
    next(arms["float32, norms folded"].parameters()).fill_(value)
    with pytest.raises(WrongResultError, match="'float32, norms folded' differs"):
        profile_model(arms, CPU, batch_sizes=[1], ceilings=CEILINGS)


def test_without_memory_and_the_trained_model() -> None:
    packed = make_arms("model.latent_layers=1")["packed"]
    found = profile_model({"packed": packed}, CPU, batch_sizes=[1], ceilings={}, rounds=2)
    assert [entry.contender for entry in found.entries] == ["packed"] * 2
    assert "memory" not in found.details
    assert found.details["predicted"]["sample, batch 1"] == {"packed": None}
    assert "1.00x" in table(found)


ALONE = """
import sys
sys.modules.update(dict.fromkeys(
    ["PIL", "click", "matplotlib", "numpy", "pydantic", "safetensors", "tqdm", "yaml"]))
import tribin.profiling.model.memory, tribin.profiling.model.profile, tribin.profiling.report.model
"""


def test_it_is_imported_with_torch_and_einops_alone() -> None:
    command = [sys.executable, "-W", "ignore", "-c", ALONE]
    subprocess.run(command, check=True, env=dict(os.environ), capture_output=True)
