"""``tribin profile compare``, and what its commands share: the folder of a result and options."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from tests.profiling.results import entry, result
from tests.runs import tribin

from tribin.cli.profile import finish as module
from tribin.cli.profile.finish import finish
from tribin.cli.profile.options import device_option, output_option, rounds_option
from tribin.errors import InputError
from tribin.profiling.comparison import compare, table
from tribin.profiling.report import table as table_of
from tribin.profiling.result import write_result

OLD = result(entry("op a", "tribin", 1e-3), entry("op b", "tribin", 1e-3))
SLOWER = result(entry("op a", "tribin", 1e-3), entry("op b", "tribin", 2e-3))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old", tmp_path / "new"
    write_result(OLD, old)
    write_result(SLOWER, new)
    return old, new


def test_slower_beyond_the_noise_is_exit_code_1(folders: tuple[Path, Path]) -> None:
    compared = tribin("profile", "compare", *folders)
    assert (compared.exit_code, compared.stderr) == (1, "")
    assert compared.stdout == f"{table(compare(OLD, SLOWER))}\n"


def test_faster_or_the_same_is_exit_code_0(folders: tuple[Path, Path]) -> None:
    old, new = folders
    assert tribin("profile", "compare", new, old).exit_code == 0
    assert tribin("profile", "compare", old, old / "results.json").exit_code == 0


def test_json(folders: tuple[Path, Path]) -> None:
    compared = tribin("profile", "compare", *folders, "--json")
    assert compared.exit_code == 1
    assert json.loads(compared.stdout) == asdict(compare(OLD, SLOWER))


def test_bad_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = folders
    write_result(replace(OLD, kind="step"), tmp_path / "step")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "version").write_text(OLD.to_json().replace('_profile": 1', '_profile": 0'))
    (tmp_path / "entry").write_text(OLD.to_json().replace('"contender"', '"who"'))
    for path, message in (
        (tmp_path / "missing", f"{tmp_path / 'missing'} cannot be read: No such file or directory"),
        (tmp_path / "text", f"{tmp_path / 'text'} is no result of tribin profile"),
        (tmp_path / "version", f"{tmp_path / 'version'} is of version 0; this tribin reads results "
                               "of version 1"),
        (tmp_path / "entry", f"{tmp_path / 'entry'} is damaged: "),
    ):  # fmt: skip
        for pair in ((path, new), (old, path)):
            compared = tribin("profile", "compare", *pair)
            assert (compared.exit_code, compared.stdout) == (2, "")
            assert compared.stderr.startswith(f"tribin: {message}")
            assert compared.stderr.count("\n") == 1
    compared = tribin("profile", "compare", old, tmp_path / "step")
    assert compared.exit_code == 2
    assert compared.stderr == (
        "tribin: OLD is a profile of kind 'kernels', NEW one of kind 'step'\n"
    )


def test_finish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(OLD, tmp_path / "out", as_json=False) == tmp_path / "out"
    printed = capsys.readouterr()
    assert printed.out == f"{table_of(OLD)}\n"
    assert printed.err == f"tribin: the results are in {tmp_path / 'out'}\n"
    finish(OLD, tmp_path / "out", as_json=True)
    assert json.loads(capsys.readouterr().out) == json.loads(
        (tmp_path / "out" / "results.json").read_text()
    )


def test_the_folder_has_a_name_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "write_report", lambda result, folder: None)
    finish(OLD, None, as_json=True)
    assert capsys.readouterr().err.startswith("tribin: the results are in profiles/kernels-20")


@click.command()
@device_option
@rounds_option
@output_option
def command(device: torch.device, rounds: int, output: Path | None) -> None:
    click.echo(f"{device} {rounds} {output}")


@pytest.mark.parametrize(
    ("gpus", "arguments", "device"),
    [(0, "", "cpu"), (0, "--device cpu", "cpu"), (2, "", "cuda:1"), (2, "--device cuda", "cuda:1"),
     (2, "--device cpu", "cpu")],
)  # fmt: skip
def test_device(monkeypatch: pytest.MonkeyPatch, gpus: int, arguments: str, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    outcome = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert outcome.stdout == f"{device} 5 None\n"


def test_a_device_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device: there is no cuda device here; cpu would do"):
        CliRunner().invoke(command, "--device cuda", catch_exceptions=False)


def test_one_round_is_refused() -> None:
    outcome = CliRunner().invoke(command, "--rounds 1")
    assert outcome.exit_code == 2
    assert "Invalid value for '--rounds': 1 is not in the range x>=2." in outcome.stderr


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("file", "file/new"):
        with pytest.raises(InputError, match=f"--output: .*/{folder} cannot be made in .*/file"):
            CliRunner().invoke(command, f"-o {tmp_path / folder}", catch_exceptions=False)
    assert CliRunner().invoke(command, f"-o {tmp_path / 'new' / 'folder'}").exit_code == 0
