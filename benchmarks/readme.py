"""Put committed results into the README: each marked place gets the file that its mark names.

    python -m benchmarks.readme

A place starts with ``<!-- benchmarks/results/…/table.md -->`` and ends with ``<!-- end -->``.
"""

import re
from pathlib import Path

from tribin.atomic_file import write_atomically

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PLACE = re.compile(r"(<!-- (benchmarks/results/\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Write README.md."""
    write_atomically(README, with_results(README.read_text(encoding="utf-8")).encode())


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
