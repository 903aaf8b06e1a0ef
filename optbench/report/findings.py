"""What the numbers say, in sentences: which optimizer to take, how sure that is, and what to fix in the sweep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from optbench import stats
from optbench.report.formats import cell
from optbench.report.results import Results
from optbench.report.tables import Column, Table
from optbench.scores import Score

ALPHA = 0.05  # of the tests, over all pairs of optimizers together
_NAMED = 4  # the most optimizers that a sentence names
_WORTH_SAYING = 0.05  # a smaller share of the variance explains little


@dataclass(frozen=True)
class Evidence:
    """The tables that sentences are about; None is one that the sweep does not have."""

    optimizers: Table
    defaults: Table | None
    targets: Table | None
    costs: Table | None
    sensitivity: Table | None
    shares: Table | None
    curse: Table | None


def sentences(results: Results, evidence: Evidence) -> list[str]:
    """The findings of a sweep, the most important first."""
    optimizers = evidence.optimizers.data
    rows = [{str(name): value for name, value in row.items()} for row in optimizers.to_dict("records")]
    best = next((row for row in rows if row["best"]), None)
    if best is None:
        return ["No configuration can be recommended: every trial diverged or ended no better than guessing."]
    if results.baseline:
        found = [*_against(results, optimizers), f"The best mean is that of {_best(results, best)}."]
    else:
        found = _ranked(results, best, optimizers[~optimizers["best"]])
    found += _lost(results, optimizers)
    found += _tied_in_selection(results)
    if evidence.defaults is not None:
        found += _out_of_the_box(results.score, evidence.defaults.data)
        found += _gains(results.score, evidence.defaults.data)
    if evidence.targets is not None:
        found += _epochs_to(results.metric, evidence.targets.data)
    if evidence.costs is not None and "equal_seconds" in evidence.costs.data:
        found += _at_equal_seconds(results.score, evidence.costs.data, best)
    if evidence.sensitivity is not None:
        found += _edges(evidence.sensitivity.data)
    found += _diverged(optimizers)
    if evidence.shares is not None:
        found += _causes(results.metric, evidence.shares.data)
    found += _selection(results, evidence.curse)
    found += _machines(results)
    return found


def names(labels: Sequence[str], most: int = _NAMED) -> str:
    """Labels as a sentence lists them: "a, b and 3 others"."""
    if len(labels) > most:
        return f"{', '.join(labels[: most - 1])} and {len(labels) - most + 1} others"
    return " and ".join(filter(None, (", ".join(labels[:-1]), labels[-1])))


# ---------------------------------------------------------------- which optimizer


def _ranked(results: Results, best: Mapping[str, Any], others: pd.DataFrame) -> list[str]:
    """Which optimizer to take, what is worse than it and what ties with it, by each one's own comparison with it."""
    take = f"Take {_best(results, best)}."
    if best["seeds"] == 1:
        return [take, "With one seed nothing says how sure that is: 'seeds: 5' gives intervals and ranks."]
    compared = others[others["p"].notna()]
    differs, ahead = compared["p"] <= ALPHA, results.score.sign * compared["difference"] > 0
    worse, better, tied = (compared[where] for where in (differs & ~ahead, differs & ahead, ~differs))
    candidates, total = [str(best["optimizer"]), *others["optimizer"][others["may_be_best"]]], len(compared) + 1
    if len(tied) >= _NAMED or (len(tied) == len(compared) > 1 and len(candidates) == total):
        keep = f"{len(tied) + 1} of {total} optimizers tie; keep what you have"
        if len(candidates) <= len(tied):
            keep = f"{len(candidates)} of {total} optimizers may be the best on these images"
            keep += "; keep what you have if it is one of them"
        found = [f"{keep}. The best mean is that of {_best(results, best)}."]
    else:
        found = [take]
        if len(tied):
            found.append(f"{names(tied['optimizer'].tolist())} cannot be told apart from it.")
        if len(candidates) <= len(tied):
            found.append(f"Only {names(candidates)} may be the best on these images.")
    seeds = float(tied["seeds_needed"].median())
    if seeds > best["seeds"]:  # else such a difference would have been seen
        number = f"about {seeds:,.0f} seeds" if math.isfinite(seeds) else "more than 10,000 seeds"
        found.append(f"It takes {number} to see a difference of {results.difference(results.rope)}.")
    if len(worse):
        rest = "Every other optimizer" if len(worse) == len(others) > 1 else names(worse["optimizer"].tolist())
        found.append(f"{rest} {_are(worse, rest)} worse ({_p(worse)}){_on_other_images(worse)}.")
    if len(better):  # means are over all seeds of each, comparisons over common ones
        who = names(better["optimizer"].tolist())
        found.append(f"On the seeds that both have, {who} {_are(better)} better ({_p(better)}).")
    return found


