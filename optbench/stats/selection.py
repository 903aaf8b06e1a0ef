"""Which configuration of each group is best, how good it is, and from which others it can be told apart."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from optbench.scores import Score
from optbench.stats.finals import SCORES, trained_epochs, with_worst
from optbench.stats.images import on_other_images
from optbench.stats.intervals import estimate, iqm, median
from optbench.stats.ranking import candidates, differences, ranks, resolution
from optbench.stats.verdicts import Reference, verdicts

Correct = Mapping[str, NDArray[np.bool_]]  # by trial id a mask (N,): which images are right

_DIGITS = 9  # scores that differ by less differ only by rounding


def at_epoch(finals: pd.DataFrame, rows: pd.DataFrame, at: str | int, metric: Score) -> pd.DataFrame:
    """`finals` with the scores that their finished trials had at another epoch than the last.

    `at` is an epoch, or "best" for each trial's epoch of best `metric` (early stopping; the first of equal ones). A
    trial that diverged has no score at any epoch, even if it diverged later.
    """
    finished = rows[rows["status"].eq("finished") & rows["trial_id"].isin(finals["trial_id"])]
    if at == "best":
        score = metric.sign * finished[metric]
        chosen = finished.loc[score.groupby(finished["trial_id"], observed=True, sort=False).idxmax()]
    else:
        chosen = finished[finished["epoch"] == at]
    moving = [name for name in finals if name in SCORES or name in ("epoch", "step", "scheduled_lr", "train_seconds")]
    there = [name for name in moving if name in rows]
    result = finals.set_index("trial_id")
    scores = chosen.set_index(chosen["trial_id"].astype(object))[there]
    result.loc[scores.index, there] = scores
    result["gap"] = result["train_accuracy"] - result["val_accuracy"]
    return result.reset_index()[finals.columns]


def ranked(finals: pd.DataFrame, by: Sequence[str], metric: Score) -> pd.DataFrame:
    """The configurations of all groups, best first: `by`, `configuration_id`, and the columns that decide the order.

    They are in the order of their mean `metric` over the seeds, highest first (lowest for a loss). Configurations that
    always diverged come last; before them those with fewer seeds than others, so that in half a sweep no lucky seed
    wins against a mean of many; among equal numbers of seeds, those with a diverged seed come later. Stopped ones have
    lost already and are not included.
    """
    trained = finals[finals["status"] != "stopped"]
    scores = trained.assign(score=metric.sign * trained[metric], diverged=trained["status"] == "diverged")
    table = scores.groupby([*by, "configuration_id"], sort=False, observed=True).agg(
        score=("score", "mean"), lost=("diverged", "mean"), seeds=("score", "size")
    )
    table["hopeless"] = table["lost"] == 1
    return table.reset_index().sort_values(
        ["hopeless", "seeds", "lost", "score", "configuration_id"],
        ascending=[True, False, True, False, True],
        na_position="last",
        ignore_index=True,
    )


def select(finals: pd.DataFrame, by: Sequence[str], metric: Score) -> pd.Series:
    """The best configuration of each group, the first one that is `ranked`: ids indexed by group."""
    return ranked(finals, by, metric).groupby(list(by), sort=False, observed=True)["configuration_id"].first()


def chosen(finals: pd.DataFrame, by: Sequence[str], metric: Score, confirming: pd.DataFrame | None = None) -> pd.Series:
    """The configuration that stands for each group: ids indexed by group.

    It is the best among `finals` by `metric`, unless a configuration of the group was confirmed, then it is that one:
    the sweep has selected already, and other seeds, filters or epochs could select another.
    """
    best = select(finals, by, metric)
    if confirming is None:
        return best
    confirmed = confirming.drop_duplicates(by).set_index(list(by))["configuration_id"]
    return confirmed.reindex(best.index).where(lambda ids: ids.notna(), best)


def ties(finals: pd.DataFrame, by: Sequence[str], metric: Score) -> pd.Series:
    """How many configurations of each group were as good as the one that `select` takes: the first by its id."""
    order = ranked(finals, by, metric)
    keys = ["hopeless", "seeds", "lost", "score"]
    order = order.assign(score=order["score"].round(_DIGITS))
    groups = order.groupby(list(by), sort=False, observed=True)
    same = (order[keys] == groups[keys].transform("first")).all(axis=1) & ~order["hopeless"]
    return same.groupby([order[name] for name in by], sort=False, observed=True).sum() - 1


def compare(
    finals: pd.DataFrame,
    by: Sequence[str],
    metric: Score,
    confirming: pd.DataFrame | None = None,
    score: Score = Score.test_accuracy,
    timed: pd.DataFrame | None = None,
    reference: Reference = Reference(),  # noqa: B008  # it cannot change
    correct: Correct | None = None,
) -> pd.DataFrame:
    """One row for each group: its best configuration's scores, each with its interval from `…_low` to `…_high`.

    `finals` select the configuration by `metric`; it is scored by the same trials, or by those of `confirming`, on
    other seeds. Of these `seeds`, `lost` are those that brought nothing (see `finals.final`), and the scores are
    over the `n` others. `trials` and `diverged` count all trials of the group. `seconds_per_epoch` is of the finished
    among the `timed` trials, which ran alone, and NaN where there are none.

    Groups are in the order of `expected`, the mean `score` over all seeds, in which a lost one counts as guessing: so
    none gains by losing its worst seeds. Those without a trial that trained to its end come last. Those that differ
    only in the last column of `by` are ranked among each other: `rank`, `rank_to`, `may_be_best` (see
    `ranking.candidates`) and the columns of `verdicts`, compared with the baseline of the `reference`, or else with the
    `best` of them, over the `n_both` seeds that both have; in these, too, a lost seed counts as guessing. `correct`
    says which images each trial that scores classified correctly; without it nothing is said about other images.
    """
    by = list(by)
    ids = chosen(finals, by, metric, confirming)
    everything = finals if confirming is None else pd.concat([finals, confirming])
    scoring = finals if confirming is None else confirming
    scoring = scoring[scoring["configuration_id"].isin(ids) & (scoring["status"] != "stopped")]
    scoring = scoring.assign(expected=with_worst(scoring, score))
    seeds = {_key(key): group for key, group in scoring.groupby(by, sort=False, observed=True)}
    seconds: dict[object, pd.Series] = {}
    if timed is not None:
        ended = timed[(timed["status"] == "finished") & (timed["epoch"] == timed["epochs"])]
        per_epoch = ended["train_seconds"] / trained_epochs(ended)
        seconds = dict(list(per_epoch.groupby(ended["configuration_id"].astype(object), sort=False)))
    steps = {name: resolution(scoring[name]) for name in SCORES}
    result = []
    for key, group in everything.groupby(by, sort=False, observed=True):
        key = _key(key)
        best = ids.get(key if len(by) > 1 else key[0], "")
        scored = seeds.get(key, scoring.iloc[:0])
        found = scored[~scored["lost"]]
        row = dict(zip(by, key, strict=True))
        for name in SCORES:
            row |= _columns(name, found[name], steps[name])
        row[f"{score}_median"], row[f"{score}_iqm"] = median(found[score].tolist()), iqm(found[score].tolist())
        row |= _columns("seconds_per_epoch", seconds.get(best, []))
        row["expected"] = scored["expected"].mean()
        row["n"], row["seeds"], row["lost"] = len(found), len(scored), int(scored["lost"].sum())
        row["trials"], row["diverged"] = len(group), int((group["status"] == "diverged").sum())
        row["configuration_id"] = best
        result.append(row)
    table = pd.DataFrame(result)
    table = _with_ranks(table, scoring, by, score, reference, correct)
    order = (-score.sign * table["expected"]).round(_DIGITS).to_frame("expected")
    order = order.assign(hopeless=table["n"] == 0, behind=~table["best"])
    order = order.sort_values(["hopeless", "expected", "behind"], na_position="last", kind="stable")
    return table.loc[order.index].reset_index(drop=True)


def _key(key: object) -> tuple[object, ...]:
    return key if isinstance(key, tuple) else (key,)


def _columns(name: str, values: Sequence[float] | pd.Series, step: float = 0.0) -> dict[str, float]:
    """The mean of the values, which come in steps, and its interval, as columns."""
    found = estimate(list(values), step)
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


_COMPARED = (
    "difference",
    "difference_low",
    "difference_high",
    "effect",
    "p",
    "p_images",
    "difference_images_low",
    "difference_images_high",
    "p_equivalent",
    "verdict",
    "seeds_needed",
)


def _with_ranks(
    table: pd.DataFrame,
    scoring: pd.DataFrame,
    by: Sequence[str],
    score: Score,
    reference: Reference,
    correct: Correct | None,
) -> pd.DataFrame:
    """The table with ranks and verdicts, and whether a row is the best of those it is ranked with."""
    *outer, inner = by
    blocks = scoring.groupby(outer, sort=False, observed=True) if outer else [((), scoring)]
    found: dict[tuple[object, ...], dict[Hashable, Any]] = {}
    for key, block in blocks:
        ranked = _ranked(block, inner, score, reference, correct)
        found |= {(*_key(key), value): row for value, row in ranked.to_dict("index").items()}
    columns = ("rank", "rank_to", "n_both", *_COMPARED, "best", "may_be_best")
    unknown: dict[Hashable, Any] = {
        **dict.fromkeys(columns, math.nan),
        "best": False,
        "may_be_best": False,
        "verdict": "",
    }
    keys = list(table[list(by)].itertuples(index=False, name=None))
    return table.assign(**{name: [found.get(key, unknown)[name] for key in keys] for name in columns})


def _ranked(
    block: pd.DataFrame, inner: str, score: Score, reference: Reference, correct: Correct | None
) -> pd.DataFrame:
    """The groups of a block, from best to worst, with ranks and verdicts in the score's own direction."""
    scores = block.pivot(index="seed", columns=inner, values="expected") * score.sign
    lost = block.pivot(index="seed", columns=inner, values="lost")
    pairs = differences(scores, lost)
    if correct is not None:
        pairs = on_other_images(pairs, _masks(block, inner, scores, correct))
    table = ranks(scores, pairs)
    survived = block.groupby(inner, observed=True)["lost"].agg(lambda flags: not flags.all())
    alive = [group for group in table.index if survived[group] and not math.isnan(table["rank"][group])]
    best = alive[0] if alive else None
    is_given = reference.baseline in table.index
    against = reference.baseline if is_given else best
    families = _families(pairs, reference) if is_given else [pairs]
    compared = pd.concat([verdicts(family, against, is_given, reference.rope) for family in families])
    compared = compared.rename(columns={"n": "n_both"})
    may_be_best = table.index.isin(list(candidates(pairs))) & table["rank"].notna()
    table = table.join(compared).assign(best=table.index == best, may_be_best=may_be_best)
    table.loc[table.index == against, ["difference", "n_both"]] = [
        0.0,
        scores[against].count() if against in scores else 0,
    ]
    table["verdict"] = table["verdict"].astype(object).fillna("")
    if score.is_loss:
        low, high = -table["difference_high"], -table["difference_low"]
        table = table.assign(difference=-table["difference"], difference_low=low, difference_high=high)
        table["effect"] = -table["effect"]
    return table


