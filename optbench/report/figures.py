"""The plots as figures for a paper: as wide as a column, one PDF and one SVG each, the same bytes every time."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from optbench.errors import UserError
from optbench.report.plots import MAX_BANDS, SCALES, Explorer, Plot, Series, colour, plots, rates, symbol

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Bbox

WIDTH = 3.4  # inches, a column of two
_HEIGHT = 2.4
_ROW = 0.15  # inches, of dots
_LABEL = 0.11  # inches, the height of a label beside a line
_SHORT = 20  # characters of a label
_MAX_BARS = 5  # of groups, beside one another
# Where the name of a point may stand: how far from it, in points, and aligned how.
_PLACES = (
    (5, 0, "left", "center"), (-5, 0, "right", "center"), (0, 5, "center", "bottom"), (0, -5, "center", "top"),
    (5, 4, "left", "bottom"), (-5, 4, "right", "bottom"), (5, -4, "left", "top"), (-5, -4, "right", "top"),
)  # fmt: skip
_MAX_DASHED = 3  # lines whose training curves are drawn as well
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
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
    is_scored = plot.kind == "dots"
    axes.set_xlabel(plot.x + unit * is_scored, parse_math=False)
    axes.set_ylabel(plot.y + (unit if plot.y and plot.grid is None else ""), parse_math=False)
    if plot.grid is not None:
        columns = rates(explorer) if plot.name.endswith("_rate") else explorer.axis("dropout").values
        _grid(plot, plot.grid, axes, list(columns), list(explorer.axis("batch_size").values))
        figure.colorbar(axes.collections[0], ax=axes, pad=0.02, label=explorer.score.words + unit)
    elif plot.kind == "dots":
        figure.set_size_inches(WIDTH, 0.5 + _ROW * max(4, len(plot.series)))
        _dots(plot, axes)
    elif plot.kind == "points":
        _points(plot, figure, axes)
    else:
        places = list(explorer.axis(plot.over).values) if plot.over else []
        plot = replace(plot, series=tuple(_placed(one, places) for one in plot.series))
        _lines(plot, axes, places)
        _labels(plot, figure, axes)


def _placed(one: Series, places: list[str]) -> Series:
    """The line with numbers for values that have places instead of sizes."""
    return replace(one, points=one.points.assign(x=one.points["x"].map(places.index))) if places else one


def _marker(one: Series) -> str:
    return _MARKERS[symbol(one.style)]


def _lines(plot: Plot, axes: Axes, places: list[str]) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

    scale = SCALES[plot.unit]
    solid = [one for one in plot.series if not one.dashed]
    low, high = plot.view or (-math.inf, math.inf)
    for one in plot.series:
        points, shade = one.points, colour(one.style)
        x = points["x"]
        if one.dashed:
            if len(solid) <= _MAX_DASHED:
                axes.plot(x, scale * points["y"], "--", color=shade, linewidth=0.8)
            continue
        drawstyle = "steps-post" if plot.is_stepped else "default"
        every = max(1, len(points) // 8)
        axes.plot(x, scale * points["y"], color=shade, marker=_marker(one), markevery=every, drawstyle=drawstyle)
        if points["low"].notna().any() and one in solid[:MAX_BANDS]:
            axes.fill_between(x, scale * points["low"], scale * points["high"], color=shade, alpha=0.1, linewidth=0)
        if "diverged" in points and plot.name == "lr":
            lost = points["diverged"] > 0
            y = points["y"].fillna(high if plot.is_loss else low).clip(low, high)
            if lost.any():
                axes.plot(x[lost], scale * y[lost], "x", color=shade, markersize=5, clip_on=False, zorder=3)
    if plot.is_log:
        axes.set_xscale("log")
        if plot.name != "lr":  # counts, which are read as numbers and not as powers
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif plot.x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if places:
        axes.set_xticks(range(len(places)), places, parse_math=False)
    if plot.view:
        axes.set_ylim(*(scale * end for end in plot.view))


def _labels(plot: Plot, figure: Figure, axes: Axes) -> None:
    """The names of the lines in the margin to the right, so that they hide nothing.

    A line that ends there in sight is tied to its name; the name of another is at the height of its best value.
    """
    solid = [one for one in plot.series if not one.dashed and one.points["y"].notna().any()]
    known = [one.points.dropna(subset="y") for one in solid]
    ends, last = [points.iloc[-1] for points in known], max(points["x"].max() for points in known)
    low, high = (end / SCALES[plot.unit] for end in axes.get_ylim())
    tied = [end["x"] == last and low <= end["y"] <= high for end in ends]
    best = [points["y"].min() if plot.is_loss else points["y"].max() for points in known]
    wanted = [
        ((end["y"] if is_tied else y) - low) / (high - low) for end, is_tied, y in zip(ends, tied, best, strict=True)
    ]
    figure.draw_without_rendering()  # only then is the height of the plot known
    inches = figure.get_figheight() * axes.get_position().height
    for one, is_tied, y, place in zip(solid, tied, wanted, spread(wanted, _LABEL / inches), strict=True):
        if is_tied:
            axes.plot([1, 1.05], [y, place], color=colour(one.style), linewidth=0.5, **_outside(axes))
        axes.plot(1.08, place, _marker(one), color=colour(one.style), markersize=3, **_outside(axes))
        axes.annotate(
            _short(one.label), (1.11, place), xycoords="axes fraction", va="center", fontsize=7, parse_math=False
        )


def _outside(axes: Axes) -> dict[str, Any]:
    """How something is drawn beside the plot, in shares of its width and height."""
    return {"transform": axes.transAxes, "clip_on": False, "scalex": False, "scaley": False}


def spread(wanted: list[float], gap: float) -> list[float]:
    """Places from 0 to 1, as near to the wanted ones as labels of this height can be without an overlap."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, 1 / max(1, len(wanted) - 1))
    places, free = [0.0] * len(wanted), 0.0
    for i in order:
        places[i] = free = max(free, min(1.0, wanted[i]))
        free += gap
    free = 1.0
    for i in reversed(order):
        places[i] = free = min(free, places[i])
        free -= gap
    return places


