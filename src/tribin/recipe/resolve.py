"""From a recipe's name or file to a checked recipe: defaults < base < file < overrides."""

import json
import os
import re
from collections.abc import Sequence
from functools import reduce
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tribin.errors import InputError
from tribin.recipe.faults import (
    OVERRIDE,
    Fault,
    Origin,
    RecipeError,
    UnreadableError,
    did_you_mean,
    spell,
)
from tribin.recipe.schema import Recipe, recipe_class
from tribin.recipe.validate import validate
from tribin.recipe.yaml_source import Located, read_yaml

STUDIES = "studies"
"""The folder beside those of the recipes."""

_KEY_PATH = re.compile(r"\w+(\.\w+){0,7}")


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, complete and check a recipe.

    Args:
        source: a recipe file, or the name of a shipped recipe (``resnet_vae/digits_w1a1``).
        overrides: ``key.path=value`` each, the value in YAML; the last one of a path wins.

    Raises:
        InputError: if there is no such recipe; with all the faults if it has any.
    """
    faults: list[Fault] = []
    try:
        tree = _read_with_base(_find(source), faults)
    except UnreadableError as error:
        raise RecipeError(str(source), [*faults, error.fault]) from None
    tree = _overlay_recipe(tree, _read_overrides(overrides, faults))
    recipe = validate(tree, faults)
    if recipe is None or faults:
        raise RecipeError(str(source), faults)
    return recipe


def recipe_from_json(content: Any) -> Recipe:
    """A recipe from the JSON that `Recipe.model_dump` gave.

    Raises:
        InputError: if it is none that this tribin reads.
    """
    match content:
        case {"model": {"name": str(name)}}:
            pass
        case _:
            raise InputError("the recipe kept with the model names no model")
    try:
        return recipe_class(name).model_validate_json(json.dumps(content))
    except ValidationError as error:
        [first, *_] = error.errors()
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"the recipe kept with the model: {place}: {first['msg']}") from error


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that are installed with tribin, sorted."""
    folder = shipped_folder()
    files = [file for file in folder.glob("*/*.yaml") if file.parent.name != STUDIES]
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files)


def shipped_folder() -> Path:
    """Where the recipes are that are installed with tribin."""
    return Path(str(resources.files("tribin.recipes")))


def _find(source: str | Path, folder: Path = Path()) -> Path:
    # os.path.isfile is False where Path.is_file raises, as for a name too long for a file.
    if os.path.isfile(folder / source):
        return folder / source
    name = str(source).removesuffix(".yaml")
    names = shipped_recipes()
    if name in names:
        return shipped_folder() / f"{name}.yaml"
    if namesakes := [shipped for shipped in names if shipped.endswith(f"/{name}")]:
        hint = f"did you mean {' or '.join(namesakes)}?"
    else:
        hint = did_you_mean(name, names) or "`tribin recipe list` lists the shipped ones"
    raise InputError(f"no recipe {str(source)!r}: neither a file nor a shipped recipe; {hint}")


def _read_with_base(file: Path, faults: list[Fault]) -> Located:
    tree = read_mapping(file, faults)
    assert isinstance(tree.value, dict)
    if "base" not in tree.value:
        return tree
    base = _read_base(tree.value["base"], file, faults)
    return _overlay_recipe(base, tree.without("base"))


def _read_base(base: Located, file: Path, faults: list[Fault]) -> Located:
    if not isinstance(base.value, str):
        message = f"{spell(base.plain())} is not the name or the path of a recipe"
        raise UnreadableError(base.origin, "base", message)
    try:
        tree = read_mapping(_find(base.value, file.parent), faults)
    except InputError as error:
        raise UnreadableError(base.origin, "base", str(error)) from None
    if "base" in tree.plain():
        message = f"{base.value} has a base of its own; name a recipe without one"
        raise UnreadableError(base.origin, "base", message)
    return tree


def read_mapping(file: Path, faults: list[Fault]) -> Located:
    """Read a YAML file that holds a mapping; see `read_yaml`."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not a text file in UTF-8") from None
    start = Origin(file.name, 1)
    tree = read_yaml(text, start, faults)
    if not isinstance(tree.value, dict):
        given = "the file is empty" if tree.value is None else "the file is not a mapping"
        message = f"{given}; a recipe is a mapping of sections (model, data, training, ...)"
        raise UnreadableError(start, "", message)
    return tree


def _read_overrides(overrides: Sequence[str], faults: list[Fault]) -> Located:
    trees = [_read_override(override, faults) for override in overrides]
    return reduce(_overlay_recipe, trees, Located({}, OVERRIDE))


def _read_override(override: str, faults: list[Fault]) -> Located:
    path, equals, text = override.partition("=")
    if not (equals and _KEY_PATH.fullmatch(path)):
        message = f"{override!r} is not of the form key.path=value"
        faults.append(Fault(OVERRIDE, "", message))
        return Located({}, OVERRIDE)
    keys = path.split(".")
    try:
        tree = read_yaml(text, OVERRIDE, faults, keys)
    except UnreadableError as error:
        faults.append(error.fault)
        return Located({}, OVERRIDE)
    for key in reversed(keys):
        tree = Located({key: tree}, OVERRIDE)
    return tree


def _overlay_recipe(lower: Located, upper: Located) -> Located:
    """Lay ``upper`` over ``lower``, whose model section is dropped if it is another model's."""
    names = _model_name(lower), _model_name(upper)
    if None not in names and names[0] != names[1]:
        lower = lower.without("model")
    return _overlay(lower, upper)


def _model_name(tree: Located) -> object:
    model = tree.plain().get("model")
    return model.get("name") if isinstance(model, dict) else None


def _overlay(lower: Located, upper: Located) -> Located:
    if not (isinstance(lower.value, dict) and isinstance(upper.value, dict)):
        return upper
    merged = {
        key: _overlay(lower.value[key], value) if key in lower.value else value
        for key, value in upper.value.items()
    }
    # What an overridden section lacks is still the file's fault.
    origin = lower.origin if upper.origin == OVERRIDE else upper.origin
    return Located(lower.value | merged, origin)
