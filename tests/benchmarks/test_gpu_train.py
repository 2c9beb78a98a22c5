"""Precisions side by side: equal images, no trace of a cut, and what they leave."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks.gpu import contender as contenders
from benchmarks.gpu import training, training_report
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.contender import Contender, Progress
from benchmarks.gpu.images import Images
from benchmarks.gpu.recipes import MODEL_NAMES, read_recipe
from benchmarks.gpu.side_by_side import ORDER, Sitting, train_side_by_side
from benchmarks.gpu.training import Training
from benchmarks.gpu.training_report import PAPER
from torch import Tensor

from tribin.training import optimizer
from tribin.training.step import StepResult, train_step

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
RANDOM = torch.randint(
    0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
IMAGES = Images(RANDOM[:16], RANDOM[16:], "held-out images")


def sit(folder: Path, seconds: float = 600, model: str = "resnet_vae") -> tuple[int, str]:
    """A sitting; its exit code and all that it reports."""
    lines: list[str] = []
    code = train_side_by_side(
        model, IMAGES, folder, CPU, seconds=seconds, tiny=True, report=lines.append
    )
    return code, "\n".join(lines)


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_bytes())


def images_seen(folder: Path) -> list[int]:
    return [results(folder)["precisions"][name]["images_seen"] for name in ORDER]


def tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    return {**state["model"], **state["optimizer"]}


def saved(folder: Path) -> dict[str, Tensor]:
    """Weights and moments of all contenders."""
    states = {name: torch.load(folder / name / "state.pt")["training"] for name in ORDER}
    return {
        f"{name} {key}": value
        for name, state in states.items()
        for key, value in tensors(state).items()
    }


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def bits_of(recipe: Any) -> tuple[int, int]:
    """Of weights and activations."""
    precision = recipe.model["precision"]
    return precision["weights"], precision["activations"]


class Killed(BaseException):
    """As by a signal that nothing answers."""


class KilledAt:
    """Steps that end with the process at the one of a number, counted from 1."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self, *arguments: Any) -> StepResult:
        self.left -= 1
        if not self.left:
            raise Killed
        return train_step(*arguments)


def test_all_see_the_same_images_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[tuple[int, int], list[Tensor]] = {}

    def noting(model: Any, optimizer: Any, images: Tensor, recipe: Any) -> StepResult:
        seen.setdefault(bits_of(recipe), []).append(images)
        return train_step(model, optimizer, images, recipe)

    monkeypatch.setattr(training, "train_step", noting)
    code, _ = sit(tmp_path)
    assert code == 0
    first, *others = (torch.cat(images) for images in seen.values())
    assert list(seen) == [(32, 32), (1, 32), (1, 1)]
    assert len(first) == 24
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("model", "precision", "one_pass"),
    [
        ("resnet_vae", "w32a32", False),
        ("resnet_vae", "w1a1", False),
        ("resnet_vae", "w1a1", True),
        ("flowpp", "w32a32", False),  # with dropout
    ],
)
def test_turns_give_the_bits_of_training_without_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, precision: str, one_pass: bool
) -> None:
    monkeypatch.setattr(optimizer, "takes_one_pass", lambda model: one_pass)  # as on a GPU
    recipe = read_recipe(model, precision, tiny=True)
    uncut = Training(recipe, IMAGES.train)
    for _ in range(3):
        Contender(recipe, tmp_path / precision).take_turn(IMAGES.train, 8)
    uncut.initialize()
    uncut.train(24)
    state = torch.load(tmp_path / precision / "state.pt", weights_only=True)["training"]
    assert state["images_seen"] == 24
    assert_same_bits(tensors(state), tensors(uncut.state()))


def test_a_sitting_cut_between_turns_goes_on_with_who_is_behind(tmp_path: Path) -> None:
    first = Contender(read_recipe("resnet_vae", ORDER[0], tiny=True), tmp_path / "cut" / ORDER[0])
    first.take_turn(IMAGES.train, 12)
    leftover = tmp_path / "cut" / ORDER[0] / ".state.pt.1.tmp"
    leftover.write_bytes(b"half a state")
    code, text = sit(tmp_path / "cut")
    assert code == 0
    turns = [line.split()[0] for line in text.splitlines() if "in training" in line]
    assert turns == [*ORDER[1:], *ORDER]
    assert not leftover.exists()
    sit(tmp_path / "uncut")
    assert_same_bits(saved(tmp_path / "cut"), saved(tmp_path / "uncut"))