def _best(results: Results, best: Mapping[str, Any]) -> str:
    """The best optimizer, its configuration and its score."""
    choices = ["lr", *(name for name in results.choices if name != "lr")]
    how = results.in_words(best["configuration_id"], choices)
    score = cell(Column.of(results.score), best) + ("" if results.score.is_loss else " %")
    fresh = "fresh " if results.confirming is not None else ""
    seeds = f"{best['n']} {fresh}seed{'s' * (best['n'] != 1)}"
    text = f"{best['optimizer']} with {how}: {score} {results.score.words} over {seeds}"
    if best["lost"]:
        text += f"; {best['lost']} of {best['seeds']} were lost"
    if not results.score.is_loss:
        low, high = (100 * best[f"{results.score}_images_{end}"] for end in ("low", "high"))
        text += f"; {low:.1f} to {high:.1f} % on other images"
    return text


def _on_other_images(compared: pd.DataFrame) -> str:
    """Whether what was found over the seeds holds for other images, too, and for whom it may not."""
    if compared["p_images"].isna().all():
        return ", on these images"
    holds = compared["p_images"] <= ALPHA
    if holds.all():
        return f", on other images, too ({_p(compared, 'p_images')})"
    unsure = "this" if len(compared) == 1 else f"that of {names(compared['optimizer'][~holds].tolist())}"
    return f"; other images may change {'all of this' if not holds.any() and len(compared) > 1 else unsure}"


def _against(results: Results, optimizers: pd.DataFrame) -> Iterator[str]:
    """What each optimizer is compared with the baseline: the better ones first."""
    compared = optimizers[(optimizers["optimizer"] != results.baseline) & optimizers["p"].notna()]
    if compared.empty:
        yield f"Nothing can be compared with {results.baseline}: it takes two seeds that both have."
        return
    is_own = compared["optimizer"].isin(results.own)  # what the author asks about comes first
    compared, n_own = pd.concat([compared[is_own], compared[~is_own]]), int(is_own.sum())
    pending = [label for label in results.own if label not in {results.baseline, *compared["optimizer"]}]
    if pending:
        yield f"{names(pending)} cannot be compared with {results.baseline} yet."
    most = next((n for n in (len(compared), n_own) if n <= _NAMED), 0)  # that have a sentence each
    column = Column.of_difference(results.score, "difference", "")
    for row in compared[:most].to_dict("records"):
        difference = cell(column, row) + ("" if results.score.is_loss else " points")
        verdict = _THAN.get(row["verdict"], f"{row['verdict']} than")
        yield f"{row['optimizer']} is {verdict} {results.baseline}: {difference} ({p_in_words(row['p'])}{_for(row)})."
    if most < len(compared):
        verdicts = compared[most:].groupby("verdict", sort=False)["optimizer"]
        parts = [f"{verdict}: {names(labels.tolist())}" for verdict, labels in verdicts]
        yield f"Against {results.baseline}, on these images: {'; '.join(parts)}."


def _for(row: Mapping[Any, Any]) -> str:
    """Whether a verdict holds for other images, too."""
    if row["verdict"] == "undecided":
        return ""
    if row["verdict"] == "equivalent" or math.isnan(row["p_images"]):
        return "; on these images"
    holds = row["p_images"] <= ALPHA
    return f"; {'with' if holds else 'may change with'} other images {p_in_words(row['p_images'])}"


_THAN = {"equivalent": "equivalent to", "undecided": "not told apart from"}


def _p(rows: pd.DataFrame, name: str = "p") -> str:
    """The p of a row, or the largest of several."""
    largest = float(rows[name].max())
    return p_in_words(largest) if len(rows) == 1 else p_in_words(largest).replace("=", "≤")


def p_in_words(p: float) -> str:
    """A p in a sentence: "p = 0.003" or "p < 0.001"."""
    shown = cell(Column("p", "", "p"), {"p": p})
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def _are(rows: pd.DataFrame, subject: str = "") -> str:
    return "is" if len(rows) == 1 or subject.startswith("Every") else "are"


def _lost(results: Results, optimizers: pd.DataFrame) -> Iterator[str]:
    """The seeds that the scores leave out."""
    lost = optimizers[optimizers["lost"] > 0].sort_values("lost", ascending=False, kind="stable")
    if len(lost):
        fresh = " fresh" if results.confirming is not None else ""
        shown = [f"{row.optimizer} {row.lost} of {row.seeds}" for row in lost.itertuples()]
        yield f"Lost{fresh} seeds, which count as guessing: {names(shown)}."


def _tied_in_selection(results: Results) -> Iterator[str]:
    """Optimizers whose selected configuration is not the only best one."""
    if results.confirming is not None:  # selected by the sweep; the tie made no difference to the scores
        return
    tied = stats.ties(results.tuning, ["optimizer"], results.metric)
    shown = [f"{label} ({n + 1})" for label, n in tied.items() if n > 0]
    if shown:
        yield f"Several configurations share the best {results.metric.words}, and one of them is shown: {names(shown)}."


