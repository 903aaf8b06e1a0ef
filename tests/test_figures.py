"""Figures for papers: one PDF and one SVG for each plot, column-wide, the same every time, with labels as they are."""

import itertools
import re
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.errors import UserError
from optbench.report import figures, plots
from tests.test_plots import LRS, explored, made_up, some_diverged

pytest.importorskip("matplotlib")
GRID = {"schedule": ["constant", "cosine"], "batch_size": [32, 128], "dropout": [(0.0, 0.0), (0.5, 0.5)]}
HOSTILE = ["$x_1$ & {50%}", "_hidden", "a <b> 'label' that is much longer than its place", "日本 \U0001f600"]


@pytest.fixture(scope="module")
def explorer():
    labels = ["adam", "sgd", *HOSTILE]
    frames = made_up(dict.fromkeys(labels, LRS), seeds=2, epochs=3, status=some_diverged, **GRID)
    return explored(frames, seconds={label: 1.0 + i for i, label in enumerate(labels)})


@pytest.fixture(scope="module")
def written(explorer, tmp_path_factory):
    return figures.write(explorer, tmp_path_factory.mktemp("figures") / "new" / "folder")


def svg(written, name):
    return next(path for path in written if path.name == f"{name}.svg").read_text(encoding="utf-8")


def texts(content):
    """The texts of an SVG, which matplotlib writes as comments before their shapes."""
    return re.findall(r"<!-- (.*?) -->", content)


def test_every_plot_is_a_pdf_and_an_svg(explorer, written):
    names = [plot.name for plot in plots.plots(explorer)]
    assert len(names) == 9 and names[0] == "ranking"
    assert [path.name for path in written] == [f"{name}.{kind}" for name in names for kind in ("pdf", "svg")]
    for path in written:
        assert path.read_bytes().startswith(b"%PDF" if path.suffix == ".pdf" else b"<?xml")


def test_a_figure_is_as_wide_as_a_column_and_its_text_is_readable(written):
    for path in written:
        if path.suffix == ".svg":
            content = path.read_text(encoding="utf-8")
            assert f'width="{72 * figures.WIDTH:g}pt"' in content
            scales = [float(scale) for scale in re.findall(r"scale\((0\.\d+) -", content)]
            assert scales and min(scales) >= 0.07  # of 100 points; exponents of ten are smaller by 0.7


def test_fonts_are_embedded_as_truetype(written):
    for path in written:
        if path.suffix == ".pdf":
            content = path.read_bytes()
            streams = [part.split(b"endstream")[0].strip(b"\r\n") for part in re.split(rb"stream\r?\n", content)[1:]]
            everything = content + b"".join(filter(None, map(inflated, streams)))
            assert b"/FontFile2" in everything
            assert b"/Subtype /Type3" not in everything


def inflated(stream):
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes_whatever_the_users_own_settings(explorer, written, tmp_path):
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        again = figures.write(explorer, tmp_path)
        assert mpl.rcParams["font.size"] == 30
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_labels_are_text_and_no_formulas(written):
    shown = texts(svg(written, "curves"))
    assert "$x_1$ &amp; {50%}" in shown or "$x_1$ & {50%}" in shown
    assert "_hidden" in shown
    assert any(text.startswith("a ") and text.endswith("…") for text in shown)
    assert "adam" in texts(svg(written, "targets"))


def test_axes_are_named_with_their_units(written):
    assert {"epoch", "validation accuracy (%)"} <= set(texts(svg(written, "curves")))
    assert {"learning rate", "test accuracy (%)"} <= set(texts(svg(written, "lr")))
    assert {"dropout", "train − validation (points)"} <= set(texts(svg(written, "gap")))
    assert {"batch size", "test accuracy (%)", "32", "128"} <= set(texts(svg(written, "batch_size_rate")))


def test_a_heat_map_shows_its_numbers_and_what_diverged(explorer, written):
    (plot,) = (plot for plot in plots.plots(explorer) if plot.name == "batch_size_dropout")
    shown = texts(svg(written, "batch_size_dropout"))
    for score in plot.grid["score"]:
        assert f"{100 * score:.1f}" in shown
    lost = explored(made_up({"sgd": LRS}, status=some_diverged, batch_size=[32, 64]))
    assert plots.plots(lost)[2].grid["score"].isna().any()


