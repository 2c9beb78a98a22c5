"""The campaign from end to end, on a CPU with tiny models, and what it refuses."""

import json
import os
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

BLOCKED = (
    "PIL", "click", "datasets", "matplotlib", "numpy", "pyarrow", "pydantic", "safetensors",
    "tqdm", "wandb", "yaml",
)  # fmt: skip
"""What the machine of a campaign need not have."""

PROFILES = {"kernels.linear": "kernels", "model.resnet_vae": "model", "step.resnet_vae": "step"}
CHOSEN = ["environment", "check.layouts", "ceilings", *PROFILES, "training.resnet_vae.w1a1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)
    torch.save(images, tmp_path / "images.pt")
    return tmp_path / "images.pt"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "blocked"
    folder.mkdir()
    for name in BLOCKED:
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})\n")
    path = os.pathsep.join(map(str, (folder, ROOT / "src", ROOT / "kernels")))
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return {**kept, "PYTHONPATH": path}


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
    assert not (output / "training.resnet_vae.w1a1" / "done.json").exists()

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
    training = output / "training.resnet_vae.w1a1"
    assert json.loads((training / "results.json").read_bytes())["bits_per_dim"] > 0
    assert len((training / "curve.jsonl").read_text().splitlines()) == 1
    assert not list(output.glob("*/*/*"))


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
