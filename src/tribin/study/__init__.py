"""Studies: named lists of recipes, trained with several seeds and put into one table."""

from tribin.study.plan import Study, load_study, shipped_studies
from tribin.study.report import to_markdown, write_report
from tribin.study.results import Row, rows_of
from tribin.study.runner import run_study

__all__ = [
    "Row",
    "Study",
    "load_study",
    "rows_of",
    "run_study",
    "shipped_studies",
    "to_markdown",
    "write_report",
]
