"""Rows of two sides, A and B → what changed from A to B in the same trials, and how sure that is.

The unit of replication is the seed: the trials of one seed share initial weights and batches, so their differences are
averaged first, and an interval is one over seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from optbench.errors import UserError
from optbench.scores import Score
from optbench.stats.finals import states, trained_epochs, with_labels
from optbench.stats.intervals import Estimate, estimate
from optbench.sweep.axes import AXES

# What makes a configuration. Not its id, which changes with the source of an optimizer from elsewhere. The device, and
# what it resolves, are not in it: they may be what is compared.
_CONFIGURATION = (
    *(
        column.name
        for axis in AXES.values()
        if axis.name != "seed" and not axis.is_resolved
        for column in axis.columns
        if not column.is_redundant
    ),
    "phase",
)
# What decides how the numbers of a trial are rounded.
ROUNDING = ("device", "cpu", "precision", "convolution", "torch_version")
_SETTLED = ("finished", "diverged", "stopped")
_MEASURED = [*Score, "log_seconds"]


@dataclass(frozen=True)
class Matched:
    """The trials of two sides, each as its last row.

    a, b: all trials of the configurations that are on both sides.   only_a, only_b: the trials that the other side does
    not have.   pairs: the trials that need no more training on either side; there is one column for each that names
    the trial, and two, `…_a` and `…_b`, for each other; `identical` says whether every score is bit-identical in all
    rows that both sides have.   configuration: the columns that name one, including `precision` where a side has the
    same trial in several.   ignored: hyperparameters that only one side has, in words.
    """

    configuration: tuple[str, ...]
    a: pd.DataFrame
    b: pd.DataFrame
    pairs: pd.DataFrame
    only_a: pd.DataFrame
    only_b: pd.DataFrame
    ignored: tuple[str, ...]

    def of_phase(self, phase: str) -> Matched:
        """Only those of one phase."""
        frames = {name: getattr(self, name) for name in ("a", "b", "pairs", "only_a", "only_b")}
        return replace(self, **{name: frame[frame["phase"] == phase] for name, frame in frames.items()})


def match(a_rows: pd.DataFrame, b_rows: pd.DataFrame) -> Matched:
    """Pair the trials of two sides by what they are.

    Raises `UserError` where a side holds the same trial twice.
    """
    a, b = _trials(a_rows), _trials(b_rows)
    a, b, ignored = _same_hyperparameters(a, b)
    configuration: tuple[str, ...] = _CONFIGURATION
    if any(side.duplicated([*configuration, "seed"]).any() for side in (a, b)):
        configuration = (*configuration, "precision")
    key = [*configuration, "seed"]
    for name, side in (("A", a), ("B", b)):
        twice = side[side.duplicated(key, keep=False)]
        if len(twice):
            ids = ", ".join(twice["trial_id"].head(2))
            raise UserError(f"{name} holds the same trial twice ({ids}): run its sweep again, so that one is left out")
    here, there = _index(a, key), _index(b, key)
    only_a, only_b = a[~here.isin(there)], b[~there.isin(here)]
    here, there = _index(a, configuration), _index(b, configuration)
    a, b = a[here.isin(there)], b[there.isin(here)]
    settled = [side[side["status"].isin(_SETTLED)] for side in (a, b)]
    pairs = settled[0].merge(settled[1], on=[*key, "dropout"], suffixes=("_a", "_b"))
    pairs = pairs.assign(identical=_identical(pairs, a_rows, b_rows))
    return Matched(configuration, a, b, pairs, only_a, only_b, ignored)


def _trials(rows: pd.DataFrame) -> pd.DataFrame:
    """Each trial's last row, in the order of the rows, with `log_seconds` per epoch of trials that ran alone."""
    trials = states(rows).set_index("trial_id", drop=False)
    trials = trials.loc[rows["trial_id"].astype(object).unique()].reset_index(drop=True)
    alone = (trials["status"] == "finished") & (trials["stack_size"] == 1) & (trials["workers"] == 1)
    seconds = (trials["train_seconds"] / trained_epochs(trials)).where(alone & (trials["train_seconds"] > 0))
    # Two sides need not have the same categories, and null is not found again in an index.
    trials = with_labels(trials).astype({"dropout": object})
    return trials.assign(log_seconds=np.log(seconds), steps=trials["steps"].fillna(0))


def _index(trials: pd.DataFrame, columns: Sequence[str]) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(trials[list(columns)])


