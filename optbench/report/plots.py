"""Numbers → what is plotted. `explore` computes whatever filters may ask for, `plots` says what is drawn without any.

The page filters in the browser, where nothing is computed: under a filter, a line shows the best of the configurations
that pass it, which is the first one, since they are in order. Figures draw `plots` as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from optbench import stats
from optbench.report import costs, explanations, rankings
from optbench.report.findings import ALPHA
from optbench.report.formats import cell, written
from optbench.report.results import Results
from optbench.report.tables import Column
from optbench.scores import Score
from optbench.sweep.axes import COMPARED

# Petroff's ten colours (2021, "Accessible color sequences for data visualization"), moved as little as it takes for a
# contrast of 3 with the paper, and for all to stay apart in the eyes of the colour-blind; and plotly's symbols.
COLOURS = {
    "light": (
        "#3e95e9", "#ea720d", "#bd1f01", "#8497a2", "#832db6", "#9d705d", "#e03c09", "#ab9069", "#5e6a82", "#5d82b4",
    ),
    "dark": (
        "#3e91dc", "#ffae25", "#c1260e", "#9097a6", "#8a3dc4", "#af6e64", "#e96a10", "#bab081", "#62729b", "#92dadb",
    ),
}  # fmt: skip
SYMBOLS = (
    "circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star", "pentagon", "hexagon",
)  # fmt: skip
SCALES = {"percent": 100.0, "points": 100.0, "number": 1.0}  # what a value is multiplied by before it is shown
MAX_LINES = 10  # drawn unless the reader asks for more
MAX_DOTS = 20  # of those below each other, which hide nothing
MAX_BANDS = 2  # more would hide each other
MAX_CURVES = 400  # in a page
_INTERVAL = "95 % interval of the mean (Student’s t, from 20 seeds on a BCa bootstrap; none for n = 1)"
_BAND = "The bands, drawn for the best two lines only, show the "
_RANK_ROOM = 0.25
_MIN_WORKLOADS = 6  # with fewer, no signed-rank test can find a difference
_WIDE = 5  # times as long as the fastest: more needs a logarithmic axis
_MAX_RATES = 12  # columns of a heat map; more learning rates share columns


@dataclass(frozen=True)
class Axis:
    """A compared axis and its values as text: optimizers by their scores, best first, others in natural order."""

    name: str
    heading: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """A line. `points` has columns x, y, low and high (an interval; NaN where there is none), and, where known, n, the
    seeds, `trials` and how many of them `diverged`, or `about`, which describes the point in words. Dots and points
    have `hollow`: whether only their outline is drawn.

    `style` numbers colour and marker, see `styles`. Dashed lines show training.
    """

    label: str
    style: int
    points: pd.DataFrame
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot as it is without filters.

    kind: "lines"; "dots", each series being a single one, from low to high in x, below each other; "points", each
    series being a single one, from low to high in y, and those that are not hollow joined by steps; or a `grid` of
    cells with the columns x and y as text, label, score and those of `Series`.
    unit: "percent" (shares, shown × 100), "points" (differences of shares, likewise) or "number".
    by: the axis that tells its lines apart.   over: the axis along x, where x is one.
    view: the range of y, of x for dots, or of the cells, that is shown first; None shows everything.
    is_log: of x.   is_stepped: values hold until the next x.   is_loss: less is better.
    groups: of dots that are ranks, labels that belong together: a bar beside them joins each group.
    is_whole: it shows the whole sweep, whatever the filters say about other axes than the optimizer.
    Of lines, the first `MAX_BANDS` have their interval drawn as a band.
    """

    name: str
    title: str
    caption: str
    x: str
    y: str
    by: str
    unit: str = "percent"
    kind: str = "lines"
    over: str = ""
    series: tuple[Series, ...] = ()
    grid: pd.DataFrame | None = None
    view: tuple[float, float] | None = None
    is_log: bool = False
    is_stepped: bool = False
    is_loss: bool = False
    groups: tuple[tuple[str, ...], ...] | None = None
    is_whole: bool = False


