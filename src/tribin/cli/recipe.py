"""``tribin recipe``: list, show, check and compare recipes."""

import json

import click

from tribin.errors import InputError
from tribin.recipe import (
    diff_recipes,
    dump_recipe,
    load_recipe,
    recipe_schema,
    shipped_recipes,
)


@click.group()
def recipe() -> None:
    """List, show, check and compare recipes.

    A RECIPE is a file or the name of a shipped recipe, such as resnet_vae/digits_w1a1.
    """


@recipe.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_command(as_json: bool) -> None:
    """List the shipped recipes."""
    names = shipped_recipes()
    click.echo(json.dumps(names) if as_json else "\n".join(names))


@recipe.command()
@click.argument("source", metavar="RECIPE")
@click.argument("overrides", metavar="[KEY.PATH=VALUE]...", nargs=-1)
def show(source: str, overrides: tuple[str, ...]) -> None:
    """Print a recipe with every field filled in.

    The later of these wins: defaults, base, file, overrides.
    """
    click.echo(dump_recipe(load_recipe(source, overrides)), nl=False)


@recipe.command()
@click.argument("sources", metavar="RECIPE...", nargs=-1, required=True)
@click.pass_context
def check(context: click.Context, sources: tuple[str, ...]) -> None:
    """Check recipes and print all their faults.

    The exit code is 2 if there are any.
    """
    faulty = False
    for source in sources:
        try:
            load_recipe(source)
            click.echo(f"{source}: ok")
        except InputError as error:
            click.echo(f"tribin: {error}", err=True)
            faulty = True
    context.exit(2 if faulty else 0)


@recipe.command()
@click.argument("a", metavar="RECIPE_A")
@click.argument("b", metavar="RECIPE_B")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of {path, a, b}.")
def diff(a: str, b: str, as_json: bool) -> None:
    """Print the fields in which two recipes differ."""
    rows = diff_recipes(load_recipe(a), load_recipe(b))
    if as_json:
        click.echo(
            json.dumps([{"path": path, "a": left, "b": right} for path, left, right in rows])
        )
        return
    for path, left, right in rows:
        click.echo(f"{path}: {json.dumps(left)} -> {json.dumps(right)}")


@recipe.command()
def schema() -> None:
    """Print the JSON schema of a recipe.

    It has every key of a complete recipe, with its type, range, default and meaning.
    """
    click.echo(json.dumps(recipe_schema(), indent=2))
