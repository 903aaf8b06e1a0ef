"""The tables that explain: learning rates, time to a target, workloads, what the scores depend on, what was luck."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from optbench import stats
from optbench.report.findings import error_in_words, names, p_in_words
from optbench.report.results import Results, reason
from optbench.report.tables import Column, Table
from optbench.wording import count, out_of

_MAX_CURVES = 10  # columns; nobody compares more
_BUDGETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def sensitivity(results: Results) -> Table | None:
    """How much depends on the learning rate, and whether its range was wide enough."""
    if "lr" not in results.hyperparameters:
        return None
    data = stats.lr_sensitivity(results.tuning, ["optimizer"], results.metric)
    data["range"] = [f"{row.lowest_lr:g} – {row.highest_lr:g}" for row in data.itertuples()]
    advice = {"low": "lowest tried: extend downward", "high": "highest tried: extend upward", "": ""}
    data["advice"] = data["edge"].map(advice)
    columns: tuple[Column, ...] = (
        Column("optimizer", "optimizer"),
        Column("best_lr", "best lr", "number"),
        Column("range", "tried"),
        Column("lrs", "values", "count"),
        Column("decades_1", "decades within 1 %", "decades"),
        Column("decades_5", "decades within 5 %", "decades"),
        Column("advice", "best lr is the", "prose"),
    )
    if not data["edge"].any():
        columns = columns[:-1]
    caption = (
        f"Decades: width (log10) of the range of lr around the best in which {results.metric} stays within 1 % or 5 % "
        "of it, each lr with its best configuration, straight lines between them; ≥: the range tried ends there."
    )
    return Table("Learning-rate sensitivity", caption, columns, data)


def divergence(results: Results) -> Table | None:
    """The learning rates at which trials diverged, on tuning seeds and on fresh ones."""
    parts = {"tuning": results.tuning} | ({} if results.confirming is None else {"fresh": results.confirming})
    found = [stats.divergence(finals, ["optimizer", "lr"]).assign(seeds=seeds) for seeds, finals in parts.items()]
    data = pd.concat(found, ignore_index=True)
    data = data[data["diverged"] > 0].reset_index(drop=True)
    if data.empty:
        return None
    data["diverged_of"] = out_of(data["diverged"], data["trials"])
    data = data.rename(columns={"low": "probability_low", "high": "probability_high"})
    columns = [
        Column("optimizer", "optimizer"),
        Column("lr", "lr"),
        Column("diverged_of", "diverged", "count"),
        Column("probability", "probability %", "percent"),
    ]
    if len(parts) > 1:
        columns.insert(2, Column("seeds", "seeds"))
    caption = "Learning rates at which a trial diverged; at all others none did. 95 % interval of a proportion."
    return Table("Divergence", caption, tuple(columns), data, keys=2)


def failures(results: Results) -> Table | None:
    """Why trials failed: a row for each error of an optimizer."""
    if results.failed.empty:
        return None
    order = {trial_id: i for i, trial_id in enumerate(results.outline.ids)}
    failed = results.failed.sort_values("trial_id", key=lambda ids: ids.map(order))
    failed = failed.assign(error=failed["error"].map(reason))
    rows = []
    for (optimizer, error), trials in failed.groupby(["optimizer", "error"], sort=False):
        first, *others = trials["configuration"].unique()
        more = f" and {count(len(others), 'other')}" if others else ""
        rows.append({"optimizer": optimizer, "configuration": f"{first}{more}", "failed": len(trials), "error": error})
    columns = (
        Column("optimizer", "optimizer"),
        Column("configuration", "configuration", "prose"),
        Column("failed", "trials", "count"),
        Column("error", "last line of the error", "prose"),
    )
    caption = "A trial that failed has no score; the next run of the sweep tries it again."
    return Table("Failed trials", caption, columns, pd.DataFrame(rows))


def targets(results: Results, selected: pd.DataFrame) -> Table | None:
    """How long each optimizer's best configuration takes to a validation score."""
    target, references = results.target(results.tuning)
    ids = [i for i in selected["configuration_id"] if i]
    if math.isnan(target) or not ids or (len(ids) == 1 and results.query.target is None):
        return None
    times = stats.time_to_target(results.scored_rows, results.metric, target, ids)
    data = stats.summarise_targets(times, ["optimizer"])
    alone = stats.time_to_target(results.timed, results.metric, target, ids).dropna(subset="seconds_to")
    seconds = data["optimizer"].map(alone.groupby("optimizer", observed=True)["seconds_to"].median())
    data["seconds_to"] = seconds.where(data["epochs_to"].map(math.isfinite))  # one fast seed does not make it fast
    data = data.sort_values(["epochs_to", "steps_to"], kind="stable", ignore_index=True)
    data["reached_of"] = [f"{k}/{n}" for k, n in zip(data["reached"], data["n"], strict=True)]
    columns = [
        Column("optimizer", "optimizer"),
        Column("reached_of", "reached", "count"),
        Column("epochs_to", "epochs", "times"),
        Column("steps_to", "steps", "times"),
    ]
    if results.query.seconds or data["seconds_to"].notna().any():
        columns.append(Column("seconds_to", "seconds", "times"))
    if results.query.target is not None:
        ends = results.scoring[results.scoring["configuration_id"].isin(ids) & (results.scoring["status"] != "stopped")]
        p = stats.reaches(ends, ["optimizer"], results.metric, target)
        data["p"] = data["optimizer"].map(p)
        columns.insert(2, Column("p", "p", "p"))
    rule = "as asked for" if results.query.target is not None else f"the median of the best of {', '.join(references)}"
    caption = (
        f"Target: {results.metric} {results.metric.written(target)}, {rule}. Median over the seeds; a trial that never "
        "reached it counts as infinitely long."
    )
    if results.query.target is not None:
        caption += " p: that the mean at the end is not above the target (one-sided t test, Holm's correction)."
    return Table("Time to target", caption, tuple(columns), data.assign(target=target))


