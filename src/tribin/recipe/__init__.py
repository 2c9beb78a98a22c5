"""Recipes: one YAML file describes one run, strictly read."""

from tribin.recipe.compare import diff_recipes, dump_recipe
from tribin.recipe.faults import RecipeError
from tribin.recipe.resolve import load_recipe, recipe_from_json, shipped_recipes
from tribin.recipe.schema import Recipe, recipe_schema

__all__ = [
    "Recipe",
    "RecipeError",
    "diff_recipes",
    "dump_recipe",
    "load_recipe",
    "recipe_from_json",
    "recipe_schema",
    "shipped_recipes",
]
