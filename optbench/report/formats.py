"""How a report looks: in a terminal, as Markdown, CSV, JSON or LaTeX."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from optbench.errors import ArgumentError
from optbench.report.characters import sparkline
from optbench.report.tables import Column, Report, Table

JSON_VERSION = 3
_MISSING = "–"
_GAP = 2  # blanks after a column; older versions of rich count those after the last one, too
_LABEL_WIDTH = 30  # a longer label folds, to leave room for the numbers


def cell(column: Column, row: Any) -> str:
    """A value as text, with its interval where it has one."""
    if column.kind == "pair":
        parts = (Column(f"{column.name} {split}_accuracy", "", "percent") for split in ("train", "val"))
        return " / ".join(cell(part, row) for part in parts)
    value = row[column.name]
    if _is_missing(value):
        return _MISSING
    if column.kind == "rank":
        first, last = int(value), int(row["rank_to"])
        return str(first) if first == last else f"{first}–{last}"
    if column.kind == "curve":
        return sparkline(value)
    if column.kind == "yes":
        return "yes" if value else "no"
    if column.kind == "decades":
        return f"≥ {value:.1f}" if row[f"{column.name}_open"] else f"{value:.1f}"
    if column.kind not in _NUMBERS:
        return written(value)
    shown = _NUMBERS[column.kind]
    low, high = row.get(f"{column.name}_low", math.nan), row.get(f"{column.name}_high", math.nan)
    if math.isnan(low) or math.isnan(high):
        return shown(value)
    if abs((high - value) - (value - low)) <= _SYMMETRIC * (high - low):
        return f"{shown(value)} ± {shown((high - low) / 2).lstrip('+')}"
    return f"{shown(value)} [{shown(low)}, {shown(high)}]"


_SYMMETRIC = 1e-6  # an interval whose two sides differ by no more than this share of it is shown with ±
_NUMBERS: dict[str, Callable[[float], str]] = {
    "percent": lambda value: f"{100 * value:.2f}",
    "points": lambda value: f"{100 * value:+.2f}",
    "loss": lambda value: f"{value:.4f}",
    "change": lambda value: f"{value:+.4f}",
    "seconds": lambda value: f"{value:.2f}",
    "milliseconds": lambda value: f"{1000 * value:.2f}",
    "mebibytes": lambda value: f"{value / 2**20:,.1f}",
    "ratio": lambda value: f"{value:.2f}",
    "effect": lambda value: f"{value:+.1f}",
    "p": lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}",
    "times": lambda value: "never" if math.isinf(value) else f"{value:,.6g}",
    "seeds": lambda value: "very many" if math.isinf(value) else f"{value:,.0f}",
}


def written(value: Any) -> str:
    """A value that is not a measurement, such as a hyperparameter, as text: a number has at most six digits."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, tuple) and not value)


def _cells(table: Table) -> list[list[str]]:
    return [[cell(column, row) for column in table.columns] for row in table.data.to_dict("records")]


# ---------------------------------------------------------------- terminal


_FIRST_ROWS = 12  # of the ranking, on the first screen


def summary(report: Report, console: Console) -> list[str]:
    """Print the answer on one screen: the findings, and the first rows of the first table; returns what is left out."""
    _head(report, console)
    first, *others = report.tables
    shown, left = first.data.head(_FIRST_ROWS), len(first.data) - _FIRST_ROWS
    essential = tuple(column for column in first.columns if column.kind not in ("prose", "curve"))
    console.print()
    print_table(replace(first, data=shown, columns=essential, caption=""), console)
    return [*([f"{left} more rows"] if left > 0 else []), *(table.title for table in others)]


def _head(report: Report, console: Console) -> None:
    console.print(Text(f"{report.sweep}: {report.summary}", style="bold"))
    if report.findings:
        console.print()
        console.print(Text(" ".join(report.findings)))


