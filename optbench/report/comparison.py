"""Two folders of results → what changed from A to B: a report, and conditions on its numbers that a CI job fails on."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from optbench import stats
from optbench.errors import ArgumentError, UserError, did_you_mean
from optbench.report.findings import names
from optbench.report.formats import written
from optbench.report.results import in_words
from optbench.report.tables import Column, Report, Table
from optbench.results.store import Outline, Store
from optbench.scores import Score
from optbench.sweep.axes import COMPARED
from optbench.wording import count

_AXES = [name for name, axis in COMPARED.items() if not axis.is_resolved]
BY = (*_AXES, "algorithm", "lr")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# What a condition may be about, and what a value is multiplied by: a difference of accuracies is shown in points.
_WITH_INTERVAL = {str(score): score.scale for score in Score} | {"seconds": 1.0}
CONDITIONS = {
    **_WITH_INTERVAL,
    **{f"{name}_{end}": scale for name, scale in _WITH_INTERVAL.items() for end in ("low", "high")},
    "diverged": 1.0,
    "changed": 1.0,
}
_NAMED = 3  # findings or trials in a line; nobody reads more
_UNKNOWN = "not known"
_MANY = 20  # intervals; of this many or more, some exclude 0 by chance
# What may differ between two sides that are compared, and is then reported.
_SURROUNDINGS = (*stats.ROUNDING, "python_version", "os", "optbench_version")


# ---------------------------------------------------------------- the two sides


@dataclass(frozen=True)
class _Side:
    """One folder: the rows of the sweep that ran last there."""

    name: str
    folder: Path
    outline: Outline
    rows: pd.DataFrame

    def splits(self, dataset: str) -> dict[str, int]:
        """How many images each split of a dataset has, where that is known."""
        known = self.outline.splits
        return known.get(dataset, known.get("", {}))

    @property
    def networks(self) -> dict[str, int | None]:
        """The models trained, and how many parameters each has where that is known."""
        return {model: self.outline.networks.get(model) for model in self.rows["model"].unique()}

    @property
    def in_words(self) -> str:
        found: dict[Any, int] = stats.states(self.rows)["status"].value_counts().to_dict()
        total = sum(self.outline.optimizers.values())
        found["missing"] = total - sum(found.values())
        words = {"stopped": "stopped early", "running": "unfinished"}
        shown = (f"{n} {words.get(status, status)}" for status, n in found.items() if n)
        return f"{self.name} {self.folder} ({total} trial{'s' * (total != 1)}: {', '.join(shown)})"


def _side(name: str, store: Store) -> _Side:
    rows, outline = store.rows(), store.outline()
    order = {trial_id: i for i, trial_id in enumerate(outline.ids)}
    rows = rows.sort_values("trial_id", key=lambda ids: ids.astype(object).map(order), kind="stable", ignore_index=True)
    timed = store.timed(["trial_id", "train_seconds"], last=True).set_index("trial_id")["train_seconds"]
    again = rows["trial_id"].isin(timed.index)
    rows.loc[again, ["stack_size", "workers"]] = 1
    rows.loc[again, "train_seconds"] = rows.loc[again, "trial_id"].astype(object).map(timed)
    if not rows["status"].isin(["finished", "diverged"]).any():
        raise UserError(f"{name}, {store.folder}: no trial has finished yet")
    return _Side(name, store.folder, outline, rows)


def _refuse(a: _Side, b: _Side) -> tuple[str, ...]:
    """What is not compared though it is there, in words. Raises `UserError` where the two must not be compared."""
    if a.folder.resolve() == b.folder.resolve():
        raise UserError(f"{a.folder} and {b.folder} are the same folder")
    both = f"{a.folder} and {b.folder} must not be compared"
    datasets = [sorted(side.rows["dataset"].unique()) for side in (a, b)]
    common = set(datasets[0]) & set(datasets[1])
    if not common:
        trained = (f"{side.name} on {', '.join(names)}" for side, names in zip((a, b), datasets, strict=True))
        raise UserError(f"{both}: they trained on different datasets, {' and '.join(trained)}")
    for dataset in sorted(common):
        _refuse_splits(both, "the data" if len(common) == 1 else dataset, a.splits(dataset), b.splits(dataset))
    here, there = a.networks, b.networks
    if not here.keys() & there.keys():
        raise UserError(f"{both}: they trained different networks, A {', '.join(here)} and B {', '.join(there)}")
    for model in here.keys() & there.keys():
        sizes = (here[model], there[model])
        if None not in sizes and sizes[0] != sizes[1]:
            raise UserError(
                f"{both}: model {model} is another network: {sizes[0]:,} parameters in A, {sizes[1]:,} in B"
            )
    return (*_one_sided_values("dataset", *datasets), *_one_sided_values("model", here, there))


def _refuse_splits(both: str, data: str, a: Mapping[str, int], b: Mapping[str, int]) -> None:
    differing = [split for split in a if split in b and a[split] != b[split]]
    if differing:
        images = [f"{split} has {a[split]:,} images in A and {b[split]:,} in B" for split in differing]
        raise UserError(f"{both}: their splits of {data} differ: {'; '.join(images)}")


def _one_sided_values(axis: str, a: Iterable[str], b: Iterable[str]) -> Iterator[str]:
    for name, only in (("A", set(a) - set(b)), ("B", set(b) - set(a))):
        if only:
            values = f"{axis}{'s' * (len(only) > 1)} {', '.join(sorted(only))}"
            yield f"Only {name} has the {values}; only what both have is compared."


def _disjoint(a: _Side, b: _Side, configuration: Iterable[str]) -> str:
    """Why two sides have no configuration in common."""
    sides = [stats.with_labels(side.rows) for side in (a, b)]
    for column in configuration:
        values = [list(dict.fromkeys(map(written, rows[column].unique()))) for rows in sides]
        if not set(values[0]) & set(values[1]):
            sets = (
                f"{', '.join(v[:_NAMED])}{', …' * (len(v) > _NAMED)} in {n}" for v, n in zip(values, "AB", strict=True)
            )
            return f"{column} is {' and '.join(sets)}"
    return "no combination of their values is on both sides"


# ---------------------------------------------------------------- the report

_PHASES = {
    "tune": ("What changed from A to B", ""),
    "confirm": ("What changed on fresh seeds", "On fresh seeds, "),
    "default": ("What changed at defaults", "At their defaults, "),
}
_NOTE = (
    "Differences are B − A of the scores after the last epoch, of trials that finished on both sides; trials of one "
    "seed are averaged first. n: seeds; ±: 95 % interval over them (Student's t; none for n = 1). identical: trials "
    "with every score of every epoch bit-identical, of those paired. diverged: in A → in B, trials whose loss became "
    "infinite or NaN, of those paired."
)
_WELCH = (
    " Where n names two numbers the seeds of A and B differ: each side is averaged by itself, over the configurations "
    "complete on both, ± is Welch's interval, and diverged counts all trials of the configurations on both sides."
)
_SECONDS = " seconds: B / A of the time of an epoch, geometric mean over trials that ran alone on both sides."


def compare(a: Store, b: Store, by: Sequence[str] = ("optimizer",)) -> Report:
    """What changed from the results in `a` to those in `b`; a row for each combination of the columns `by`.

    Raises `UserError` when a folder cannot be read, when the two must not be compared, and when nothing pairs.
    """
    for column in by:
        if column not in BY:
            raise ArgumentError("by", column, did_you_mean(column, BY))
    sides = (_side("A", a), _side("B", b))
    not_compared = _refuse(*sides)
    matched = stats.match(sides[0].rows, sides[1].rows)
    if matched.a.empty:
        why = _disjoint(*sides, matched.configuration)
        raise UserError(f"{a.folder} and {b.folder} have no configuration in common: {why}")
    tables, findings = [], [_identity(matched.pairs), *_why(matched.pairs)]
    for phase, (title, where) in _PHASES.items():
        part = matched.of_phase(phase)
        if part.a.empty:
            continue
        data, total = stats.changes(part, by), stats.changes(part, ())
        if total["changed"].item() != 0:  # NaN where none pairs
            findings.append(_differences(data, total, by, where))
        if phase == "tune" and tuple(by) == ("optimizer",):
            data = pd.concat([data, _lost(data, sides)], ignore_index=True)
        tables.append(_table(title, part, data, total, by))
    tables[0] = replace(tables[0], caption=_caption(matched))
    one_sided = _one_sided(matched.pairs)
    findings += _divergence(matched.pairs)
    note = _NOTE
    if any(_is_unpaired(row) for table in tables for row in table.data.itertuples()):
        note += _WELCH
    if any(column.name == "seconds" for table in tables for column in table.columns):
        note += _SECONDS
    if one_sided:
        tables.append(one_sided)
    names = dict.fromkeys(side.outline.name for side in sides)
    summary = "; ".join(side.in_words for side in sides)
    return Report(" and ".join(names), summary, (*findings, *not_compared), tuple(tables), note)


def _table(title: str, matched: stats.Matched, data: pd.DataFrame, total: pd.DataFrame, by: Sequence[str]) -> Table:
    if len(data) > 1:
        data = pd.concat([data, total.assign(**{by[0]: "all"} | dict.fromkeys(by[1:], ""))], ignore_index=True)
    data["seeds"] = [f"{r.n_a} and {r.n_b}" if _is_unpaired(r) else str(r.n_a) for r in data.itertuples()]
    data["identical_of"] = [f"{r.identical}/{r.trials}" if r.paired else None for r in data.itertuples()]
    data["diverged_of"] = [_diverged(row) for row in data.to_dict("records")]
    columns = [*(Column(name, name.replace("_", " ")) for name in by)]
    columns += [
        Column("seeds", "n", "count"),
        Column("identical_of", "identical", "count"),
        Column("test_accuracy", "Δ test accuracy", "points"),
    ]
    if data["val_accuracy"].notna().any() or data["test_accuracy"].isna().all():
        columns.append(Column("val_accuracy", "Δ validation accuracy", "points"))
    if data["seconds"].notna().any():
        columns.append(Column("seconds", "seconds B / A", "seconds"))
    columns.append(Column("diverged_of", "diverged", "count"))
    return Table(title, "", tuple(columns), data, keys=len(by))


def _is_unpaired(row: Any) -> bool:
    """Whether a difference is that of two samples of seeds."""
    return not row.paired and row.n_a > 0


def _diverged(row: Any) -> str:
    if row["trials_a"] == row["trials_b"]:
        return f"{row['diverged_a']} → {row['diverged_b']} of {row['trials_a']}"
    return f"{row['diverged_a']}/{row['trials_a']} → {row['diverged_b']}/{row['trials_b']}"


def _lost(data: pd.DataFrame, sides: Sequence[_Side]) -> pd.DataFrame:
    """Rows for the optimizers that belong to both sweeps but have no trial yet on one side."""
    labels = [list(side.outline.optimizers) for side in sides]
    lost = [label for label in labels[0] if label in labels[1] and label not in set(data["optimizer"])]
    counts = ("n_a", "n_b", "trials", "identical", "trials_a", "diverged_a", "trials_b", "diverged_b")
    return pd.DataFrame([{"optimizer": label, "paired": True} | dict.fromkeys(counts, 0) for label in lost])


def _one_sided(pairs: pd.DataFrame) -> Table | None:
    """The configurations that diverged on one side and not on the other with the same seed, and these seeds."""
    lost = {side: pairs[f"status_{side}"] == "diverged" for side in "ab"}
    if not (lost["a"] ^ lost["b"]).any():
        return None
    pairs, choices = stats.with_hyperparameters(pairs)
    choices = [*stats.varying(pairs, [name for name in _AXES if name != "optimizer"]), *choices]
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name, alone in (("A", lost["a"] & ~lost["b"]), ("B", lost["b"] & ~lost["a"])):
        for trial in pairs[alone].sort_values(["optimizer", "seed"]).to_dict("records"):
            rows.setdefault((trial["optimizer"], in_words(trial, choices), name), []).append(str(trial["seed"]))
    columns = (
        Column("optimizer", "optimizer"),
        Column("configuration", "configuration", "prose"),
        Column("side", "diverged in"),
        Column("seeds", "seeds", "prose"),
    )
    data = pd.DataFrame([(*key, ", ".join(seeds)) for key, seeds in rows.items()], columns=[c.name for c in columns])
    return Table("Diverged on only one side", "The same trial finished on the other.", columns, data)


def _caption(matched: stats.Matched) -> str:
    """What differs between the two besides the numbers."""
    differing, same = [], []
    for name in _SURROUNDINGS:
        here, there = (sorted(side[name].astype(object).fillna(_UNKNOWN).unique()) for side in (matched.a, matched.b))
        if here != there:
            differing.append(f"{name} ({', '.join(here)} in A, {', '.join(there)} in B)")
        elif here != [_UNKNOWN]:
            same.append(name)
    words = [
        f"A and B differ in {', '.join(differing)}." if differing else f"The same on both sides: {', '.join(same)}."
    ]
    for name, only in (("A", matched.only_a), ("B", matched.only_b)):
        if len(only):
            n = len(only.drop_duplicates(list(matched.configuration)))
            words.append(f"Only in {name}: {count(len(only), 'trial')} of {count(n, 'configuration')}.")
    if matched.ignored:
        words.append(f"Hyperparameters that only one side has: {', '.join(matched.ignored)}.")
    return " ".join(words)


# ---------------------------------------------------------------- in sentences


def _identity(pairs: pd.DataFrame) -> str:
    trials, identical = len(pairs), int(pairs["identical"].sum())
    if not trials:
        return "No trials pair."
    if identical == trials:
        return f"No trial differs: {identical} of {trials} are bit-identical."
    if not identical:
        return f"Every trial differs: none of {trials} is bit-identical."
    return f"{identical} of {count(trials, 'trial')} are bit-identical."


def _why(pairs: pd.DataFrame) -> list[str]:
    """Whether the trials that differ may do so only because the two sides round in different ways."""
    changed = pairs[~pairs["identical"]]
    if changed.empty:
        return []
    reasons = stats.rounding(changed)
    alike = ~reasons.any(axis=1)
    if alike.all():
        on_cpu = (changed["device_a"] == "cpu").any()
        same = [name for name in stats.ROUNDING if name != "cpu" or on_cpu]
        return [f"In A and B {names(same, len(same))} are the same: the code changed the numbers."]
    silent = [side for side in "AB" if changed.loc[reasons["cpu"], f"cpu_{side.lower()}"].isna().any()]
    differing = [name for name in stats.ROUNDING if reasons[name].any() and not (name == "cpu" and silent)]
    words = [f"A and B differ in {names(differing, len(differing))}"] if differing else []
    if silent:
        words.append(f"{' and '.join(silent)} {'do' if len(silent) > 1 else 'does'} not name the CPU")
    rounding = (
        f"{', and '.join(words)}: the differences may be rounding only, which acts like another seed where lr is near "
        "the edge of stability."
    )
    known = f"Of the {len(changed)} that differ, {alike.sum()} differ in none of these: the code changed those."
    return [rounding, *([known] if alike.any() else [])]


def _differences(data: pd.DataFrame, total: pd.DataFrame, by: Sequence[str], where: str) -> str:
    """Which differences of test accuracy can be told from 0."""
    known = data[(data["changed"] != 0) & data["test_accuracy_low"].notna()]
    if known.empty and data["test_accuracy"].isna().all():
        return f"{where}no trial finished on both sides." if where else "No trial finished on both sides."
    if known.empty:
        return f"{where}{'with' if where else 'With'} one seed nothing says how sure a difference is."
    sure = known[(known["test_accuracy_low"] > 0) | (known["test_accuracy_high"] < 0)]
    sure = sure.sort_values("test_accuracy", key=abs, ascending=False, kind="stable")
    if sure.empty:
        change = (
            f" ({_points(total.iloc[0])} points over all)" if len(data) > 1 else f" ({_points(data.iloc[0])} points)"
        )
        return f"{where}{'no' if where else 'No'} single difference of test accuracy can be told from 0{change}."
    named: list[str] = []
    for row in sure.head(_NAMED).to_dict("records"):
        label = ", ".join(row[c] if c == "optimizer" else f"{c.replace('_', ' ')} {written(row[c])}" for c in by)
        seeds = f"{row['n_a']} seeds" if row["paired"] else f"{row['n_a']} and {row['n_b']} seeds"
        named.append(f"{label}: {_points(row)}" + ("" if named else f" points of test accuracy over {seeds}"))
    if len(sure) > _NAMED:
        named.append(f"and {len(sure) - _NAMED} more")
    if len(data) > len(sure):
        named.append("none of the others can be told from 0")
    words = f"{where}{'; '.join(named)}."
    if len(known) >= _MANY:
        words += f" {len(sure)} of {len(known)} intervals exclude 0; by chance alone about {len(known) / 20:.0f} would."
    return words


def _divergence(pairs: pd.DataFrame) -> list[str]:
    """How many trials diverged on only one side."""
    lost = {side: pairs[f"status_{side}"] == "diverged" for side in "ab"}
    alone = [int((lost["a"] & ~lost["b"]).sum()), int((lost["b"] & ~lost["a"]).sum())]
    words = [f"{n} in {name}" for n, name in zip(alone, "AB", strict=True) if n]
    return [f"Diverged on only one side: {' and '.join(words)}."] if words else []


def _points(row: Any) -> str:
    half = (row["test_accuracy_high"] - row["test_accuracy_low"]) / 2
    return f"{100 * row['test_accuracy']:+.2f} ± {100 * half:.2f}"


# ---------------------------------------------------------------- conditions


@dataclass(frozen=True)
class Condition:
    """What must not hold: a column of the comparison, accuracies in points, less or more than a limit."""

    text: str
    column: str
    operator: str
    limit: float

    def value(self, row: Any) -> float:
        """The column as the tables show it: accuracies in points. Rounded, so that what looks like a tie is one."""
        return round(float(row[self.column]) * CONDITIONS[self.column], 9)

    def holds(self, row: Any) -> bool:
        """Whether it is so in a row of a comparison; False where the value is NaN."""
        return _OPERATORS[self.operator](self.value(row), self.limit)

    def why_not(self, row: Any) -> str:
        """Why nothing can be said about a row."""
        if not min(row["n_a"], row["n_b"]) and self.column not in ("changed", "diverged"):
            return "no trial finished on both sides"
        if self.column.startswith("seconds") and math.isnan(row["seconds"]):
            return "no trial ran alone on both sides, as 'optbench run SWEEP --timing' trains them"
        if self.column.endswith(("_low", "_high")):
            return "there is no interval with one seed"
        if self.column == "diverged" and row["trials_a"] != row["trials_b"]:
            return f"A has {row['trials_a']} trials there and B {row['trials_b']}"
        return "no trial pairs"


def condition(text: str) -> Condition:
    """`COLUMN OP NUMBER` as a condition. Raises `UserError` for anything else."""
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*", text)
    if not found:
        must = "must be COLUMN OP NUMBER, as in 'test_accuracy < -0.5'; OP: <, <=, >, >="
        raise ArgumentError("fail_if", repr(text), must)
    column, sign, number = found.groups()
    if column not in CONDITIONS:
        raise ArgumentError("fail_if", repr(text), f"unknown column '{column}'; {did_you_mean(column, CONDITIONS)}")
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise ArgumentError("fail_if", repr(text), f"'{number}' is not a number")
    return Condition(" ".join(text.split()), column, sign, limit)


def check(report: Report, conditions: Sequence[Condition]) -> tuple[list[str], list[str]]:
    """The conditions that hold, and those that cannot be evaluated, each with its rows, in words."""
    broken: list[str] = []
    unknown: dict[tuple[str, str], list[str]] = {}
    tables = [table for table in report.tables if "paired" in table.data]
    for table in tables:
        where = f"{table.title}, " if len(tables) > 1 else ""
        for row in table.data.to_dict("records"):
            names = [written(row[column.name]) for column in table.columns[: table.keys] if row[column.name] != ""]
            label = where + ", ".join(names)
            for one in conditions:
                if math.isnan(one.value(row)):
                    unknown.setdefault((one.text, one.why_not(row)), []).append(label)
                elif one.holds(row):
                    broken.append(f"{label}: {one.column} is {one.value(row):g}, and fails if {one.text}")
    return broken, [f"{', '.join(labels)}: cannot tell if {text}: {why}" for (text, why), labels in unknown.items()]