def _same_hyperparameters(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """The trials without hyperparameters that only one side has, always with the same value; and these in words.

    Another version of torch, or of an optimizer from elsewhere, may have one more argument; trials are still the same.
    """
    parsed = {text: json.loads(text) for side in (a, b) for text in side["hyperparameters"].unique()}
    values: list[dict[str, dict[str, set[str]]]] = []  # of each side: optimizer → hyperparameter → its values
    for side in (a, b):
        found: dict[str, dict[str, set[str]]] = {}
        for optimizer, text in side[["optimizer", "hyperparameters"]].drop_duplicates().itertuples(index=False):
            for name, value in parsed[text].items():
                found.setdefault(optimizer, {}).setdefault(name, set()).add(json.dumps(value))
        values.append(found)
    dropped: dict[str, set[str]] = {}
    words = []
    for name, here, there in (("A", values[0], values[1]), ("B", values[1], values[0])):
        for optimizer in here.keys() & there.keys():
            for hyperparameter in here[optimizer].keys() - there[optimizer].keys():
                if len(here[optimizer][hyperparameter]) == 1:
                    dropped.setdefault(optimizer, set()).add(hyperparameter)
                    words.append(f"{optimizer} {hyperparameter}={min(here[optimizer][hyperparameter])} in {name}")
    if dropped:
        a, b = (
            side.assign(
                hyperparameters=[
                    json.dumps({k: v for k, v in parsed[text].items() if k not in dropped.get(optimizer, ())})
                    for optimizer, text in zip(side["optimizer"], side["hyperparameters"], strict=True)
                ]
            )
            for side in (a, b)
        )
    return a, b, tuple(sorted(words))


def _identical(pairs: pd.DataFrame, a_rows: pd.DataFrame, b_rows: pd.DataFrame) -> pd.Series:
    """For each pair, whether all scores are the same in all epochs that both sides have; NaN is the same as NaN."""
    sides = []
    for name, rows in (("trial_id_a", a_rows), ("trial_id_b", b_rows)):
        numbers = pd.Series(pairs.index, index=pd.Index(pairs[name]))
        rows = rows[rows["trial_id"].isin(pairs[name])]
        sides.append(rows[["epoch", *Score]].assign(pair=rows["trial_id"].map(numbers)))
    both = sides[0].merge(sides[1], on=["pair", "epoch"], suffixes=("_a", "_b"))
    same = pd.Series(True, index=both.index)
    for score in Score:
        here, there = both[f"{score}_a"], both[f"{score}_b"]
        same &= (here == there) | (here.isna() & there.isna())
    return same.groupby(both["pair"], observed=True).all().reindex(pairs.index, fill_value=False)


def rounding(pairs: pd.DataFrame) -> pd.DataFrame:
    """For each pair, a column for each of `ROUNDING`: whether the sides differ in it, or may.

    A CPU counts where one computed the numbers, and may differ where a side does not name it.
    """
    differs = {}
    for name in ROUNDING:
        is_key = name in pairs  # then it is the same in a pair, and there once
        here, there = (pairs[name if is_key else f"{name}_{side}"] for side in "ab")
        differs[name] = (here != there) & ~(here.isna() & there.isna())
    on_cpu = (pairs["device_a"] == "cpu") & (pairs["device_b"] == "cpu")
    differs["cpu"] = on_cpu & (differs["cpu"] | pairs["cpu_a"].isna())
    return pd.DataFrame(differs)


def welch(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Mean of b less mean of a, and its 95 % interval (Welch, 1947), t with Satterthwaite's degrees of freedom.

    n is that of the smaller sample. The interval is NaN where a sample has fewer than two values.
    """
    from scipy.special import stdtrit

    sizes = [len(a), len(b)]
    means = [math.fsum(values) / len(values) if values else math.nan for values in (a, b)]
    difference = means[1] - means[0]
    if min(sizes) < 2:
        return Estimate(difference, math.nan, math.nan, min(sizes))
    squares = [  # of the standard errors
        math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n
        for values, mean, n in zip((a, b), means, sizes, strict=True)
    ]
    if sum(squares) == 0:
        return Estimate(difference, difference, difference, min(sizes))
    # Divided by the sum before it is squared, so that tiny variances do not become 0.
    shares = [square / sum(squares) for square in squares]
    freedom = 1 / sum(share**2 / (n - 1) for share, n in zip(shares, sizes, strict=True))
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(sum(squares))
    return Estimate(difference, difference - half, difference + half, min(sizes))


def changes(matched: Matched, by: Sequence[str]) -> pd.DataFrame:
    """One row for each combination of the columns `by` that is on both sides; without columns, one for all trials.

    Every score is B − A of trials that finished on both sides, with its interval from `…_low` to
    `…_high`; `seconds` is the ratio B / A of seconds per epoch, a geometric mean over trials that ran alone on both
    sides. Where the seeds pair, the difference is averaged over the configurations of each seed (n_a = n_b = n seeds).
    Where they do not, each side is averaged over the configurations complete on both (n_a and n_b seeds, Welch's
    interval; `paired` is False).

    `trials` counts the pairs, `identical` the identical ones among them, `changed` the others. `diverged_a` and
    `diverged_b` count the diverged ones of `trials_a` and `trials_b` trials: those of the pairs, or, where seeds do not
    pair, all that need no more training; `diverged` is the change. NaN is what is not defined, such as the change
    between different numbers of trials.
    """
    frames = [_split(frame, by) for frame in (matched.pairs, matched.a, matched.b)]
    nothing = (matched.pairs[:0], matched.a[:0], matched.b[:0])
    rows = []
    for values in _groups(matched, by):
        pairs, a, b = (groups.get(values, empty) for groups, empty in zip(frames, nothing, strict=True))
        rows.append(dict(zip(by, values, strict=True)) | _change(pairs, a, b, matched.configuration))
    return pd.DataFrame(rows)


def _split(frame: pd.DataFrame, by: Sequence[str]) -> dict[tuple[Any, ...], pd.DataFrame]:
    if not by:
        return {(): frame}
    return {tuple(values): group for values, group in frame.groupby(list(by), sort=False, observed=True)}


def _groups(matched: Matched, by: Sequence[str]) -> list[tuple[Any, ...]]:
    """The groups on both sides: numbers in their order, then names in that of A."""
    if not by:
        return [()]
    sides = ((matched.a, matched.only_a), (matched.b, matched.only_b))
    all_trials = (pd.concat([frame[list(by)] for frame in side]).sort_index() for side in sides)
    here, there = (dict.fromkeys(trials.itertuples(index=False, name=None)) for trials in all_trials)
    ranks = [{value: i for i, value in enumerate(dict.fromkeys(values))} for values in zip(*here, strict=True)]

    def key(group: tuple[Any, ...]) -> list[tuple[bool, float]]:
        return [(isinstance(v, str), r[v] if isinstance(v, str) else v) for r, v in zip(ranks, group, strict=True)]

    return sorted((group for group in here if group in there), key=key)


def _change(pairs: pd.DataFrame, a: pd.DataFrame, b: pd.DataFrame, configuration: Sequence[str]) -> dict[str, Any]:
    """The row of one group: its pairs, and all its trials of the configurations on both sides."""
    a, b = (side[side["status"].isin(_SETTLED)] for side in (a, b))
    finished = pairs[(pairs["status_a"] == "finished") & (pairs["status_b"] == "finished")]
    paired, by_seed = finished["seed"].nunique() > 1, []
    if not paired:
        by_seed = [side.groupby("seed")[_MEASURED].mean() for side in _complete(a, b, configuration)]
        paired = len(pairs) > 0 and min(len(side) for side in by_seed) < 2
    if paired:
        differences = pd.DataFrame({name: finished[f"{name}_b"] - finished[f"{name}_a"] for name in _MEASURED})
        means = differences.groupby(finished["seed"]).mean()
        sizes = [len(means)] * 2
        estimates = {name: estimate(means[name].dropna().tolist()) for name in _MEASURED}
        states = (pairs["status_a"], pairs["status_b"])
    else:
        sizes = [len(side) for side in by_seed]
        estimates = {name: welch(*(side[name].dropna().tolist() for side in by_seed)) for name in _MEASURED}
        states = (a["status"], b["status"])
    row: dict[str, Any] = {"paired": paired, "n_a": sizes[0], "n_b": sizes[1], "trials": len(pairs)}
    row["identical"] = int(pairs["identical"].sum())
    row["changed"] = row["trials"] - row["identical"] if len(pairs) else math.nan
    for score in Score:
        found = estimates[score]
        row |= {str(score): found.mean, f"{score}_low": found.low, f"{score}_high": found.high}
    found = estimates["log_seconds"]
    row |= {"seconds": math.exp(found.mean), "seconds_low": math.exp(found.low), "seconds_high": math.exp(found.high)}
    for side, statuses in zip("ab", states, strict=True):
        row |= {f"trials_{side}": len(statuses), f"diverged_{side}": int((statuses == "diverged").sum())}
    comparable = row["trials_a"] == row["trials_b"] > 0
    row["diverged"] = float(row["diverged_b"] - row["diverged_a"]) if comparable else math.nan
    return row


def _complete(a: pd.DataFrame, b: pd.DataFrame, configuration: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The finished trials of the configurations that finished with all of each side's seeds."""
    sides, complete = [], []
    for side in (a, b):
        finished = side[side["status"] == "finished"]
        index = _index(finished, configuration)
        counts = index.value_counts()
        sides.append((finished, index))
        complete.append(counts.index[counts == finished["seed"].nunique()])
    both = complete[0].intersection(complete[1])
    return tuple(finished[index.isin(both)] for finished, index in sides)  # type: ignore[return-value]