def _masks(block: pd.DataFrame, inner: str, scores: pd.DataFrame, correct: Correct) -> NDArray[np.float32]:
    """Which images were right, (G, S, N) in the order of `scores`; a lost trial's are all as if it guessed."""
    masks = np.full((scores.shape[1], scores.shape[0], len(next(iter(correct.values())))), np.nan, np.float32)
    groups = scores.columns.get_indexer(pd.Index(block[inner]))
    seeds = scores.index.get_indexer(pd.Index(block["seed"]))
    trials = zip(groups, seeds, block["trial_id"], block["lost"], block["expected"], strict=True)
    for group, seed, trial_id, is_lost, expected in trials:
        masks[group, seed] = expected if is_lost else correct[trial_id]
    return masks


def _families(pairs: pd.DataFrame, reference: Reference) -> list[pd.DataFrame]:
    """The comparisons that are corrected for together: of the groups that were asked about, and of the others."""
    pairs = pairs[(pairs["first"] == reference.baseline) | (pairs["second"] == reference.baseline)]
    is_asked = pairs["first"].isin(reference.asked) | pairs["second"].isin(reference.asked)
    return [pairs] if is_asked.all() or not is_asked.any() else [pairs[is_asked], pairs[~is_asked]]


def by_epoch(rows: pd.DataFrame, configurations: Sequence[str]) -> pd.DataFrame:
    """Mean train and validation accuracy of these configurations after each epoch, over their finished trials."""
    usable = rows[rows["configuration_id"].isin(list(configurations)) & (rows["status"] == "finished")]
    usable = usable.assign(optimizer=usable["optimizer"].astype(object))
    scores = ["train_accuracy", "val_accuracy"]
    table = usable.groupby(["optimizer", "epoch"], sort=False, observed=True)[scores].agg(["mean", "count"])
    table.columns = pd.Index(["train_accuracy", "n", "val_accuracy", "_"])
    return table.drop(columns="_").reset_index()
