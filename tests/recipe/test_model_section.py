import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest
from pydantic import ValidationError

from tribin.models import MODELS
from tribin.recipe.model_section import model_section


@dataclass(frozen=True)
class Inner:
    bits: Literal[1, 32] = 1
    rates: tuple[float, ...] = (0.5, 0.25)

    def __post_init__(self):
        if self.bits == 32 and len(self.rates) == 1:
            raise ValueError("32 bits need more than one rate")


@dataclass(frozen=True)
class Config:
    """What the model is configured by."""

    width: int = field(metadata={"ge": 1, "description": "channels"})
    inner: Inner = field(default_factory=lambda: Inner(bits=32))
    scale: float = 1.0
    label: str | None = None


@pytest.fixture
def section(monkeypatch):
    monkeypatch.setitem(MODELS, "third", type("Third", (), {"Config": Config}))
    model_section.cache_clear()
    yield model_section("third")
    model_section.cache_clear()


def test_defaults_give_the_dataclass_with_its_defaults(section):
    assert section.model_validate({"name": "third", "width": 3}).config() == Config(3)


def test_values_reach_the_dataclass_at_all_levels(section):
    values = {"name": "third", "width": 3, "inner": {"rates": (1, 2.0)}, "label": "x"}
    config = section.model_validate(values).config()
    assert config == Config(3, Inner(1, (1.0, 2.0)), label="x")


@pytest.mark.parametrize(
    ("values", "location", "kind"),
    [
        ({}, ("width",), "missing"),
        ({"width": 0}, ("width",), "greater_than_equal"),
        ({"width": True}, ("width",), "int_type"),
        ({"width": "3"}, ("width",), "int_type"),
        ({"width": 3, "heigth": 3}, ("heigth",), "extra_forbidden"),
        ({"width": 3, "inner": {"bit": 1}}, ("inner", "bit"), "extra_forbidden"),
        ({"width": 3, "inner": {"bits": 2}}, ("inner", "bits"), "literal_error"),
        ({"width": 3, "inner": {"bits": True}}, ("inner", "bits"), "literal_error"),
        ({"width": 3, "inner": {"bits": 1.0}}, ("inner", "bits"), "literal_error"),
        ({"width": 3, "inner": {"bits": 32, "rates": (1.0,)}}, ("inner",), "value_error"),
        ({"width": 3, "scale": float("nan")}, ("scale",), "finite_number"),
    ],
)
def test_faults_are_located(section, values, location, kind):
    with pytest.raises(ValidationError) as caught:
        section.model_validate({"name": "third", **values})
    assert [(error["loc"], error["type"]) for error in caught.value.errors()] == [(location, kind)]


def test_documentation_reaches_the_json_schema(section):
    schema = section.model_json_schema()
    assert schema["description"] == "What the model is configured by."
    assert schema["properties"]["width"] == {
        "description": "channels",
        "minimum": 1,
        "title": "Width",
        "type": "integer",
    }
    assert schema["properties"]["name"]["const"] == "third"
    assert sorted(schema["required"]) == ["name", "width"]


def test_models_need_no_pydantic():
    code = "import sys, tribin.models; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