def workload_scores(results: Results) -> pd.DataFrame:
    """The scores of each optimizer's selected configuration in each workload, a row for each seed.

    Columns workload, optimizer, seed and score, on a scale on which the best mean of a workload has 1: (accuracy −
    that of guessing) / (the best mean − that of guessing), or the lowest mean loss / loss. A lost seed counts as
    guessing, or has the largest loss.
    """
    parts = []
    for key, finals, _, _ in results.workloads():
        chosen = stats.select(finals, ["optimizer"], results.metric)
        data = finals[finals["configuration_id"].isin(chosen) & ~finals["status"].eq("stopped")]
        values = stats.with_worst(data, results.score)
        means = values.groupby(data["optimizer"], observed=True).mean()
        if results.score.is_loss:
            scaled = means.min() / values
        else:
            guess = stats.chance(data)
            scaled = (values - guess) / (means.max() - guess)
        parts.append(data[["optimizer", "seed"]].assign(workload=_named(key), score=scaled.fillna(0.0)))
    return pd.concat(parts, ignore_index=True).astype({"optimizer": str})


def _named(key: Any) -> str:
    """A workload in words: "mnist, cnn"."""
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def workloads(results: Results) -> Table | None:
    """Optimizers across several workloads: how good they are in all, and how often one is better or faster."""
    axes = results.workload_axes
    if not axes:
        return None
    scores = workload_scores(results)
    means = scores.pivot_table(index="workload", columns="optimizer", values="score", sort=False)
    times = {_named(key): epochs for key, _, _, epochs in results.workloads()}
    ranks = stats.friedman(means)
    data = stats.aggregate(scores, results.baseline).rename_axis("optimizer")
    data["mean_rank"], data["profile"] = ranks.mean_ranks, stats.profile_score(pd.DataFrame(times).T)
    whom = results.baseline or "another"
    columns = (
        Column("optimizer", "optimizer"),
        Column("mean_rank", "mean rank", "seconds"),
        Column("iqm", "interquartile mean %", "percent"),
        Column("improvement", f"beats {whom} %", "percent"),
        Column("profile", "performance profile", "seconds"),
    )
    caption = (
        f"{len(means)} workloads: each combination of {names([name.replace('_', ' ') for name in axes])}. Mean rank: "
        f"by {results.score}, 1 is the best. Interquartile mean: of the middle half of the scores of all workloads and "
        "seeds, from 0 for guessing to 100 for the best mean of the workload. Beats: the probability that a seed of "
        f"it beats one of {whom if results.baseline else 'another optimizer'} in the same workload. Both intervals: a "
        "bootstrap of the seeds within each workload (Agarwal et al. 2021), on which the configurations were also "
        "selected; they say nothing about other workloads. "
        "Performance profile: mean height of the curve of workloads solved within 1 to 4 times the least number of "
        "epochs to the workload's target: 1 for an optimizer that is fastest everywhere, 0 for one that is never close."
    )
    if not math.isnan(ranks.p):
        caption += f" Friedman's test that all are alike: {p_in_words(ranks.p)}."
    data = data.reset_index().sort_values("mean_rank", kind="stable", ignore_index=True)
    return Table("Across workloads", caption, columns, data)


