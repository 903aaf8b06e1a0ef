"""A report as one HTML page with plots that can be filtered. It holds all it needs and loads nothing from a server.

page/page.html   the frame     page/page.css   how it looks     page/page.js   filters, plots and sorting

Texts of a sweep file are escaped everywhere: in HTML, in the embedded JSON and, by page.js, in plotly's texts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import pandas as pd

from optbench import __version__
from optbench.report import formats
from optbench.report.plots import (
    COLOURS,
    MAX_BANDS,
    MAX_DOTS,
    MAX_LINES,
    SCALES,
    SYMBOLS,
    Axis,
    Explorer,
    Plot,
    framed,
    plots,
    rates,
)
from optbench.report.tables import Column, Report, Table

_MARKED = "Bold: the best. Tinted ranks: cannot be told apart from it."
_COMPACT_ROWS, _BEFORE_TABLE = 8, 2
_LONG = 90  # characters; a longer headline is set smaller
_SEARCHED = 12  # checkboxes; more than that get a search field


def page(report: Report, explorer: Explorer) -> str:
    """The report as an HTML page of a few MB, most of which is plotly.js."""
    from plotly.offline import get_plotlyjs

    drawn = plots(explorer)
    sections = [("answer", "Answer", True), ("plots", "Plots", bool(drawn)), ("tables", "Tables", True)]
    return Template(_file("page.html")).substitute(
        version=__version__,
        sweep=escape(report.sweep),
        summary=escape(report.summary),
        contents=" ".join(f'<a href="#{name}">{title}</a>' for name, title, shown in sections if shown),
        answer=_answer(report, explorer),
        plots=_plots(explorer, drawn),
        tables=_tables(report.tables, explorer.axes),
        note=escape(report.note),
        style=_file("page.css"),
        data=_data(explorer, drawn),
        plotly=get_plotlyjs(),
        script=_file("page.js"),
    )


def _file(name: str) -> str:
    return files("optbench.report").joinpath("page", name).read_text(encoding="utf-8")


# ---------------------------------------------------------------- the answer


def _answer(report: Report, explorer: Explorer) -> str:
    """The findings, and beside them the first rows of the first table that compares, with their intervals."""
    headline, *others = report.findings or (f"{report.sweep}: {report.summary}.",)
    items = [f"<li>{escape(finding)}</li>" for finding in others]
    first, rest = items[:_BEFORE_TABLE], items[_BEFORE_TABLE:]
    return (
        '<section class="answer" id="answer" tabindex="-1">'
        f'<div class="headline"><h1{" class=long" if len(headline) > _LONG else ""}>{escape(headline)}</h1>'
        f"{_listed(first)}</div>{_compact(report.tables, explorer)}{_listed(rest)}</section>"
    )


def _listed(items: Sequence[str]) -> str:
    return f'<ul class="findings">{"".join(items)}</ul>' if items else ""


def _compact(tables: Sequence[Table], explorer: Explorer) -> str:
    """The best rows of a table: rank, names, lr, its first score with a picture of the interval, and n."""
    comparing = (i for i, table in enumerate(tables) if len(table.data) > 1 and explorer.by in table.data)
    place = next(comparing, 0)
    table = tables[place]
    score = next((column for column in table.columns if column.kind in ("percent", "loss")), None)
    if score is None:
        return ""
    names, rank = table.columns[: table.keys], next((c for c in table.columns if c.name == "rank"), None)
    is_loss = score.kind == "loss"
    best_first = table.data.assign(_order=table.data[score.name].round(9), best=table.data.get("best", False))
    best_first = best_first.sort_values(["_order", "best"], ascending=[is_loss, False], kind="stable")
    data = best_first.head(_COMPACT_ROWS).drop(columns="_order")
    chosen = pd.concat([explorer.points, explorer.fresh]).drop_duplicates("configuration_id")
    is_lr_shown = explorer.points["lr"].nunique() > 1 and "lr" not in [column.name for column in names]
    lrs = chosen.set_index("configuration_id")["lr"] if is_lr_shown else pd.Series(dtype=float)
    missing = pd.Series(math.nan, data.index)
    lows, highs = (data.get(f"{score.name}_{end}", missing) for end in ("low", "high"))
    bottom, top = framed(data[score.name], lows, highs, is_loss)
    shade = _strip(data.iloc[0], score.name, bottom, top).get("range", "") if len(data) else ""
    headings = [
        *([("", "rank")] if rank else []),
        *(("", column.heading) for column in names),
        *([("", "lr")] if len(lrs) else []),
        ("number", score.heading),
        ("strips", "95 % interval"),
        ("number", "n"),
    ]
    lines = []
    for row in data.to_dict("records"):
        cells = [f'<td class="rank">{_text(rank, row)}</td>'] if rank else []
        cells += [f'<td class="label" title="{_text(c, row)}">{_text(c, row)}</td>' for c in names]
        if len(lrs):
            lr = lrs.get(row.get("configuration_id"), math.nan)
            cells.append(f"<td>{'–' if pd.isna(lr) else f'{lr:.4g}'}</td>")
        parts = _strip(row, score.name, bottom, top)
        pictures = "".join(
            f'<i class="{name}" style="{style}"></i>' for name, style in (("shade", shade), *parts.items()) if style
        )
        cells.append(f'<td class="number">{_text(score, row)}</td>')
        cells.append(f'<td class="strips"><span class="strip" aria-hidden="true">{pictures}</span></td>')
        cells.append(f'<td class="number">{int(row["n"]) if "n" in row else ""}</td>')
        lines.append(f"<tr{_marks(table, row)}>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col" class="{kind}">{escape(text)}</th>' for kind, text in headings)
    rest = f"All {len(table.data)} rows, with" if len(table.data) > len(data) else "With"
    return (
        '<div class="short"><div class="box" tabindex="0" role="region" aria-label="The best, in short">'
        f'<table class="compact"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        '<p class="caption">Dots are means, bars 95 % intervals of the mean, on one scale; the shade is the first '
        f'row’s. <a href="#table-{place}">{rest} all scores and what they mean</a>.</p></div>'
    )


def _strip(row: Any, name: str, bottom: float, top: float) -> dict[str, str]:
    """Where the interval and the mean of a row lie between bottom and top, as CSS."""

    def at(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - bottom) / (top - bottom)))

    value, low, high = (row.get(key, math.nan) for key in (name, f"{name}_low", f"{name}_high"))
    if pd.isna(value):
        return {}
    mean = {"mean": f"left:{at(value):.1f}%"}
    if pd.isna(low) or pd.isna(high):
        return mean
    return {"range": f"left:{at(low):.1f}%;right:{100 - at(high):.1f}%"} | mean


# ---------------------------------------------------------------- plots and filters


def _plots(explorer: Explorer, drawn: Sequence[Plot]) -> str:
    if not drawn:
        return ""
    return (
        '<section id="plots" tabindex="-1"><h2>Plots</h2>'
        "<noscript><p>The plots and their filters need JavaScript; the tables do not.</p></noscript>"
        f'<div class="explore">{_filters(explorer, drawn)}<div class="plots">{"".join(map(_figure, drawn))}</div></div>'
        "</section>"
    )


def _figure(plot: Plot) -> str:
    low = " low" if plot.kind != "lines" else ""
    title, caption = escape(plot.title), escape(plot.caption)
    return (
        f'<figure class="plot" id="plot-{plot.name}"><h3>{title}</h3><div class="frame"><ul class="keys"></ul>'
        f'<div class="canvas{low}" role="img" aria-label="{title}. The tables below hold the numbers."></div></div>'
        '<p class="empty" hidden>Nothing passes the filters.</p><p class="shown"></p>'
        f"<figcaption><details><summary>What it shows</summary>{caption}</details></figcaption></figure>"
    )


def _filters(explorer: Explorer, drawn: Sequence[Plot]) -> str:
    varying = [(i, axis) for i, axis in enumerate(explorer.axes) if len(axis.values) > 1]
    fields = (
        [_field("Lines", "by", [(str(i), f"by {axis.heading}") for i, axis in varying])] if len(varying) > 1 else []
    )
    most = max((len(axis.values) for _, axis in varying), default=1)
    numbers = [n for n in (5, MAX_LINES, 20, 40) if n < most or n == MAX_LINES]
    if most > 5:
        fields.append(_field("Draw", "top", [*((str(n), f"{n} best") for n in numbers), (str(10**6), "all")]))
    if any(plot.grid is not None for plot in drawn):
        fields.append(_field("Heat map", "of", [("", "best of all shown")]))
    switches = [("train", "Training curves, dashed")] if any(plot.name == "curves" for plot in drawn) else []
    switches += [("bands", "Bands: how sure"), ("full", "Whole range")]
    boxes = "".join(
        f'<label class="switch"><input type="checkbox" name="{name}" autocomplete="off">{text}</label>'
        for name, text in switches
    )
    return (
        '<details class="filters" open><summary>Filters and options</summary><form id="filters" autocomplete="off">'
        f"<fieldset><legend>Show</legend>{''.join(fields)}{boxes}</fieldset>"
        + "".join(_fieldset(i, axis) for i, axis in varying)
        + '<output class="status" id="status"></output>'
        '<button type="button" data-reset>Reset</button>'
        '<p class="quiet">Filters change the plots and hide rows of the tables; the address of the page keeps them. '
        "Point at a line to see its band.</p>"
        "</form></details>"
    )


def _field(label: str, name: str, options: Iterable[tuple[str, str]]) -> str:
    shown = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in options)
    return f'<label class="field">{label}<select name="{name}" autocomplete="off">{shown}</select></label>'


def _fieldset(i: int, axis: Axis) -> str:
    """The checkboxes of an axis."""
    options = "".join(
        f'<label><input type="checkbox" name="axis-{i}" value="{code}" checked autocomplete="off">'
        f"{escape(value)}</label>"
        for code, value in enumerate(axis.values)
    )
    search = f'<input type="search" placeholder="find" aria-label="Find one of the {escape(axis.heading)} values">'
    return (
        f'<fieldset><legend>{escape(axis.heading.capitalize())}</legend><div class="all">'
        f'<button type="button" data-all="1" value="{i}">All</button>'
        f'<button type="button" data-all="" value="{i}">None</button>'
        f"{search if len(axis.values) > _SEARCHED else ''}</div>"
        f'<div class="options">{options}</div></fieldset>'
    )


# ---------------------------------------------------------------- tables


def _tables(tables: Sequence[Table], axes: Sequence[Axis]) -> str:
    parts = "".join(_table(i, table, axes) for i, table in enumerate(tables))
    return f'<section id="tables" tabindex="-1"><h2>Tables</h2>{parts}</section>'


def _table(i: int, table: Table, axes: Sequence[Axis]) -> str:
    rows = table.data.to_dict("records")
    values = [[_value(column, row) for row in rows] for column in table.columns]
    numeric = [all(isinstance(value, float) or value == "" for value in column) for column in values]
    codes = [{value: str(code) for code, value in enumerate(axis.values)} for axis in axes]
    filtered = [axis.name for axis in axes if axis.name in table.data]
    classes = list(map(_class, table.columns, numeric))
    scores = [k for k, column in enumerate(table.columns) if column.kind in ("percent", "loss")]
    if scores:
        classes[scores[0]] += " score"
    head = "".join(map(_heading, table.columns, values, numeric, classes))
    body = []
    for k, row in enumerate(rows):
        keys = [found.get(_plain(row.get(axis.name)), "") for axis, found in zip(axes, codes, strict=True)]
        cells = [
            f'<td class="{name}" data-value="{escape(_sortable(value[k]))}">{_text(column, row)}</td>'
            for column, value, name in zip(table.columns, values, classes, strict=True)
        ]
        marked = f' data-keys="{",".join(keys)}"' if filtered else ""
        body.append(f"<tr{marked}{_marks(table, row)}>{''.join(cells)}</tr>")
    title = escape(table.title)
    is_marked = any(_marks(table, row) for row in rows)
    said = [*([table.caption] if table.caption else []), *([_MARKED] if is_marked else [])]
    return (
        f'<div class="table" id="table-{i}" tabindex="-1"><h3>{title}</h3>'
        f'<div class="box" tabindex="0" role="region" aria-label="{title}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<p class="caption filtered" hidden></p>'
        + (f'<p class="caption">{escape(" ".join(said))}</p>' if said else "")
        + "</div>"
    )


def _heading(column: Column, values: Sequence[float | str], is_number: bool, name: str) -> str:
    heading = escape(column.heading)
    if len({value for value in values if value != ""}) > 1:
        heading = f'<button type="button">{heading}</button>'
    return f'<th scope="col" class="{name}"{" data-numeric" * is_number}>{heading}</th>'


def _class(column: Column, is_number: bool) -> str:
    """How the cells of a column look."""
    if column.is_text:
        return {"prose": "words", "text": "" if is_number else "label"}.get(column.kind, "")
    return "number rank" if column.name == "rank" else "number"


def _marks(table: Table, row: Any) -> str:
    """The class of a row that is the best, or shares its rank."""
    if not {"best", "rank"} <= set(table.data) or len(table.data) < 2:
        return ""
    return ' class="best"' if row["best"] == 1 else ' class="tie"' if row["rank"] == 1 else ""


def _text(column: Column, row: Any) -> str:
    """A cell as HTML."""
    if column.kind == "curve" and len(row[column.name]) > 1:
        heights = row[column.name]
        points = " ".join(f"{60 * i / (len(heights) - 1):.1f},{15 - 14 * y:.1f}" for i, y in enumerate(heights))
        return f'<svg class="spark" viewBox="0 0 60 16" aria-hidden="true"><polyline points="{points}"/></svg>'
    return escape(formats.cell(column, row))


def _plain(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else formats.written(value)


def _value(column: Column, row: Any) -> float | str:
    """What a cell is sorted by: a number where it is one or a share like "3/8", else its text; "" if it is missing."""
    value = row[f"{column.name} val_accuracy" if column.kind == "pair" else column.name]
    if column.kind == "curve" or value is None:
        return ""
    if isinstance(value, str):
        share = re.fullmatch(r"(\d+)/(\d+)", value)
        return int(share[1]) / max(1, int(share[2])) if share else value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return "" if math.isnan(number) else number


def _sortable(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "Infinity" if value == math.inf else "-Infinity" if value == -math.inf else repr(value)


# ---------------------------------------------------------------- data


def _data(explorer: Explorer, drawn: Sequence[Plot]) -> str:
    """What page.js works on, as JSON that may stand in a script element."""
    score, columns = explorer.score, ("lr", "n", "trials", "diverged", "configuration")
    codes = {axis.name: {value: i for i, value in enumerate(axis.values)} for axis in explorer.axes}
    places = {key: i for i, key in enumerate(dict(list(explorer.curves.groupby(_CURVE, sort=False, observed=True))))}
    shown = {f"{name}{end}": f"{column}{end}" for name, column in (("score", score), ("gap", "gap")) for end in _ENDS}
    columns_of_rates = {rate: i for i, rate in enumerate(rates(explorer))}
    sources = {}
    for name, frame, phase in (("points", explorer.points, "tune"), ("fresh", explorer.fresh, "confirm")):
        sources[name] = {
            **{new: _numbers(frame[old]) for new, old in shown.items()},
            **{column: _plainly(frame[column]) for column in columns},
            "curve": [places.get((i, phase)) for i in frame["configuration_id"]],
        }
    sources["points"] |= {
        "axes": [[codes[axis.name][value] for value in explorer.points[axis.name]] for axis in explorer.axes],
        "rate": [columns_of_rates.get(rate) for rate in explorer.points["rate"]],
    }
    sources["fresh"]["optimizer"] = [codes["optimizer"][label] for label in explorer.fresh["optimizer"]]
    names = [f"{split}{end}" for split in ("val", "train") for end in _ENDS]
    content = {
        "score": score,
        "words": score.heading,
        "by": [axis.name for axis in explorer.axes].index(explorer.by),
        "top": MAX_LINES,
        "dots": MAX_DOTS,
        "bands": MAX_BANDS,
        "axes": [{"name": axis.name, "heading": axis.heading, "values": axis.values} for axis in explorer.axes],
        **sources,
        "curves": [
            {"epoch": curve["epoch"].tolist(), "n": curve["n"].tolist()}
            | {name: _numbers(curve[name]) for name in names}
            for _, curve in explorer.curves.groupby(_CURVE, sort=False, observed=True)
        ],
        "rates": rates(explorer),
        "plots": [_definition(plot, explorer, codes["optimizer"]) for plot in drawn],
        "styles": {"colours": COLOURS, "symbols": SYMBOLS, "scale": "Cividis", "scales": SCALES},
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # What could end the script element, or a line of JavaScript.
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


_CURVE = ["configuration_id", "phase"]
_ENDS = ("", "_low", "_high")


def _definition(plot: Plot, explorer: Explorer, codes: dict[str, int]) -> dict[str, Any]:
    """What page.js must know about a plot, and the numbers of a plot that it does not build itself."""
    content: dict[str, Any] = {
        "name": plot.name,
        "kind": plot.kind,
        "x": plot.x,
        "y": plot.y,
        "unit": plot.unit,
        "isLog": plot.is_log,
        "isStepped": plot.is_stepped,
        "isViewed": plot.view is not None,
        "isLoss": plot.is_loss,
    }
    if plot.groups is not None:
        content["groups"] = [[codes[label] for label in group] for group in plot.groups]
    if plot.over:
        content["places"] = explorer.axis(plot.over).values
    if plot.is_whole:
        every = next(one for one in explorer.whole if one.name == plot.name)
        content["series"] = [
            {"v": codes[one.label]} | {str(name): _plainly(column) for name, column in one.points.items()}
            for one in every.series
        ]
    return content


def _plainly(column: pd.Series) -> list[Any]:
    return _numbers(column) if pd.api.types.is_numeric_dtype(column) else column.fillna("").tolist()


def _numbers(values: Iterable[float]) -> list[float | int | None]:
    """Numbers to five digits; null for what is missing or infinite."""
    return [_short(value) for value in values]


def _short(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(f"{value:.5g}")
