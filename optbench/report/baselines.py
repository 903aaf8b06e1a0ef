"""The baselines that come with optbench, as a table: what each has trained, and where."""

from __future__ import annotations

from typing import Any

import pandas as pd

from optbench import baselines, stats
from optbench.report.results import seeds_in_words
from optbench.report.tables import Column, Table
from optbench.results.joined import Joined
from optbench.results.store import Store

_COLUMNS = (
    Column("baseline", "baseline"),
    Column("dataset", "dataset"),
    Column("model", "model"),
    Column("epochs", "epochs", "count"),
    Column("budget", "budget", "count"),
    Column("seeds", "seeds"),
    Column("kilobytes", "kB", "count"),
    Column("optimizers", "optimizers", "prose"),
    Column("measured", "measured on", "prose"),
)
_CAPTION = (
    "'optbench init --optimizer ./my_opt.py:MyOptimizer --with BASELINE' writes a sweep of yours with the same "
    "settings, and 'optbench report --with BASELINE --baseline adamw' shows its rows with these. 'optbench report "
    "BASELINE' shows the baseline alone."
)


def table() -> Table:
    """A row for each baseline."""
    data = pd.DataFrame([_row(name) for name in baselines.names()], columns=[column.name for column in _COLUMNS])
    return Table("Baselines", _CAPTION, _COLUMNS, data)


def _row(name: str) -> dict[str, Any]:
    store = Store(baselines.folder(name))
    outline, trials = store.outline(), stats.states(store.rows(last=True))
    said = {axis: ", ".join(sorted(trials[axis].unique())) for axis in ("dataset", "model")}
    return said | {
        "baseline": name,
        "epochs": int(trials["epochs"].max()),
        "optimizers": ", ".join(outline.optimizers),
        "budget": max(outline.budgets.values()),
        "seeds": seeds_in_words(trials),
        "measured": Joined([store]).shares[0].measured,
        "kilobytes": round(sum(path.stat().st_size for path in store.parts()) / 1000),
    }
