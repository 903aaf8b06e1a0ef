"""What the numbers say, in sentences: which optimizer to take, how sure that is, and what to fix in the sweep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from optbench.report.formats import cell
from optbench.report.results import Results
from optbench.report.tables import Column, Table
from optbench.scores import Score

ALPHA = 0.05  # of the tests, over all pairs of optimizers together
_NAMED = 4  # the most optimizers that a sentence names
_WORTH_SAYING = 0.05  # a smaller share of the variance explains little


def sentences(
    results: Results,
    optimizers: Table,
    targets: Table | None,
    sensitivity: Table | None,
    shares: Table | None,
    curse: Table | None,
) -> list[str]:
    """The findings of a sweep, the most important first, from the tables of these names."""
    rows = [{str(name): value for name, value in row.items()} for row in optimizers.data.to_dict("records")]
    best = next((row for row in rows if row["best"]), None)
    if best is None:
        return ["No configuration can be recommended: no trial was trained to its end without diverging."]
    found = [_recommendation(results, best), *_ties(results, best, optimizers.data[~optimizers.data["best"]])]
    if targets is not None:
        found += _epochs_to(results.metric, targets.data)
    if sensitivity is not None:
        found += _edges(sensitivity.data)
    found += _diverged(optimizers.data)
    if shares is not None:
        found += _causes(results.metric, shares.data)
    found += _selection(results, curse)
    return found


def names(labels: Sequence[str], most: int = _NAMED) -> str:
    """Labels as a sentence lists them: "a, b and 3 others"."""
    if len(labels) > most:
        return f"{', '.join(labels[: most - 1])} and {len(labels) - most + 1} others"
    return " and ".join(filter(None, (", ".join(labels[:-1]), labels[-1])))


def _recommendation(results: Results, best: Mapping[str, Any]) -> str:
    choices = ["lr", *(name for name in results.choices if name != "lr")]
    how = results.in_words(best["configuration_id"], choices)
    score = cell(Column.of(results.score), best) + ("" if results.score.is_loss else " %")
    fresh = " fresh" if results.confirming is not None else ""
    seeds = f"{best['n']}{fresh} seed{'s' * (best['n'] != 1)}"
    return f"Take {best['optimizer']} with {how}: {score} {results.score.words} over {seeds}."


def _ties(results: Results, best: Mapping[str, Any], others: pd.DataFrame) -> Iterator[str]:
    """What is worse than the best and what ties with it, by each one's own comparison with it."""
    if best["n"] == 1:
        yield "With one seed nothing says how sure that is: 'seeds: 5' gives intervals and ranks."
        return
    compared = others[others["p"].notna()]
    differs = compared["p"] <= ALPHA
    ahead = results.score.sign * compared["difference"] > 0
    worse, better, tied = (compared[where] for where in (differs & ~ahead, differs & ahead, ~differs))
    if compared.empty:
        return
    if len(worse) == len(compared):
        whom = "every other optimizer" if len(worse) == len(others) > 1 else names(worse["optimizer"].tolist())
        yield f"It is significantly better than {whom}."
        return
    if len(tied) == len(compared) > 1:
        yield "No other optimizer can be told apart from it."
    elif len(tied):
        yield f"{names(tied['optimizer'].tolist())} cannot be told apart from it."
    needed = tied[tied["seeds_needed"].map(math.isfinite)].sort_values("seeds_needed", kind="stable").head(1)
    for row in needed.to_dict("records"):
        yield f"About {row['seeds_needed']:,.0f} seeds would tell {row['optimizer']} from it."
    if len(worse):
        yield f"{names(worse['optimizer'].tolist())} {_are(worse)} significantly worse."
    if len(better):  # means are over all seeds of each, comparisons over common ones
        yield f"On the seeds that both have, {names(better['optimizer'].tolist())} {_are(better)} significantly better."


def _are(rows: pd.DataFrame) -> str:
    return "is" if len(rows) == 1 else "are"


def _epochs_to(metric: Score, targets: pd.DataFrame) -> Iterator[str]:
    target = targets["target"].iloc[0]
    order = targets.sort_values("epochs_to", kind="stable")
    reached = order[order["epochs_to"].map(math.isfinite)]
    missed = order[~order["epochs_to"].map(math.isfinite)]["optimizer"].tolist()
    if reached.empty or len(order) < 2:
        return
    least = float(reached["epochs_to"].iloc[0])
    first = reached[reached["epochs_to"] == least]["optimizer"].tolist()
    later = [
        f"{row['optimizer']} {row['epochs_to'] - least:g} more"
        for row in reached[reached["epochs_to"] > least].to_dict("records")
    ]
    if len(later) > _NAMED:
        later = [f"{len(later)} others more"]
    need = f"need{'s' * (len(first) == 1)} {least:g} epoch{'s' * (least != 1)}"
    parts = [f"To {metric.written(target)} {metric.words}, {names(first)} {need}", *([names(later)] if later else [])]
    if missed:
        parts.append(f"{names(missed)} mostly do{'es' * (len(missed) == 1)} not get there")
    yield "; ".join(parts) + "."


def _edges(sensitivity: pd.DataFrame) -> Iterator[str]:
    for edge, where, mend in (("high", "highest", "upward"), ("low", "lowest", "downward")):
        at = sensitivity[sensitivity["edge"] == edge]["optimizer"].tolist()
        if at:
            whose = f"{at[0]}'s best lr" if len(at) == 1 else f"The best lr of {names(at)}"
            yield f"{whose} is the {where} that was tried: extend {'its' if len(at) == 1 else 'their'} range {mend}."


def _diverged(optimizers: pd.DataFrame) -> Iterator[str]:
    lost = optimizers[optimizers["diverged"] > 0].sort_values("diverged", ascending=False, kind="stable")
    if len(lost):
        shown = [f"{row.optimizer} {row.diverged} of {row.trials}" for row in lost.itertuples()]
        yield f"Trials that diverged: {names(shown)}."


def _causes(metric: Score, shares: pd.DataFrame) -> Iterator[str]:
    large = shares[(shares["share"] >= _WORTH_SAYING) & shares["kind"].isin(["main", "pair"])]
    large = large.sort_values("share", ascending=False, kind="stable").head(3)
    if len(large):
        shown = zip(large["factor"], large["share"], strict=True)
        parts = [f"{name} explains {100 * share:.0f} %" for name, share in shown]
        yield f"Of the variance of {metric.words}, {names(parts)}."


def _selection(results: Results, curse: Table | None) -> Iterator[str]:
    if curse is not None and len(curse.data) and not results.metric.is_loss:
        gap = 100 * float(curse.data["gap"].mean())
        yield (
            f"On fresh seeds the selected configurations' {results.metric.words} is {abs(gap):.2f} points "
            f"{'lower' if gap >= 0 else 'higher'} on average than on those that selected them."
        )
    if results.confirming is None and results.choices:
        yield (
            "Selection and score share their seeds, which flatters what won: 'confirm: {seeds: 10}' scores it on fresh "
            "ones."
        )
