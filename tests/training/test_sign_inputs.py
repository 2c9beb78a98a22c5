"""What is measured of the inputs of signs."""

import pytest
import torch
from torch import nn

from tribin.nn import BinaryConv2d
from tribin.training.sign_inputs import measured_sign_inputs


def test_inputs_of_signs_are_measured() -> None:
    first = BinaryConv2d(1, 1, 1, binary_input=True)
    second = BinaryConv2d(1, 1, 1, binary_input=True)
    real = BinaryConv2d(1, 1, 1)
    model = nn.ModuleDict({"first": first, "second": second, "real": real})
    x = torch.tensor([0.5, -1.0, 3.0, -5.0]).reshape(2, 1, 1, 2)
    with measured_sign_inputs(model) as found:
        first(x)
        second(x / 3)
        real(x)
    rms = (35.25 / 4) ** 0.5
    assert {name: value.item() for name, value in found.items()} == {
        "sign_input_rms/first": pytest.approx(rms),
        "gradients_passed/first": 0.5,
        "sign_input_rms/second": pytest.approx(rms / 3),
        "gradients_passed/second": 0.75,
    }
    first(2 * x)
    with measured_sign_inputs(model, enabled=False) as nothing:
        first(x)
    assert nothing == {}
    assert found["gradients_passed/first"] == 0.5
