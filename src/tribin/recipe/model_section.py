"""The recipe's ``model`` section, derived from the configuration dataclass of the named model.

Models are configured by frozen dataclasses of the standard library, so that they need no
pydantic. A field's ``metadata`` goes to ``pydantic.Field``: ``{"ge": 1, "description": "..."}``.
"""

from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

import pydantic
from pydantic import BeforeValidator, create_model, model_validator
from pydantic_core import PydanticKnownError

from tribin.models import MODELS
from tribin.recipe.section import Section, registered

_NAME: Any = pydantic.Field(description="which model to build")


class DataclassSection(Section):
    """A section with the fields of a dataclass, and its checks."""

    dataclass_type: ClassVar[type]

    def config(self) -> Any:
        """Return the dataclass that this section describes."""
        values = {field.name: getattr(self, field.name) for field in fields(self.dataclass_type)}
        for name, value in values.items():
            if isinstance(value, DataclassSection):
                values[name] = value.config()
        return self.dataclass_type(**values)

    @model_validator(mode="after")
    def _accepted_by_dataclass(self) -> Self:
        self.config()
        return self


class ModelSection(DataclassSection, extra="ignore"):
    """The model: its name and the fields of its configuration."""

    name: Annotated[str, registered("model", MODELS)] = _NAME


@cache
def model_section(name: str) -> type[ModelSection]:
    """Return the class of the ``model`` section of the model registered as ``name``."""
    return _section(MODELS[name].Config, ModelSection, name=(Literal[name], _NAME))


def _section(dataclass_type: type, base: type[DataclassSection], **more: Any) -> Any:
    hints = get_type_hints(dataclass_type, include_extras=True)
    for field in fields(dataclass_type):
        more[field.name] = _field(field, hints[field.name])
    section = create_model(
        dataclass_type.__name__,
        __base__=base,
        __doc__=dataclass_type.__doc__,
        __cls_kwargs__={"extra": "forbid"},
        **more,
    )
    section.dataclass_type = dataclass_type
    return section


def _field(field: Field[Any], hint: Any) -> tuple[Any, Any]:
    default = _default(field)
    if is_dataclass(hint):
        assert isinstance(hint, type)
        hint = _section(hint, DataclassSection)
        default = default if default is ... else hint.model_validate(asdict(default))
    elif get_origin(hint) is Literal:
        hint = Annotated[hint, BeforeValidator(_exactly(get_args(hint)))]
    return hint, pydantic.Field(default, **field.metadata)


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return ... if field.default is MISSING else field.default


def _exactly(choices: tuple[Any, ...]) -> Any:
    """Refuse ``true`` and ``1.0`` for the literal 1: to pydantic they are equal to it."""

    def check(value: Any) -> Any:
        if type(value) not in map(type, choices):
            expected = " or ".join(map(repr, choices))
            raise PydanticKnownError("literal_error", {"expected": expected})
        return value

    return check
