"""Which choices matter: how much of the variance of a score each factor and each pair of them explains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from optbench.scores import Score

_MAX_LEVELS = 8  # numbers with more values than that are binned
_WITHIN = "optimizer"  # learning rates are compared within the values of this factor only


def importance(finals: pd.DataFrame, factors: Sequence[str], metric: Score) -> pd.DataFrame:
    """Shares of the variance of the log error among the finished trials: columns factor, share and kind.

    The error is 1 − accuracy, or the loss; on its logarithm 98 and 99 % are as far apart as 80 and 90 %, so that the
    worst do not decide everything. What failed should not be among the trials: how badly it did so says nothing about
    what matters where training works (Hutter, Hoos and Leyton-Brown 2014 cut off bad scores for the same reason).

    kind "main": a factor that varies, by what its main effect adds to those of others, averaged over all orders in
    which they may be added (Lindeman, Merenda and Gold 1980): where not every combination was tried, factors explain
    some of the variance in common, and that is shared among them. The learning rate is nested in the optimizer, since
    0.1 is not the same for sgd as for adam, and their ranges differ: it is added after the optimizer and with levels of
    its own in each, so its share is that within the optimizers, pooled. "pair": two factors, by what the means of their
    cells explain beyond all main effects (of lr and another, also beyond that one's pair with the optimizer); where
    pairs explain the same, they are reduced in proportion to what is there. In a balanced design all this is the
    classical analysis of variance (Fisher 1925). "seed": between the seeds of a configuration; NaN where none has two,
    since the rest then includes the noise. "rest": what is left, interactions of three and more and what was binned
    together. The shares are never negative and add up to 1. They are of the sample: a factor or a pair with many levels
    takes up some noise.

    Numbers with more than 8 different values are binned, lr (of an optimizer) to half decades, others into eight groups
    of about the same size. A missing value is a level of its own. The largest share comes first, rest and seed last.
    All shares are NaN where the metric does not vary.
    """
    finished = finals[finals["status"] == "finished"]
    codes = {name: _levels(finished[name]) for name in factors}
    if {"lr", _WITHIN} <= set(codes):
        codes["lr"] = _levels_within(finished)
        if codes["lr"].max(initial=0) == codes[_WITHIN].max(initial=0):  # it varies within none
            del codes["lr"]
    codes = {name: levels for name, levels in codes.items() if levels.max(initial=0) > 0}
    is_nested = {"lr", _WITHIN} <= set(codes)
    scores = _log_error(finished[metric].to_numpy(dtype=float), metric)
    scores = scores - scores.mean() if len(scores) else scores
    total = float(scores @ scores)

    # All factors are the same in all seeds of a configuration: only its mean and its number of seeds count.
    first, of = _cells(pd.factorize(finished["configuration_id"])[0], *codes.values())
    weights, sums = np.bincount(of).astype(float), np.bincount(of, scores)
    noise = float(((scores - (sums / weights)[of]) ** 2).sum())
    mains = {name: levels[first] for name, levels in codes.items()}

    explained = {
        frozenset(names): _explained([mains[name] for name in names], weights, sums)
        for n in range(len(mains) + 1)
        for names in combinations(mains, n)
        if not is_nested or "lr" not in names or _WITHIN in names
    }
    squares = {(name, "main"): _averaged(name, explained) for name in mains}
    beyond = {}
    for a, b in combinations(mains, 2):
        if is_nested and {a, b} == {"lr", _WITHIN}:
            continue
        known = [*mains.values()]
        if is_nested and "lr" in (a, b):
            known.append(_cells(mains[_WITHIN], mains[a if b == "lr" else b])[1])
        both = _explained([_cells(mains[a], mains[b])[1], *known], weights, sums)
        beyond[f"{a} × {b}", "pair"] = max(0.0, both - _explained(known, weights, sums))
    left = max(0.0, total - noise - explained[frozenset(mains)])
    reduced = min(1.0, left / sum(beyond.values())) if any(beyond.values()) else 1.0
    squares |= {key: square * reduced for key, square in beyond.items()}
    found = [(name, max(0.0, square), kind) for (name, kind), square in squares.items()]
    found.sort(key=lambda row: -row[1])
    rest = max(0.0, total - noise - sum(square for _, square, _ in found))
    if (weights <= 1).all():
        noise = np.nan
    rows = [*found, ("rest", rest, "rest"), ("seed", noise, "seed")]
    # Scores that are all the same leave only the rounding of their mean.
    is_constant = not finished[metric].nunique() > 1
    return pd.DataFrame(
        [(name, np.nan if is_constant else square / total, kind) for name, square, kind in rows],
        columns=["factor", "share", "kind"],
    )


def _log_error(scores: np.ndarray, metric: Score) -> np.ndarray:
    """The logarithm of 1 − accuracy, or of the loss; no error counts as half of the least one."""
    errors = scores if metric.is_loss else 1 - scores
    least = errors[errors > 0].min(initial=np.inf)
    logs: np.ndarray = np.log10(np.maximum(errors, least / 2 if np.isfinite(least) else 1.0))
    return logs


def _averaged(name: str, explained: dict[frozenset[str], float]) -> float:
    """What a factor adds to the explained squares of others, averaged over the orders in which they may be added.

    These are the orders whose beginnings all are among the keys.
    """
    before, after = _orders(explained), _orders([*explained][::-1])
    every = before[max(explained, key=len)]
    added = ((names, names | {name}) for names in explained if name not in names and names | {name} in explained)
    return sum(before[a] * after[b] / every * (explained[b] - explained[a]) for a, b in added)


def _orders(sets: Iterable[frozenset[str]]) -> dict[frozenset[str], int]:
    """In how many orders each set is reached from the first of these sets, one factor after the other."""
    found: dict[frozenset[str], int] = {}
    for names in sets:
        found[names] = sum(orders for others, orders in found.items() if len(others ^ names) == 1) if found else 1
    return found


def _levels_within(finished: pd.DataFrame) -> np.ndarray:
    """The levels of lr, other ones in each optimizer."""
    levels = np.zeros(len(finished), dtype=int)
    groups = finished.groupby(_WITHIN, sort=False, observed=True, dropna=False).indices
    for places in groups.values():
        levels[places] = _levels(finished["lr"].iloc[places])
    return _cells(pd.factorize(finished[_WITHIN], use_na_sentinel=False)[0], levels)[1]


def _levels(values: pd.Series) -> np.ndarray:
    """The level of each value, as whole numbers from 0."""
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > _MAX_LEVELS:
        if values.name == "lr":
            values = (2 * np.log10(values.where(values > 0))).round()  # lr = 0 has a level of its own
        else:
            values = pd.qcut(values, _MAX_LEVELS, labels=False, duplicates="drop")
    return pd.factorize(values, use_na_sentinel=False)[0]


def _cells(*codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The combinations of levels that occur: where each occurs first, and which one each entry is, from 0."""
    of, first = codes[0], codes[0]
    for levels in codes:
        _, first, of = np.unique(of * (levels.max(initial=0) + 1) + levels, return_index=True, return_inverse=True)
    return first, of


def _explained(terms: list[np.ndarray], weights: np.ndarray, sums: np.ndarray) -> float:
    """The sum of squares that these terms explain together, each given by the level of every configuration.

    `weights` are the numbers of trials of the configurations, `sums` the sums of their centred scores. The term with
    most levels is taken out of the others by subtracting its means (Frisch and Waugh 1933), so that a small system is
    left to solve.
    """
    if not terms:
        return 0.0
    of, *others = sorted(terms, key=lambda levels: -levels.max())
    total, count = np.bincount(of, sums), np.bincount(of, weights)
    explained = float((total**2 / count).sum())
    if not others:
        return explained
    tables = np.vstack([_table(levels, of, weights) for levels in others])
    products = np.block([[_table(a, b, weights) for b in others] for a in others])
    right = np.concatenate([np.bincount(levels, sums) for levels in others]) - tables @ (total / count)
    values, vectors = np.linalg.eigh(products - (tables / count) @ tables.T)
    # What the others share with that term, or with one another, has the eigenvalue 0, except for rounding.
    kept = values > 1e-10 * products.max()
    return explained + float(((vectors.T @ right)[kept] ** 2 / values[kept]).sum())


def _table(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How many trials have each combination of two levels."""
    height, width = int(rows.max()) + 1, int(columns.max()) + 1
    return np.bincount(rows * width + columns, weights, height * width).reshape(height, width)
