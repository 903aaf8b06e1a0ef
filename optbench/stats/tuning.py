"""What tuning buys and what it pretends: expected best of n, sensitivity to lr, divergence, the winner's curse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from optbench.scores import Score
from optbench.stats.intervals import wilson
from optbench.stats.selection import select

_MAX_BUDGETS = 100  # a curve needs no more points
_BAND = (0.1, 0.9)


def expected_best(
    scores: Sequence[float] | np.ndarray, order: Sequence[float] | np.ndarray | None = None
) -> pd.DataFrame:
    """The score of the best of n configurations drawn without replacement from these B, for n from 1 to B.

    The best has the highest `order`, by default the score itself; larger is better in both. `expected` is
    Σ v₍ᵢ₎ C(i−1, n−1) / C(B, n), v ascending by order (Dodge et al. 2019 in the unbiased form of Tang et al. 2020);
    `low` and `high` are the exact 10 % and 90 % quantiles of that score, the best being among the lowest i with
    probability C(i, n) / C(B, n). Configurations that tie in `order` are equally likely to be taken. One without a
    score or an order (NaN) ranks below all; where all n could be without, the expectation does not exist, and
    `expected`, `low` and `high` are NaN. For B above 100 the n are spaced geometrically, with all powers
    of 2 among them.
    """
    from scipy.special import gammaln

    values = np.asarray(scores, dtype=float)
    ranks = values if order is None else np.asarray(order, dtype=float)
    known = ~(np.isnan(values) | np.isnan(ranks))
    total, missing = len(values), int((~known).sum())
    budgets = np.arange(1, total + 1)
    if total > _MAX_BUDGETS:
        doubled = 2 ** np.arange(total.bit_length())
        budgets = np.unique(np.r_[np.geomspace(1, total, _MAX_BUDGETS).round().astype(int), doubled])
    result = pd.DataFrame({"n": budgets, "expected": math.nan, "low": math.nan, "high": math.nan})
    n = budgets[budgets > missing, None]
    if not len(n):
        return result

    # In logarithms, since binomials of 20,000 overflow. i counts those without a score, too: C(i, n) is 0 for i < n.
    by_order = np.argsort(ranks[known], kind="stable")
    values, ranks = values[known][by_order], ranks[known][by_order]
    i = np.arange(missing + 1, total + 1)[None, :]
    share = np.exp(gammaln(i + 1) - gammaln(i - n + 1) - gammaln(total + 1) + gammaln(total - n + 1))
    weights = share * n / i  # C(i−1, n−1) = C(i, n) n / i
    first = np.flatnonzero(np.r_[True, ranks[1:] != ranks[:-1]])
    ties = np.diff(np.r_[first, len(ranks)])
    weights = np.repeat(np.add.reduceat(weights, first, axis=1) / ties, ties, axis=1)
    weights /= weights.sum(axis=1, keepdims=True)

    by_value = np.argsort(values, kind="stable")
    reached = weights[:, by_value].cumsum(axis=1)
    quantiles = [values[by_value][np.argmax(reached >= q - 1e-9, axis=1)] for q in _BAND]
    result.loc[budgets > missing, ["expected", "low", "high"]] = np.column_stack([weights @ values, *quantiles])
    return result


def tuning_curves(finals: pd.DataFrame, by: Sequence[str], metric: Score, score: Score) -> pd.DataFrame:
    """`expected_best` of each group's configurations: the columns of `by`, then n, expected, low and high.

    A configuration is ordered by its mean `metric` over the seeds and has its mean `score`, of the seeds that did not
    diverge. As in `select`, those with fewer seeds or with a diverged one come after the others, and those that always
    diverged have no score. Configurations that halving stopped come after those that trained to their end and before
    those with a diverged seed, the sooner stopped the lower, with the score that they had then: the curve of a sweep
    with halving says what n of its trainings bring, stopped as they were, not what they would bring in full. For a
    loss, lower is better and `low` is the better end.
    """
    stopped = finals["status"] == "stopped"
    table = (
        finals.assign(
            lost=finals["status"] == "diverged",
            stopped_after=finals["epoch"].astype(float).where(stopped, math.inf),
            ordered=metric.sign * finals[metric],
            scored=score.sign * finals[score],
        )
        .groupby([*by, "configuration_id"], observed=True, sort=False)
        .agg(
            seeds=("lost", "size"),
            lost=("lost", "mean"),
            stopped_after=("stopped_after", "min"),
            ordered=("ordered", "mean"),
            scored=("scored", "mean"),
        )
        .reset_index()
    )
    table["lost"] = -table["lost"]
    table["rank"] = table.groupby(["seeds", "lost", "stopped_after", "ordered"]).ngroup()
    curves = []
    for key, group in table.groupby(list(by), observed=True, sort=False):
        curve = expected_best(group["scored"].to_numpy(), group["rank"].to_numpy())
        if score.is_loss:
            curve = curve.assign(expected=-curve["expected"], low=-curve["high"], high=-curve["low"])
        for place, (name, value) in enumerate(zip(by, _tuple(key), strict=True)):
            curve.insert(place, name, value)
        curves.append(curve)
    return pd.concat(curves or [pd.DataFrame(columns=[*by, "n", "expected", "low", "high"])], ignore_index=True)


def lr_sensitivity(finals: pd.DataFrame, by: Sequence[str], metric: Score) -> pd.DataFrame:
    """How much the choice of lr matters to each group: one row per group.

    `best_lr` is that of the configuration that `select` takes, NaN where none was trained to its end; `lowest_lr`,
    `highest_lr` and `lrs` say what was tried. `edge` is "low" or "high" where the best of several is the lowest or the
    highest: the range should be extended there.

    `decades_1` and `decades_5` are the width, in decades, of the range of lr around the best in which the best
    configuration at that lr stays within 1 % or 5 % of the best score (0.99 of an accuracy, 1.01 of a loss), with
    straight lines in log10 lr between those tried. An lr at which that configuration diverged on any seed is outside,
    and the range ends at its neighbour; around a best that diverged itself it is 0. An lr whose configurations were all
    stopped by halving says nothing about its score and is passed over. `decades_1_open` and `decades_5_open` are true
    where the range reaches the lowest or highest lr that was trained to the end: then the width is a lower bound. It is
    NaN for fewer than two such lr; lr = 0 has no logarithm and is left out.
    """
    keys = list(by)
    trained = finals[finals["status"] != "stopped"]
    means = (
        trained.assign(score=metric.sign * trained[metric], lost=trained["status"] == "diverged")
        .groupby("configuration_id", observed=True, sort=False)
        .agg(score=("score", "mean"), lost=("lost", "any"), lr=("lr", "first"))
    )
    chosen = select(finals, keys, metric).rename("best").reset_index()
    chosen[["best_score", "best_lr"]] = means[["score", "lr"]].reindex(chosen["best"]).to_numpy()
    chosen.loc[chosen["best_score"].isna(), "best_lr"] = math.nan
    tried = (
        finals.groupby(keys, observed=True, sort=False)
        .agg(lowest_lr=("lr", "min"), highest_lr=("lr", "max"), lrs=("lr", "nunique"))
        .reset_index()
    )
    result = tried.merge(chosen.drop(columns="best"), on=keys, how="left")

    several = result["lrs"] > 1
    low, high = ((result["best_lr"] == result[end]) & several for end in ("lowest_lr", "highest_lr"))
    result["edge"] = np.select([low, high], ["low", "high"], "")

    at_lr = select(finals, [*keys, "lr"], metric).rename("configuration_id").reset_index().sort_values("lr")
    at_lr[["score", "lost"]] = means[["score", "lost"]].reindex(at_lr["configuration_id"]).to_numpy(dtype=float)
    at_lr = at_lr[at_lr["lr"] > 0]
    axes = {
        _tuple(key): (np.log10(group["lr"].to_numpy()), group["score"].where(group["lost"] == 0).to_numpy())
        for key, group in at_lr.groupby(keys, observed=True, sort=False)
    }
    nothing = (np.empty(0), np.empty(0))
    for percent in (1, 5):
        widths = [
            _width(*axes.get(key, nothing), best_lr, best - percent / 100 * abs(best))
            for key, best_lr, best in zip(
                result[keys].itertuples(index=False, name=None), result["best_lr"], result["best_score"], strict=True
            )
        ]
        result[f"decades_{percent}"] = [width for width, _ in widths]
        result[f"decades_{percent}_open"] = [is_open for _, is_open in widths]
    columns = ["decades_1", "decades_1_open", "decades_5", "decades_5_open"]
    return result[[*keys, "best_lr", "lowest_lr", "highest_lr", "lrs", "edge", *columns]]


def _tuple(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _width(x: np.ndarray, scores: np.ndarray, best_lr: float, bar: float) -> tuple[float, bool]:
    """Width of the range around the best in which scores (larger is better) reach the bar, and whether it is open."""
    if len(x) < 2 or not best_lr > 0:
        return math.nan, False
    best = int(np.argmin(abs(x - math.log10(best_lr))))
    below, is_open_below = _reach(x[best::-1], scores[best::-1], bar)
    above, is_open_above = _reach(x[best:], scores[best:], bar)
    return below + above, is_open_below or is_open_above


def _reach(x: np.ndarray, scores: np.ndarray, bar: float) -> tuple[float, bool]:
    """How far from the first point the scores reach the bar, and whether they do up to the last point."""
    inside = scores >= bar
    if inside.all():
        return float(abs(x[-1] - x[0])), True
    out = int(np.argmin(inside))
    if out == 0:
        return 0.0, False
    end = x[out - 1]
    if np.isfinite(scores[out]):
        end += (x[out] - end) * (scores[out - 1] - bar) / (scores[out - 1] - scores[out])
    return float(abs(end - x[0])), False


def divergence(finals: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """How many trials of each group diverged; `by` is meant to hold lr. Sorted by the columns of `by`.

    `low` and `high` are `wilson`'s interval of the probability, which treats the trials as independent. One that
    halving stopped did not diverge.
    """
    table = (
        finals.assign(diverged=finals["status"] == "diverged")
        .groupby(list(by), observed=True, dropna=False)
        .agg(trials=("diverged", "size"), diverged=("diverged", "sum"))
        .reset_index()
    )
    share = table["diverged"] / table["trials"]
    low, high = wilson(share, table["trials"])
    return table.assign(probability=share, low=low, high=high)


def winners_curse(tuning: pd.DataFrame, confirming: pd.DataFrame, metric: Score) -> pd.DataFrame:
    """How much better each optimizer's selected configuration looked on the seeds that selected it than on fresh ones.

    The selected configuration is the one that confirms; an optimizer without such trials has no row. `tuning` and
    `confirm` are the means of `metric` over the `n_tuning` and `n_confirm` finished trials; `gap` is by how much the
    first is too good (tuning − confirm, for a loss confirm − tuning), with Welch's (1947) 95 % interval, NaN where a
    side has fewer than two trials.
    """
    from scipy.special import stdtrit

    confirmed = _moments(confirming, metric)
    tuned = _moments(tuning, metric).reindex(confirmed.index)
    gap = metric.sign * (tuned["mean"] - confirmed["mean"])
    square = tuned["square"] + confirmed["square"]
    freedom = square**2 / (tuned["square"] ** 2 / (tuned["n"] - 1) + confirmed["square"] ** 2 / (confirmed["n"] - 1))
    half = np.sqrt(square) * stdtrit(freedom.where(square != 0, 1.0), 0.975)
    return pd.DataFrame(
        {
            "tuning": tuned["mean"],
            "confirm": confirmed["mean"],
            "gap": gap,
            "gap_low": gap - half,
            "gap_high": gap + half,
            "n_tuning": tuned["n"].fillna(0).astype(int),
            "n_confirm": confirmed["n"],
        }
    ).reset_index()


def _moments(finals: pd.DataFrame, metric: Score) -> pd.DataFrame:
    """For each configuration the mean of its finished trials, its squared standard error, and their number.

    The error is NaN for fewer than two.
    """
    finished = finals.assign(value=finals[metric].where(finals["status"] == "finished"))
    groups = finished.groupby(["optimizer", "configuration_id"], observed=True, sort=False)["value"]
    return pd.DataFrame({"mean": groups.mean(), "square": groups.var() / groups.count(), "n": groups.count()})
