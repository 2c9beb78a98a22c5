"""The 1-bit tensor core is checked on each device before it is trusted.

Triton does not promise which elements of a tensor a thread's inline assembly gets; the kernel for
the 1-bit tensor core relies on it.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from tribin_kernels import reference
from tribin_kernels.bit_mma import conv2d_w1a1
from tribin_kernels.border_table import border_table
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.pack_activations import pack_activations
from tribin_kernels.pack_weights import pack_weights

_sound: dict[torch.device, bool] = {}


def bit_mma_is_sound(device: torch.device) -> bool:
    """Whether the 1-bit tensor core of `device` multiplies a small product exactly.

    The first call on a device runs the product, waits for it, and warns where it is wrong. Inside
    the capture of a CUDA graph nothing can be waited for: there, an unchecked device is not
    trusted.
    """
    if device.type != "cuda":
        return True
    if device not in _sound and not torch.cuda.is_current_stream_capturing():
        _sound[device] = check_bit_mma(device)
    return _sound.get(device, False)


def check_bit_mma(device: torch.device) -> bool:
    """Whether the small product is right; a RuntimeWarning where it is not."""
    sound = torch.equal(*small_products(device))
    if not sound:
        warnings.warn(
            f"the 1-bit tensor core of {device} gave a wrong product; int8 products replace it",
            RuntimeWarning,
            stacklevel=2,
        )
    return sound


def small_products(device: torch.device) -> tuple[Tensor, Tensor]:
    """A 3×3 convolution of random signs, by the 1-bit tensor core and by the reference."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 256, 4, 8, generator=generator).to(device)
    latent_weight = torch.randn(256, 256, 3, 3, generator=generator).to(device)
    shape = Conv2dShape.of(x.shape, latent_weight, [1, 1], [1, 1])
    _, _, paired = pack_activations(x, paired_size=(shape.height, shape.width))
    assert paired is not None
    fragments = pack_weights(latent_weight, "fragments")
    y, _, _ = conv2d_w1a1(
        paired, fragments, border_table(fragments, shape), None, 1.0, None, shape,
        dtype=torch.float32,
    )  # fmt: skip
    assert y is not None
    signs, weight = reference.sign(x), reference.sign(latent_weight)
    wanted = F.conv2d(signs.double(), weight.double(), padding=1)
    return y.double(), wanted
