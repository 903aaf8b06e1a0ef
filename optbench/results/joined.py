"""Several folders of results read as one: sweeps that were trained apart, of which each may have some of the trials.

Whether they may be compared is not decided here, but in `report/agreement.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas import DataFrame
from pandas.api.types import union_categoricals

from optbench.results.store import Outline, Store

_SETTLED = ("finished", "diverged", "stopped")
_MACHINE = ("device", "cpu", "torch_version")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Share:
    """What is read from a folder: of the sweep of this name, these optimizers.

    machines: device, CPU and version of torch of its trials; the CPU is None in rows of older versions.
    """

    name: str
    optimizers: tuple[str, ...]
    machines: tuple[tuple[str | None, ...], ...]

    @property
    def measured(self) -> str:
        """What it was measured on, in words."""
        on = [(cpu or "an unknown CPU" if device == "cpu" else device, torch) for device, cpu, torch in self.machines]
        return " and ".join(f"{machine} with torch {torch}" for machine, torch in on)

    def is_as(self, other: Share) -> bool:
        """Whether both are known to be measured on one kind of machine: there the same trial gives the same rows."""
        device, cpu, torch = self.machines[0] if len(self.machines) == 1 else (None, None, None)
        return self.machines == other.machines and None not in (device, torch) and (device != "cpu" or cpu is not None)


class Joined:
    """The results in several folders, to be read like those in a `Store`.

    A trial that is in several of them is read from one: the first that trained it to its end, or else the first. An
    optimizer is confirmed where it was confirmed first, so that rounding on another machine, which may select another
    configuration, does not confirm it twice.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = tuple(stores)

    @property
    def folder(self) -> Path:
        """The first folder: what the others stand beside."""
        return self.stores[0].folder

    def is_locked(self) -> bool:
        """Whether a run is writing now to a folder that is not complete."""
        unfinished = set(self._trials["place"][~self._trials["status"].isin(_SETTLED)])
        return any(store.is_locked() for place, store in enumerate(self.stores) if place in unfinished)

    @cached_property
    def _trials(self) -> DataFrame:
        """One row for each trial that is read: its last, with the `place` of the folder that it is read from."""
        columns = ["trial_id", "configuration_id", "dataset", "optimizer", "phase", "status", *_MACHINE]
        found = [store.rows(columns, last=True).astype(object).assign(place=i) for i, store in enumerate(self.stores)]
        trials = pd.concat(found, ignore_index=True)
        trials = trials.where(trials.notna(), None)
        complete_first = trials["status"].isin(_SETTLED).sort_values(ascending=False, kind="stable").index
        trials = trials.loc[complete_first].drop_duplicates("trial_id").sort_values("place", kind="stable")
        fresh = trials[trials["phase"] == "confirm"]
        selected = fresh.groupby(["optimizer", "dataset"])["configuration_id"].transform("first")
        return trials.drop(fresh.index[fresh["configuration_id"] != selected])

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """What is read from each folder. An optimizer is that of the first folder that has it."""
        found: list[Share] = []
        for i, outline in enumerate(self._outlines):
            trials = self._trials[self._trials["place"] == i]
            taken = {label for share in found for label in share.optimizers}
            machines = trials[list(_MACHINE)].drop_duplicates().itertuples(index=False, name=None)
            optimizers = tuple(label for label in outline.optimizers if label not in taken)
            found.append(Share(outline.name, optimizers, tuple(sorted(machines, key=str))))
        return tuple(found)

    @cached_property
    def _outlines(self) -> list[Outline]:
        return [store.outline() for store in self.stores]

    def outline(self) -> Outline:
        """The sweep that the folders are parts of; its name has all their names."""
        outlines = self._outlines
        return replace(
            outlines[0],
            name="+".join(_each([outline.name] for outline in outlines)),
            trial_ids=_each(outline.trial_ids for outline in outlines),
            confirm_ids=_each(outline.confirm_ids for outline in outlines),
            default_ids=_each(outline.default_ids for outline in outlines),
            pretrain_ids=_each(outline.pretrain_ids for outline in outlines),
            without_defaults=_first(outline.without_defaults for outline in outlines),
            optimizers=_first(outline.optimizers for outline in outlines),
            budgets=_first(outline.budgets for outline in outlines),
            searched=_each(outline.searched for outline in outlines),
            searched_schedules=_each(outline.searched_schedules for outline in outlines),
            races=_each(outline.races for outline in outlines),
            splits=_first(outline.splits for outline in outlines),
            networks=_first(outline.networks for outline in outlines),
            digests=_first(outline.digests for outline in outlines),
        )

    @cached_property
    def parts(self) -> list[tuple[Store, set[str]]]:
        """Each folder that trials are read from, with their ids."""
        ids = self._trials.groupby("place")["trial_id"].agg(set).to_dict()
        return [(store, ids[place]) for place, store in enumerate(self.stores) if place in ids]

    def rows(self, columns: Sequence[str] | None = None) -> DataFrame:
        """The rows of all trials, or some columns of them, as `Store.rows` gives them."""
        return _concat([store.rows(columns, ids) for store, ids in self.parts])

    def pretraining(self, columns: Sequence[str]) -> DataFrame:
        """These columns of the last row of each trial that pretrained a network for one of the folders."""
        found = _concat([store.pretraining(_each([columns, ["trial_id"]])) for store in self.stores])
        return found.drop_duplicates("trial_id")[list(columns)]

    @property
    def correct(self) -> JoinedImages:
        """Which images the finished trials classified correctly."""
        return JoinedImages(self)

    def timed(self, columns: Sequence[str]) -> DataFrame:
        """These columns of the rows of trials that trained alone, as `Store.timed` gives them.

        Only those that were measured on the same kind of machine as the first folder: seconds of others say nothing.
        """
        alike = [store for store, share in zip(self.stores, self.shares, strict=True) if share.is_as(self.shares[0])]
        found: list[DataFrame] = []
        for store in alike or self.stores[:1]:
            rows = store.timed(_each([columns, ["trial_id"]]))
            again = [rows["trial_id"].isin(earlier["trial_id"]) for earlier in found]
            found.append(rows[~pd.concat(again, axis=1).any(axis=1)] if again else rows)
        return _concat(found)[list(columns)]


