"""The examples do what they say, here with less training."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_binarize_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "classifier.safetensors"
    example = runpy.run_path(str(EXAMPLES / "binarize_classifier.py"))
    accuracies = example["main"](output, epochs=2, binary_epochs=1)
    assert min(accuracies.values()) > 0.8
    assert accuracies["packed"] == accuracies["binarized"]

    rows = {row.split()[0]: row.split()[1:] for row in capsys.readouterr().out.splitlines()[-3:]}
    assert list(rows) == list(accuracies)
    assert [row[0] for row in rows.values()] == [f"{share:.1%}" for share in accuracies.values()]
    sizes = {name: int(row[1].replace(",", "")) for name, row in rows.items()}
    assert sizes["packed"] == output.stat().st_size < sizes["float"] / 20
