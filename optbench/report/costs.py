"""The table of what optimizers cost: state, gradients, seconds, memory, and what they reach for the same seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from optbench import stats
from optbench.report.results import Results
from optbench.report.tables import Column, Table

_DIGITS = 9  # beyond them, means of equal scores differ


def table(results: Results, optimizers: pd.DataFrame) -> Table | None:
    """What the configurations in the ranking `optimizers` cost; None where nothing was measured or can be compared."""
    data = optimizers[optimizers["configuration_id"] != ""][["optimizer", "configuration_id", "expected"]]
    costs = stats.costs(results.finals, results.timed, data.set_index("configuration_id")["optimizer"])
    if len(data) < 2 or costs.table.isna().all(axis=None):
        return None
    data = data.join(costs.table, on="configuration_id")
    if results.query.at == "last" and data["seconds"].count() > 1:
        data = _at_equal_seconds(results, _with_front(results, data))
    score = Column.of(results.score)
    columns = (
        Column("optimizer", "optimizer"),
        Column("state_per_parameter", "state", "ratio"),
        Column("gradients_per_step", "gradients per step", "ratio"),
        Column("seconds_per_step", "ms per step", "milliseconds"),
        Column("ratio", f"× {costs.reference}", "ratio"),
        Column("seconds", "seconds", "seconds"),
        Column("peak_memory_bytes", "peak MiB", "mebibytes"),
        replace(score, name="at_equal_seconds", heading=f"{score.heading} at equal seconds"),
        Column("pareto", "front", "yes"),
    )
    measured = [column for column in columns if column.name in data and data[column.name].notna().any()]
    shown = [column for column in measured if column.name != "gradients_per_step" or (data[column.name] > 1).any()]
    return Table("Cost", " ".join(_caption(data, costs)), tuple(shown), data.drop(columns="expected"))


def _with_front(results: Results, data: pd.DataFrame) -> pd.DataFrame:
    """The costs with `pareto`: whether it is on the front, None where there are no seconds."""
    front = stats.pareto(data["seconds"], results.score.sign * data["expected"].round(_DIGITS))
    return data.assign(pareto=pd.Series(front, data.index).astype(object).where(data["seconds"].notna(), None))


def _at_equal_seconds(results: Results, data: pd.DataFrame) -> pd.DataFrame:
    """The costs with scores, ranks and tests at the `equal_seconds` for which all that were timed trained.

    `next_epoch` is the mean score after the epoch that was under way then: it cannot have been much better. What had
    not made an epoch has none of these; if that leaves only one, the costs are as they were.
    """
    seconds = data.set_index("configuration_id")["seconds"].dropna()
    epochs = results.finals.groupby("configuration_id")["epochs"].max()[seconds.index] * seconds.min() / seconds
    epochs = epochs[epochs >= 1]
    if len(epochs) < 2:
        return data
    trials = results.scoring[results.scoring["configuration_id"].isin(epochs.index)]
    then, soon = (
        trials["trial_id"].map(stats.after(results.scored_rows, results.score, n))
        for n in (epochs, epochs.map(math.ceil))
    )
    names = {f"{results.score}{end}": f"at_equal_seconds{end}" for end in ("", "_low", "_high")}
    found = stats.compare(
        trials.assign(**{results.score: then}), ["optimizer"], results.metric, score=results.score
    ).set_index("optimizer")
    found = found.rename(columns=names)[[*names.values(), "n", "lost", "rank", "rank_to", "best", "difference", "p"]]
    found["next_epoch"] = soon[~trials["lost"]].groupby(trials["optimizer"].astype(object)).mean()
    data = data.join(found, on="optimizer")
    return data.assign(best=data["best"].eq(True), equal_seconds=seconds.min())


def _caption(data: pd.DataFrame, costs: stats.Costs) -> Iterator[str]:
    """What the columns say."""
    if data["state_per_parameter"].notna().any():
        yield "State: numbers kept between steps for each parameter."
    gradients = data["gradients_per_step"].dropna()
    if len(gradients) and (gradients == 1).all():
        yield "Each step of all takes one gradient."
    if not costs.reference:
        yield "'optbench run SWEEP --timing' adds seconds."
        return
    machine = "a CPU" if costs.machine == "cpu" else costs.machine
    yield (
        f"Seconds: of training without evaluation, by trials that ran alone on {machine}. × {costs.reference}: seconds "
        f"per step, compared with {costs.reference} at the same batch size and network."
    )
    if "equal_seconds" in data:
        yield (
            f"At equal seconds: after {data['equal_seconds'].iloc[0]:.3g} s, the fewest that one of them takes to the "
            "end; straight lines between epochs, schedules as made for all epochs."
        )
        if data["at_equal_seconds"].count() < data["seconds"].count():
            yield "–: that is less than an epoch."
    if "pareto" in data:
        yield (
            "Front: the Pareto front, where none of the others is at least as good at the end for as few seconds, by "
            "means."
        )