class JoinedImages:
    """Which images the trials of several folders classified correctly, to be read like `CorrectImages`."""

    def __init__(self, joined: Joined) -> None:
        self._joined = joined

    def of(self, trial_ids: Collection[str], split: str) -> dict[str, NDArray[np.bool_]]:
        """For each of these trials that has them a mask (N,): which images of the split it classified correctly."""
        found: dict[str, NDArray[np.bool_]] = {}
        for store, ids in self._joined.parts:
            found |= store.correct.of(ids & set(trial_ids), split)
        return found


def _concat(frames: Sequence[DataFrame]) -> DataFrame:
    """The rows of all, whose texts stay categoricals in alphabetical order."""
    names = frames[0].select_dtypes("category").columns
    texts = {name: _categories([frame[name] for frame in frames]) for name in names}
    return pd.concat([frame.drop(columns=names) for frame in frames], ignore_index=True).assign(**texts)[
        frames[0].columns
    ]


def _categories(columns: Sequence[pd.Series[Any]]) -> pd.Categorical[Any]:
    """Texts one after another; where all of a folder are null, its categories have no type of their own."""
    kind = next((each.cat.categories.dtype for each in columns if len(each.cat.categories)), object)
    alike = [pd.Categorical.from_codes(each.cat.codes, each.cat.categories.astype(kind)) for each in columns]
    return union_categoricals(alike, sort_categories=True)


def _each(lists: Iterable[Iterable[_Value]]) -> tuple[_Value, ...]:
    """What the lists hold, once each."""
    return tuple(dict.fromkeys(value for values in lists for value in values))


def _first(mappings: Iterable[Mapping[str, _Value]]) -> dict[str, _Value]:
    """What the mappings hold; where several have a key, the first one's value."""
    found: dict[str, _Value] = {}
    for mapping in mappings:
        found |= {key: value for key, value in mapping.items() if key not in found}
    return found
