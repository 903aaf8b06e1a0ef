"""The tables that rank: who is best, how sure that is, and the same for each axis of a sweep."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import pandas as pd

from optbench import stats
from optbench.report.results import Results
from optbench.report.tables import Column, Table
from optbench.scores import Score
from optbench.sweep.axes import COMPARED
from optbench.wording import count, out_of

# For each axis the title of its table, and its name as a heading.
_AXES = {name: (axis.title, axis.heading) for name, axis in COMPARED.items()} | {"lr": ("Learning rates", "lr")}
_GAP = Column("gap", "train − validation", "points")
_SECONDS = Column("seconds_per_epoch", "seconds per epoch", "seconds")
_RANK = Column("rank", "rank", "rank")
_AGAINST = (
    "Differences: to {0}, seed by seed, with their own 95 % interval. p: paired t test with moderated variances, "
    "corrected for the comparisons with {0} of rows that are ranked together."
)


def _others(results: Results, *columns: Column) -> list[Column]:
    """Columns that stand beside the score that ranks, without that itself."""
    return [column for column in columns if column != Column.of(results.score)]


def optimizers(results: Results) -> Table:
    """The optimizers, each with its selected configuration, from the best to the worst."""
    table = axis(results, ["optimizer"])
    budgets = results.outline.budgets
    data = table.data.assign(budget=[budgets.get(label, 0) for label in table.data["optimizer"]])
    data["curve"] = _curves(results, data)
    if not results.score.is_loss:
        low, high = stats.wilson(data[results.score], results.images)
        data = data.assign(**{f"{results.score}_images_low": low, f"{results.score}_images_high": high})
    table = replace(table, data=data)
    if not results.query.where:  # else only those are asked about that it leaves
        table = _with_all(table, results.outline.optimizers)
    columns = list(table.columns)
    if results.baseline and _RANK in columns:
        heading, after = f"difference to {results.baseline}", columns.index(Column.of(results.score)) + 1
        columns.insert(after, Column("verdict", "verdict"))
        columns.insert(after, Column.of_difference(results.score, "difference", heading))
    elif (data["may_be_best"] != (data["rank"] == 1)).any() and _RANK in columns:
        columns.insert(columns.index(_RANK) + 1, Column("may_be_best", "may be best", "yes"))
    at = columns.index(Column("n", "n", "count")) + 1
    columns.insert(at, Column("budget", "budget", "count"))
    if data["curve"].map(len).max() > 1:
        columns.insert(at, Column("curve", "by epoch", "curve"))
    table = replace(table, columns=tuple(columns))
    if results.confirming is not None:
        missing = table.data[(table.data["n"] == 0) & (table.data["configuration"] != "")]["optimizer"]
        if len(missing):
            table = replace(table, caption=f"Not confirmed yet: {', '.join(missing)}.")
    return table


def _curves(results: Results, data: pd.DataFrame) -> list[tuple[float, ...]]:
    """For each row its accuracy by epoch as heights from 0 to 1, on one logarithmic scale of the error.

    From the first epoch on: before training all are alike, and so far below that the rest would look alike, as well.
    """
    curves = stats.by_epoch(results.scored_rows, data["configuration_id"].tolist())
    curves = curves[curves["epoch"] > 0]
    errors = (1 - curves[results.followed]).clip(lower=1e-4).map(math.log10)
    low, high = errors.min(), errors.max()
    heights = (high - errors) / (high - low) if high > low else errors * 0
    by_optimizer = {key: tuple(part.tolist()) for key, part in heights.groupby(curves["optimizer"], sort=False)}
    return [by_optimizer.get(label, ()) for label in data["optimizer"]]


def _with_all(table: Table, optimizers: Iterable[str]) -> Table:
    """The table with a row also for each optimizer that has no trained trial, or none yet."""
    lost = [label for label in optimizers if label not in set(table.data["optimizer"])]
    if not lost:
        return table
    counts = dict.fromkeys(("n", "seeds", "lost", "trials", "diverged", "budget"), 0)
    none = {**counts, "lost_of": "0/0", "best": False, "may_be_best": False, "verdict": "", "curve": ()}
    empty = pd.DataFrame([{"optimizer": label, "configuration_id": "", "configuration": "", **none} for label in lost])
    return replace(table, data=pd.concat([table.data, empty], ignore_index=True))


def differences(results: Results, optimizers: pd.DataFrame) -> Table | None:
    """How each optimizer differs from the baseline, or from the best one, seed by seed."""
    with_ = optimizers["optimizer"] == results.baseline if results.baseline else optimizers["best"]
    data = optimizers[~with_ & optimizers["p"].notna()]
    if data.empty:
        return None
    data = data.assign(n=data["n_both"].astype(int), difference_images=data["difference"])
    knows_images, rope = bool(data["p_images"].notna().any()), results.difference(results.rope)
    columns = (
        Column("optimizer", "optimizer"),
        Column.of_difference(results.score, "difference", f"{results.score.heading}, difference"),
        Column("n", "n", "count"),
        Column("verdict", "verdict"),
        Column("p", "p", "p"),
        *([Column.of_difference(results.score, "difference_images", "on other images")] if knows_images else []),
        *([Column("p_images", "p", "p")] if knows_images else []),
        Column("effect", "effect size", "effect"),
        *([] if math.isnan(results.rope) else [Column("seeds_needed", f"seeds for {rope}", "seeds")]),
    )
    ends = [f"{name}_{end}" for name in ("difference", "difference_images") for end in ("low", "high")]
    keep = dict.fromkeys([*(column.name for column in columns), *ends, "p_images", "p_equivalent"])
    title = f"Differences to {optimizers['optimizer'][with_].iloc[0]}"
    caption = _caption_of_differences(results, len(data), knows_images)
    return Table(title, caption, columns, data[list(keep)].reset_index(drop=True))


def _caption_of_differences(results: Results, others: int, knows_images: bool) -> str:
    parts = [
        "Mean of the differences over the n seeds that both have, with its own 95 % interval. p: paired t test with "
        f"moderated variances, corrected for {_family(results, others)}. Effect size: in standard deviations between "
        "seeds."
    ]
    if not math.isnan(results.rope):
        why = "as asked for" if results.query.rope else "the standard error of the best accuracy on so few images"
        parts.append(
            f"Differences below {results.difference(results.rope)} ({why}) do not matter: what surely lies within is "
            "equivalent (two one-sided tests, Schuirmann 1987). Seeds: how many find such a difference in four of five "
            "repetitions."
        )
    if knows_images:
        parts.append(
            f"All this is about other seeds on these {results.images:,} images; under 'on other images', and for the p "
            "after it, both seeds and images are others (crossed random effects, Owen 2007)."
        )
    return " ".join(parts)


def _family(results: Results, others: int) -> str:
    """The tests that are corrected for together."""
    own = [label for label in results.tuning["optimizer"].unique() if label in results.reference.asked]
    if results.baseline and own:
        also = f", and apart from them for {count(others - len(own), 'other')}" if others > len(own) else ""
        return f"{count(len(own), 'comparison')} of {', '.join(own)} with {results.baseline}{also}"
    if results.baseline:
        return f"{count(others, 'comparison')} with {results.baseline}"
    return f"all {others * (others + 1) // 2:,} pairs of rows"


def groups(results: Results) -> list[list[str]]:
    """The columns of each ranking in a report: the optimizers, then each axis and each listed hyperparameter."""
    outer = ["optimizer"] if "optimizer" in results.varying else []
    axes = [[*outer, axis] for axis in results.varying if axis != "optimizer"]
    return [["optimizer"], *axes, *(["optimizer", name] for name in results.listed)]


def shown(results: Results, by: Sequence[str]) -> set[str]:
    """Ids of the configurations in the table `axis` by these columns."""
    return set(stats.chosen(_selecting(results, by), by, results.metric, _confirming(results, by)))


def _confirming(results: Results, by: Sequence[str]) -> pd.DataFrame | None:
    """The trials on fresh seeds, which score optimizers as a whole."""
    return results.confirming if list(by) == ["optimizer"] else None


def _selecting(results: Results, by: Sequence[str]) -> pd.DataFrame:
    """The tuning trials that a ranking by these columns selects from."""
    finals, axis = results.tuning, by[-1]
    for name in by:
        if name not in _AXES:  # a hyperparameter that some optimizers do not have
            finals = finals[finals[name].notna()]
    if axis not in COMPARED and list(by) == ["optimizer", axis]:
        values = finals.groupby("optimizer")[axis].nunique()
        finals = finals[finals["optimizer"].isin(values[values > 1].index)]
    return finals


def axis(results: Results, by: Sequence[str]) -> Table:
    """A table with a row for each combination of the columns `by`: the best configuration of all else."""
    by, axis, finals, confirming = list(by), by[-1], _selecting(results, by), _confirming(results, by)
    correct = results.correct if by == ["optimizer"] else None
    reference = results.reference
    if is_against_default := axis in COMPARED and COMPARED[axis].is_against_default:
        reference = replace(reference, baseline=COMPARED[axis].default, asked=frozenset())
    data = stats.compare(finals, by, results.metric, confirming, results.score, results.timed, reference, correct)
    if is_against_default:
        data = _with(data, by, reference.baseline)
    if axis != "optimizer":
        data = _in_order(data, by)
    choices = [name for name in results.choices if name not in by]
    data["configuration"] = [results.in_words(i, choices) for i in data["configuration_id"]]
    data["lost_of"] = out_of(data["lost"], data["seeds"])
    plain = {name: name.removeprefix(stats.HYPERPARAMETER) for name in by}
    data = data.rename(columns={name: short for name, short in plain.items() if short not in data})
    by = [short if short in data else name for name, short in plain.items()]
    axis = by[-1]
    title, heading = _AXES.get(axis, (f"Hyperparameter {plain.get(axis, axis)}", plain.get(axis, axis)))
    if len(by) > 2 or (len(by) == 2 and by[0] != "optimizer"):
        title = " × ".join(_AXES.get(name, ("", name))[1] for name in by)
    others: tuple[Column, ...] = (Column.of(results.followed),)
    if axis == "dropout" and results.is_validated:
        others = (Column.of(Score.train_accuracy), Column.of(Score.val_accuracy), _GAP)
    if axis == "batch_size" or results.query.seconds:
        others = (*others, _SECONDS)
    columns = [Column(name, _AXES.get(name, ("", name))[1]) for name in by[:-1]] + [Column(axis, heading)]
    if len(data) > 1:
        columns.append(_RANK)
    columns.append(Column.of(results.score))
    compared = is_against_default and bool(data["p"].notna().any())
    if compared:
        columns.append(Column.of_difference(results.score, "difference", f"difference to {reference.baseline}"))
        columns += [Column("verdict", "verdict"), Column("p", "p", "p")]
    columns += [*_others(results, *others), Column("n", "n", "count"), Column("lost_of", "lost", "count")]
    if choices:
        columns.append(Column("configuration", "best configuration", "prose"))
    caption = _caption(results, data, columns, confirming)
    if compared:
        caption = f"{_AGAINST.format(reference.baseline)} {caption}".strip()
    return Table(title, caption, tuple(columns), data, keys=len(by))


def _with(data: pd.DataFrame, by: Sequence[str], default: Hashable) -> pd.DataFrame:
    """The table without differences where there is no row to compare with: those are to the best row."""
    is_default, outer = data[by[-1]] == default, [data[name] for name in by[:-1]] or [data[by[-1]].notna()]
    has = is_default.groupby(outer, observed=True).transform("any")
    none = dict.fromkeys(("difference", "difference_low", "difference_high", "p"), math.nan) | {"verdict": ""}
    return data.assign(**{name: data[name].where(has, other) for name, other in none.items()})


def _caption(results: Results, data: pd.DataFrame, columns: Sequence[Column], confirming: pd.DataFrame | None) -> str:
    """Where the numbers of a ranking come from, if that is not the same everywhere."""
    parts = []
    if results.confirming is not None and confirming is None:
        parts.append(
            f"Selected by {results.metric} and scored on the same tuning seeds. The headline is on fresh seeds: its "
            f"number may be higher or lower than these, and what it names need not have the best {results.score} here."
        )
    if _SECONDS in columns:
        none = (
            "" if data["seconds_per_epoch"].notna().any() else ", and here none did: 'optbench run SWEEP --timing' does"
        )
        parts.append(f"Seconds are measured on trials that ran alone on the machine{none}.")
    return " ".join(parts)


def _in_order(data: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Groups in the order of their best row, values within a group in ascending order."""
    ranks = {name: {value: i for i, value in enumerate(data[name].unique())} for name in by[:-1]}

    def key(column: pd.Series) -> pd.Series:
        if column.name in ranks:
            return column.map(ranks[column.name])
        if column.name == "dropout":
            return pd.to_numeric(column, errors="coerce")
        if column.dtype == object:  # words beside numbers: optimizers from elsewhere share names, not meanings
            ordered = sorted(column.unique(), key=lambda value: (isinstance(value, str), value))
            return column.map({value: i for i, value in enumerate(ordered)})
        return column

    return data.sort_values(list(by), key=key, kind="stable", ignore_index=True)
