"""Recipes with faults nobody thought of: a message, or a recipe that can be written and read."""

import random
from pathlib import Path

import pytest
from tests.runs import tribin

from tribin.errors import InputError
from tribin.recipe import dump_recipe, load_recipe, shipped_recipes
from tribin.recipe.resolve import shipped_folder

VALUES = (
    *("0", "-1", "1e30", "1e400", "-0.0", "9" * 30, "0x7f", "0o17", "1_000", "2e-5", "007"),
    *(".nan", ".inf", "-.inf", "null", "~", "", "true", "no", "yes", "'1'", '"', "'", "x" * 5000),
    *("[]", "{}", "[1, 2]", "[[[[]]]]", "[" * 40, "{a: 1}", "{1: 2}", "[a, {b: [c]}]", "!!int 3"),
    *(
        "&a 1",
        "*a",
        "<<: *a",
        "2001-01-01",
        "12:30:45",
        "|\n  text",
        ">\n  text",
        "# none",
        "é",
        "\t",
    ),
    *(
        "\t",
        "\u2028",
        "\x00",
        "\x07",
        "%",
        "@",
        "`",
        "- 1",
        "? a",
        ": b",
        "..",
        "../..",
        "/",
        "con",
    ),
)
KEYS = ("base", "model", "data", "training", "seed", "name", "images", "batch_size", "width", "x")


def mutated(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 4)):
        lines = text.splitlines() or [""]
        at = chance.randrange(len(lines))
        key, _, value = lines[at].partition(":")
        match chance.randrange(9):
            case 0:
                lines[at] = f"{key}: {chance.choice(VALUES)}"
            case 1:
                lines[at] = f"{chance.choice(KEYS)}:{value}"
            case 2:
                del lines[at]
            case 3:
                lines.insert(at, chance.choice(lines))
            case 4:
                lines[at] = " " * chance.randrange(6) + lines[at].strip()
            case 5:
                lines.append(f"{chance.choice(KEYS)}: {chance.choice(VALUES)}")
            case 6:
                text = text[: chance.randrange(len(text) + 1)]
                continue
            case 7:
                position = chance.randrange(len(text) + 1)
                text = text[:position] + chr(chance.randrange(0xD800)) + text[position + 1 :]
                continue
            case 8:
                lines[at] = f"{key}: {{{chance.choice(KEYS)}: {chance.choice(VALUES)}}}"
        text = "\n".join(lines)
    return text


def mutations(count: int, file: Path) -> int:
    """Write so many mutated recipes, one after the other; how many of them are valid."""
    chance, valid = random.Random(count), 0
    originals = [(shipped_folder() / f"{name}.yaml").read_text() for name in shipped_recipes()]
    for _ in range(count):
        file.write_text(mutated(chance.choice(originals), chance), encoding="utf-8")
        try:
            recipe = load_recipe(file)
        except InputError as error:
            assert str(error)  # noqa: PT017 (what matters is that it is no other error)
            continue
        valid += 1
        file.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(file) == recipe
    return valid


def test_mutated_recipes(tmp_path: Path) -> None:
    assert 20 < mutations(200, tmp_path / "recipe.yaml") < 180


@pytest.mark.slow
def test_many_mutated_recipes(tmp_path: Path) -> None:
    valid = mutations(5000, tmp_path / "recipe.yaml")
    print(f"5,000 mutated recipes, {valid} of them valid")


def test_the_command_checks_mutated_recipes(tmp_path: Path) -> None:
    chance, file = random.Random(0), tmp_path / "recipe.yaml"
    original = (shipped_folder() / "resnet_vae" / "digits_w1a1.yaml").read_text()
    codes = []
    for _ in range(40):
        file.write_text(mutated(original, chance), encoding="utf-8")
        result = tribin("recipe", "check", file)
        codes.append(result.exit_code)
        assert (result.exit_code == 0) == (result.stderr == "")
    assert set(codes) == {0, 2}


@pytest.mark.parametrize("value", [b"\xff\xfe\x00", b"\xe9", b"\xed\xa0\x80", b"", b"\x00" * 9])
def test_bytes_that_are_no_text(tmp_path: Path, value: bytes) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"seed: 1\n" + value)
    with pytest.raises(InputError):
        load_recipe(file)


@pytest.mark.parametrize(
    "override",
    [
        "training.batch_size=1000000000000000000",
        "evaluation.batch_size=1000000000000000000",
        "samples.count=1000000000000000000",
        "model.width=1000000000000000000",
        "model.latent_layers=1000000000000000000",
        "model.extra_blocks=1000000000000000000",
    ],
)
def test_sizes_that_no_machine_holds(override: str) -> None:
    field = override.partition("=")[0]
    with pytest.raises(InputError, match=f"{field}: .* is not at most "):
        load_recipe("resnet_vae/digits_w1a1", [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"seed=0x{'f' * 5000}", "seed: an integer of more than 1,000 digits"),
        (f"training.images=0o{'7' * 6000}", "training.images: an integer of more than 1,000"),
        (r'tracking.project="\uD800"', "tracking.project: half a character"),
    ],
)
def test_values_that_could_not_be_printed_or_written(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("resnet_vae/digits_w1a1", [override])
