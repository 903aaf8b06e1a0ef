"""Rows → what was published beside what was measured, a table for each case."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from optbench.report.tables import Column, Report, Table
from optbench.verify.published import Case, Published
from optbench.verify.verdict import Judgement, Verdict, judge
from optbench.wording import count

_COLUMNS = (
    Column("accuracy", "accuracy"),
    Column("expected", "published"),
    Column("measured", "measured", "percent"),
    Column("n", "n", "count"),
    Column("difference", "difference", "points"),
    Column("verdict", "verdict"),
)
_NOTE = (
    "Accuracies in percent. Published: the mean of several runs ± their standard deviation, or one run ± the tolerance "
    "stated for it. n: seeds measured; difference: measured − published, ± its interval where several runs were "
    "published (Student's t, pooled variances; 95 % for all lines of a table together). hit: the interval contains 0, "
    "or the difference is within the tolerance; a seed that diverged is a miss; not reached: no run came as far."
)


def report(rows: Mapping[str, pd.DataFrame], cases: Sequence[Case], how: str) -> Report:
    """The outcome of cases from their rows, by name; `how` says how they were trained."""
    tables = tuple(_table(case, rows[case.name]) for case in cases)
    verdicts = pd.concat([table.data["verdict"] for table in tables])
    summary = f"{count(len(cases), 'published result')}, {how}"
    return Report("verify", summary, tuple(_findings(cases, tables, verdicts)), tables, _NOTE)


def is_missed(outcome: Report) -> bool:
    """Whether any number was missed."""
    return any((table.data["verdict"] == Verdict.miss).any() for table in outcome.tables)


def measured(rows: pd.DataFrame, published: Published) -> list[float]:
    """What each trial scored at that point, in percent; NaN for one that diverged before."""
    own = rows if published.optimizer is None else rows[rows["optimizer"] == published.optimizer]
    name, at = ("epoch", published.epoch) if published.step is None else ("step", published.step)
    scores = own[own[name] == at].set_index("trial_id")[str(published.score)] * published.score.scale
    diverged = own["trial_id"][(own["status"] == "diverged") & (own[name] <= at)].unique()
    return [*scores.astype(float), *(math.nan for trial in diverged if trial not in scores.index)]


def _table(case: Case, rows: pd.DataFrame) -> Table:
    data = pd.DataFrame([_row(case, value, rows) for value in case.values])
    caption = f"{case.title}: {case.source}. {' '.join(case.notes.split())}"
    return Table(case.name, caption, _COLUMNS, data)


def _row(case: Case, published: Published, rows: pd.DataFrame) -> dict[str, Any]:
    """A line of the table; scores and differences as shares, as in all tables."""
    judged, scale = judge(published, measured(rows, published), case.with_sd), published.score.scale
    half = judged.half / scale if published.tolerance is None else math.nan
    difference = judged.difference / scale
    return {
        "accuracy": published.in_words,
        "expected": f"{published.mean:.2f} ± {published.sd or published.tolerance:.2f}",
        "published": published.mean / scale,
        "sd": None if published.sd is None else published.sd / scale,
        "runs": published.n,
        "tolerance": None if published.tolerance is None else published.tolerance / scale,
        "measured": judged.mean / scale,
        "n": _seeds(judged),
        "difference": difference,
        "difference_low": difference - half,
        "difference_high": difference + half,
        "verdict": str(judged.verdict),
    }


def _seeds(judged: Judgement) -> str:
    """How many seeds were measured; with those that diverged."""
    return f"{judged.n - judged.lost}/{judged.n}" if judged.lost else str(judged.n)


def _findings(cases: Sequence[Case], tables: Sequence[Table], verdicts: pd.Series) -> Iterator[str]:
    """How many numbers are reproduced, and which are not."""
    counts = {verdict: int((verdicts == verdict).sum()) for verdict in Verdict}
    others = f"missed: {counts[Verdict.miss]}; not reached: {counts[Verdict.not_reached]}"
    yield f"Reproduced: {counts[Verdict.hit]} of {count(len(verdicts), 'published number')}; {others}."
    for case, table in zip(cases, tables, strict=True):
        for row in table.data[table.data["verdict"] == Verdict.miss].to_dict("records"):
            found = "diverged" if math.isnan(row["difference"]) else f"{100 * row['difference']:+.2f} points"
            yield f"Missed: {case.name}, {row['accuracy']} ({found})."