def terminal(report: Report, console: Console) -> None:
    """Print all to a console; a table wider than it is printed in parts that repeat the first column."""
    _head(report, console)
    for table in report.tables:
        console.print()
        print_table(table, console)
    console.print()
    console.print(Text(report.note, style="dim"))


def plain(report: Report) -> str:
    """The terminal's tables as text, wide enough for every column."""
    return _as_text(lambda console: terminal(report, console))


def plain_table(table: Table) -> str:
    """A single table likewise."""
    return _as_text(lambda console: print_table(table, console))


def _as_text(show: Callable[[Console], None]) -> str:
    stream = StringIO()
    show(Console(file=stream, width=200, no_color=True, highlight=False))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def print_table(table: Table, console: Console) -> None:
    console.print(rendered(table, console.width))


def rendered(table: Table, width: int) -> Group:
    """A table as a console of that width shows it."""
    lines: list[RenderableType] = [Text(table.title, style="bold")]
    rows = _cells(table)
    needed = [_needed(table, rows, i) for i in range(len(table.columns))]
    for i, part in enumerate(_fitting(needed, table.keys, width)):
        if i > 0:
            lines.append("")
        lines.append(_rich(table, rows, part, list(needed), width))
    if table.caption:
        lines.append(Text(table.caption, style="dim"))
    return Group(*lines)


def _needed(table: Table, rows: list[list[str]], index: int) -> int:
    """Width without which a column would break inside a word or a number; free text may fold between words."""
    column, cells = table.columns[index], [row[index] for row in rows]
    texts = [word for cell in cells for word in cell.split()] if column.kind == "prose" else cells
    needed = max(cell_len(text) for text in (*column.heading.split(), *texts))
    return min(needed, _LABEL_WIDTH) if column.kind == "text" else needed


def _fitting(needed: list[int], keys: int, width: int) -> list[list[int]]:
    """Column indices of each part of the table: as many columns as fit the width, the key columns in every part."""
    names = list(range(keys))
    parts, used = [[*names]], sum(needed[:keys]) + _GAP * keys
    for i in range(keys, len(needed)):
        if used + needed[i] + _GAP > width and len(parts[-1]) > keys:
            parts.append([*names])
            used = sum(needed[:keys]) + _GAP * keys
        parts[-1].append(i)
        used += needed[i] + _GAP
    return parts


