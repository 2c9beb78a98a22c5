"""The table and the plots of a profile of kernels, from a result made by hand."""

from dataclasses import replace
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image
from tests.profiling.results import CEILINGS, entry, result

from tribin.profiling.report import kernels as report
from tribin.profiling.report import plots, table
from tribin.profiling.result import Result
from tribin.profiling.timing import Timing

SHAPE = "16x256x16x16:256x3,signs,residual,gate,elu,to_bits"
BASELINES = ("torch float32", "torch bfloat16", "simulated", "simulated, compiled",
             "torch._int_mm", "gemlite", "BitBLAS")  # fmt: skip


def conv2d(contender: str, seconds: float, arithmetic: str) -> object:
    """20 G operations of 40 MB: 4 ms at the rate of bits, 100 ms at that of float32."""
    return entry("packed_conv2d 16x256:3", contender, seconds, operations=20 * 10**9,
                 bytes=40 * 10**6, arithmetic=arithmetic)  # fmt: skip


RESULT = result(
    conv2d("tribin", 8e-3, "bit"),
    conv2d("torch float32", 0.2, "float32"),
    conv2d("simulated, compiled", 4e-3, "bfloat16"),
    entry("packed_conv2d 1x2:3", "tribin", 1e-4, operations=10**6, bytes=10**6, arithmetic="int8"),
    entry("pack_signs 16x16", "tribin", 1e-3, bytes=25 * 10**6),
    details={"skipped": {"gemlite": "it is not installed", "BitBLAS": "no GPU"}},
)


def cells(part: str) -> list[list[str]]:
    """Of a part of the table, line by line."""
    return [[cell.strip() for cell in line.split("  ") if cell] for line in part.splitlines()]


def test_table() -> None:
    times, ratios, pack, notes = report.table(RESULT).split("\n\n")
    header = ["median", "quartiles", "noise", "operations", "bytes", "roofline"]
    assert cells(times) == [
        ["packed_conv2d", *header],
        ["16x256:3", "8.00 ms", "7.92–8.16 ms", "± 2.0%", "2.50 Top/s", "5.00 GB/s", "50%"],
        ["1x2:3", "100 µs", "99.0–102 µs", "± 2.0%", "10.0 Gop/s", "10.0 GB/s"],  # int8: unknown
    ]
    assert cells(ratios) == [
        ["times as long as tribin", "float32", "compiled"], ["16x256:3", "25.00x", "0.50x"],
        ["1x2:3"],
    ]  # fmt: skip
    assert cells(pack) == [
        ["pack_signs", *header],
        ["16x16", "1.00 ms", "0.99–1.02 ms", "± 2.0%", "25.0 GB/s", "50%"],
    ]
    *_, first, second = notes.splitlines()
    assert (first, second) == (
        "Not timed: gemlite: it is not installed", "Not timed: BitBLAS: no GPU",
    )  # fmt: skip


def many(problems: int) -> Result:
    """With every baseline and long shapes."""
    names = [f"packed_conv2d {SHAPE}{i}" for i in range(problems)]
    names += ["binary_conv2d_w1a1_backward 1x2x3x4:5x3"]
    return result(
        *(
            entry(name, contender, seconds, operations=10**12, bytes=10**9, arithmetic="bit")
            for name in names
            for contender, seconds in zip(
                ("tribin", *BASELINES), [0.9, 1e3, 3.0, 123.4, 1.0, 0.5, 0.1, 9e5], strict=True
            )
        ),
        details={"skipped": dict.fromkeys(BASELINES, "for some reason " * 20)},
    )


@pytest.mark.parametrize("problems", [1, 70])
def test_no_line_is_wider_than_a_hundred_columns(problems: int) -> None:
    text = table(many(problems))
    assert max(map(len, text.splitlines())) <= 100
    assert all(name in text for name in ("BitBLAS", "_int_mm", "compiled"))
    assert "".join(text.split()).count("16x256x16x16:256x3,signs,") == 2 * problems


@pytest.mark.parametrize("of_result", [RESULT, many(30)])
def test_plots_are_pictures(of_result: Result) -> None:
    images = plots(of_result)
    assert list(images) == ["roofline", "ratios"]
    for image in images.values():
        with Image.open(BytesIO(image)) as picture:
            assert picture.format == "PNG"
            assert len(np.unique(np.asarray(picture.convert("L")))) > 2  # something is drawn


def test_a_plot_of_nothing_is_left_out() -> None:
    alone, packed = RESULT.entries[0], RESULT.entries[-1]
    assert list(plots(result(alone, ceilings={}))) == ["roofline"]
    assert list(plots(result(packed, replace(packed, contender="copy")))) == ["ratios"]


def test_roofline() -> None:
    (axes,) = report.plots(RESULT)["roofline"].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    points = [line.get_xydata()[0].tolist() for line in axes.lines if len(line.get_xdata()) == 1]
    assert points == [
        pytest.approx(point)
        for point in ([500, 2.5e12], [500, 1e11], [500, 5e12], [1, 1e10])  # operations a byte, a s
    ]
    slope, *flat = (line.get_xydata() for line in axes.lines if len(line.get_xdata()) == 2)
    np.testing.assert_allclose(slope[:, 1] / slope[:, 0], CEILINGS["copy"])
    used = [CEILINGS[name] for name in ("float32", "bfloat16", "bit")]  # int8 is not known
    for line, ceiling in zip(flat, used, strict=True):
        assert line[:, 1].tolist() == [ceiling, ceiling]
        assert line[0, 0] == pytest.approx(ceiling / CEILINGS["copy"])  # where it meets the slope
    assert slope[-1, 1] == pytest.approx(CEILINGS["bit"])
    assert [text.get_text() for text in axes.texts] == [
        "copy 50.0 GB/s  ", "float32 200 Gop/s", "bfloat16 400 Gop/s", "bit 5.00 Top/s",
    ]  # fmt: skip


def test_a_contender_has_one_colour_and_an_op_one_marker() -> None:
    figures = report.plots(many(3))
    labelled = {line.get_label(): line for line in figures["roofline"].axes[0].lines}
    (bars,) = figures["ratios"].axes
    handles = dict(zip(*reversed(bars.get_legend_handles_labels()), strict=True))
    assert list(handles) == list(BASELINES)
    for name, bar in handles.items():
        assert bar[0].get_facecolor()[:3] == to_rgb(labelled[name].get_color())
    markers = [labelled[op].get_marker() for op in ("packed_conv2d", "binary_conv2d_w1a1_backward")]
    assert len(set(markers)) == 2


def test_bars() -> None:
    (axes,) = report.plots(RESULT)["ratios"].axes
    assert axes.get_xscale() == "log"
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert ends == [(1, pytest.approx(25.0)), (1, pytest.approx(0.5))]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["packed_conv2d  16x256:3"]


def test_labels_keep_their_distance_however_many_problems_there_are() -> None:
    figure = report.plots(many(70))["ratios"]
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert len(boxes) == 71
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(boxes))
    assert all(box.x0 >= 0 for box in boxes)


def test_quartiles_come_from_the_timing() -> None:
    timing = Timing(2e-3, 1e-3, 4e-3, 1e-3, 5)
    entries = [type(RESULT.entries[0])("op 1", "tribin", timing, bytes=10)]
    assert "1.00–4.00 ms  ± 50.0%" in report.table(result(*entries))