def test_lines_are_drawn_where_the_numbers_are(explorer):
    from matplotlib.figure import Figure

    for plot in plots.plots(explorer):
        if plot.kind == "lines" and not plot.over:
            axes = Figure().subplots()
            figures._lines(plot, axes, [])
            drawn = [[*line.get_ydata()] for line in axes.get_lines() if line.get_marker() not in ("None", "x")]
            solid = [one for one in plot.series if not one.dashed]
            assert len(drawn) == len(solid)
            for values, one in zip(drawn, solid, strict=True):
                assert values == pytest.approx((plots.SCALES[plot.unit] * one.points["y"]).tolist(), nan_ok=True)


wanted = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0, -3.0, 7.0]), min_size=1, max_size=12)


@settings(deadline=None, derandomize=True)
@given(wanted, st.floats(0.01, 0.3))
def test_labels_never_overlap_stay_inside_and_move_only_if_they_must(wanted, gap):
    places = figures.spread(wanted, gap)
    ordered = sorted(places)
    least = min(gap, 1 / max(1, len(wanted) - 1))
    assert all(upper - lower >= least - 1e-9 for lower, upper in itertools.pairwise(ordered))
    assert ordered[0] >= -1e-9 and ordered[-1] <= 1
    assert sorted(range(len(wanted)), key=lambda i: wanted[i]) == sorted(range(len(wanted)), key=lambda i: places[i])
    if all(0 <= value <= 1 for value in wanted) and all(
        upper - lower >= least + 1e-9 for lower, upper in itertools.pairwise(sorted(wanted))
    ):
        assert places == pytest.approx(wanted)


def test_labels_stand_beside_the_plot_and_not_on_one_another(tmp_path):
    """Measured on the drawn figure, of ten lines that end at nearly the same height."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    many = explored(made_up({f"optimizer {i}": LRS for i in range(10)}, seeds=2, epochs=3))
    for plot in plots.plots(many):
        if plot.kind == "lines":
            figure = Figure(figsize=(figures.WIDTH, 2.4), layout="constrained", dpi=200)
            canvas = FigureCanvasAgg(figure)
            figures._draw(plot, figure, many)
            canvas.draw()
            (axes,) = figure.axes
            boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
            assert len(boxes) == 10
            assert all(lower.y1 <= upper.y0 + 1 for lower, upper in itertools.pairwise(boxes)), plot.name
            assert all(axes.get_window_extent().x1 < box.x0 and box.x1 <= figure.bbox.x1 for box in boxes), plot.name
            assert axes.get_window_extent().width > 0.5 * figure.bbox.width


def test_a_sweep_with_nothing_to_draw_says_so(tmp_path):
    lost = explored(made_up({"adam": [0.01]}, status=lambda *_: "diverged"))
    with pytest.raises(UserError, match="nothing to draw"):
        figures.write(lost, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(explorer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written"):
        figures.write(explorer, tmp_path / "file")


@pytest.mark.filterwarnings("ignore:Glyph .* missing")
def test_names_of_points_hide_neither_points_nor_one_another(explorer):
    from matplotlib.figure import Figure

    (plot,) = (plot for plot in plots.plots(explorer) if plot.name == "cost")
    figure = Figure(figsize=(figures.WIDTH, 2.4), layout="constrained")
    figures._draw(plot, figure, explorer)
    (axes,) = figure.axes
    names = {name.get_text(): name for name in axes.texts}
    low, high = plot.view
    seen = [one for one in plot.series if low <= one.points["y"].iloc[0] <= high]
    assert set(names) <= {figures._short(one.label) for one in seen} and len(names) > 3
    markers = [line.get_window_extent() for line in axes.lines if line.get_marker() != "None"]
    boxes = [name.get_window_extent() for name in names.values()]
    assert not any(box.count_overlaps(markers) for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_without_matplotlib_the_extra_is_named(explorer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'optbench\[figures\]'"):
        figures.write(explorer, tmp_path)


def test_nothing_of_matplotlib_is_imported_before_it_is_needed():
    script = "import sys, optbench.report.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
