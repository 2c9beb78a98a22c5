"""The networks of a flow: the conditioner of a coupling, and the context that it may read."""

import torch
from torch import Tensor, nn

from tribin.nn import GatedBlock, LayerNorm2d, Precision, outer_conv2d


class Conditioner(nn.Module):
    """[N, in, H, W] to [N, out, H, W]: gated blocks, each followed by a layer norm.

    Without residual layers the layer norms remain, and a tanh before the last convolution (the
    authors' code).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        width: channels in between.
        blocks: how many.
        precision: of the blocks; the first and the last convolution take real numbers.
        context_channels: of the context, 0 where there is none.
        dropout: share of the activations that each block drops in training.
        residual: false for the baseline without residual layers.
        threshold_pair: of the blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        blocks: int,
        precision: Precision,
        context_channels: int = 0,
        dropout: float = 0.0,
        residual: bool = True,
        threshold_pair: bool = False,
    ) -> None:
        super().__init__()
        count = blocks if residual else 0
        self.stem = outer_conv2d(in_channels, width, 3, precision, init_std=0.1)
        self.blocks = nn.ModuleList(
            GatedBlock(
                width,
                precision,
                context_channels=context_channels,
                dropout=dropout,
                threshold_pair=threshold_pair,
            )
            for _ in range(count)
        )
        self.norms = nn.ModuleList(LayerNorm2d(width) for _ in range(blocks))
        self.head = outer_conv2d(width, out_channels, 3, precision, init_std=0.1)
        # As the stream is: otherwise each convolution copies its weight into this order.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Apply the network; the context is [N, context_channels, H, W]."""
        x = self.stem(x).contiguous(memory_format=torch.channels_last)
        for i, norm in enumerate(self.norms):
            if self.blocks:
                x = self.blocks[i](x, context)
            x = norm(x)
        y: Tensor = self.head(x if self.blocks else x.tanh())
        return y


class ContextNetwork(nn.Module):
    """[N, in, H, W] to [N, channels, H, W]: a real convolution and gated blocks.

    Args:
        in_channels: of the input.
        channels: of the context.
        blocks: how many; none without residual layers.
        precision: of the blocks.
        dropout: share of the activations that each block drops in training.
        threshold_pair: of the blocks.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        blocks: int,
        precision: Precision,
        dropout: float = 0.0,
        threshold_pair: bool = False,
    ) -> None:
        super().__init__()
        self.stem = outer_conv2d(in_channels, channels, 3, precision, init_std=0.1)
        self.blocks = nn.Sequential(
            *(
                GatedBlock(
                    channels,
                    precision,
                    gate_kernel_size=3,
                    dropout=dropout,
                    threshold_pair=threshold_pair,
                )
                for _ in range(blocks)
            )
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network."""
        context: Tensor = self.blocks(self.stem(x).contiguous(memory_format=torch.channels_last))
        return context
