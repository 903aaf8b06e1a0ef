"""What tuning gains: each optimizer's tuned configuration against its defaults, seed by seed.

"One-shot" against tuned, as in Schmidt, Schneider and Hennig, 2021, "Descending through a crowded valley: benchmarking
deep learning optimizers".
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from optbench.scores import Score
from optbench.stats.finals import with_worst
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
    from scipy.special import stdtrit

    trials = pd.concat([tuned.assign(side="tuned"), defaults.assign(side="default")], ignore_index=True)
    trials = trials[trials["status"] != "stopped"]
    trials = trials.assign(expected=score.sign * with_worst(trials, score))
    ids = (
        trials.groupby(["optimizer", "side"], sort=False)["configuration_id"].first().unstack().reindex(columns=_SIDES)
    )
    ids = ids.dropna()
    differing = ids.index[ids["tuned"] != ids["default"]]
    columns = pd.MultiIndex.from_product([differing, _SIDES])
    wide = [
        trials.pivot(index="seed", columns=["optimizer", "side"], values=name).reindex(columns=columns)
        for name in ("expected", "lost")
    ]
    pairs = differences(*wide)
    pairs = pairs[pairs["first"].str[0] == pairs["second"].str[0]]  # tuned comes first
    n, freedom = (pairs[name].to_numpy(dtype=float) for name in ("n", "freedom"))
    enough = n > 1
    error = pairs["sd"].to_numpy() / np.sqrt(np.where(enough, n, np.nan))
    half = stdtrit(np.where(enough, freedom, np.nan), 0.975) * error
    gain = pairs["difference"].to_numpy()
    found = {
        "gain": gain,
        "gain_low": gain - half,
        "gain_high": gain + half,
        "p": np.where(enough, holm(pairs["p"]), np.nan),
        "n_both": n,
    }
    table = pd.DataFrame(found, index=pd.Index(pairs["first"].str[0], name="optimizer")).reindex(ids.index)
    table.loc[~ids.index.isin(differing), "gain"] = 0.0
    return table
