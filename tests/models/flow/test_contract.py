"""What every flow must be: invertible, with the right log-determinant, trainable, storable."""

import pytest
import torch
from tests.models.flow.blocks import (
    BLOCKS,
    WITH_NETWORK,
    WITH_PARAMETERS,
    WITHOUT_NETWORK,
    build,
    draw,
)
from torch import Tensor

from tribin.models.flow import Flow

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-9}


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal to `tolerance` in every element, relative to its size or to 1."""
    error = (actual - expected).abs() / expected.abs().clamp(min=1)
    assert error.max().item() <= tolerance


def assert_invertible(flow: Flow, x: Tensor, y: Tensor, context: Tensor | None) -> None:
    tolerance = TOLERANCES[x.dtype]
    for there, back, start in ((flow, flow.inverse, x), (flow.inverse, flow, y)):
        middle, log_det = there(start, context)
        end, log_det_back = back(middle, context)
        assert {middle.dtype, log_det.dtype} == {start.dtype}
        assert log_det.shape == (len(start),)
        assert_close(end, start, tolerance)
        assert_close(log_det_back, -log_det, tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_inverse_and_forward_undo_each_other(name: str, dtype: torch.dtype) -> None:
    flow = build(name, dtype)
    assert_invertible(flow, *draw(name, flow, dtype))


@pytest.mark.parametrize("lowered", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_float64_is_exact_whatever_the_networks_run_in(name: str, lowered: bool) -> None:
    """Rounded to the networks' dtype, their input is the same there and back, as are its signs."""
    flow = build(name)
    arguments = draw(name, flow, torch.float64)
    with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        assert_invertible(flow, *arguments)


@pytest.mark.parametrize("name", BLOCKS)
def test_log_det_is_that_of_the_jacobian(name: str) -> None:
    """Exact with binary activations, too.

    The straight-through estimator makes up the derivatives by what a coupling's conditioner reads,
    but those lie beside the diagonal of a triangular matrix, whose determinant has none of them.
    """
    flow = build(name, torch.float64)
    x, _, context = draw(name, flow, torch.float64)
    first = None if context is None else context[:1]
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, first)[0], x[:1])
    square = jacobian.reshape(x[0].numel(), x[0].numel())
    _, log_det = flow(x, context)
    assert_close(log_det[0], torch.linalg.slogdet(square).logabsdet, 1e-8)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_gradients_reach_every_parameter(name: str) -> None:
    flow = build(name)
    x, _, context = draw(name, flow)
    y, log_det = flow(x, context)
    (y.square().sum() + log_det.sum()).backward()
    gradients = {name: p.grad for name, p in flow.named_parameters()}
    without = {name for name, grad in gradients.items() if grad is None or not grad.any()}
    assert not without
    assert all(grad.isfinite().all() for grad in gradients.values() if grad is not None)


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_training_and_evaluation_agree_without_dropout(name: str) -> None:
    flow = build(name)
    x, _, context = draw(name, flow)
    in_training = flow.train()(x, context)
    in_evaluation = flow.eval()(x, context)
    assert all(map(torch.equal, in_training, in_evaluation))


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@torch.no_grad()
def test_state_survives_a_round_trip(name: str) -> None:
    flow, other = build(name), build(name, seed=1)
    x, _, context = draw(name, flow)
    expected = flow(x, context)
    assert not any(map(torch.equal, other(x, context), expected))
    other.load_state_dict(flow.state_dict())
    assert all(map(torch.equal, other(x, context), expected))


@pytest.mark.parametrize("name", WITHOUT_NETWORK)
@torch.no_grad()
def test_autocast_leaves_flows_without_a_network_alone(name: str) -> None:
    flow = build(name)
    x, y, _ = draw(name, flow)
    expected = (*flow(x), *flow.inverse(y))
    with torch.autocast("cpu", torch.bfloat16):
        lowered = (*flow(x), *flow.inverse(y))
    assert all(map(torch.equal, lowered, expected))


@pytest.mark.parametrize("name", WITH_NETWORK)
@torch.no_grad()
def test_autocast_lowers_the_networks_alone(name: str) -> None:
    flow = build(name)
    x, _, context = draw(name, flow)
    dtypes: set[torch.dtype] = set()
    for module_name, module in flow.named_modules():
        if module_name.endswith("stem"):
            module.register_forward_hook(lambda *call: dtypes.add(call[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = flow(x, context)
    assert dtypes == {torch.bfloat16}
    assert y.dtype == log_det.dtype == torch.float32
