"""What an optimizer costs beside what it reaches: state, gradients, seconds and memory, and the score at equal seconds.

Seconds are those of the `timed` trials, which trained alone. They compare only on one machine, and for the same work:
seconds per step only between trials with the same network and batch size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from optbench.scores import Score

_REFERENCE = "sgd"  # the algorithm that seconds per step are compared with
_WORK = ["dataset", "model", "activation", "loss", "precision", "batch_size"]  # what makes a step, but the optimizer
_MEASURED = ["state_per_parameter", "gradients_per_step"]
_TIMED = ["seconds_per_step", "ratio", "seconds", "peak_memory_bytes"]


@dataclass(frozen=True)
class Costs:
    """What some configurations cost.

    table: a row for each, indexed by configuration id; NaN is what was not measured.

    - `state_per_parameter`, `gradients_per_step`: see `store.COLUMNS`; the mean over their finished trials;
    - `seconds_per_step`, `seconds`: of a step and of all epochs of training, evaluation excluded, the mean over the
      trials that were timed; `peak_memory_bytes`: the largest of these;
    - `ratio`: seconds per step, as a multiple of those of the `reference`.

    reference: "sgd", at the same work: the optimizer of this name, else the fastest one of this algorithm, else the
        median of all its trials that were timed; without any the optimizer whose step is the fastest; "": no seconds.
    machine: where the seconds were measured, the GPU or the CPU on which most of the configurations were timed.
    """

    table: pd.DataFrame
    reference: str
    machine: str


def costs(finals: pd.DataFrame, timed: pd.DataFrame, optimizers: pd.Series) -> Costs:
    """What configurations cost, by the final rows of all trials and the rows of timed ones.

    `optimizers` has the label of each configuration, indexed by its id.
    """
    finished = finals[finals["status"] == "finished"]
    means = finished.groupby("configuration_id", observed=True)[_MEASURED].mean()
    table = means.reindex(optimizers.index).assign(**dict.fromkeys(_TIMED, math.nan))
    ended = _ended(timed, optimizers.index)
    if ended.empty:
        return Costs(table, "", "")
    groups = ended[ended["configuration_id"].isin(optimizers.index)].groupby("configuration_id")
    table["seconds_per_step"], table["seconds"] = groups["seconds_per_step"].mean(), groups["train_seconds"].mean()
    table["peak_memory_bytes"] = groups["peak_memory_bytes"].max()
    first = table.join(groups[["work", "algorithm"]].first()).assign(optimizer=optimizers)
    reference, seconds_of_work = _reference(first, ended)
    table["ratio"] = table["seconds_per_step"] / first["work"].map(seconds_of_work)
    return Costs(table, reference, str(ended["machine"].iloc[0]))


def _reference(table: pd.DataFrame, ended: pd.DataFrame) -> tuple[str, pd.Series]:
    """What seconds per step are compared with: its name, and its own for each work that it did."""
    own = table[table["algorithm"] == _REFERENCE].sort_values("seconds_per_step")
    own = own.sort_values("optimizer", key=lambda labels: labels != _REFERENCE, kind="stable")
    others = ended[ended["algorithm"] == _REFERENCE].groupby("work")["seconds_per_step"].median()
    if len(others):
        return _REFERENCE, own.groupby("work")["seconds_per_step"].first().combine_first(others)
    fastest = table.sort_values("seconds_per_step", kind="stable").iloc[0]
    return str(fastest["optimizer"]), pd.Series({fastest["work"]: fastest["seconds_per_step"]})


def _ended(timed: pd.DataFrame, configurations: pd.Index) -> pd.DataFrame:
    """The last rows of the timed trials, all of one machine; none if none of these configurations was timed."""
    ended = timed[(timed["status"] == "finished") & (timed["epoch"] == timed["epochs"])]
    is_asked = ended["configuration_id"].isin(configurations)
    if not is_asked.any():
        return ended[:0]
    device, cpu = ended["device"].astype(object), ended["cpu"].astype(object)
    ended = ended.assign(
        configuration_id=ended["configuration_id"].astype(object),
        machine=device.where(device != "cpu", cpu).fillna("cpu"),
        work=ended.groupby(_WORK, dropna=False, observed=True).ngroup(),
        seconds_per_step=ended["train_seconds"] / ended["step"],
    )
    most = ended[is_asked].groupby("machine")["configuration_id"].nunique().idxmax()
    return ended[ended["machine"] == most]


def after(rows: pd.DataFrame, score: Score, epochs: pd.Series) -> pd.Series:
    """The score of each trial after so many epochs, which need not be whole, by trial id.

    `epochs`, at least 1, is indexed by configuration id; trials of others are left out. Between two epochs the score is
    on the straight line between them: with the last whole epoch that fits, a step that is one percent slower would cost
    a whole epoch. Curves that flatten lie a little above these lines, and far above within the first epoch. NaN where a
    trial diverged before.
    """
    at = rows["configuration_id"].astype(object).map(epochs).astype(float)
    weight = 1 - (rows["epoch"] - at).abs()
    near = pd.DataFrame({"weight": weight, "score": weight * rows[score]})[(weight > 0) & rows[score].notna()]
    sums = near.groupby(rows["trial_id"].astype(object)).sum()
    return sums["score"].where(sums["weight"] > 1 - 1e-6)


def pareto(cost: ArrayLike, score: ArrayLike) -> NDArray[np.bool_]:
    """Which of n are on the Pareto front: no other is at least as good and as cheap, and better in one of both.

    Shape (n,) in and out; less cost and more score are better. What lacks one of them (NaN) is not on the front.
    """
    cost, score = np.asarray(cost, dtype=float), np.asarray(score, dtype=float)
    is_as_good = (cost[:, None] <= cost) & (score[:, None] >= score)
    is_better = (cost[:, None] < cost) | (score[:, None] > score)
    is_beaten = np.any(is_as_good & is_better, axis=0)
    return np.asarray(~is_beaten & ~np.isnan(cost) & ~np.isnan(score))
