"""Variational dequantization: noise to add to integer pixels (Ho et al., 2019)."""

from einops import rearrange
from torch import Tensor, nn

from tribin.models.flow.base import Flow


class Dequantizer(Flow):
    """From Gaussian noise [N, C, H, W] to u in (0, 1) of that shape, given the image as context.

    Args:
        context_network: from the image's columns, even and odd, [N, 2·C, H, W/2] in [−1/2, 1/2],
            to the context of the noise flow.
        noise_flow: from noise to (0, 1).
        levels: number of pixel values.
    """

    def __init__(self, context_network: nn.Module, noise_flow: Flow, levels: int) -> None:
        super().__init__()
        self.context_network = context_network
        self.noise_flow = noise_flow
        self.levels = levels

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From noise to u; the context is the image in [0, levels), of the parameters' dtype."""
        result: tuple[Tensor, Tensor] = self.noise_flow(x, self._read(context))
        return result

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From u to the noise."""
        return self.noise_flow.inverse(y, self._read(context))

    def _read(self, images: Tensor | None) -> Tensor:
        if images is None:
            raise TypeError("a dequantizer needs the image as context")
        columns = rearrange(images, "n c h (w half) -> n (half c) h w", half=2)
        context: Tensor = self.context_network(columns / self.levels - 0.5)
        return context
