"""How soon a trial is good enough: epochs, steps and seconds until a score reaches a target."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from optbench.scores import Score
from optbench.stats.finals import with_worst
from optbench.stats.ranking import holm, resolution
from optbench.stats.selection import select

_REFERENCES = ("sgd", "adam", "adamw")
_MEASURES = {"epochs_to": "epoch", "steps_to": "step", "seconds_to": "train_seconds"}
_SAME = [
    "trial_id",
    "optimizer",
    "configuration_id",
    "seed",
    "status",
    "stack_size",
    "workers",
]  # in all rows of a trial


def target(finals: pd.DataFrame, metric: Score) -> tuple[float, list[str]]:
    """The default target, and the labels of the reference optimizers that set it.

    It is the median over them of the mean `metric` of each one's selected configuration. References are the optimizers
    whose algorithm is sgd, adam or adamw, so that a new optimizer does not set its own target, or all optimizers if
    none is there. One without a score, since all its trials diverged or were stopped, counts as the worst; if it is the
    median, the target is NaN.
    """
    references = finals[finals["algorithm"].isin(_REFERENCES)]
    if references.empty:
        references = finals
    labels = [str(label) for label in references["optimizer"].unique()]
    chosen = select(references, ["optimizer"], metric)
    means = references.groupby("configuration_id", observed=True, sort=False)[metric].mean()
    scores = metric.sign * means.reindex(chosen.reindex(labels)).to_numpy(dtype=float)
    if not labels:
        return math.nan, []
    median = float(np.median(np.where(np.isnan(scores), -math.inf, scores)))
    return metric.sign * median if math.isfinite(median) else math.nan, labels


def time_to_target(
    rows: pd.DataFrame, metric: Score, target: float, configurations: Collection[str] | None = None
) -> pd.DataFrame:
    """When each trial first reaches the target: `epochs_to`, `steps_to` and `seconds_to`, one row per trial.

    Only trials that need no more training have a row, those of `configurations` where it is given. math.inf stands for
    a trial that does not reach the target, was stopped before it did, or diverged, even if it had reached it before: it
    is useless. `seconds_to` is NaN for a trial that did not run alone on the machine.
    """
    # By whole numbers, and without a copy of all rows: there may be millions.
    trial, ids = pd.factorize(rows["trial_id"])
    start, at = np.zeros(len(ids), dtype=np.int64), np.full(len(ids), -1)
    start[trial[::-1]] = np.arange(len(rows))[::-1]
    epochs = rows["epoch"].to_numpy()
    hits = np.flatnonzero(metric.sign * rows[metric].to_numpy(dtype=float) >= metric.sign * target)
    soonest = np.full(len(ids), np.iinfo(epochs.dtype).max)
    np.minimum.at(soonest, trial[hits], epochs[hits])
    hits = hits[epochs[hits] == soonest[trial[hits]]]
    at[trial[hits]] = hits

    result = rows[_SAME].iloc[start]
    at[(result["status"] == "diverged").to_numpy()] = -1
    alone = (result["stack_size"] == 1) & (result["workers"] == 1)
    for name, column in _MEASURES.items():
        result[name] = rows[column].to_numpy(dtype=float)[at] if len(at) else math.nan
        result[name] = result[name].where(at >= 0, math.inf)
    result["seconds_to"] = result["seconds_to"].where(alone)
    wanted = result["status"].isin(["finished", "stopped", "diverged"])
    if configurations is not None:
        wanted &= result["configuration_id"].isin(list(configurations))
    return result.loc[wanted, ["trial_id", "optimizer", "configuration_id", "seed", *_MEASURES]].reset_index(drop=True)


def reaches(finals: pd.DataFrame, by: Sequence[str], metric: Score, target: float) -> pd.Series:
    """For each group p of the hypothesis that it does not reach the target at its end, on average over all seeds.

    A one-sided t-test (Student, 1908) of its final scores, in which a lost seed counts as guessing; adjusted over the
    groups (Holm). NaN for a group with fewer than two seeds.
    """
    from scipy.special import stdtr

    scores = metric.sign * (with_worst(finals, metric) - target)
    groups = scores.groupby([finals[name] for name in by], sort=False, observed=True)
    n, mean, sd = groups.size(), groups.mean(), groups.std()
    step = resolution(finals[metric]) / math.sqrt(12)
    p = pd.Series(stdtr(n - 1.0, -mean / (sd.clip(lower=max(step, 1e-12)) / np.sqrt(n))), index=n.index)
    return pd.Series(holm(p), index=p.index).where(p.notna())


def summarise_targets(times: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """For each group how many trials of n `reached` the target, and the medians of `time_to_target`'s columns.

    `epochs_to`, `steps_to` and `seconds_to` are medians in which a miss counts as infinite: the median is infinite
    where at least half missed, since then the middle one, or one of the middle pair, is a miss. `…_min` and `…_max` are
    the soonest and the latest. The seconds are those of the trials that ran alone, NaN where none did.
    """
    groups = times.assign(reached=np.isfinite(times["epochs_to"])).groupby(list(by), observed=True, sort=False)
    columns = {"reached": ("reached", "sum"), "n": ("reached", "size")}
    for name in _MEASURES:
        columns |= {name: (name, "median"), f"{name}_min": (name, "min"), f"{name}_max": (name, "max")}
    return groups.agg(**columns).reset_index()
