"""Configurations of models from JSON, held to their types and ranges."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from tribin.models import FlowPPConfig, ResNetVAEConfig
from tribin.models.config_from_json import config_from_json
from tribin.nn import Precision


@pytest.mark.parametrize(
    "config",
    [
        ResNetVAEConfig(),
        ResNetVAEConfig(Precision(1, 32), width=3, activation="tanh", free_bits=0, residual=False),
        FlowPPConfig(),
        FlowPPConfig(Precision(32, 32), dropout=0.25),
    ],
)
def test_what_asdict_gave_comes_back(config: Any) -> None:
    assert config_from_json(type(config), json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0),
        ("width", -1),
        ("width", 8.0),
        ("width", True),
        ("width", "8"),
        ("width", None),
        ("width", [8]),
        ("residual", 1),
        ("residual", "false"),
        ("activation", "relu"),
        ("activation", ["elu"]),
        ("free_bits", -0.5),
        ("free_bits", "0.1"),
        ("free_bits", True),
    ],
)
def test_a_value_of_another_type_or_range(field: str, value: object) -> None:
    values = asdict(ResNetVAEConfig()) | {field: value}
    with pytest.raises(ValueError, match=rf"ResNetVAEConfig\.{field} can't be "):
        config_from_json(ResNetVAEConfig, values)


@pytest.mark.parametrize(
    "precision",
    [
        {"weights": 1},
        {"weights": 1, "activations": 1, "gradients": 1},
        {"weights": 1.0, "activations": 1},
        {"weights": True, "activations": 1},
        {"weights": 2, "activations": 1},
        {"weights": 32, "activations": 1},
        "W1A1",
        None,
        [],
    ],
)
def test_a_precision_that_there_is_not(precision: object) -> None:
    with pytest.raises(ValueError, match=r"[Pp]recision"):
        config_from_json(ResNetVAEConfig, asdict(ResNetVAEConfig()) | {"precision": precision})


@pytest.mark.parametrize("values", [{}, [], None, "width", asdict(FlowPPConfig())])
def test_fields_that_are_missing_or_unknown(values: object) -> None:
    with pytest.raises(ValueError, match="ResNetVAEConfig has the fields precision, width, "):
        config_from_json(ResNetVAEConfig, values)
