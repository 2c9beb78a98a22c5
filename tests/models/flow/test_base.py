"""Chains and inverses of flows, built of maps simple enough to follow by hand."""

import math

import torch
from torch import Tensor

from tribin.models.flow import Chain, Flow, Inverse


class Affine(Flow):
    """x·scale + shift, in which the context, where there is one, is the shift."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * self.scale + self._shift(context), self._log_det(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (y - self._shift(context)) / self.scale, -self._log_det(y)

    def _shift(self, context: Tensor | None) -> Tensor | float:
        return self.shift if context is None else context

    def _log_det(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), x[0].numel() * math.log(self.scale))


def test_a_chain_applies_its_flows_in_order_and_adds_their_log_determinants() -> None:
    chain = Chain(first=Affine(2, 1), second=Affine(0.5, 3), third=Affine(4, 0))
    y, log_det = chain(torch.tensor([[1.0], [5.0]]))
    assert y.tolist() == [[18.0], [34.0]]
    torch.testing.assert_close(log_det, torch.full((2,), math.log(4)))
    x, log_det = chain.inverse(y)
    assert x.tolist() == [[1.0], [5.0]]
    torch.testing.assert_close(log_det, torch.full((2,), -math.log(4)))


def test_a_chain_gives_every_flow_the_context() -> None:
    chain = Chain(outer=Affine(2, 0), chain=Chain(inner=Affine(3, 0)))
    context = torch.tensor([[1.0], [10.0]])
    y, _ = chain(torch.ones(2, 1), context)
    assert y.tolist() == [[10.0], [46.0]]
    assert chain.inverse(y, context)[0].tolist() == [[1.0], [1.0]]


def test_a_flow_that_a_chain_has_twice_is_applied_twice() -> None:
    flow = Affine(2, 0)
    chain = Chain(once=flow, again=flow)
    y, log_det = chain(torch.ones(1, 1))
    assert y.item() == 4
    torch.testing.assert_close(log_det, torch.tensor([math.log(4)]))
    assert chain.inverse(y)[0].item() == 1


def test_an_empty_chain_is_the_identity() -> None:
    x = torch.randn(3, 2)
    for y, log_det in (Chain()(x), Chain().inverse(x)):
        assert torch.equal(y, x)
        assert torch.equal(log_det, torch.zeros(3))


def test_the_flows_of_a_chain_are_its_submodules_by_name() -> None:
    first, second = Affine(2, 0), Affine(3, 0)
    assert dict(Chain(b=first, a=second).named_children()) == {"b": first, "a": second}


def test_an_inverse_is_the_flow_the_other_way_round() -> None:
    flow, x, context = Affine(2, 1), torch.tensor([[6.0]]), torch.tensor([[4.0]])
    inverse = Inverse(flow)
    assert inverse(x, context) == flow.inverse(x, context)
    assert inverse.inverse(x, context) == flow(x, context)
    assert inverse(x)[0].item() == 2.5
