"""The tables of README and docs are those of the committed results."""

import json
from pathlib import Path

import pytest
from benchmarks.readme import PAGES, PLACE, ROOT, with_results

from tribin.study.report import to_markdown
from tribin.study.results import Difference, Row

STUDIES = sorted(ROOT.glob("benchmarks/results/*/studies/*"))


def test_the_pages_are_up_to_date() -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    assert [with_results(text) for text in texts] == texts
    named = [ROOT / name for text in texts for _, name, _ in PLACE.findall(text)]
    assert sorted(path.parent for path in named) == STUDIES


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_the_committed_table_is_that_of_the_results(folder: Path) -> None:
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
