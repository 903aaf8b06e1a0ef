"""Whether results that were trained apart may be shown together: all that differs is named at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

import pandas as pd

from optbench import baselines, stats
from optbench.errors import UserError
from optbench.report.findings import names
from optbench.report.formats import written
from optbench.results.joined import Joined
from optbench.results.store import Outline, Store
from optbench.sweep.axes import COMPARED

# What is the same for all optimizers of a comparison: every axis but the optimizer's own.
AXES = ("epochs", *(name for name in COMPARED if name != "optimizer"))
_MANY = 6  # values; of more, the first and the last are named


def beside(store: Store, others: Sequence[Store]) -> Store | Joined:
    """The results in a folder with those of others beside them.

    Raises `UserError` that names all in which the others differ from it, or from one another.
    """
    if not others:
        return store
    sides = [_Side(each) for each in (store, *others)]
    problems = [problem for pair in combinations(sides, 2) if (problem := _refused(*pair))]
    if problems:
        raise UserError("\n".join(problems))
    return Joined([store, *others])


class _Side:
    """One folder: the trials of the sweep that ran last there, a row for each."""

    def __init__(self, store: Store) -> None:
        self.name, self.folder = baselines.name(store.folder), store.folder.resolve()
        self.outline: Outline = store.outline()
        rows = stats.with_labels(stats.states(store.rows(last=True)))
        names = rows["schedule"].str.partition("(")[0]
        is_drawn = names.isin(self.outline.searched_schedules)
        self.trials = rows.assign(schedule=rows["schedule"].where(~is_drawn, names))

    @property
    def is_whole(self) -> bool:
        """Whether all its trials have begun."""
        return len(self.trials) >= sum(self.outline.optimizers.values())

    @property
    def tuning(self) -> pd.DataFrame:
        """The trials that select."""
        return self.trials[self.trials["phase"] == "tune"]

    @cached_property
    def trained(self) -> dict[str, list[Any]]:
        """The values, in order, of what its trials vary, by name: their seeds, and every axis of `AXES`."""
        found = {name.replace("_", " "): self.tuning[name] for name in AXES}
        found["steps"] = self.tuning["steps"].dropna().astype("int64")  # null where epochs were asked for
        found["pretraining"] = self.tuning["pretrain"][self.tuning["pretrain"] != ""]
        for phase, what in (("tune", "seeds"), ("confirm", "fresh seeds")):
            found[what] = self.trials["seed"][self.trials["phase"] == phase]
        return {what: sorted(values.unique(), key=_numbers_first) for what, values in found.items()}

    @property
    def combinations(self) -> set[Any]:
        """The combinations of these axes that it trains."""
        return set(self.tuning[list(AXES)].itertuples(index=False, name=None))

    @property
    def planned(self) -> dict[str, list[Any]]:
        """What holds before anything is trained, by name; not what an older version did not write down."""
        outline, halving = self.outline, self.outline.halving or {}
        found: dict[str, list[Any]] = {
            "configurations of each optimizer": sorted(set(outline.budgets.values())),
            "successive halving": [f"{key} {value}" for key, value in halving.items()],
            "metric that selects": [str(outline.metric)],
            "version of the numerics": [outline.numerics],
        }
        for name, splits in outline.splits.items():
            found |= {f"{name or 'data'}, images of the {split} split": [n] for split, n in splits.items()}
        found |= {f"content of {name}": [digest] for name, digest in outline.digests.items()}
        return found | {f"parameters of {name}": [n] for name, n in outline.networks.items()}

    @cached_property
    def configurations(self) -> dict[str, set[str]]:
        """Ids of the configurations of each optimizer."""
        return {str(label): set(ids) for label, ids in self.tuning.groupby("optimizer")["configuration_id"]}


def _refused(a: _Side, b: _Side) -> str:
    """Why two folders are not shown together, a line for each reason; nothing if they may be."""
    if a.folder == b.folder:
        return f"{a.name} and {b.name} are the same folder"
    settings, labels = [*_settings(a, b)], [*_labels(a, b)]
    if not (settings or labels):
        return ""
    hint = [f"'optbench init --optimizer NAME --with {b.name}' writes a sweep that agrees with it"] if settings else []
    lines = [f"{a.name} and {b.name} are not shown together; they differ in", *settings, *labels]
    return "\n".join(["\n  ".join(lines), *hint])


def _settings(a: _Side, b: _Side) -> Iterator[str]:
    """What differs besides the optimizers, with both values."""
    differing = [what for what in a.trained if _differ(a, b, a.trained[what], b.trained[what])]
    for what in differing:
        yield f"{what}: {_listed(a.trained[what])} in {a.name}, {_listed(b.trained[what])} in {b.name}"
    if not differing and _differ(a, b, a.combinations, b.combinations):
        several = [what for what, values in a.trained.items() if len(values) > 1 and "seeds" not in what]
        yield f"combinations of {names(several)}: each has others"
    here, there = a.planned, b.planned
    for what in here:
        if what in there and here[what] != there[what]:
            yield f"{what}: {_listed(here[what])} in {a.name}, {_listed(there[what])} in {b.name}"


def _labels(a: _Side, b: _Side) -> Iterator[str]:
    """The optimizers that have the same label on both sides, but are others."""
    for label, configurations in a.configurations.items():
        if label in b.configurations and _differ(a, b, configurations, b.configurations[label]):
            own = f"'my-{label}: {{optimizer: {label}, …}}'"
            yield f"{label}: the configurations are others; give it a label of its own in your sweep, {own}"


def _differ(a: _Side, b: _Side, of_a: Collection[Any], of_b: Collection[Any]) -> bool:
    """Whether the two sides have other values; what a side has not begun to train yet may still come."""
    here, there = set(of_a), set(of_b)
    if here <= there:
        return here != there and a.is_whole
    return b.is_whole or not there <= here


def _numbers_first(value: Any) -> tuple[bool, Any]:
    """A key to sort by: "none" stands beside numbers."""
    return isinstance(value, str), value


def _listed(values: Sequence[Any]) -> str:
    """Values in words: all of them, or the first and the last of many."""
    shown = [written(value) for value in values]
    if len(shown) > _MANY:
        return f"{shown[0]} to {shown[-1]} ({len(shown)})"
    return ", ".join(shown) or "none"