@dataclass(frozen=True)
class Explorer:
    """What the plots of a sweep are made from.

    points: the best configuration of each combination of the axes and lr, in the order in which `stats.select` prefers
        them: the axes as text, `lr`, `rate` (lr as text, or the range that it is in), `configuration_id`,
        `configuration` (its other hyperparameters), the score and the gap between train and validation, each with
        `…_low` and `…_high`, `n`, and `trials` and `diverged` of all configurations of the combination.
    fresh: the same of the confirmed configuration of each optimizer, on its fresh seeds; empty where there is none.
    curves: `configuration_id`, `phase`, `epoch`, `n`, and `val` and `train` with their intervals, for the best of each
        combination of the axes.
    when: in words, at which epoch the scores were taken.
    whole: plots that only the filter of the optimizers changes, with the lines of all optimizers.
    """

    metric: Score
    score: Score
    axes: tuple[Axis, ...]
    points: pd.DataFrame
    fresh: pd.DataFrame
    curves: pd.DataFrame
    when: str
    whole: tuple[Plot, ...] = field(default=())

    @property
    def by(self) -> str:
        """The axis that tells the lines apart: datasets if there are several, since their scores are not comparable."""
        varying = [axis.name for axis in self.axes if len(axis.values) > 1]
        return "dataset" if "dataset" in varying else next(iter(varying), "optimizer")

    def axis(self, name: str) -> Axis:
        """The axis of this name."""
        return next(axis for axis in self.axes if axis.name == name)

    def varies(self, name: str) -> bool:
        """Whether the sweep compares several values of this axis."""
        return any(axis.name == name and len(axis.values) > 1 for axis in self.axes)


def styles(places: Iterable[int]) -> dict[int, int]:
    """The style of each of the lines at these places of an axis, drawn in this order.

    That of its place where it is free, so that it changes little under filters: no ten lines share a colour.
    """
    found: dict[int, int] = {}
    for i, place in enumerate(places):
        turn = i - i % MAX_LINES
        free = ((place + k) % MAX_LINES + turn for k in range(MAX_LINES))
        found[place] = next(style for style in free if style not in found.values())
    return found


def colour(style: int, theme: str = "light") -> str:
    """The colour of a style."""
    return COLOURS[theme][style % MAX_LINES]


