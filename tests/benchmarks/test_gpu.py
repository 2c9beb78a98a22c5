"""The campaign from end to end, on a CPU with tiny models, and what it refuses."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.stages import Settings, stages

from tribin.profiling.result import read_result

ROOT = Path(__file__).parents[2]

PROFILES = {"kernels.linear": "kernels", "model.resnet_vae": "model", "step.resnet_vae": "step"}
CHOSEN = ["environment", "check.layouts", "ceilings", *PROFILES, "training.resnet_vae"]


def command(output: Path, data: Path) -> list[str]:
    options = ["--device", "cpu", "--tiny", "--output", str(output), "--data", str(data)]
    chosen = [f"--only={name}" for name in CHOSEN]
    return [sys.executable, "-m", "benchmarks.gpu", *options, *chosen]


def last_states(text: str) -> dict[str, str]:
    """By stage, from the summary."""
    lines = text.rpartition("\n\n")[2].splitlines()[: len(CHOSEN)]
    return {line.split(" s  ")[1].partition(":")[0]: line[:12].strip() for line in lines}


def test_a_campaign_is_cut_goes_on_and_does_again_what_failed(
    tmp_path: Path, data: Path, environment: dict[str, str]
) -> None:
    output = tmp_path / "campaign"
    broken = {**environment, "TRIBIN_LAUNCH_TABLE": str(tmp_path / "none")}

    process = subprocess.Popen(command(output, data), cwd=ROOT, env=broken, text=True)
    while not (output / "ceilings" / "done.json").exists() and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert (output / "ceilings" / "done.json").exists()
    assert not (output / "environment" / "done.json").exists()  # there is no such table
    assert not (output / "training.resnet_vae" / "done.json").exists()

    again = subprocess.run(
        command(output, data), cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    before = dict.fromkeys(["check.layouts", "ceilings"], "done before")
    assert last_states(again.stdout) == dict.fromkeys(CHOSEN, "done") | before
    log = (output / "log.txt").read_text()
    assert "FileNotFoundError" in log
    assert again.stdout.splitlines()[-1] in log
    check_results(output)


def check_results(output: Path) -> None:
    for name, kind in PROFILES.items():
        result = read_result(output / name)
        assert result.kind == kind
        assert result.entries
        assert result.ceilings == json.loads((output / "ceilings" / "results.json").read_bytes())
        assert (output / name / "table.txt").stat().st_size > 0
    found = json.loads((output / "environment" / "results.json").read_bytes())
    assert found["packages"]["torch"] == torch.__version__
    training = output / "training.resnet_vae"
    trained = json.loads((training / "results.json").read_bytes())["precisions"]
    assert {precision["images_seen"] for precision in trained.values()} == {24}
    assert {file.name for file in output.glob("*/*/*")} == {"curve.jsonl"}  # no gigabytes of state


def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> str:
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *options])
    assert main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    output = tmp_path / "campaign"
    usual = ("--device=cpu", "--tiny", f"--output={output}")
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        error = refusal(patch, capsys, f"--output={output}")
        assert error == "--device: there is no cuda device here; cpu would do\n"
    cases = {
        "--only=chekc": "--only: no stage is called 'chekc'; there are environment, check,",
        "--only=training": "--only: no stage is called 'training'",
        "--minutes=-1": "--minutes: -1 is not a number of minutes",
        "--minutes=nan": "--minutes: nan is not a number of minutes",
        "--minutes=inf": "--minutes: inf is not a number of minutes",
        f"--data={tmp_path / 'none'}": "cannot be read: No such file or directory",
    }
    for option, error in cases.items():
        assert error in refusal(monkeypatch, capsys, *usual, option)
    assert not output.exists()
    in_the_way = refusal(monkeypatch, capsys, "--device=cpu", f"--output={data}")
    assert in_the_way.startswith(f"--output: {data} can't be used")


def test_options_that_say_nothing_together_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "campaign"
    usual = ("--device=cpu", "--tiny", f"--output={output}")
    images, none = f"--data={data}", tmp_path / "none"
    cases = {
        ("--train",): "--train: takes images to train on, name their file with --data\n",
        ("--train", images, "--only=check"): "--only: chooses stages of a campaign",
        ("--model=flowpp", images): "--model: says what --train is to train",
        (f"--test={data}",): "--test: evaluates what is trained on --data",
        ("--train", images, f"--test={none}"): f"--test: {none} cannot be read: No such file",
        ("--train", f"--data={none}"): f"--data: {none} cannot be read: No such file",
        ("--train", images, "--minutes=nan"): "--minutes: nan is not a number of minutes",
    }
    for options, error in cases.items():
        assert refusal(monkeypatch, capsys, *usual, *options).startswith(error)
    assert not output.exists()


def test_without_time_all_is_left_and_the_folder_is_of_one_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--device=cpu", f"--output={tmp_path}", "--minutes=0"]
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *options, "--tiny"])
    assert main() == 75
    count = len(stages(Settings(tmp_path, torch.device("cpu"), tiny=True)))
    assert capsys.readouterr().out.count("left ") == 2 * count  # as it goes, and in the end
    assert "name another folder" in refusal(monkeypatch, capsys, *options)


def test_stages_come_in_the_order_of_their_value() -> None:
    names = [stage.name for stage in stages(Settings(Path(), torch.device("cuda"), data=Path()))]
    groups = list(dict.fromkeys(name.partition(".")[0] for name in names))
    assert groups == ["environment", "check", "ceilings", "kernels", "model", "step", "training"]
    assert len(set(names)) == len(names)
    kernels = [name for name in names if name.startswith("kernels")]
    assert kernels[0] == "kernels.w1a1_forward.resnet_vae"
    assert kernels[-1] == "kernels.linear"
