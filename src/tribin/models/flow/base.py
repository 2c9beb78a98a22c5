"""What every flow is, and how flows are put together."""

from abc import ABC, abstractmethod
from typing import cast

from torch import Tensor, nn


class Flow(nn.Module, ABC):
    """An invertible map of each element of a batch, which a context may condition.

    Images are [N, C, H, W]; the two halves of a split image are one tensor [N, 2, C, H, W].
    """

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The image y of x, and log|det ∂y/∂x|, [N], in nats."""

    @abstractmethod
    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The x that `forward` maps to y, and log|det ∂x/∂y|, [N], in nats."""


class Chain(Flow):
    """Flows one after the other, all given the same context.

    Args:
        flows: the submodules, by name, in the order of `forward`.
    """

    def __init__(self, **flows: Flow) -> None:
        super().__init__()
        for name, flow in flows.items():
            self.add_module(name, flow)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply each flow in turn."""
        total = x.new_zeros(len(x))
        for flow in self._flows():
            x, log_det = flow(x, context)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply the inverses, the last one's first."""
        total = y.new_zeros(len(y))
        for flow in reversed(self._flows()):
            y, log_det = flow.inverse(y, context)
            total = total + log_det
        return y, total

    def _flows(self) -> list[Flow]:
        # children() would leave out a flow that is there twice.
        return cast(list[Flow], list(self._modules.values()))


class Inverse(Flow):
    """A flow the other way round."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The flow's inverse."""
        return self.flow.inverse(x, context)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The flow itself."""
        result: tuple[Tensor, Tensor] = self.flow(y, context)
        return result
