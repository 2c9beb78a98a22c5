import json
import re
import subprocess
import sys
import types
from importlib.metadata import version

import click
import pytest
import yaml
from click.testing import CliRunner, Result

import tribin.cli
from tribin.errors import InputError, NonFiniteError
from tribin.recipe import load_recipe, recipe_schema, shipped_recipes

DIGITS = "resnet_vae/digits_w1a1"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(tribin.cli.main, arguments)


# The group


def test_help_and_version_import_no_torch():
    code = (
        "import sys, contextlib, tribin.cli\n"
        "for option in ('--help', '--version'):\n"
        "    with contextlib.suppress(SystemExit): tribin.cli.main([option])\n"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0
    for name, (_, summary) in tribin.cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", result.stdout, re.MULTILINE)
    assert version("tribin") in result.stdout


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("width: 0 is wrong"), 2), (NonFiniteError("loss is NaN"), 3)]
)
def test_errors_become_one_message_and_an_exit_code(monkeypatch, error, code):
    @click.command()
    def fail() -> None:
        raise error

    module = types.ModuleType("failing")
    module.fail = fail
    monkeypatch.setitem(sys.modules, "failing", module)
    monkeypatch.setitem(tribin.cli.COMMANDS, "fail", ("failing:fail", "Fail."))
    result = run("fail")
    assert (result.exit_code, result.stderr, result.stdout) == (code, f"tribin: {error}\n", "")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["recipe", "nonsense"], ["recipe", "show"], ["recipe", "check"]]
)
def test_usage_errors_exit_with_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


def test_every_command_can_be_imported():
    context = click.Context(tribin.cli.main)
    for name in tribin.cli.COMMANDS:
        assert isinstance(tribin.cli.main.get_command(context, name), click.Command)


# tribin recipe


def test_list():
    assert run("recipe", "list").stdout.split() == shipped_recipes()
    assert json.loads(run("recipe", "list", "--json").stdout) == shipped_recipes()


def test_show_prints_a_valid_recipe(empty_folder):
    result = run("recipe", "show", DIGITS, "optimizer.learning_rate=2e-5")
    assert result.exit_code == 0
    file = empty_folder / "shown.yaml"
    file.write_text(result.stdout, encoding="utf-8")
    assert load_recipe(file) == load_recipe(DIGITS, ["optimizer.learning_rate=2e-5"])
    assert yaml.safe_load(result.stdout)["data"]["name"] == "digits"


def test_check_reports_every_file(empty_folder):
    (empty_folder / "bad.yaml").write_text("seed: -1\n", encoding="utf-8")
    result = run("recipe", "check", DIGITS, "bad.yaml", "missing.yaml", DIGITS)
    assert result.exit_code == 2
    assert result.stdout == f"{DIGITS}: ok\n" * 2
    assert "bad.yaml has 4 faults:\n  bad.yaml:1  seed: -1 is not at least 0" in result.stderr
    assert "no recipe 'missing.yaml'" in result.stderr


def test_check_of_good_files_exits_with_0():
    assert run("recipe", "check", DIGITS).exit_code == 0


def test_diff():
    other = "resnet_vae/digits_w1a32"
    result = run("recipe", "diff", DIGITS, other)
    assert (result.exit_code, result.stdout) == (0, "model.precision.activations: 1 -> 32\n")
    rows = json.loads(run("recipe", "diff", DIGITS, other, "--json").stdout)
    assert rows == [{"path": "model.precision.activations", "a": 1, "b": 32}]


def test_schema():
    assert json.loads(run("recipe", "schema").stdout) == recipe_schema()


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("optimizer: {learning_rat: 1}", "optimizer.learning_rat: unknown key; did you mean"),
        ("optimizer: {learning_rate: fast}", "optimizer.learning_rate: 'fast' is not a number"),
        ("seed: 1\nseed: 2", "seed: duplicate key"),
        ("seed: &a [x, x]\nmodel: [*a, *a]", "anchors and aliases"),
        ("seed: !!python/name:os.system", "tags"),
        ("seed: " + "[" * 10_000, "levels deep"),
    ],
)
def test_a_bad_file_is_one_message_and_nothing_is_written(empty_folder, line, fault):
    (empty_folder / "x.yaml").write_text(f"base: {DIGITS}\n{line}\n", encoding="utf-8")
    result = run("recipe", "show", "x.yaml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("tribin: x.yaml has 1 fault:\n  x.yaml:")
    assert fault in result.stderr
    assert result.stderr.count("\n") == 2
    assert [file.name for file in empty_folder.iterdir()] == ["x.yaml"]
