"""Image grids as PNG files."""

import io
import math
from pathlib import Path

from einops import rearrange, repeat
from PIL import Image
from torch import Tensor, int64, uint8
from torch.nn import functional as F

from tribin.atomic_file import write_atomically
from tribin.errors import InputError

MINIMUM_CELL = 48
"""Pixels that an image gets across, at least, so that 8x8 digits can be seen."""

LINE = 2
"""Pixels of the lines between images and around the grid."""

LINE_GREY = 128


def pair_up(inputs: Tensor, reconstructions: Tensor) -> Tensor:
    """Put each reconstruction under its input: two ``[N, C, H, W]`` to one ``[N, C, 2H, W]``.

    Raises:
        InputError: the two differ in shape.
    """
    if inputs.shape != reconstructions.shape:
        raise InputError(
            f"reconstructions have shape {list(reconstructions.shape)}, "
            f"expected that of the inputs, {list(inputs.shape)}"
        )
    return rearrange([inputs, reconstructions], "pair n c h w -> n c (pair h) w")


def save_image_grid(
    images: Tensor, path: Path, *, columns: int | None = None, levels: int = 256
) -> None:
    """Write images as one PNG file, row by row, with thin grey lines between them.

    Args:
        images: uint8 ``[N, C, H, W]`` of values 0 to ``levels - 1``, on any device; C is 1 or 3.
            Enlarged by a whole factor, without smoothing, to 48 pixels or more each way.
        path: the PNG file, replaced in one step.
        columns: images in a row; by default, as many as make the grid nearly square.
        levels: number of grey levels of a channel; they are spread over 0 to 255.

    Raises:
        InputError: ``images`` has another dtype, shape or range.
    """
    _check(images, levels)
    count, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count * height / width))
    factor = math.ceil(MINIMUM_CELL / min(height, width))

    pixels = (images.cpu().to(int64) * 255 + (levels - 1) // 2) // (levels - 1)
    cells = repeat(pixels.to(uint8), "n c h w -> n c (h y) (w x)", y=factor, x=factor)
    cells = F.pad(cells, (LINE, 0, LINE, 0), value=LINE_GREY)
    cells = F.pad(cells, (0, 0, 0, 0, 0, 0, 0, -count % columns), value=LINE_GREY)
    grid = rearrange(cells, "(row column) c h w -> c (row h) (column w)", column=columns)
    grid = F.pad(grid, (0, LINE, 0, LINE), value=LINE_GREY)
    _save_png(grid, path)


def _save_png(image: Tensor, path: Path) -> None:
    pixels = rearrange(image, "1 h w -> h w" if len(image) == 1 else "c h w -> h w c")
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def _check(images: Tensor, levels: int) -> None:
    if images.dtype != uint8:
        raise InputError(f"images have dtype {images.dtype}, expected torch.uint8")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        raise InputError(f"images have shape {list(images.shape)}, expected [N, 1 or 3, H, W]")
    if int(images.max()) >= levels:
        raise InputError(f"images reach {int(images.max())}, expected at most {levels - 1}")