def _short(label: str) -> str:
    return label if len(label) <= _SHORT else label[: _SHORT - 1] + "…"


def _dots(plot: Plot, axes: Axes) -> None:
    """A row for each: a dot, hollow if it says so, and a bar; what lies beyond the plot is at its edge."""
    scale = SCALES[plot.unit]
    ends = [end for one in plot.series for end in (*one.points["x"], *one.points["high"]) if math.isfinite(end)]
    left, right = plot.view or (0.0, 1.15 * max([1.0, *ends]))
    for place, one in enumerate(plot.series):
        x, low, high = (float(one.points[name].iloc[0]) for name in ("x", "low", "high"))
        shade, fill = colour(one.style), "none" if one.points["hollow"].iloc[0] else "full"
        at = [scale * min(right, max(left, end)) for end in (x, low, high)]
        if not math.isnan(low):
            axes.plot(at[1:], [place, place], color=shade, linewidth=1)
        if math.isinf(x) or left <= x <= right:
            axes.plot(at[0], place, _marker(one), color=shade, markersize=5, fillstyle=fill, clip_on=False)
        for is_beyond, edge, arrow in ((min(x, low) < left, left, "<"), (max(x, high) > right, right, ">")):
            if is_beyond:
                axes.plot(scale * edge, place, arrow, color=shade, markersize=3, clip_on=False)
    rows = {one.label: row for row, one in enumerate(plot.series)}
    for k, group in enumerate(plot.groups or ()):
        shown = [rows[label] for label in group if label in rows]
        if len(shown) > 1:
            x = 1.03 + 0.03 * (k % _MAX_BARS)
            ends = [min(shown) - 0.2, max(shown) + 0.2]
            bar = axes.plot([x, x], ends, color="#3d4650", linewidth=2.5, solid_capstyle="butt")
            bar[0].set(transform=axes.get_yaxis_transform(), clip_on=False)
    axes.set_yticks(range(len(plot.series)), [_short(one.label) for one in plot.series], parse_math=False)
    axes.set_ylim(len(plot.series) - 0.4, -0.6)
    axes.set_xlim(scale * left, scale * right)


def _points(plot: Plot, figure: Figure, axes: Axes) -> None:
    """A marker for each, hollow if it says so, with its interval and its name; the others are joined by steps."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    scale = SCALES[plot.unit]
    points = pd.concat([one.points for one in plot.series], ignore_index=True)
    front = points[~points["hollow"].astype(bool)].sort_values("x")
    axes.plot(front["x"], scale * front["y"], color="#3d4650", linewidth=0.6, drawstyle="steps-post", zorder=1)
    for one, row in zip(plot.series, points.to_dict("records"), strict=True):
        shade, fill = colour(one.style), "none" if row["hollow"] else "full"
        axes.plot([row["x"]] * 2, [scale * row["low"], scale * row["high"]], color=shade, linewidth=1)
        axes.plot(row["x"], scale * row["y"], _marker(one), color=shade, markersize=5, fillstyle=fill)
    if plot.is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    if plot.view:
        axes.set_ylim(*(scale * end for end in plot.view))
    axes.margins(x=0.15)
    figure.draw_without_rendering()  # only then is it known where all this is
    taken = [line.get_window_extent() for line in axes.lines if line.get_marker() != "None"]
    lines = [box for line in axes.lines if line.get_marker() == "None" for box in _boxes(line)]
    for one, row in zip(plot.series, points.to_dict("records"), strict=True):
        at = row["x"], scale * row["y"]
        _name(_short(one.label), at, axes, taken, lines) or _name(_short(one.label), at, axes, taken, [])


def _boxes(line: Line2D) -> list[Bbox]:
    """Where each part of a line of steps is, in pixels."""
    from matplotlib.transforms import Bbox

    corners = line.get_transform().transform(line.get_path().vertices).tolist()
    return [Bbox([a, b]).padded(1) for a, b in pairwise(corners)]


def _name(label: str, at: tuple[float, float], axes: Axes, taken: list[Bbox], lines: list[Bbox]) -> bool:
    """Name a point where that hides neither what is taken nor lines; returns whether there is such a place."""
    inside = axes.get_window_extent()
    for dx, dy, side, height in _PLACES:
        name = axes.annotate(
            label, at, (dx, dy), textcoords="offset points", ha=side, va=height, fontsize=7, parse_math=False
        )
        box = name.get_window_extent()
        is_inside = inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)
        if is_inside and not box.count_overlaps([*taken, *lines]):
            taken.append(box)
            return True
        name.remove()
    return False


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