def symbol(style: int) -> int:
    """The place of a style's marker in `SYMBOLS`: where colours begin anew, they meet other markers."""
    return (style + style // MAX_LINES) % len(SYMBOLS)


def unit(score: Score) -> str:
    """How values of a score are shown."""
    return "number" if score.is_loss else "percent"


# ---------------------------------------------------------------- rows → Explorer


def explore(results: Results) -> Explorer:
    """What the plots of these results need."""
    metric, score = results.metric, results.score
    tuning, confirming = results.tuning, results.finals[results.finals["phase"] == "confirm"]
    names = ["optimizer", *(name for name in results.varying if name != "optimizer")]
    tuning, confirming = (_as_text(frame, names) for frame in (tuning, confirming))
    ordered = stats.ranked(tuning, names, metric)
    configurations = tuning.drop_duplicates("configuration_id").set_index("configuration_id")
    ordered["lr"] = ordered["configuration_id"].map(configurations["lr"])
    best = ordered.drop_duplicates([*names, "lr"])[[*names, "lr", "configuration_id"]]
    columns = list(dict.fromkeys([score, "gap"]))
    points = _scored(best, tuning, columns)
    counts = tuning.assign(diverged=tuning["status"] == "diverged").groupby(
        [*names, "lr"], dropna=False, sort=False, observed=True
    )
    points = points.merge(
        counts.agg(trials=("diverged", "size"), diverged=("diverged", "sum")).reset_index(), "left", on=[*names, "lr"]
    )
    points["rate"] = _rates(points["lr"])
    fresh = _fresh(confirming[:0] if "dataset" in names else confirming, columns)
    choices = [name for name in results.choices if name not in (*names, "lr")]
    for frame in (points, fresh):
        frame["configuration"] = [results.in_words(i, choices) for i in frame["configuration_id"]]
    first = fresh if len(fresh) else points.drop_duplicates("optimizer")
    axes = [Axis("optimizer", "optimizer", _by_score(points, first, score))]
    axes += [Axis(name, COMPARED[name].heading, _natural(tuning[name].unique())) for name in names[1:]]
    kept = _with_curves(points, names)
    of = results.rows[results.rows["status"].eq("finished")]
    of = of[of["configuration_id"].isin({*kept, *fresh["configuration_id"]})]
    kind = metric.kind
    explorer = Explorer(metric, score, tuple(axes), points, fresh, _curves_of(of, kind), results.query.when)
    whole = [_mean_ranks(explorer, results), _profile(explorer, results)]
    if "dataset" not in names:
        ranked = rankings.axis(results, ["optimizer"]).data
        own = [_ranking(explorer, results, ranked), _tuning(explorer, tuning), _targets(explorer, results)]
        whole = [*own, _cost(explorer, results, ranked), *whole]
    return replace(explorer, whole=tuple(plot for plot in whole if plot is not None))


def _as_text(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    return frame.assign(**{name: frame[name].astype(object).map(written) for name in names})


def _scored(frame: pd.DataFrame, finals: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The frame's configurations with `stats.estimate` of each column over their finished trials, and n."""
    finished = finals[finals["status"] == "finished"]
    places = finished.groupby("configuration_id", sort=False, observed=True).indices
    mine = [places.get(configuration, np.empty(0, dtype=int)) for configuration in frame["configuration_id"]]
    frame = frame.assign(n=[len(seeds) for seeds in mine])
    for name in columns:
        values = finished[name].to_numpy(dtype=float)
        found = [stats.estimate(values[seeds].tolist()) for seeds in mine]
        frame[name] = [one.mean for one in found]
        frame[f"{name}_low"], frame[f"{name}_high"] = [one.low for one in found], [one.high for one in found]
    return frame


def _curves_of(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Mean, 95 % interval (Student's t, also of many seeds) and n of each configuration after each epoch."""
    groups = rows.groupby(["configuration_id", "phase", "epoch"], sort=False, observed=True)
    n = groups.size()
    found = pd.DataFrame({"n": n})
    for split in ("val", "train"):
        mean, deviation = groups[f"{split}_{kind}"].mean(), groups[f"{split}_{kind}"].std()
        found[split] = mean
        found[f"{split}_low"], found[f"{split}_high"] = stats.t_interval(mean, deviation, n)
    return found.reset_index()


def _fresh(confirming: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A row for each confirmed configuration."""
    each = confirming.assign(diverged=confirming["status"] == "diverged").groupby(
        ["optimizer", "configuration_id"], sort=False, observed=True
    )
    counts = each.agg(lr=("lr", "first"), trials=("diverged", "size"), diverged=("diverged", "sum")).reset_index()
    return _scored(counts, confirming, columns)


def _rates(lr: pd.Series) -> pd.Series:
    """lr as text; where there are too many, the half of a decade that it is in."""
    if lr.nunique() <= _MAX_RATES or not (lr.dropna() > 0).all():
        return lr.map(lambda value: f"{value:g}", na_action="ignore").fillna("none")
    halves = np.floor(2 * np.log10(lr) + 1e-9)
    ends = {k: f"{10 ** (k / 2):.1g}–{10 ** ((k + 1) / 2):.1g}".replace("e-0", "e-") for k in halves.dropna().unique()}
    text: pd.Series = halves.map(ends).fillna("none")
    return text


def _by_score(points: pd.DataFrame, first: pd.DataFrame, score: Score) -> tuple[str, ...]:
    """All optimizers, best first; `first` has the score of each that has one."""
    ordered = first.sort_values(score, ascending=score.is_loss, kind="stable", na_position="last")
    return tuple(dict.fromkeys([*ordered["optimizer"], *points["optimizer"]]))


def _natural(values: Iterable[str]) -> tuple[str, ...]:
    """Numbers by their size and before words, which keep their order."""

    def size(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            return math.inf

    return tuple(sorted(values, key=size))


def _with_curves(points: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The configurations whose curves go into a page: the best of each value of each axis, then other bests."""
    cells = points.drop_duplicates(list(names))
    first = [cells.drop_duplicates(name) for name in names]
    pairs = [cells.drop_duplicates([names[0], name]) for name in names[1:]]
    return list(dict.fromkeys(pd.concat([*first, *pairs, cells])["configuration_id"]))[:MAX_CURVES]


# ---------------------------------------------------------------- Explorer → plots


def plots(explorer: Explorer) -> tuple[Plot, ...]:
    """What is drawn without filters; plots over an axis that does not vary are left out."""
    made = [
        _curves(explorer),
        _rate(explorer),
        _grid(explorer, "batch_size", "rate", "Batch size and learning rate"),
        _grid(explorer, "batch_size", "dropout", "Dropout and batch size"),
        _gap(explorer),
        *(_of_the_best(plot) for plot in explorer.whole),
    ]
    drawn = [plot for plot in made if plot is not None]
    return tuple(sorted(drawn, key=lambda plot: plot.name != "ranking"))  # the result comes first


def _of_the_best(plot: Plot) -> Plot:
    """A plot of all optimizers as it begins."""
    series = plot.series[: MAX_DOTS if plot.kind == "dots" else MAX_LINES]
    style_of = styles(one.style for one in series)
    series = tuple(replace(one, style=style_of[one.style]) for one in series)
    return _shown(replace(plot, series=series)) if plot.view else replace(plot, series=series)


def view(values: Iterable[float], lows: Iterable[float], highs: Iterable[float], is_loss: bool) -> tuple[float, float]:
    """The range of y that shows what is worth comparing: from the best value four times as far as to the median.

    So one that diverged or has not learned yet does not squash the others. For an accuracy only the upper tenth is
    shown, and nothing beyond 1. Intervals widen the range by at most half.
    """
    sign = -1.0 if is_loss else 1.0
    found = sorted(sign * value for value in values if not math.isnan(value))
    if not found:
        return 0.0, 1.0
    best, middle = found[-1], (found[(len(found) - 1) // 2] + found[len(found) // 2]) / 2
    low = max(found[0], best - 4 * (best - middle), -math.inf if is_loss else 0.9 * best)
    span = max(best - low, 1e-3 * abs(best), 1e-9)
    ends = [sign * end for end in (*lows, *highs) if not math.isnan(end)]
    top = max([best, *(end for end in ends if end <= best + span / 2)]) + span / 20
    bottom = min([low, *(end for end in ends if end >= low - span / 2)]) - span / 20
    if not is_loss:
        top = min(top, max(1.0, best) + span / 20)
    return (bottom, top) if sign > 0 else (-top, -bottom)


def framed(values: pd.Series, lows: pd.Series, highs: pd.Series, is_loss: bool) -> tuple[float, float]:
    """The range that holds the whole intervals of all values but those that are too bad to compare."""
    low, high = view(values, [], [], is_loss)
    is_shown = values.between(low, high)
    ends = pd.concat([column[is_shown] for column in (values, lows, highs)]).dropna()
    if ends.nunique() < 2:
        return low, high
    room = (ends.max() - ends.min()) / 30
    return float(ends.min() - room), float(ends.max() + room)


def _viewed(series: Sequence[Series], plot: Plot) -> tuple[float, float]:
    """The view of these lines, whose bands count where they are drawn; of dots, all intervals are."""
    if not series:
        return 0.0, 1.0
    solid = [one.points for one in series if not one.dashed]
    points = pd.concat(solid)
    if plot.kind == "dots":
        if plot.groups is not None:  # ranks, of which none is too bad to compare
            return points["x"].min() - _RANK_ROOM, points["x"].max() + _RANK_ROOM
        return framed(points["x"], points["low"], points["high"], plot.is_loss)
    if plot.kind == "points":
        return framed(points["y"], points["low"], points["high"], plot.is_loss)
    sure = pd.concat(solid[:MAX_BANDS])
    return view(points["y"], sure["low"], sure["high"], plot.is_loss)


def _shown(plot: Plot) -> Plot:
    """The plot with the view in which it begins."""
    return replace(plot, view=_viewed(plot.series, plot))


def _lines(explorer: Explorer, by: str) -> list[str]:
    """The values of an axis that are drawn: the best ones, best first."""
    axis, score = explorer.axis(by), explorer.score
    if by == "optimizer":  # already in this order
        return list(axis.values[:MAX_LINES])
    frame = explorer.points.drop_duplicates(by).sort_values(by, key=lambda column: column.map(axis.values.index))
    frame = frame.sort_values(score, ascending=score.is_loss, kind="stable", na_position="last")
    return list(frame[by].head(MAX_LINES))


def _styled(explorer: Explorer, by: str, labels: Sequence[str]) -> dict[str, int]:
    """The style of each of these values of an axis."""
    values = explorer.axis(by).values
    return {values[place]: style for place, style in styles(map(values.index, labels)).items()}


def _series(explorer: Explorer, by: str, x: str, name: str) -> list[Series]:
    """A line for each drawn value of the axis `by`: the best configuration's score `name` at each value of x."""
    points, labels = explorer.points, _lines(explorer, by)
    style_of = _styled(explorer, by, labels)
    sums = points.groupby([by, x], sort=False)[["trials", "diverged"]].sum()
    found = []
    for label in labels:
        line = points[(points[by] == label) & points[x].notna()].drop_duplicates(x)
        columns = {"x": x, "y": name, "low": f"{name}_low", "high": f"{name}_high", "n": "n"}
        data = pd.DataFrame({new: line[old].to_numpy() for new, old in columns.items()})
        mine = sums.reindex(pd.MultiIndex.from_arrays([[label] * len(line), line[x]]))
        data["trials"], data["diverged"] = mine["trials"].to_numpy(), mine["diverged"].to_numpy()
        found.append(Series(label, style_of[label], data))
    return found


def _curves(explorer: Explorer) -> Plot | None:
    by = explorer.by
    is_fresh = by == "optimizer" and len(explorer.fresh) > 0
    chosen = (explorer.fresh if is_fresh else explorer.points).drop_duplicates(by).set_index(by)["configuration_id"]
    curves = explorer.curves[explorer.curves["phase"] == ("confirm" if is_fresh else "tune")]
    labels, series = _lines(explorer, by), []
    style_of = _styled(explorer, by, labels)
    followed = explorer.metric.partition("_")[0]
    for label in labels:
        curve = curves[curves["configuration_id"] == chosen.get(label)].sort_values("epoch")
        if curve.empty:
            continue
        for split in (followed, "train") if followed == "val" else (followed,):
            data = curve[["epoch", split, f"{split}_low", f"{split}_high", "n"]].set_axis(
                ["x", "y", "low", "high", "n"], axis=1
            )
            series.append(Series(label, style_of[label], data.reset_index(drop=True), split != followed))
    if not series or max(len(one.points) for one in series) < 2:
        return None
    kind = explorer.metric.kind
    measured = f"Validation {kind} after each epoch and, if asked for, training {kind} (dashed), both with dropout off"
    if followed == "train":
        measured = f"Training {kind} after each epoch, with dropout off"
    seeds = (
        "Unfiltered, optimizers are shown on fresh seeds, which selected nothing; lines of another axis, or with a "
        "filter on one, are shown on the seeds that selected them, which makes winners look a little too good."
        if len(explorer.fresh)
        else "The seeds that selected a configuration are those shown, so winners look a little too good."
    )
    caption = (
        f"{measured}: for "
        f"each line the best configuration by {explorer.metric.words}, the mean over its n seeds that trained to the "
        f"end. {_BAND}95 % interval of the mean (Student’s t; none for n = 1). Epoch 0 is before training. {seeds}"
    )
    return _shown(
        Plot(
            "curves",
            "Learning curves",
            caption,
            "epoch",
            explorer.metric.words,
            by,
            unit(explorer.metric),
            series=tuple(series),
            is_loss=explorer.metric.is_loss,
        )
    )


def _rate(explorer: Explorer) -> Plot | None:
    by, points = explorer.by, explorer.points
    if points.groupby("optimizer")["lr"].nunique().max() < 2:
        return None
    series = [
        Series(one.label, one.style, one.points.sort_values("x", ignore_index=True))
        for one in _series(explorer, by, "lr", explorer.score)
    ]
    caption = (
        f"{explorer.score.words.capitalize()} {explorer.when} over the learning rate: at each, the best "
        f"configuration that has it, by {explorer.metric.words}; mean over its n seeds, on which it was also "
        f"selected. {_BAND}{_INTERVAL}. A wide plateau forgives a learning "
        "rate that is not quite right. × marks where trials diverged, at the edge where all did; pointing at it "
        "tells how many."
    )
    return _shown(
        Plot(
            "lr",
            "Learning-rate sensitivity",
            caption,
            "learning rate",
            explorer.score.words,
            by,
            unit(explorer.score),
            series=tuple(series),
            is_log=bool((points["lr"].dropna() > 0).all()),
            is_loss=explorer.score.is_loss,
        )
    )


def rates(explorer: Explorer) -> tuple[str, ...]:
    """The columns of a heat map over the learning rate, in ascending order."""
    ordered = explorer.points.dropna(subset="lr").sort_values("lr")
    return tuple(ordered["rate"].unique())


def _grid(explorer: Explorer, y: str, x: str, title: str) -> Plot | None:
    values = rates(explorer) if x == "rate" else explorer.axis(x).values if explorer.varies(x) else ()
    if len(values) < 2 or not explorer.varies(y):
        return None
    points = explorer.points[explorer.points[x].isin(values)]
    best = points.drop_duplicates([x, y])
    sums = (
        points.groupby([x, y], sort=False)[["trials", "diverged"]].sum().loc[list(zip(best[x], best[y], strict=True))]
    )
    score = explorer.score
    columns = {"x": x, "y": y, "label": explorer.by, "score": score, "low": f"{score}_low", "high": f"{score}_high"}
    grid = pd.DataFrame({new: best[old].to_numpy() for new, old in (columns | {"n": "n"}).items()})
    grid["trials"], grid["diverged"] = sums["trials"].to_numpy(), sums["diverged"].to_numpy()
    order = {value: i for i, value in enumerate((*values, *explorer.axis(y).values))}
    grid = grid.sort_values(["y", "x"], key=lambda column: column.map(order), ignore_index=True)
    heading = "learning rate" if x == "rate" else x
    fresh = "The headline is on fresh seeds: the best cell may be above or below it. " if len(explorer.fresh) else ""
    caption = (
        f"{score.words.capitalize()} {explorer.when}, of the best configuration, by {explorer.metric.words}, of "
        f"each {heading} and {COMPARED[y].heading}: the mean over n seeds, on which it was also selected. {fresh}"
        f"Pointing at a cell shows n, the {_INTERVAL}, and which configuration it is. Empty cells were not tried; "
        "‘div.’: every trial diverged."
    )
    return Plot(
        f"{y}_{x}",
        title,
        caption,
        heading,
        COMPARED[y].heading,
        explorer.by,
        unit(score),
        kind="grid",
        grid=grid,
        view=view(grid["score"], [], [], score.is_loss),
        is_loss=score.is_loss,
    )


def _gap(explorer: Explorer) -> Plot | None:
    if not explorer.varies("dropout") or explorer.metric.startswith("train_"):
        return None
    by = explorer.by if explorer.by != "dropout" else "optimizer"
    values = explorer.axis("dropout").values
    series = []
    for one in _series(explorer, by, "dropout", "gap"):
        ordered = one.points.sort_values("x", key=lambda column: column.map(values.index), ignore_index=True)
        series.append(Series(one.label, one.style, ordered))
    caption = (
        f"Training minus validation accuracy {explorer.when}, both measured with dropout off: above 0, the network "
        f"overfits. At each dropout rate, the best configuration by {explorer.metric.words}: mean over its n "
        f"seeds. {_BAND}{_INTERVAL}."
    )
    return Plot(
        "gap",
        "Overfitting by dropout",
        caption,
        "dropout",
        "train − validation",
        by,
        "points",
        over="dropout",
        series=tuple(series),
    )


# ---------------------------------------------------------------- plots of the whole sweep


def _ranking(explorer: Explorer, results: Results, ranked: pd.DataFrame) -> Plot | None:
    """The result: the score of each optimizer's selected configuration."""
    if not explorer.varies("optimizer"):
        return None
    score = explorer.score
    data = ranked.dropna(subset=[score])
    if data.empty:
        return None
    found = data.rename(columns={score: "x", f"{score}_low": "low", f"{score}_high": "high"})
    found = found[["optimizer", "x", "low", "high"]].assign(hollow=data["p"] <= ALPHA)
    ranks = [cell(Column("rank", "", "rank"), row) for row in data.to_dict("records")]
    found["about"] = [f"rank {rank}, n = {n}" for rank, n in zip(ranks, data["n"], strict=True)]
    caption = (
        f"{score.words.capitalize()} {explorer.when} of each optimizer’s selected configuration, best first: mean over "
        f"its n {'fresh seeds, which selected nothing' if len(explorer.fresh) else 'seeds, which also selected it'}, "
        f"and {_INTERVAL}. Filled: {results.baseline or 'the best'} and what cannot be told apart from it; outlined: "
        "what differs from it, by the tests of the table, which compare seed by seed. Intervals that overlap do not "
        "mean a tie."
    )
    return _shown(
        Plot(
            "ranking",
            "Ranking",
            caption,
            score.words,
            "",
            "optimizer",
            unit(score),
            kind="dots",
            series=_of_optimizers(explorer, found),
            is_loss=score.is_loss,
            is_whole=True,
        )
    )


def _tuning(explorer: Explorer, tuning: pd.DataFrame) -> Plot | None:
    """What a tuning budget buys."""
    score = explorer.score
    found = stats.tuning_curves(tuning, ["optimizer"], explorer.metric, score)
    found = found.rename(columns={"n": "x", "expected": "y"})[["optimizer", "x", "y", "low", "high"]]
    found = found.dropna(subset="y")
    if found.empty or found["x"].max() < 2:
        return None
    series = _of_optimizers(explorer, found)
    caption = (
        f"Expected {score.words} of the best of n configurations, by {explorer.metric.words}, if only n of those "
        "tried were drawn at random: the mean over all such draws, which is exact. "
        f"{_BAND}range from what 10 % to what 90 % of the draws reach; it is not an interval over seeds, since each "
        "configuration counts with its mean over its seeds. A line that starts high needs little tuning; it starts "
        "where every draw has at least one configuration that did not always diverge."
    )
    return _shown(
        Plot(
            "tuning",
            "What tuning buys",
            caption,
            "configurations tried",
            score.words,
            "optimizer",
            unit(score),
            series=series,
            is_log=True,
            is_loss=score.is_loss,
            is_whole=True,
        )
    )


def _of_optimizers(explorer: Explorer, found: pd.DataFrame) -> tuple[Series, ...]:
    """A line for each optimizer, in the order of their axis."""
    parts = {str(key): part for key, part in found.groupby("optimizer", sort=False, observed=True)}
    return tuple(
        Series(label, style, parts[label].drop(columns="optimizer").reset_index(drop=True))
        for style, label in enumerate(explorer.axes[0].values)
        if label in parts
    )


def _targets(explorer: Explorer, results: Results) -> Plot | None:
    """How soon each optimizer's best configuration is good enough."""
    if results.query.target is None and not explorer.varies("optimizer"):  # which would set its own target
        return None
    target, references = results.target(results.tuning)
    shown = references if len(references) <= 3 else [*references[:2], f"{len(references) - 2} others"]
    rule = f"the median of what the best of {', '.join(shown)} end with" if shown else "as asked for"
    if math.isnan(target):
        return None
    is_fresh = len(explorer.fresh) > 0
    chosen = explorer.fresh if is_fresh else explorer.points.drop_duplicates("optimizer")
    times = stats.time_to_target(results.scored_rows, explorer.metric, target, chosen["configuration_id"].tolist())
    if not np.isfinite(times["epochs_to"]).any():
        return None
    found = stats.summarise_targets(times, ["optimizer"])
    found = found.rename(columns={"epochs_to": "x", "epochs_to_min": "low", "epochs_to_max": "high"})
    found["hollow"] = ~np.isfinite(found["x"])
    columns = (found[name] for name in ("reached", "n", "x", "steps_to"))
    found["about"] = [
        f"{reached} of {n} seeds reach it" + (f"; median: {x:g} epochs, {steps:g} steps" if math.isfinite(x) else "")
        for reached, n, x, steps in zip(*columns, strict=True)
    ]
    caption = (
        f"Epochs until {explorer.metric.words} first reaches {explorer.metric.written(target, digits=4)}, {rule}. "
        f"Dots: median over the n seeds of the best configuration{' (fresh seeds)' if is_fresh else ''}; bars: from "
        "the soonest to the latest seed, which is not a confidence interval. A seed that misses the target, or "
        "diverges, counts as infinitely late, and is drawn at the right edge."
    )
    return Plot(
        "targets",
        "Time to target",
        caption,
        "epochs",
        "",
        "optimizer",
        "number",
        kind="dots",
        series=_of_optimizers(explorer, found[["optimizer", "x", "low", "high", "hollow", "about"]]),
        is_whole=True,
    )


def _cost(explorer: Explorer, results: Results, ranked: pd.DataFrame) -> Plot | None:
    """How good each optimizer is for the seconds that it takes, and the Pareto front of these."""
    if results.timed.empty:
        return None
    score, table = explorer.score, costs.table(results, ranked)
    if table is None or "pareto" not in table.data:
        return None
    ends = {f"{score}{end}": name for end, name in (("", "y"), ("_low", "low"), ("_high", "high"))}
    found = table.data[["optimizer", "seconds", "seconds_per_step", "pareto"]].dropna(subset="seconds")
    found = found.merge(ranked[["optimizer", "n", *ends]].rename(columns=ends), on="optimizer").dropna(subset="y")
    found = found.rename(columns={"seconds": "x"}).assign(hollow=~found["pareto"].astype(bool))
    found["about"] = [
        f"n = {n}, {1000 * step:.3g} ms per step" for n, step in zip(found["n"], found["seconds_per_step"], strict=True)
    ]
    series = _of_optimizers(explorer, found[["optimizer", "x", "y", "low", "high", "hollow", "about"]])
    caption = (
        f"{score.words.capitalize()} {explorer.when} of each optimizer’s selected configuration over the seconds of "
        "its training, evaluation excluded, measured on trials that ran alone on the machine: mean over its n seeds, "
        f"and {_INTERVAL}. Filled and joined by steps: the Pareto front, where none of the others is at least as good "
        "for as few seconds, by means. The seconds have no interval: most are those of one trial."
    )
    return _shown(
        Plot(
            "cost",
            "Score and seconds",
            caption,
            "seconds of training",
            score.words,
            "optimizer",
            unit(score),
            kind="points",
            series=tuple(sorted(series, key=lambda one: bool(one.points["hollow"].iloc[0]))),
            is_log=bool(found["x"].max() > _WIDE * found["x"].min()),
            is_loss=score.is_loss,
            is_whole=True,
        )
    )


def _mean_ranks(explorer: Explorer, results: Results) -> Plot | None:
    """The critical-difference diagram, turned so that labels stand below each other."""
    if not results.workload_axes:
        return None
    scores = explanations.workload_scores(results)
    means = scores.pivot_table(index="workload", columns="optimizer", values="score", sort=False)
    if len(means) < _MIN_WORKLOADS:
        return None
    ranks = stats.friedman(means).mean_ranks.sort_values(kind="stable")
    groups = tuple(map(tuple, stats.tied_groups(means)))
    places = {label: style for style, label in enumerate(explorer.axes[0].values)}
    missing = {"low": math.nan, "high": math.nan, "hollow": False, "about": f"{len(means)} workloads"}
    series = [Series(str(label), places[str(label)], pd.DataFrame([{"x": x} | missing])) for label, x in ranks.items()]
    caption = (
        f"Mean rank over the {len(means)} workloads, by {explorer.score.words}, 1 being the best. Bars join what "
        "cannot be told apart: no two of them differ at 5 % by Wilcoxon’s signed-rank test over the workloads, with "
        "Holm’s correction for all pairs (the diagram of Demšar 2006, with the test that Benavoli et al. 2016 advise). "
        "There is no interval: the workloads count as a sample, and the n seeds of each only give its mean."
    )
    return Plot(
        "mean_ranks", "Ranks across workloads", caption, "mean rank", "", "optimizer", "number", kind="dots",
        series=tuple(series), view=(1.0, float(len(series))), is_loss=True, groups=groups, is_whole=True,
    )  # fmt: skip


def _profile(explorer: Explorer, results: Results) -> Plot | None:
    """How often each optimizer is among the fastest, over the sweep's workloads."""
    names = results.workload_axes
    if not names:
        return None
    times = {key: epochs for key, _, target, epochs in results.workloads() if not math.isnan(target)}
    if len(times) < 2:
        return None
    table = pd.DataFrame(times).T.reindex(columns=list(explorer.axes[0].values))
    found = stats.performance_profile(table).rename(columns={"tau": "x", "share": "y"})
    scores = stats.profile_score(table)
    found["low"] = found["high"] = math.nan
    found["about"] = [f"mean height {scores[label]:.2f}" for label in found["optimizer"]]
    headings = ", ".join(COMPARED[name].heading for name in names)
    caption = (
        f"Share of the {len(times)} workloads ({headings}) in which an optimizer needs at most τ times the epochs of "
        "the fastest one to reach the target: the one asked for, or for each workload the median of what the best of "
        "its references end with. Each optimizer counts with its best configuration there, median over the n seeds; a "
        "miss is infinitely slow (Dolan and Moré 2002). At τ = 1: how often it is the fastest. There is no interval: "
        "these are counts."
    )
    return Plot(
        "profile",
        "Performance profile",
        caption,
        "τ: times as long as the fastest",
        "workloads",
        "optimizer",
        series=_of_optimizers(explorer, found),
        is_stepped=True,
        is_whole=True,
    )
