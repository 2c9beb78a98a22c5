"""The README's tables are those of the committed results."""

import json

import pytest
from benchmarks.readme import PLACE, README, ROOT, with_results

from tribin.study.report import to_markdown
from tribin.study.results import Difference, Row


def test_the_readme_is_up_to_date() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_results(text) == text
    assert len(PLACE.findall(text)) == 2


@pytest.mark.parametrize("study", ["cpu_table", "cpu_table_digits"])
def test_the_committed_table_is_that_of_the_results(study: str) -> None:
    (folder,) = ROOT.glob(f"benchmarks/results/*/studies/{study}")
    rows = json.loads((folder / "results.json").read_bytes())["rows"]
    for row in rows:
        row["difference"] = row["difference"] and Difference(**row["difference"])
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert table == to_markdown([Row(**row) for row in rows]) + "\n"


def test_a_place_gets_its_file() -> None:
    name = "benchmarks/results/amd-epyc-1-threads/studies/cpu_table/table.csv"
    text = f"before\n<!-- {name} -->\nold\n<!-- end -->\nafter"
    content = (ROOT / name).read_text(encoding="utf-8")
    assert with_results(text) == f"before\n<!-- {name} -->\n\n{content}\n<!-- end -->\nafter"