def importance(results: Results) -> Table | None:
    """Which axes the scores depend on, among the trials that learned something."""
    factors = [*results.varying, *(["lr"] if "lr" in results.hyperparameters else [])]
    is_lost = results.tuning["lost"]
    data = stats.importance(results.tuning[~is_lost], factors, results.metric) if factors else pd.DataFrame()
    if data.empty or data["share"].isna().all():
        return None
    columns = (Column("factor", "source"), Column("share", "share of variance %", "percent"))
    caption = f"Variance of the log of the {error_in_words(results.metric)} among the finished tuning trials."
    if is_lost.any():
        counts = results.tuning["optimizer"][is_lost].value_counts(sort=True)
        lost = [f"{n} of {label}" for label, n in counts.items() if n]
        caption += (
            f" Left out: {is_lost.sum()} of {len(is_lost)} that diverged or guess ({names(lost)}), since how badly a "
            "trial fails says nothing about what matters among those that work."
        )
    if {"lr", "optimizer"} <= set(data["factor"]):
        caption += " lr: within each optimizer, pooled, since their ranges differ."
    caption += (
        " A pair: what both explain together beyond each alone. seed: between trials that differ in nothing else. "
        "rest: more than two together."
    )
    return Table("What the scores depend on", caption, columns, data)


def selection(results: Results) -> Table | None:
    """How much better the selected configurations looked on the seeds that selected them."""
    if results.confirming is None:
        return None
    data = stats.winners_curse(results.tuning, results.confirming, results.metric)
    kind = Column.of(results.metric).kind
    columns = (
        Column("optimizer", "optimizer"),
        Column("tuning", f"{results.metric.heading}, tuning seeds", kind),
        Column("confirm", "fresh seeds", kind),
        Column.of_difference(results.metric, "gap", "too good by"),
    )
    caption = "The winner's curse: on the seeds that selected it, a configuration looks better than it is."
    return Table("Selection and confirmation", caption, columns, data)


def tuning(results: Results) -> Table | None:
    """What a smaller tuning budget would have found."""
    curves = stats.tuning_curves(results.tuning, ["optimizer"], results.metric, results.score)
    budgets = [n for n in _BUDGETS if n <= curves["n"].max()]
    if len(budgets) < 2:
        return None
    wide = curves[curves["n"].isin(budgets)].set_index(["optimizer", "n"])[["expected", "low", "high"]].unstack()
    data = pd.DataFrame({"optimizer": list(curves["optimizer"].unique())})
    for n in budgets:
        for name, suffix in (("expected", ""), ("low", "_p10"), ("high", "_p90")):
            data[f"{n}{suffix}"] = data["optimizer"].map(wide[name, n])
    kind = Column.of(results.score).kind
    columns = (Column("optimizer", "optimizer"), *(Column(str(n), str(n), kind) for n in budgets))
    caption = (
        f"Expected {results.score} of the configuration selected among n tried, n at the head of the column, over all "
        "choices of n among those that were tried."
    )
    return Table("Tuning budget", caption, columns, data)


def epochs(results: Results, best: pd.DataFrame) -> Table:
    """Accuracy by epoch of each optimizer's best configuration: a row per epoch, a column for each of the best ones."""
    total, best = len(best), best.head(_MAX_CURVES)
    curves = stats.by_epoch(results.scored_rows, best["configuration_id"].tolist())
    data = pd.DataFrame({"epoch": sorted(curves["epoch"].unique())})
    columns = [Column("epoch", "epoch", "count")]
    for optimizer in best["optimizer"]:
        curve = curves[curves["optimizer"] == optimizer].set_index("epoch")
        if curve.empty:  # every seed diverged
            continue
        if results.is_validated:
            for split in ("train_accuracy", "val_accuracy"):
                data[f"{optimizer} {split}"] = data["epoch"].map(curve[split])
            columns.append(Column(optimizer, optimizer, "pair"))
        else:
            data[optimizer] = data["epoch"].map(curve["train_accuracy"])
            columns.append(Column(optimizer, optimizer, "percent"))
    what = "Training and validation accuracy" if results.is_validated else "Training accuracy"
    caption = f"{what.replace(' and', ' /')} in %, mean over the seeds; epoch 0 is before training."
    if total > len(best):
        caption += f" The {len(best)} best of {total} optimizers."
    return Table(what, caption, tuple(columns), data)
