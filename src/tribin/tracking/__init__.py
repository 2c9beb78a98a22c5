"""What a run leaves behind: metrics, images, a summary, and a Weights & Biases run."""

from tribin.tracking.image_grid import pair_up, save_image_grid
from tribin.tracking.metrics_file import MetricsFile
from tribin.tracking.silent_tracker import SilentTracker
from tribin.tracking.tracker import Tracker

__all__ = ["MetricsFile", "SilentTracker", "Tracker", "pair_up", "save_image_grid"]