def _rich(table: Table, rows: list[list[str]], part: list[int], widths: list[int], width: int) -> RichTable:
    """Part of a table; what is left of the width goes to free text first, then to headings."""
    left = width - sum(widths[i] + _GAP for i in part)
    wanted = {i: max(cell_len(text) for text in (table.columns[i].heading, *(row[i] for row in rows))) for i in part}
    while left > 0:
        narrow = [i for i in part if widths[i] < wanted[i]]
        if not narrow:
            break
        # One blank at a time to the column that is folded most: prose first, then headings get what is left.
        widest = max(narrow, key=lambda i: (table.columns[i].kind == "prose", wanted[i] / widths[i]))
        widths[widest] += 1
        left -= 1
    rich = RichTable(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for i in part:
        column = table.columns[i]
        justify = "left" if column.is_text else "right"
        rich.add_column(Text(column.heading), justify=justify, overflow="fold", width=widths[i])  # type: ignore[arg-type]
    for row in rows:
        rich.add_row(*(Text(row[i]) for i in part))
    return rich


# ---------------------------------------------------------------- files


def markdown(report: Report) -> str:
    lines = [f"# {_markdown(report.sweep)}", "", report.summary + "."]
    if report.findings:
        lines += ["", _markdown(" ".join(report.findings))]
    for table in report.tables:
        lines += ["", f"## {table.title}", ""]
        lines.append("| " + " | ".join(_markdown(column.heading) for column in table.columns) + " |")
        lines.append("|" + "|".join(" :-- " if column.is_text else " --: " for column in table.columns) + "|")
        lines += ["| " + " | ".join(map(_markdown, row)) + " |" for row in _cells(table)]
        if table.caption:
            lines += ["", _markdown(table.caption)]
    lines += ["", _markdown(report.note)]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return text


def csv(report: Report) -> str:
    """All tables below each other; the column `table` tells them apart."""
    tables = [
        table.data.drop(columns=[c.name for c in table.columns if c.kind == "curve"]).assign(table=table.title)
        for table in report.tables
    ]
    frame = pd.concat([t[["table", *t.columns.drop("table")]] for t in tables], ignore_index=True)
    stream = StringIO()
    frame.to_csv(stream, index=False, lineterminator="\n")
    return stream.getvalue()


def to_json(report: Report) -> str:
    return json_text(
        {
            "sweep": report.sweep,
            "summary": report.summary,
            "findings": list(report.findings),
            "note": report.note,
            "tables": [content(table) for table in report.tables],
        }
    )


def json_text(content: Mapping[str, Any]) -> str:
    """What a command found, as JSON with the version of these formats."""
    return json.dumps({"version": JSON_VERSION, **content}, indent=1, ensure_ascii=False) + "\n"


def content(table: Table) -> dict[str, Any]:
    """A table as JSON has it."""
    return {"title": table.title, "caption": table.caption, "rows": rows(table)}


def rows(table: Table) -> list[dict[str, Any]]:
    """The rows of a table, with all its data, shown or not."""
    found: list[dict[str, Any]] = json.loads(table.data.to_json(orient="records", double_precision=15))
    return found


def latex(report: Report) -> str:
    """Tables for a paper, each with a label; they need booktabs. The best is bold, and ties with it have a dagger.

    None is wider than the text of an article, and most fit a column: what was selected, in words, is left out, a number
    that is the same in all rows is said in the caption, and what is still too wide is set in parts below each other.
    """
    packages = r"\usepackage{booktabs}"
    if any(len(table.data) > _MAX_ROWS for table in report.tables):
        packages += r" and \usepackage{longtable}"
    head = [f"{report.sweep}: {report.summary}. Needs {packages}.", *report.findings]
    parts = ["\n".join(f"% {' '.join(line.split())}" for line in head)]
    parts += [_latex_table(table, f"tab:{_slug(report.sweep)}-{_slug(table.title)}") for table in report.tables]
    parts.append(rf"\noindent {_latex(report.note)}")
    return "\n\n".join(parts) + "\n"


_MAX_ROWS = 40  # more do not fit a page
_PAPER_WIDTH = 70  # characters of the size \small in an article's text of 345 pt


def _latex_table(table: Table, label: str) -> str:
    shown, same = _told_once(table)
    columns = [table.columns[i] for i in shown]
    cells = [[row[i] for i in shown] for row in _cells(table)]
    headings = [_in_two(column.heading) for column in columns]
    widths = [max(map(len, (*heading, *(row[i] for row in cells)))) for i, heading in enumerate(headings)]
    rows = [[re.sub("^-", "$-$", _latex(text)) for text in row] for row in cells]  # a minus, not a hyphen
    said = [f"{table.title}.", table.caption]
    if same:
        said.append(f"The same in all rows: {', '.join(same)}.")
    if _set_off(table, columns, rows):
        said.append("Bold: the best; \u2020: cannot be told apart from it.")
    caption = [rf"\caption{{{_latex(' '.join(filter(None, said)))}}}", rf"\label{{{label}}}"]
    parts = _fitting(widths, min(table.keys, len(shown)), _PAPER_WIDTH)
    contents = [(_alignment(columns, part), *_latex_rows(headings, rows, part)) for part in parts]
    if len(rows) > _MAX_ROWS:
        return "\n".join([r"{\small", *(_longtable(caption * (i == 0), *part) for i, part in enumerate(contents)), "}"])
    tabulars = "\n\\medskip\n\n".join(_tabular(*part) for part in contents)
    return "\n".join([r"\begin{table}", r"\centering\small", *caption, tabulars, r"\end{table}"])


def _told_once(table: Table) -> tuple[list[int], list[str]]:
    """The places of the columns that a narrow table has, and what the others have in all rows."""
    shown, same = [], []
    for i, column in enumerate(table.columns):
        if column.kind == "curve" or column.name == "configuration":
            continue
        if (
            column.kind == "count"
            and i >= table.keys
            and len(table.data) > 1
            and table.data[column.name].nunique() == 1
        ):
            same.append(f"{column.heading} {cell(column, table.data.iloc[0])}")
        else:
            shown.append(i)
    return shown, same


def _in_two(heading: str) -> tuple[str, str]:
    """A heading on two lines, broken where that makes it narrowest."""
    words = heading.split()
    breaks = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(len(words))]
    return min(breaks, key=lambda lines: max(map(len, lines)))


