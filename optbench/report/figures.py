"""The plots as figures for a paper: as wide as a column, one PDF and one SVG each, the same bytes every time."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from optbench.errors import UserError
from optbench.report.plots import COLOURS, SCALES, Explorer, Plot, Series, plots, rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.4  # inches, a column of two
_HEIGHT, _LEGEND_ROW = 2.3, 0.13
_SHORT = 26  # characters of a label
_MAX_DASHED = 3  # lines whose training curves are drawn as well
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#e3e7eb",
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # fonts as fonts: publishers refuse matplotlib's default
    "svg.fonttype": "path",
    "svg.hashsalt": "optbench",
}
_MARKERS = ("o", "s", "D", "^", "P", "X", "v", "*", "p", "h")  # in the order of `plots.SYMBOLS`
# Without a date the same results give the same file.
_FORMATS: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def write(explorer: Explorer, folder: Path) -> list[Path]:
    """Write every plot into the folder, as it is without filters. Raises `UserError` when that cannot be done."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("figures need matplotlib: pip install 'optbench[figures]'") from None
    drawn = plots(explorer)
    if not drawn:
        raise UserError("nothing to draw: no trial was trained to its end")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(), warnings.catch_warnings():
            mpl.rcdefaults()  # not the user's own
            mpl.rcParams.update(_STYLE)
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a label in a script that the font does not have
            for plot in drawn:
                figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
                _draw(plot, figure, explorer)
                for kind, metadata in _FORMATS.items():
                    path = folder / f"{plot.name}.{kind}"
                    figure.savefig(path, format=kind, metadata=metadata)
                    written.append(path)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from None
    return written


def _draw(plot: Plot, figure: Figure, explorer: Explorer) -> None:
    axes = figure.subplots()
    unit = {"percent": " (%)", "points": " (points)", "number": ""}[plot.unit]
    axes.set_xlabel(plot.x, parse_math=False)
    axes.set_ylabel(plot.y + (unit if plot.y and plot.grid is None else ""), parse_math=False)
    if plot.grid is not None:
        columns = rates(explorer) if plot.name.endswith("_rate") else explorer.axis("dropout").values
        _grid(plot, plot.grid, axes, list(columns), list(explorer.axis("batch_size").values))
        figure.colorbar(axes.collections[0], ax=axes, pad=0.02, label=explorer.score.words + unit)
    elif plot.kind == "dots":
        _dots(plot, axes)
    else:
        _lines(plot, axes, list(explorer.axis(plot.over).values) if plot.over else [])
        _legend(plot, figure, axes)


def _colour(one: Series) -> str:
    return COLOURS["light"][one.style % len(COLOURS["light"])]


def _marker(one: Series) -> str:
    return _MARKERS[one.style % len(_MARKERS)]


def _lines(plot: Plot, axes: Axes, places: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    scale = SCALES[plot.unit]
    solid = [one for one in plot.series if not one.dashed]
    low, high = plot.view or (-math.inf, math.inf)
    for one in plot.series:
        points, colour = one.points, _colour(one)
        x = points["x"].map(places.index) if places else points["x"]
        if one.dashed:
            if len(solid) <= _MAX_DASHED:
                axes.plot(x, scale * points["y"], "--", color=colour, linewidth=0.8)
            continue
        drawstyle = "steps-post" if plot.is_stepped else "default"
        every = max(1, len(points) // 8)
        axes.plot(x, scale * points["y"], color=colour, marker=_marker(one), markevery=every, drawstyle=drawstyle)
        if points["low"].notna().any() and (not plot.banded or len(solid) <= plot.banded):
            axes.fill_between(x, scale * points["low"], scale * points["high"], color=colour, alpha=0.12, linewidth=0)
        if "diverged" in points and plot.name == "lr":
            lost = points["diverged"] > 0
            y = points["y"].fillna(high if plot.is_loss else low).clip(low, high)
            if lost.any():
                axes.plot(x[lost], scale * y[lost], "x", color=colour, markersize=5, clip_on=False, zorder=3)
    if plot.is_log:
        axes.set_xscale("log")
    elif plot.x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if places:
        axes.set_xticks(range(len(places)), places, parse_math=False)
    if plot.view:
        axes.set_ylim(*(scale * end for end in plot.view))


def _legend(plot: Plot, figure: Figure, axes: Axes) -> None:
    """Below the plot, so that it hides nothing; the figure grows by its rows."""
    from matplotlib.lines import Line2D

    solid = [one for one in plot.series if not one.dashed]
    labels = [one.label if len(one.label) <= _SHORT else one.label[: _SHORT - 1] + "…" for one in solid]
    columns = 3 if max(map(len, labels), default=0) <= 14 else 2
    handles = [Line2D([], [], color=_colour(one), marker=_marker(one)) for one in solid]
    legend = figure.legend(
        handles, [str(i) for i in range(len(labels))], loc="outside lower center", ncols=columns, frameon=False
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):  # set this way, "$" and a leading "_" mean nothing
        text.set_parse_math(False)
        text.set_text(label)
    figure.set_size_inches(WIDTH, _HEIGHT + _LEGEND_ROW * math.ceil(len(labels) / columns))


def _dots(plot: Plot, axes: Axes) -> None:
    ends = [end for one in plot.series for end in (*one.points["x"], *one.points["high"]) if math.isfinite(end)]
    never = 1.15 * max([1.0, *ends])
    for place, one in enumerate(plot.series):
        x, low, high = (min(float(one.points[name].iloc[0]), never) for name in ("x", "low", "high"))
        axes.plot([low, high], [place, place], color=_colour(one), linewidth=1)
        misses = math.isinf(one.points["x"].iloc[0])
        axes.plot(x, place, _marker(one), color=_colour(one), markersize=5, fillstyle="none" if misses else "full")
        if math.isinf(one.points["high"].iloc[0]):
            axes.plot(never, place, ">", color=_colour(one), markersize=3, clip_on=False)
    labels = [one.label if len(one.label) <= _SHORT else one.label[: _SHORT - 1] + "…" for one in plot.series]
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, never)


def _grid(plot: Plot, grid: pd.DataFrame, axes: Axes, xs: list[str], ys: list[str]) -> None:
    scale = SCALES[plot.unit]
    table = grid.pivot(index="y", columns="x", values="score").reindex(index=ys, columns=xs)
    ends = [scale * end for end in plot.view] if plot.view else [None, None]
    colours = "cividis_r" if plot.is_loss else "cividis"
    values = scale * table.to_numpy(dtype=float)
    mesh = axes.pcolormesh(values, cmap=colours, vmin=ends[0], vmax=ends[1], edgecolors="white")
    shades = mesh.to_rgba(values)
    tried = set(zip(grid["x"], grid["y"], strict=True))
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            value = float(values[i, j])
            if math.isnan(value):
                text, colour = ("div." if (x, y) in tried else ""), "black"
            else:
                red, green, blue = shades[i, j, :3]
                text = f"{value:.1f}" if plot.unit == "percent" else f"{value:.3g}"
                colour = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=7, color=colour)
    axes.grid(visible=False)
    axes.set_xticks([j + 0.5 for j in range(len(xs))], xs, parse_math=False)
    axes.set_yticks([i + 0.5 for i in range(len(ys))], ys, parse_math=False)
    if max(map(len, xs)) * len(xs) > 44:
        axes.tick_params("x", rotation=60)
