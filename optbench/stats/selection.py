"""Which configuration of each group is best, and how good it is."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from optbench.stats.finals import SCORES
from optbench.stats.intervals import estimate


def sign(metric: str) -> float:
    """1 where more of a metric is better, −1 for a loss."""
    return -1.0 if metric.endswith("loss") else 1.0


def ranked(finals: pd.DataFrame, by: Sequence[str], metric: str) -> pd.DataFrame:
    """The configurations of all groups, the best first: `by`, `configuration_id`, and what puts it there.

    In the order of the highest mean `metric` over a configuration's seeds (the lowest for a loss). Configurations that
    always diverged come last; before them those with fewer seeds than others, so that in half a sweep no lucky seed
    wins against a mean of many; then those with a diverged seed. Stopped ones lost already and are not here.
    """
    trained = finals[finals["status"] != "stopped"]
    scores = trained.assign(score=sign(metric) * trained[metric], lost=trained["status"] == "diverged")
    table = scores.groupby([*by, "configuration_id"], sort=False, observed=True).agg(
        score=("score", "mean"), lost=("lost", "mean"), seeds=("score", "size")
    )
    table["hopeless"] = table["lost"] == 1
    return table.reset_index().sort_values(
        ["hopeless", "seeds", "lost", "score", "configuration_id"],
        ascending=[True, False, True, False, True],
        na_position="last",
        ignore_index=True,
    )


def select(finals: pd.DataFrame, by: Sequence[str], metric: str) -> pd.Series:
    """The best configuration of each group, the first one that is `ranked`: ids indexed by group."""
    return ranked(finals, by, metric).groupby(list(by), sort=False, observed=True)["configuration_id"].first()


def compare(
    finals: pd.DataFrame, by: Sequence[str], metric: str, confirming: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row for each group: its best configuration's scores, each with its interval from `…_low` to `…_high`.

    `finals` select the configuration; it is scored by the same trials, or by those of `confirming`, on other seeds.
    `n` counts the seeds behind the scores, `trials` and `diverged` all trials of the group. `seconds_per_epoch` is
    measured on trials that ran alone and NaN where there are none. Best group first; groups without any trial that was
    trained to its end come last.
    """
    selected = select(finals, by, metric)
    chosen = {key if isinstance(key, tuple) else (key,): configuration for key, configuration in selected.items()}
    result = []
    for key, group in finals.groupby(list(by), sort=False):
        best = chosen.get(key, "")
        scoring = group
        if confirming is not None:
            scoring = confirming[confirming["configuration_id"] == best]
            group = pd.concat([group, scoring])
        usable = scoring[(scoring["configuration_id"] == best) & (scoring["status"] == "finished")]
        alone = usable[(usable["stack_size"] == 1) & (usable["workers"] == 1)]
        row = dict(zip(by, key, strict=True))
        for score in SCORES:
            row |= _columns(score, usable[score])
        row["val_loss"] = estimate(usable["val_loss"].tolist()).mean
        row |= _columns("seconds_per_epoch", alone["train_seconds"] / alone["epochs"])
        row["n"], row["trials"] = len(usable), len(group)
        row["diverged"] = int((group["status"] == "diverged").sum())
        row["configuration_id"] = best
        result.append(row)
    return pd.DataFrame(result).sort_values(
        metric, ascending=metric.endswith("loss"), na_position="last", kind="stable"
    )


def _columns(name: str, values: pd.Series) -> dict[str, float]:
    """The mean of the values and its interval, as columns."""
    found = estimate(values.tolist())
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def by_epoch(rows: pd.DataFrame, configurations: Sequence[str]) -> pd.DataFrame:
    """Mean train and validation accuracy of these configurations after each epoch, over their finished trials."""
    usable = rows[rows["configuration_id"].isin(list(configurations)) & (rows["status"] == "finished")]
    scores = ["train_accuracy", "val_accuracy"]
    table = usable.groupby(["optimizer", "epoch"], sort=False)[scores].agg(["mean", "count"])
    table.columns = pd.Index(["train_accuracy", "n", "val_accuracy", "_"])
    return table.drop(columns="_").reset_index()