def _alignment(columns: list[Column], part: list[int]) -> str:
    return "".join("l" if columns[i].is_text else "r" for i in part)


def _latex_rows(headings: list[tuple[str, str]], rows: list[list[str]], part: list[int]) -> tuple[list[str], list[str]]:
    """The lines of a head, of which the upper one may be empty, and of a body."""
    lines = [[_latex(headings[i][k]) for i in part] for k in (0, 1)]
    head, body = (
        [" & ".join(texts) + r" \\" for texts in some]
        for some in ([line for line in lines if any(line)], [[row[i] for i in part] for row in rows])
    )
    return head, body


def _tabular(alignment: str, head: list[str], body: list[str]) -> str:
    begin = rf"\begin{{tabular}}{{{alignment}}}"
    return "\n".join([begin, r"\toprule", *head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def _longtable(caption: list[str], alignment: str, head: list[str], body: list[str]) -> str:
    """A table over several pages, each of which begins with the head."""
    repeated = [r"\toprule", *head, r"\midrule"]
    first = ["".join(caption) + r" \\", *repeated, r"\endfirsthead"] if caption else []
    begin = rf"\begin{{longtable}}{{{alignment}}}"
    return "\n".join([begin, *first, *repeated, r"\endhead", *body, r"\bottomrule", r"\end{longtable}"])


def _slug(text: str) -> str:
    """A name that may stand in a label."""
    return "-".join(re.findall("[a-z0-9]+", text.lower()))


def _set_off(table: Table, columns: list[Column], rows: list[list[str]]) -> bool:
    """Marks the score of the best row and of those that share its rank; returns whether there is anything to mark."""
    scores = [i for i, column in enumerate(columns) if column.kind in ("percent", "loss")]
    if not {"best", "rank"} <= set(table.data) or not scores or len(rows) < 2:
        return False
    for row, best, rank in zip(rows, table.data["best"], table.data["rank"], strict=True):
        if best:
            row[scores[0]] = rf"\textbf{{{row[scores[0]]}}}"
        elif rank == 1:
            row[scores[0]] += r"$^\dagger$"
    return True


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "<": r"$<$",
    ">": r"$>$",
    "†": r"$\dagger$",
    "∞": r"$\infty$",
    "→": r"$\to$",
} | {character: "\\" + character for character in "&%$#_{}"}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


FORMATS: dict[str, Callable[[Report], str]] = {
    "table": plain,
    "markdown": markdown,
    "csv": csv,
    "json": to_json,
    "latex": latex,
}
_ENDINGS = {".html": "html", ".md": "markdown", ".csv": "csv", ".json": "json", ".tex": "latex", ".txt": "table"}


def by_ending(path: Path | None) -> str:
    """The format that a file's ending asks for, a table where it has none. Raises `ArgumentError` for any other."""
    ending = path.suffix.lower() if path else ""
    if ending and ending not in _ENDINGS:
        raise ArgumentError("output", path, f"a name ends in {', '.join(_ENDINGS)}, or the format is named")
    return _ENDINGS.get(ending, "table")
