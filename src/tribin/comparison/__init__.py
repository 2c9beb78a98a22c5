"""Trained models side by side: density, size, speed and memory."""

from tribin.comparison.report import to_json, to_markdown, write_report
from tribin.comparison.side_by_side import compare

__all__ = ["compare", "to_json", "to_markdown", "write_report"]
