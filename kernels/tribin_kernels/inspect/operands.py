"""Operands of a layer, of the sizes that real models have.

Real ones are integers from −4 to 4: every sum of them is exact, so that a kernel's result does not
depend on the order in which its configuration adds them up.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.epilogue import Epilogue

SHAPES = {
    "resnet 3x3": Conv2dShape(128, 256, 16, 16, 256, (3, 3), (1, 1), (1, 1)),
    "resnet 5x5": Conv2dShape(128, 256, 16, 16, 256, (5, 5), (1, 1), (2, 2)),
    "flow++ 3x3": Conv2dShape(64, 240, 32, 16, 120, (3, 3), (1, 1), (1, 1)),
    "flow++ 1x1": Conv2dShape(64, 240, 32, 16, 240),
    "flow++ input": Conv2dShape(64, 64, 32, 16, 120),
    "linear 8192": Conv2dShape(8192, 8192, 1, 1, 8192),
    "linear 4096": Conv2dShape(4096, 8192, 1, 1, 8192),
    "linear 64": Conv2dShape(64, 8192, 1, 1, 8192),
    "vector 8192": Conv2dShape(1, 8192, 1, 1, 8192),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Operands:
    """Makes the operands of one layer.

    Args:
        shape: of the layer.
        dtype: of activations and their gradients.
        device: "meta" to compile.
    """

    shape: Conv2dShape
    dtype: torch.dtype
    device: torch.device

    def input(self) -> Tensor:
        """[batch, channels, height, width], channels-last."""
        shape = self.shape
        return self._images(shape.channels, (shape.height, shape.width))

    def output(self) -> Tensor:
        """[batch, outputs, height', width'], channels-last: a residual, or the gradient of y."""
        return self._images(self.shape.outputs, self.shape.output_size)

    def latent_weight(self) -> Tensor:
        """float32 [outputs, channels, *kernel], channels-last."""
        shape = self.shape
        weight = torch.randn(shape.outputs, *shape.kernel, shape.channels, device=self.device)
        return weight.permute(0, 3, 1, 2)

    def gain(self) -> Tensor:
        """float32 [outputs]; a bias is alike."""
        return self._integers(self.shape.outputs).float()

    def epilogue(self, name: str) -> Epilogue:
        """The epilogue that a case names, or one that does nothing."""
        if name == "residual":
            return Epilogue(residual=self.output(), signs=True, mask=True)
        if name == "slope and residual":
            return Epilogue(slope=self.gain(), residual=self.output())
        return Epilogue(elu=name == "elu", gate=name == "gate")

    def _images(self, channels: int, size: tuple[int, int]) -> Tensor:
        x = self._integers(self.shape.batch, *size, channels).to(self.dtype)
        return x.permute(0, 3, 1, 2)

    def _integers(self, *size: int) -> Tensor:
        return torch.randint(-4, 5, size, device=self.device)
