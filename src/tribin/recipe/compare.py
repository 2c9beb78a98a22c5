"""A recipe as text, and what sets two recipes apart."""

from collections.abc import Iterator
from typing import Any

from tribin.recipe.schema import Recipe
from tribin.recipe.yaml_source import write_yaml


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML with every field spelt out; it loads back to an equal recipe."""
    return write_yaml(recipe.model_dump())


def diff_recipes(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """Return ``(key.path, value in a, value in b)`` for each field in which they differ.

    A field that one of them does not have, since its model is another, is None there.
    """
    flat_a, flat_b = (dict(_flatten(recipe.model_dump())) for recipe in (a, b))
    paths = dict.fromkeys([*flat_a, *flat_b])
    rows = ((path, flat_a.get(path), flat_b.get(path)) for path in paths)
    return [(path, left, right) for path, left, right in rows if left != right]


def _flatten(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
