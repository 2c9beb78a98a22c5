"""What all sections of a recipe have in common."""

from collections.abc import Mapping
from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from tribin.recipe.faults import did_you_mean


class Section(BaseModel):
    """A frozen mapping that converts nothing: ``"1"`` and ``true`` are no integers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def registered(kind: str, registry: Mapping[str, Any]) -> AfterValidator:
    """Return a validator that takes the names in ``registry``; ``kind`` says what they name."""

    def check(name: str) -> str:
        if name not in registry:
            hint = did_you_mean(name, registry) or f"there are: {', '.join(registry)}"
            raise ValueError(f"no {kind} is called {name!r}; {hint}")
        return name

    return AfterValidator(check)