@pytest.mark.parametrize("step", [2, 5, 12])
def test_a_sitting_cut_within_a_turn_loses_that_turn_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", KilledAt(step))
        with pytest.raises(Killed):
            sit(tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("*/state.pt"))) == min((step - 1) // 3, 3)
    code, text = sit(tmp_path / "cut")
    assert (code, text.count("in training")) == (0, 6 - (step - 1) // 3)
    sit(tmp_path / "uncut")
    assert_same_bits(saved(tmp_path / "cut"), saved(tmp_path / "uncut"))


def test_a_sitting_cut_while_it_writes_loses_that_turn_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, data: bytes) -> None:
        if path.name == "state.pt":
            raise Killed
        path.write_bytes(data)

    recipe = read_recipe("resnet_vae", "w1a1", tiny=True)
    contender = Contender(recipe, tmp_path / "w1a1")
    contender.take_turn(IMAGES.train, 8)
    with monkeypatch.context() as patch:
        patch.setattr(contenders, "write_atomically", killed)
        with pytest.raises(Killed):
            contender.take_turn(IMAGES.train, 8)
    assert contender.progress.images_seen == 8
    contender.take_turn(IMAGES.train, 8)
    lines = map(json.loads, (tmp_path / "w1a1" / "curve.jsonl").read_text().splitlines())
    assert [point["images_seen"] for point in lines] == [8, 16]


def test_without_time_there_are_first_turns_alone(tmp_path: Path) -> None:
    for _ in range(2):
        code, text = sit(tmp_path, seconds=0)
        assert code == 75
        assert images_seen(tmp_path) == [12, 12, 12]
        assert all(p["bits_per_dim"] > 0 for p in results(tmp_path)["precisions"].values())
    assert "in training" not in text
    assert sit(tmp_path)[0] == 0
    assert images_seen(tmp_path) == [24, 24, 24]


class Timed:
    """A contender of turns that take no time, and are said to take some."""

    recipe = SimpleNamespace(training=SimpleNamespace(batch_size=1))

    curve = ({"bits_per_dim": 1.0},)

    def __init__(self, name: str, seconds: float, images_seen: int) -> None:
        self.name, self.progress = name, Progress(images_seen, seconds)

    @property
    def done(self) -> bool:
        return self.progress.images_seen == 3

    def take_turn(self, images: Tensor, count: int) -> None:
        self.progress = replace(self.progress, images_seen=self.progress.images_seen + count)


@pytest.mark.parametrize(
    ("left", "before", "after"),
    [
        (50, (1, 1), (1, 1)),  # one turn would fit, the round would not
        (70, (1, 1), (3, 3)),
        (50, (2, 1), (2, 2)),  # the round is finished, the next one would not be
        (30, (2, 1), (2, 2)),
        (10, (2, 1), (2, 1)),
    ],
)
def test_a_round_begins_if_all_of_it_fits(
    left: float, before: tuple[int, int], after: tuple[int, int]
) -> None:
    two = [Timed("a", 40, before[0]), Timed("b", 20, before[1])]
    Sitting(two, IMAGES, lambda text: None).take_turns(time.monotonic() + left, 1)
    assert tuple(contender.progress.images_seen for contender in two) == after


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Steps of W1A32 are not finite in the second turn."""

    def step(model: Any, optimizer: Any, images: Tensor, recipe: Any) -> StepResult:
        result = train_step(model, optimizer, images, recipe)
        if bits_of(recipe) == (1, 32) and torch.initial_seed() > 12:
            result.finite.fill_(False)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", step)
        yield patch


def test_a_precision_that_is_not_finite_ends_and_the_others_go_on(
    tmp_path: Path, sick: pytest.MonkeyPatch
) -> None:
    code, text = sit(tmp_path)
    assert code == 1
    assert images_seen(tmp_path) == [24, 12, 24]
    (line,) = (line for line in text.splitlines() if line.startswith("w1a32   failed"))
    assert "NonFiniteError" in line
    assert "after 20 images" in line
    assert "Traceback" not in text
    found = results(tmp_path)["precisions"]
    assert "after 20 images" in found["w1a32"]["fault"]
    assert found["w1a32"]["bits_per_dim"] > 0  # of its newest state
    assert found["w1a1"]["fault"] is None
    sick.undo()
    assert sit(tmp_path)[0] == 0
    assert images_seen(tmp_path) == [24, 24, 24]


def test_what_fails_in_another_way_is_reported_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(contenders, "write_atomically", full)
    code, text = sit(tmp_path)
    assert code == 1
    assert images_seen(tmp_path) == [0, 0, 0]
    assert text.count("Traceback") == 3
    table = (tmp_path / "table.txt").read_text()
    assert table.count("failed: OSError: [Errno 28] No space left on device") == 3


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_results_table_and_curves(tmp_path: Path, model: str) -> None:
    _, text = sit(tmp_path, model=model)
    found = results(tmp_path)
    assert found["paper"] == PAPER[model]
    assert (found["torch"], found["device"] != "") == (torch.__version__, True)
    table = (tmp_path / "table.txt").read_text()
    assert table.strip() in text
    for name in ORDER:
        precision = found["precisions"][name]
        assert (precision["images"], precision["evaluated_on"]) == (4, "held-out images")
        bits = f"{precision['bits_per_dim']:.4f} ± {precision['standard_error']:.4f}"
        (line,) = (line for line in table.splitlines() if line.startswith(f"{name} "))
        assert line.split() == [name, "24", *bits.split(), f"{PAPER[model][name]:.2f}"]
        curve = map(json.loads, (tmp_path / name / "curve.jsonl").read_text().splitlines())
        assert [point["images_seen"] for point in curve] == [12, 24]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_papers_finals_are_lines_of_the_plot(tmp_path: Path) -> None:
    contender = Contender(read_recipe("flowpp", "w1a1", tiny=True), tmp_path / "w1a1")
    contender.take_turn(IMAGES.train, 4)
    standings = Sitting([contender], IMAGES, lambda text: None).standings()
    (axes,) = training_report.curves("flowpp", standings).axes
    curve, final = axes.lines
    assert list(curve.get_xdata()) == [4]
    assert list(final.get_ydata()) == [3.43, 3.43]
    assert axes.get_ylim()[0] < 3.43 < axes.get_ylim()[1]


def command(output: Path, data: Path, *options: str) -> list[str]:
    usual = ["--train", "--device", "cpu", "--tiny", "--output", str(output), "--data", str(data)]
    return [sys.executable, "-m", "benchmarks.gpu", *usual, *options]


def test_a_killed_process_goes_on_to_the_end(
    tmp_path: Path, data: Path, environment: dict[str, str]
) -> None:
    output = tmp_path / "training"
    process = subprocess.Popen(command(output, data), cwd=ROOT, env=environment)
    while not (output / "w32a32" / "state.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (output / "w32a32" / "state.pt").exists()
    again = subprocess.run(
        command(output, data, "--test", str(data)), cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert images_seen(output) == [24, 24, 24]
    found = results(output)["precisions"]["w1a1"]
    assert (found["images"], found["evaluated_on"]) == (32, "test images")
    assert again.stdout in (output / "log.txt").read_text()
    assert not (output / "curves.png").exists()  # there is no matplotlib


def test_a_folder_is_of_one_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    options = ["--train", "--device=cpu", "--tiny", f"--output={tmp_path / 'training'}"]

    def code(*more: str) -> int:
        monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *options, *more])
        return main()

    assert code(f"--data={data}", "--minutes=0") == 75
    torch.save(RANDOM, tmp_path / "others.pt")
    assert code(f"--data={tmp_path / 'others.pt'}") == 2
    assert code(f"--data={data}", "--model=flowpp") == 2
    assert capsys.readouterr().err.count("name another folder\n") == 2
