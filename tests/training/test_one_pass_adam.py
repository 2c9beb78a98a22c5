"""Adam in one pass, interpreted, beside torch's own parts."""

import copy
from pathlib import Path

import pytest
import torch
from tests.runs import cut_before, tiny_recipe
from torch import Tensor

from tribin.models import GenerativeModel
from tribin.nn import initialize_from_data, latent_weights
from tribin.training import optimizer as optimizer_module
from tribin.training.optimizer import (
    build_average,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
)
from tribin.training.run_folder import build_model
from tribin.training.step import train_step
from tribin.training.trainer import resume, train

RECIPE = tiny_recipe("optimizer.learning_rate=0.7", "optimizer.gradient_clip=1")


@pytest.fixture
def one_pass(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(optimizer_module, "takes_one_pass", lambda model: True)
    return monkeypatch


def images() -> Tensor:
    return torch.randint(
        17, (8, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def initialized() -> GenerativeModel:
    torch.manual_seed(1)
    model = build_model(RECIPE)
    initialize_from_data(model, images())
    model.register_buffer("seen", torch.zeros(()))  # one that changes, as those of BatchNorm do
    return model


class Training:
    def __init__(self, model: GenerativeModel) -> None:
        self.model = model
        self.optimizer, self.average = build_optimizer(model, RECIPE), build_average(model, RECIPE)

    def step(self, seed: int) -> bool:
        torch.manual_seed(seed)
        self.model.seen.add_(1)
        return bool(train_step(self.model, self.optimizer, images(), RECIPE, self.average).finite)

    def state(self) -> dict[str, Tensor]:
        assert self.average is not None
        state = optimizer_tensors(self.optimizer, self.model)
        return copy.deepcopy(self.model.state_dict() | state | self.average.state_dict())


def test_steps_are_those_of_torchs_parts(one_pass: pytest.MonkeyPatch) -> None:
    ours = Training(initialized())
    one_pass.undo()
    torchs = Training(initialized())
    assert type(torchs.optimizer) is torch.optim.Adam
    for seed in range(3):
        assert ours.step(seed)
        assert torchs.step(seed)
        expected, found = torchs.state(), ours.state()
        assert [*found] == [*expected]
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-3)
            assert value.stride() == expected[name].stride()
        ours.model.load_state_dict(torchs.model.state_dict())  # no sign flips for a last digit
    latents = latent_weights(ours.model).values()
    assert max(value.abs().max().item() for value in latents) == 1


def test_a_step_that_is_not_finite_changes_nothing(one_pass: pytest.MonkeyPatch) -> None:
    training = Training(initialized())
    assert training.step(0)
    before = training.state()
    hook = next(training.model.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    assert not training.step(1)
    hook.remove()
    after = training.state()
    assert after.pop("seen") == before.pop("seen") + 1  # that of the forward pass
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_state_goes_from_one_to_the_other(one_pass: pytest.MonkeyPatch) -> None:
    ours = Training(initialized())
    assert ours.step(0)
    state = copy.deepcopy(optimizer_tensors(ours.optimizer, ours.model))
    one_pass.undo()
    torchs = Training(copy.deepcopy(ours.model))
    load_optimizer_tensors(torchs.optimizer, torchs.model, state)
    assert torchs.step(1)
    assert ours.step(1)
    for one, other in zip(ours.model.parameters(), torchs.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)


def test_a_run_goes_from_one_device_to_the_other(
    tmp_path: Path, one_pass: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe("training.images=64", "checkpoints.every_images=32")
    with cut_before(5):
        train(recipe, tmp_path / "cut")
    one_pass.undo()
    resumed, expected = resume(tmp_path / "cut"), train(recipe, tmp_path / "parts")
    assert resumed["images_seen"] == 64
    assert resumed["bits_per_dim"] == pytest.approx(expected["bits_per_dim"], rel=0.01)
