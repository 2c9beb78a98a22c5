"""Put committed results into the README and docs: each place gets the file that its mark names.

    python -m benchmarks.readme

A place starts with ``<!-- benchmarks/results/…/table.md -->`` and ends with ``<!-- end -->``.
"""

import re
from pathlib import Path

from tribin.atomic_file import write_atomically

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PLACE = re.compile(r"(<!-- (benchmarks/results/\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        write_atomically(page, with_results(page.read_text(encoding="utf-8")).encode())


def with_results(text: str) -> str:
    """The text with what the named files say now.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    return PLACE.sub(_place, text)


def _place(match: re.Match[str]) -> str:
    start, name, end = match.groups()
    return f"{start}\n{(ROOT / name).read_text(encoding='utf-8')}\n{end}"


if __name__ == "__main__":
    main()
