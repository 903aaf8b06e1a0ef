"""The optimizers at their defaults: which is best out of the box, and what tuning gains."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from optbench import stats
from optbench.report.results import Results
from optbench.report.tables import Column, Table
from optbench.sweep.axes import COMPARED
from optbench.wording import count, out_of


def defaults(results: Results, optimizers: pd.DataFrame) -> Table | None:
    """Each optimizer at its defaults, from the best to the worst, beside its row in the table `optimizers`."""
    if results.defaults.empty:
        return None
    score = results.score
    data, tuned = _ranked(results), optimizers.set_index("optimizer")
    for end in ("", "_low", "_high"):
        data[f"tuned{end}"] = data["optimizer"].map(tuned[f"{score}{end}"])
    data = data.join(stats.gains(results.selected, results.defaults, score), on="optimizer")
    data["is_selected"] = data["configuration_id"] == data["optimizer"].map(tuned["configuration_id"])
    kind = Column.of(score).kind
    columns = [
        Column("optimizer", "optimizer"),
        Column(str(score), f"{score.heading}, defaults", kind),
        Column("tuned", "tuned", kind),
        Column.of_difference(score, "gain", "gain"),
        *([Column("p", "p", "p")] if data["p"].notna().any() else []),
        Column("n", "n", "count"),
        Column("lost_of", "lost", "count"),
        Column("configuration", "defaults", "prose"),
    ]
    if len(data) > 1:
        columns.insert(1, Column("rank", "rank", "rank"))
    return Table("Defaults and tuning", " ".join(_caption(results, data)), tuple(columns), data)


def _ranked(results: Results) -> pd.DataFrame:
    """The defaults ranked among each other; `difference_best` and `p_best` compare each with the best of them."""
    score = results.score
    data = stats.compare(results.defaults, ["optimizer"], results.metric, score=score)
    keep = ["optimizer", "rank", "rank_to", "best", score, f"{score}_low", f"{score}_high", "n", "seeds", "lost"]
    compared = data[["difference", "p"]].add_suffix("_best")
    data = data[[*keep, "configuration_id"]].join(compared)
    axes = [name for name in COMPARED if name != "optimizer"]
    varying = stats.varying(pd.concat([results.tuning, results.defaults]), axes)
    choices = ["lr", *varying, *(name for name in results.hyperparameters if name != "lr")]
    data["configuration"] = [results.in_words(i, choices) for i in data["configuration_id"]]
    data["lost_of"] = out_of(data["lost"], data["seeds"])
    return data


def _caption(results: Results, data: pd.DataFrame) -> Iterator[str]:
    """What the defaults are, how a gain is measured, and who is missing."""
    yield (
        "Defaults: lr, and the hyperparameters that the sweep varies, as the optimizer itself sets them; what the "
        "sweep fixes stays, and of every other axis the first value is taken. Rank: among the defaults. Gain: how much "
        "better the tuned configuration is, seed by seed, with its own 95 % interval; lost seeds count as guessing in "
        "it."
    )
    tests = int(data["p"].notna().sum())
    if tests:
        yield f"p: paired t test with moderated variances, corrected for {count(tests, 'test')} (Holm)."
    yield "All of it is about other seeds on the same images."
    if results.confirming is None:
        yield "The seeds of the tuned scores also selected them, which flatters the gain."
    without, there = results.outline.without_defaults, set(data["optimizer"])
    if without:
        yield f"Left out: {', '.join(f'{label} ({why})' for label, why in without.items())}."
    missing = [label for label in results.outline.optimizers if label not in {*there, *without}]
    if missing and not results.query.where:
        yield f"No defaults trained yet: {', '.join(missing)}."
