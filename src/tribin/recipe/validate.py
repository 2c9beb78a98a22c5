"""From a located tree to a recipe, with pydantic's complaints put into words for people."""

from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tribin.recipe.faults import Fault, did_you_mean, spell
from tribin.recipe.schema import Recipe, recipe_class
from tribin.recipe.yaml_source import Located

AnySection = TypeVar("AnySection", bound=BaseModel)

# By pydantic's error type, what the value "is not".
_EXPECTED = {
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_type": "an integer (digits, as in 50_000)",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "model_type": "a mapping",
    "string_type": "text",
    "string_pattern_mismatch": "a name of letters, digits and _ . + -",
    "too_long": "a list of {max_length}",
    "too_short": "a list of {min_length} or more",
    "tuple_type": "a list",
}


def validate(tree: Located, faults: list[Fault]) -> Recipe | None:
    """Return the recipe that ``tree``, a mapping, describes; append what is wrong to ``faults``."""
    model = tree.plain().get("model")
    return validate_as(
        recipe_class(model.get("name") if isinstance(model, dict) else None), tree, faults
    )


def validate_as(schema: type[AnySection], tree: Located, faults: list[Fault]) -> AnySection | None:
    """Return what ``tree``, a mapping, describes; append what is wrong to ``faults``."""
    try:
        return schema.model_validate(tree.plain())
    except ValidationError as error:
        faults.extend(_fault(details, tree, schema) for details in error.errors())
        return None


def _fault(error: ErrorDetails, tree: Located, schema: type[BaseModel]) -> Fault:
    path = error["loc"]
    if field := error.get("ctx", {}).get("field"):
        path = (*path, field)
    return Fault(tree.origin_of(path), ".".join(map(str, path)), _message(error, schema))


def _message(error: ErrorDetails, schema: type[BaseModel]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _EXPECTED:
        return f"{spell(error['input'])} is not {_EXPECTED[kind].format(**context)}"
    if kind == "extra_forbidden":
        return f"unknown key; {_known_keys(error['loc'], schema)}"
    if kind == "missing":
        return "required, but missing"
    if kind == "value_error":
        return str(context["error"])
    return error["msg"]


def _known_keys(path: tuple[str | int, ...], schema: type[BaseModel]) -> str:
    """Suggest a key of the same section, the same key elsewhere, or list the section's keys."""
    *parents, key = path
    section: Any = schema
    for parent in parents:
        if get_origin(section) is dict:
            section = get_args(section)[1]
        else:
            section = section.model_fields[parent].annotation
    if hint := did_you_mean(key, section.model_fields):
        return hint
    for name, field in schema.model_fields.items():
        if key in getattr(field.annotation, "model_fields", ()):
            return f"did you mean {name}.{key}?"
    return f"there are: {', '.join(section.model_fields)}"
