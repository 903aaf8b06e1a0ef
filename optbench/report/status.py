"""How far a sweep is: a table that works while it runs."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from optbench import stats
from optbench.report.results import under_way
from optbench.report.tables import Column, Table
from optbench.results.store import Store


def status(store: Store) -> Table:
    """How many trials of each optimizer are in which state; works while the sweep runs."""
    rows, outline = store.rows(), store.outline()
    states = ["finished", "diverged", *(["stopped"] if outline.halving else []), "failed", "running"]
    counts = stats.states(rows).groupby("optimizer")["status"].value_counts().unstack(fill_value=0)
    data = pd.DataFrame({"optimizer": list(outline.optimizers), "trials": list(outline.optimizers.values())})
    for state in states:
        found = counts[state].to_dict() if state in counts else {}
        data[state] = [int(found.get(label, 0)) for label in data["optimizer"]]
    data["missing"] = data["trials"] - data[states].sum(axis=1)
    done = int(data[[state for state in states if state not in ("failed", "running")]].to_numpy().sum())
    columns = [Column("optimizer", "optimizer"), *(Column(c, c, "count") for c in ("trials", *states, "missing"))]
    columns = [replace(c, heading=under_way(store)) if c.name == "running" else c for c in columns]
    caption = f"{done}/{int(data['trials'].sum())} trials done in {store.folder}."
    return Table(f"Status of {outline.name}", caption, tuple(columns), data)