# ---------------------------------------------------------------- defaults


def _out_of_the_box(score: Score, defaults: pd.DataFrame) -> Iterator[str]:
    """Which optimizer is best at its defaults, and what ties with it, or else what is worse."""
    best = next((row for row in defaults.to_dict("records") if row["best"]), None)
    if best is None:
        yield "At their defaults all optimizers lost every seed."
        return
    value = cell(Column.of(score), best) + ("" if score.is_loss else " %")
    text = f"At their defaults, {best['optimizer']} has the best mean, {value}"
    compared = defaults[~defaults["best"]].assign(p=defaults["p_best"]).dropna(subset="p")
    tied = compared[compared["p"] > ALPHA]
    worse = compared[(compared["p"] <= ALPHA) & (score.sign * compared["difference_best"] < 0)]
    if len(tied):
        text += f"; {names(tied['optimizer'].tolist())} cannot be told apart from it"
    elif len(worse):
        text += f"; {names(worse['optimizer'].tolist())} {_are(worse)} worse ({_p(worse)}), on these images"
    yield f"{text}."


def _gains(score: Score, defaults: pd.DataFrame) -> Iterator[str]:
    """What tuning gains, loses, or cannot be shown to change."""
    tested = defaults[defaults["p"].notna()]
    differs = tested["p"] <= ALPHA
    better, worse = (tested[differs & (sign * tested["gain"] > 0)] for sign in (1, -1))
    for verb, rows in (("gains", better), ("costs", worse)):
        if len(rows):
            yield f"Tuning {verb} {_by_how_much(score, rows)} ({_p(rows)}), on these images."
    unclear = tested[~differs]["optimizer"].tolist()
    if unclear:
        yield f"Whether tuning helps {names(unclear)} cannot be told."
    same = defaults[defaults["is_selected"]]["optimizer"].tolist()
    if same:
        yield f"Tuning selected the defaults of {names(same)}."


def _by_how_much(score: Score, rows: pd.DataFrame) -> str:
    """The gains without their sign: "sgd 40.20 ± 1.10 points and adam 0.80 ± 0.20 points", or of many their range."""
    column, unit = Column("size", "", Column.of(score).kind), "" if score.is_loss else " points"
    sign = 1 if (rows["gain"] > 0).all() else -1
    ends = {"size": "gain", "size_low": "gain_low", "size_high": "gain_high"}
    if sign < 0:
        ends |= {"size_low": "gain_high", "size_high": "gain_low"}
    sizes = rows.assign(**{name: sign * rows[end] for name, end in ends.items()})
    sizes = sizes.sort_values("size", ascending=False, kind="stable")
    if len(sizes) > _NAMED:
        least, most = (cell(column, {"size": sizes["size"].iloc[place]}) for place in (-1, 0))
        return f"{len(sizes)} optimizers {least} to {most}{unit}"
    return names([f"{row['optimizer']} {cell(column, row)}{unit}" for row in sizes.to_dict("records")])


# ---------------------------------------------------------------- what else


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


def _at_equal_seconds(score: Score, costs: pd.DataFrame, best: Mapping[str, Any]) -> Iterator[str]:
    """Who is surely ahead of the best one when all have had the same seconds, even if that could end its epoch."""
    (mine,) = costs[costs["optimizer"] == best["optimizer"]].to_dict("records")
    ahead = next((row for row in costs.to_dict("records") if row["best"]), mine)
    behind = (mine["difference"], mine["next_epoch"] - ahead["at_equal_seconds"])  # 0 or NaN if it is ahead itself
    if mine["p"] <= ALPHA and all(score.sign * difference < 0 for difference in behind):
        column = replace(Column.of(score), name="at_equal_seconds")
        first, second = (cell(column, row) + ("" if score.is_loss else " %") for row in (ahead, mine))
        yield (
            f"At equal seconds ({mine['equal_seconds']:.3g} s) {ahead['optimizer']} is ahead of {mine['optimizer']}: "
            f"{first} to {second} {score.words} ({p_in_words(mine['p'])}), on these images."
        )


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
        yield f"Of the variance of the log {error_in_words(metric)} where training works, {names(parts)}."


def error_in_words(metric: Score) -> str:
    """What is wrong by this score: "validation error", or a loss."""
    return metric.words.replace("accuracy", "error")


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


def _machines(results: Results) -> Iterator[str]:
    """The optimizers whose rows another kind of machine measured, or may have."""
    for share in results.shares[1:]:
        if share.optimizers and not share.is_as(results.shares[0]):
            there, here = share.measured, results.shares[0].measured
            where = f"measured on {there}, the others on {here}" if there != here else f"all measured on {there}"
            be = "is" if len(share.optimizers) == 1 else "are"
            yield (
                f"{names(share.optimizers)} {be} from {share.name}, {where}: on another kind of machine an lr near the "
                "edge of stability may round to other scores, as with another seed."
            )
