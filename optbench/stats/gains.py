"""What tuning gains: each optimizer's tuned configuration against its defaults, seed by seed.

"One-shot" against tuned, as in Schmidt, Schneider and Hennig, 2021, "Descending through a crowded valley: benchmarking
deep learning optimizers".
"""

from __future__ import annotations

import pandas as pd

from optbench.scores import Score
from optbench.stats.finals import with_worst
from optbench.stats.intervals import t_interval
from optbench.stats.ranking import differences, holm

_SIDES = ("tuned", "default")


def gains(tuned: pd.DataFrame, defaults: pd.DataFrame, score: Score) -> pd.DataFrame:
    """By how much each optimizer's tuned configuration is better than its defaults; of a loss, too, more is better.

    Both frames hold finals, of one configuration of each optimizer. Columns, indexed by the optimizers in both: `gain`,
    the mean of the differences over the `n_both` seeds that both have, in which a lost seed counts as guessing (see
    `finals.with_worst`); `gain_low` and `gain_high`, its own 95 % interval; `p`, of no gain, by a paired t test with
    variances moderated by those of all pairs (see `ranking.differences`), adjusted over the optimizers (Holm).

    Where the defaults are what was selected, the gain is 0, and there is nothing to test: NaN, as with fewer than two
    common seeds.
    """
    ids, scores, lost = _sides(tuned, defaults, score)
    found = _tested(differences(scores, lost)).reindex(ids.index)
    found.loc[ids["tuned"] == ids["default"], "gain"] = 0.0
    return found


def _sides(
    tuned: pd.DataFrame, defaults: pd.DataFrame, score: Score
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The configurations of each optimizer, tuned and default; and where these differ, their scores and lost seeds.

    The latter two have a row for each seed and a column for each optimizer and side; of scores, more is better.
    """
    trials = pd.concat([tuned.assign(side="tuned"), defaults.assign(side="default")], ignore_index=True)
    trials = trials[trials["status"] != "stopped"]
    trials = trials.assign(expected=score.sign * with_worst(trials, score))
    ids = trials.groupby(["optimizer", "side"], sort=False)["configuration_id"].first().unstack()
    ids = ids.reindex(columns=_SIDES).dropna()
    columns = pd.MultiIndex.from_product([ids.index[ids["tuned"] != ids["default"]], _SIDES])
    scores, lost = (
        trials.pivot(index="seed", columns=["optimizer", "side"], values=name).reindex(columns=columns)
        for name in ("expected", "lost")
    )
    return ids, scores, lost


def _tested(pairs: pd.DataFrame) -> pd.DataFrame:
    """Of the differences of all pairs of optimizers and sides those within an optimizer, as `gains` has them."""
    mine = pairs[pairs["first"].str[0] == pairs["second"].str[0]]  # tuned comes first
    low, high = t_interval(mine["difference"], mine["sd"], mine["n"], mine["freedom"])
    columns = {
        "gain": mine["difference"],
        "gain_low": low,
        "gain_high": high,
        "p": pd.Series(holm(mine["p"]), mine.index).where(mine["n"] > 1),
        "n_both": mine["n"].astype(float),
    }
    return pd.DataFrame(columns).set_axis(pd.Index(mine["first"].str[0], name="optimizer"))
