"""Image sets: what they are, how to load them, and the order in which training sees them."""

from tribin.data.images import ImageSplits, load_images
from tribin.data.order import batch_indices
from tribin.data.sources import DATASETS, ImageFormat, ImageSource, image_format

__all__ = [
    "DATASETS",
    "ImageFormat",
    "ImageSource",
    "ImageSplits",
    "batch_indices",
    "image_format",
    "load_images",
]
