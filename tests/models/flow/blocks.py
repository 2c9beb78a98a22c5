"""Every flow, small, with what it is given: the table that the contract is checked on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tribin.models.flow import (
    Chain,
    ChannelSplit,
    Conditioner,
    ContextNetwork,
    Dequantizer,
    Flip,
    Flow,
    Inverse,
    MixtureCoupling,
    Norm,
    PixelLogit,
    Pointwise,
    Sigmoid,
    SpaceToDepth,
    StripeSplit,
)
from tribin.nn import Precision, initialize_from_data

PRECISIONS = [Precision(32, 32), Precision(1, 32), Precision(1, 1)]
LEVELS = 17
IMAGE = (2, 2, 4)
HALVES = (2, 2, 2, 2)
CHANNELS = 2
CONTEXT_CHANNELS = 3
BATCH = 6


def gaussian(*shape: int) -> Tensor:
    return torch.randn(shape)


def within(lowest: float, highest: float) -> Callable[..., Tensor]:
    return lambda *shape: lowest + (highest - lowest) * torch.rand(shape)


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, LEVELS, shape).float()


@dataclass(frozen=True)
class Block:
    """How to build a flow, and how to draw what it is given.

    Attributes:
        make: the constructor.
        shape: of one x.
        draw_x: values in `forward`'s domain, of a shape.
        draw_y: values in `inverse`'s domain, of a shape.
        draw_context: values of the context, of a shape.
        context_shape: of one context.
    """

    make: Callable[[], Flow]
    shape: tuple[int, ...]
    draw_x: Callable[..., Tensor] = gaussian
    draw_y: Callable[..., Tensor] = gaussian
    draw_context: Callable[..., Tensor] = gaussian
    context_shape: tuple[int, ...] | None = None


def make_coupling(
    precision: Precision, *, context_channels: int = 0, residual: bool = True
) -> MixtureCoupling:
    conditioner = Conditioner(
        CHANNELS,
        CHANNELS * MixtureCoupling.parameters_per_channel(3),
        width=6,
        blocks=2,
        precision=precision,
        context_channels=context_channels,
        residual=residual,
    )
    return MixtureCoupling(conditioner, 3)


def make_step(precision: Precision, *, context_channels: int = 0) -> Chain:
    return Chain(
        norm=Norm(HALVES),
        pointwise=Pointwise(CHANNELS),
        coupling=make_coupling(precision, context_channels=context_channels),
        flip=Flip(),
    )


def make_dequantizer(precision: Precision) -> Dequantizer:
    split = StripeSplit()
    step = make_step(precision, context_channels=CONTEXT_CHANNELS)
    return Dequantizer(
        ContextNetwork(2 * CHANNELS, CONTEXT_CHANNELS, blocks=1, precision=precision),
        Chain(split=split, step=step, merge=Inverse(split), sigmoid=Sigmoid()),
        LEVELS,
    )


def in_each_precision(
    name: str, make: Callable[[Precision], Flow], **fields: Any
) -> dict[str, Block]:
    return {f"{name}_{p}": Block(partial(make, p), **fields) for p in PRECISIONS}


WITHOUT_PARAMETERS = {
    "stripe_split": Block(StripeSplit, IMAGE),
    "channel_split": Block(ChannelSplit, IMAGE),
    "space_to_depth": Block(SpaceToDepth, IMAGE),
    "flip": Block(Flip, HALVES),
    # Where the sigmoid is steep enough: at ±4 its inverse magnifies rounding 57 times.
    "sigmoid": Block(Sigmoid, IMAGE, within(-4, 4), within(0.02, 0.98)),
    "pixel_logit": Block(partial(PixelLogit, LEVELS), IMAGE, within(0, LEVELS)),
}
WITHOUT_NETWORK = WITHOUT_PARAMETERS | {
    "norm": Block(partial(Norm, HALVES), HALVES),
    "pointwise": Block(partial(Pointwise, CHANNELS), HALVES),
}
WITH_NETWORK = {
    **in_each_precision("coupling", make_coupling, shape=HALVES),
    **in_each_precision(
        "coupling_with_context",
        partial(make_coupling, context_channels=CONTEXT_CHANNELS),
        shape=HALVES,
        context_shape=(CONTEXT_CHANNELS, *HALVES[2:]),
    ),
    "coupling_without_residual": Block(
        partial(make_coupling, PRECISIONS[0], residual=False), HALVES
    ),
    **in_each_precision("step", make_step, shape=HALVES),
    **in_each_precision("inverse", lambda precision: Inverse(make_step(precision)), shape=HALVES),
    **in_each_precision(
        "dequantizer",
        make_dequantizer,
        shape=IMAGE,
        draw_x=within(-2, 2),
        draw_y=within(0.02, 0.98),
        draw_context=pixels,
        context_shape=IMAGE,
    ),
}
BLOCKS = WITHOUT_NETWORK | WITH_NETWORK
WITH_PARAMETERS = [name for name in BLOCKS if name not in WITHOUT_PARAMETERS]


def build(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Flow:
    """The flow, initialized from data and then moved, so that no parameter is trivial."""
    torch.manual_seed(seed)
    flow = BLOCKS[name].make()
    if name in WITH_PARAMETERS:
        x, _, context = draw(name, flow)
        initialize_from_data(flow, x, context)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for module in flow.modules():
            if isinstance(module, Conditioner):  # whose small results make the map the identity
                module.head.gain.mul_(3)
    return flow.to(dtype)


def draw(
    name: str, flow: Flow, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A batch of x, an independent one of y, of `dtype`, and the context in the parameters'."""
    block = BLOCKS[name]
    x = block.draw_x(BATCH, *block.shape)
    context = None
    if block.context_shape:
        context = block.draw_context(BATCH, *block.context_shape)
        context = context.to(next(flow.parameters()).dtype)
    with torch.no_grad():
        shape = flow(x.to(dtype), context)[0].shape
    return x.to(dtype), block.draw_y(*shape).to(dtype), context
