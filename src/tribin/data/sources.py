"""The image sets a recipe can name, and the format of their images; nothing is loaded here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tribin.errors import InputError


@dataclass(frozen=True)
class ImageFormat:
    """The format of one image: its shape, and how many values 0 … levels − 1 a pixel can take."""

    channels: int
    height: int
    width: int
    levels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class ImageSource:
    """Where an image set comes from and what it holds.

    Attributes:
        note: Origin, citation and licence, in one or two sentences.
        image_shape: Channels, height and width; None where the recipe declares them.
        levels: Values per pixel; None where the recipe may declare them (256 if it does not).
        embedded: The set is shipped inside the package.
        hub: The repository on the Hugging Face hub; None where there is none to rely on.
        revision: The commit of ``hub``; None takes the newest.
        test_splits: The splits that can serve as the test set; the first one there is does.
        counts: The train and test images that identify this version; None accepts any.
    """

    note: str
    image_shape: tuple[int, int, int] | None
    levels: int | None = 256
    embedded: bool = False
    hub: str | None = None
    revision: str | None = None
    test_splits: tuple[str, ...] = ("test", "validation")
    counts: tuple[int, int] | None = None

    @property
    def needs_path(self) -> bool:
        """Whether only a local folder, ``data.path``, can provide the images."""
        return self.hub is None and not self.embedded


DATASETS: dict[str, ImageSource] = {
    "digits": ImageSource(
        note="Handwritten digits of the UCI repository, E. Alpaydin and C. Kaynak, CC BY 4.0.",
        image_shape=(1, 8, 8),
        levels=17,
        embedded=True,
    ),
    "cifar10": ImageSource(
        note="CIFAR-10, A. Krizhevsky, Learning multiple layers of features from tiny images, "
        "2009; no licence is stated, cite the report.",
        image_shape=(3, 32, 32),
        hub="uoft-cs/cifar10",
        revision="0b2714987fa478483af9968de7c934580d0bb9a2",
    ),
    "fashion_mnist": ImageSource(
        note="Fashion-MNIST, H. Xiao, K. Rasul and R. Vollgraf, arXiv:1708.07747, MIT licence.",
        image_shape=(1, 28, 28),
        hub="zalando-datasets/fashion_mnist",
        revision="531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
    ),
    "imagenet32": ImageSource(
        note="The NEW ImageNet 32×32: box-resized without cropping, P. Chrabaszcz et al., "
        "arXiv:1707.08819, from image-net.org; ImageNet terms of access.",
        image_shape=(3, 32, 32),
        test_splits=("validation", "test"),
        counts=(1_281_167, 50_000),
    ),
    "imagenet32_repack": ImageSource(
        note="A repack of ImageNet at 32×32, cropped and resized its own way: the counts of NEW "
        "ImageNet 32×32, other pixels; ImageNet terms of access.",
        image_shape=(3, 32, 32),
        hub="benjamin-paine/imagenet-1k-32x32",
        test_splits=("validation", "test"),
        counts=(1_281_167, 50_000),
    ),
    "imagenet32_old": ImageSource(
        note="The OLD ImageNet 32×32: A. van den Oord et al., arXiv:1601.06759, since withdrawn; "
        "ImageNet terms of access.",
        image_shape=(3, 32, 32),
        test_splits=("validation", "test"),
        counts=(1_281_149, 49_999),
    ),
    "folder": ImageSource(
        note="A local folder of parquet files or images.",
        image_shape=None,
        levels=None,
    ),
}


def find_source(name: str) -> ImageSource:
    """Return the image set called ``name``; InputError if there is none."""
    if name not in DATASETS:
        raise InputError(f"data.name: {name!r} is unknown; known are {', '.join(DATASETS)}")
    return DATASETS[name]


def image_format(
    name: str, image_shape: Sequence[int] | None = None, levels: int | None = None
) -> ImageFormat:
    """Return the format of an image set's images without loading any.

    Args:
        name: A key of ``DATASETS``.
        image_shape: Channels, height and width as the recipe declares them; needed for ``folder``.
        levels: Values per pixel as the recipe declares them; 256 for ``folder`` if None.

    Raises:
        InputError: The name is unknown, or a declared value is missing, impossible or at odds with
            the image set.
    """
    source = find_source(name)
    declared_shape = None if image_shape is None else tuple(image_shape)
    _check_declared(name, "image_shape", source.image_shape, declared_shape)
    _check_declared(name, "levels", source.levels, levels)
    declared_levels = 256 if levels is None else levels
    return _checked_format(source.image_shape or declared_shape, source.levels or declared_levels)


def _check_declared(name: str, field: str, known: object, declared: object) -> None:
    if declared is not None and known is not None and declared != known:
        raise InputError(
            f"data.{field}: {declared} contradicts data.name {name!r}, which has {known}"
        )


def _checked_format(shape: tuple[int, ...] | None, levels: int) -> ImageFormat:
    if shape is None:
        raise InputError("data.image_shape: missing; data.name 'folder' needs it, e.g. [3, 32, 32]")
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise InputError(
            f"data.image_shape: {list(shape)} is not [channels, height, width] "
            "with 1 (grey) or 3 (RGB) channels"
        )
    if not 2 <= levels <= 256:
        raise InputError(f"data.levels: {levels} is not within 2 to 256")
    return ImageFormat(*shape, levels=levels)
