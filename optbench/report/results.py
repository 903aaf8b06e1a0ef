"""What a report is made from: the rows of a sweep, prepared once for all tables, plots and sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from optbench import stats, wording
from optbench.errors import ArgumentError, UserError, did_you_mean
from optbench.report.formats import written
from optbench.report.query import Query, matching, meeting
from optbench.results.joined import Joined, Share
from optbench.results.store import COLUMNS, Outline, Store
from optbench.scores import Score
from optbench.sweep.axes import COMPARED
from optbench.wording import count as plural

# What tables, plots and sentences are not made from.
_NOT_SHOWN = {"sweep", "scheduled_lr", "stack", "convolution", "cpu", "os"}
_NOT_SHOWN |= {f"{name}_version" for name in ("optbench", "torch", "python")}
_COLUMNS = [name for name, *_ in COLUMNS if name not in _NOT_SHOWN]
_REASON = 200  # characters of an error


def _nothing_known(trial_ids: Collection[str], split: str) -> stats.Correct:
    return {}


@dataclass(frozen=True)
class Results:
    """A sweep's results as a query asks for them.

    rows: one row per trial and epoch.   finals: one row per trial that needs no more training, `dropout` as text.
    tuning, confirming: the finals of both phases; the latter None where the sweep has no fresh seeds yet.
    defaults: the finals of the optimizers at their defaults; those that are in no other phase are in no other frame
        but `failed`, since they decide nothing else.
    failed: one row per trial that failed, with its `configuration` in words.
    timed: the rows, by epoch, of the trials that ran alone on their machine.
    metric: what selects, the sweep's own.   score: what ranks, the query's.
    varying: the compared axes with more than one value.   hyperparameters: those that vary within an optimizer.
    searched: hyperparameters whose values were drawn; each draw is a value of its own.
    read_correct: which images of a split some trials classified correctly, as far as that is known.
    shares: what each of several folders holds, the author's own first; empty where all is of one folder.
    pretraining: the last row of each trial that trained a network for others to begin with.
    """

    name: str
    summary: str
    query: Query
    outline: Outline
    rows: pd.DataFrame
    finals: pd.DataFrame
    tuning: pd.DataFrame
    confirming: pd.DataFrame | None
    defaults: pd.DataFrame
    failed: pd.DataFrame
    timed: pd.DataFrame
    metric: Score
    varying: tuple[str, ...]
    hyperparameters: tuple[str, ...]
    searched: frozenset[str]
    read_correct: Callable[[Collection[str], str], stats.Correct] = _nothing_known
    shares: tuple[Share, ...] = ()
    pretraining: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def own(self) -> tuple[str, ...]:
        """The optimizers that others, of other folders, stand beside; none where all are of one folder."""
        return self.shares[0].optimizers if self.shares else ()

    @property
    def score(self) -> Score:
        """What rows are ranked by."""
        return self.query.metric

    @property
    def is_validated(self) -> bool:
        """Whether images validate; else the training set selects."""
        return not self.metric.startswith("train_")

    @property
    def followed(self) -> Score:
        """The accuracy that is shown beside the score: of validation, or else of training."""
        return Score.val_accuracy if self.is_validated else Score.train_accuracy

    @property
    def baseline(self) -> str | None:
        """The optimizer that all others are compared with; None: the best one. Raises `UserError` for an unknown."""
        asked, labels = self.query.baseline, [str(label) for label in self.tuning["optimizer"].unique()]
        if asked is not None and asked not in labels:
            raise ArgumentError("baseline", asked, did_you_mean(asked, labels))
        return asked

    @property
    def reference(self) -> stats.Reference:
        """What rows are compared with, and which differences matter."""
        return stats.Reference(self.baseline, self.rope, frozenset(self.own) - {self.baseline})

    @cached_property
    def rope(self) -> float:
        """Differences smaller than this do not matter; NaN for a loss, unless the query says it.

        By default it is what the images of the split cannot show: the standard error of the best accuracy on so many
        images, to one digit.
        """
        if self.query.rope is not None or self.score.is_loss:
            return math.nan if self.query.rope is None else self.query.rope
        return float(f"{self.error_of_images:.1g}")

    @cached_property
    def error_of_images(self) -> float:
        """The standard error of the best accuracy that comes from having only so many images, √(p (1 − p) / images)."""
        means = self.selected.groupby("configuration_id")[self.score].mean()
        best, images = float(means.max()), self.images
        # As if one image more were right and one more wrong (Agresti and Coull 1998): 100 % is not certain either.
        share = (best * images + 1) / (images + 2)
        return math.sqrt(share * (1 - share) / images)

    @cached_property
    def correct(self) -> stats.Correct | None:
        """Which images the trials that score the optimizers got right; None unless that is known of all of them.

        Older versions did not keep it, and it is kept after the last epoch only.
        """
        split = str(self.score).partition("_")[0]
        if self.score.is_loss or split == "train" or self.query.at != "last":
            return None
        trials = self.selected[self.selected["status"] == "finished"]
        if trials["split_seed"].nunique() != 1:  # other images for each
            return None
        found = self.read_correct(trials["trial_id"].tolist(), split)
        scores = dict(zip(trials["trial_id"], trials[self.score], strict=True))
        # What does not add up to the score belongs to other rows.
        is_known = all(i in found and abs(found[i].mean() - score) < 1e-9 for i, score in scores.items())
        return found if is_known and len({len(mask) for mask in found.values()}) == 1 else None

    def difference(self, value: float) -> str:
        """A difference of scores in words, without a sign: "0.50 points"."""
        shown = f"{self.score.scale * value:.3g}"
        return f"{value:.4g}" if self.score.is_loss else f"{shown} point{'s' * (shown != '1')}"

    @property
    def images(self) -> int:
        """How many images the score is measured on; of several datasets, on the smallest."""
        split = str(self.score).partition("_")[0].replace("train", "train_eval")
        return int(stats.images_of(self.tuning, split).min())

    @property
    def tuning_rows(self) -> pd.DataFrame:
        """The rows of the trials that select."""
        return self.rows[self.rows["phase"] == "tune"]

    @property
    def scoring(self) -> pd.DataFrame:
        """The trials that score the optimizers: on fresh seeds, if there are any."""
        return self.tuning if self.confirming is None else self.confirming

    @cached_property
    def selected(self) -> pd.DataFrame:
        """Those of them that are of an optimizer's selected configuration."""
        ids = stats.chosen(self.tuning, ["optimizer"], self.metric, self.confirming)
        return self.scoring[self.scoring["configuration_id"].isin(ids)]

    @property
    def scored_rows(self) -> pd.DataFrame:
        """The rows of the trials that score the optimizers."""
        return self.tuning_rows if self.confirming is None else self.rows[self.rows["phase"] == "confirm"]

    @property
    def drawn_schedules(self) -> bool:
        """Whether parameters of schedules were drawn, so that each draw would be a schedule of its own."""
        return "drawn_schedule" in self.finals

    @property
    def choices(self) -> list[str]:
        """The columns that tell the configurations of an optimizer apart."""
        fixed = {"optimizer", "schedule"} if self.drawn_schedules else {"optimizer"}
        axes = [name for name in self.varying if name not in fixed]
        return [*axes, *self.hyperparameters, *(["drawn_schedule"] if self.drawn_schedules else [])]

    def target(self, finals: pd.DataFrame) -> tuple[float, list[str]]:
        """The score of `metric` to reach, the query's or that of the references among `finals`; and the references."""
        return stats.target(finals, self.metric) if self.query.target is None else (self.query.target, [])

    def on_each_dataset(self) -> dict[str, Results]:
        """The results on each dataset as if there were no other: scores on different data are not comparable."""
        if "dataset" not in self.varying:
            return {"": self}
        return {name: self._on(name) for name in sorted(self.tuning["dataset"].unique())}

    def _on(self, dataset: str) -> Results:
        frames = (self.rows, self.finals, self.tuning, self.defaults, self.failed, self.timed)
        rows, finals, tuning, defaults, failed, timed = (frame[frame["dataset"] == dataset] for frame in frames)
        confirming = finals[finals["phase"] == "confirm"]
        return replace(
            self,
            outline=replace(self.outline, budgets=_configurations(tuning)),
            rows=rows,
            finals=finals,
            tuning=tuning,
            confirming=confirming if len(confirming) else None,
            defaults=defaults,
            failed=failed,
            timed=timed,
            varying=tuple(stats.varying(tuning, self.varying)),
            hyperparameters=tuple(_varying_hyperparameters(finals, self.hyperparameters)),
        )

    def workloads(self) -> Iterator[tuple[Any, pd.DataFrame, float, pd.Series]]:
        """Each workload, a combination of `workload_axes`: its key, tuning trials, target and epochs to it.

        The epochs are the median over the seeds of each optimizer's best configuration, indexed by optimizer.
        """
        for key, finals in self.tuning.groupby(self.workload_axes, sort=False, observed=True):
            target, _ = self.target(finals)
            chosen = stats.select(finals, ["optimizer"], self.metric)
            times = stats.time_to_target(self.tuning_rows, self.metric, target, chosen.tolist())
            yield key, finals, target, times.groupby("optimizer", observed=True)["epochs_to"].median()

    @property
    def workload_axes(self) -> list[str]:
        """The axes that tell the workloads of the sweep apart; none if it has only one, or only one optimizer."""
        return [name for name in self.varying if COMPARED[name].is_workload and "optimizer" in self.varying]

    def column(self, name: str) -> str:
        """The column that a user means by an axis or a hyperparameter. Raises `UserError` for neither."""
        plain = {column.removeprefix(stats.HYPERPARAMETER): column for column in self.hyperparameters}
        known = plain | {axis: axis for axis in (*COMPARED, "lr")}
        if name not in known:
            raise ArgumentError("by", name, did_you_mean(name, known))
        return known[name]

    @cached_property
    def _configurations(self) -> dict[str, dict[str, Any]]:
        """A trial's columns for each configuration id."""
        each = pd.concat([self.finals, self.defaults]).drop_duplicates("configuration_id")
        rows = each.to_dict("records")
        return {row["configuration_id"]: {str(name): value for name, value in row.items()} for row in rows}

    def in_words(self, configuration_id: str, choices: Sequence[str]) -> str:
        """What a configuration chose, "schedule=cosine, lr=0.1"; nothing for the empty id."""
        return in_words(self._configurations.get(configuration_id, {}), choices)

    @property
    def listed(self) -> list[str]:
        """The hyperparameters whose values were listed and not drawn, so that a table can have a row for each."""
        return [name for name in self.hyperparameters if name.removeprefix(stats.HYPERPARAMETER) not in self.searched]


def prepare(store: Store | Joined, query: Query) -> Results:
    """The results in a folder. Raises `UserError` if nothing in it can be shown, or for a query that cannot be met."""
    outline = store.outline()
    rows, metric = store.rows(_COLUMNS), outline.metric
    if metric.startswith("train_") and query.metric.startswith("val_"):
        raise ArgumentError("metric", query.metric, "the sweep has no validation set")
    summary = count(rows, outline, under_way(store))
    finals, failed = stats.final(rows), _failed(rows, query.where)
    if finals["status"][finals["phase"] != "default"].isin(["stopped"]).all():
        why = f"; {reason(failed['error'].iloc[0])}" if len(failed) else ""
        raise UserError(f"{store.folder}: no trial has finished yet ({summary}{why})")
    if query.target is not None and query.target > 1 and not metric.is_loss:
        share = f"{query.target:g}% or {query.target / 100:g}"
        raise ArgumentError("target", f"{query.target:g}", f"{metric} is a share; write {share}")
    finals, hyperparameters = stats.with_hyperparameters(finals)
    if query.at != "last":
        finals = stats.at_epoch(finals, rows, query.at, metric)
        _check_epoch(query.at, finals)
    if query.where:
        before = len(finals)
        finals = matching(finals, query.where)
        rows = rows[rows["trial_id"].isin(finals["trial_id"])]
        if not finals["phase"].eq("tune").any():
            raise ArgumentError("where", repr(query.where), "leaves no trial that selects, only others")
        summary += f"; {len(finals)} of {before} where {query.where}"
    finals = stats.with_labels(finals).astype({"dropout": object})
    searched = frozenset(outline.searched)
    if "schedule" in searched:
        names = finals["schedule"].str.partition("(")[0]
        drawn = names.isin(outline.searched_schedules)
        finals = finals.assign(drawn_schedule=finals["schedule"], schedule=finals["schedule"].where(~drawn, names))
    defaults = finals[finals["trial_id"].isin(outline.default_ids)]
    rows, finals = (frame[frame["phase"] != "default"] for frame in (rows, finals))
    if query.where or len(defaults):
        hyperparameters = _varying_hyperparameters(finals, hyperparameters)
    tuning, confirming = finals[finals["phase"] == "tune"], finals[finals["phase"] == "confirm"]
    return Results(
        name=outline.name,
        summary=summary,
        query=query,
        outline=outline,
        rows=rows,
        finals=finals,
        tuning=tuning,
        confirming=confirming if len(confirming) else None,
        defaults=defaults,
        failed=failed,
        timed=store.timed([*_COLUMNS, "cpu"]),
        pretraining=store.pretraining(["status", "epoch", "device"]),
        metric=metric,
        varying=tuple(stats.varying(tuning, list(COMPARED))),
        hyperparameters=tuple(hyperparameters),
        searched=searched,
        read_correct=store.correct.of,
        shares=store.shares if isinstance(store, Joined) else (),
    )


def _failed(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """The trials that failed, of those that meet the condition, each with its configuration in words."""
    if not (rows["status"] == "failed").any():
        return rows[:0].assign(configuration="")
    trials, hyperparameters = stats.with_hyperparameters(stats.states(rows))
    axes = stats.varying(stats.with_labels(trials), [name for name in COMPARED if name != "optimizer"])
    failed = trials[trials["status"] == "failed"]
    if where:
        failed = meeting(failed.assign(gap=math.nan), where)
    failed = stats.with_labels(failed)
    words = [in_words(trial, [*axes, *hyperparameters]) for trial in failed.to_dict("records")]
    return failed.assign(configuration=words, error=failed["error"].fillna("not known"))


def reason(error: str) -> str:
    """The last line of an error, which says what went wrong; only its beginning if it is long."""
    last = error.strip().rpartition("\n")[2]
    return last if len(last) <= _REASON else f"{last[:_REASON].rstrip()} …"


def in_words(trial: Mapping[Any, Any], choices: Iterable[str]) -> str:
    """What a trial chose, "schedule=cosine, lr=0.1"."""
    shown = {name: trial[name] for name in choices if name in trial and not _is_missing(trial[name])}
    plain = {name.removeprefix("drawn_").removeprefix(stats.HYPERPARAMETER): value for name, value in shown.items()}
    return ", ".join(f"{name}={written(value)}" for name, value in plain.items())


def _configurations(finals: pd.DataFrame) -> dict[str, int]:
    """How many configurations of each optimizer there are."""
    counts = finals.groupby("optimizer")["configuration_id"].nunique()
    return {str(label): int(n) for label, n in counts.items()}


def _varying_hyperparameters(finals: pd.DataFrame, hyperparameters: Iterable[str]) -> list[str]:
    return [h for h in hyperparameters if (finals.groupby("optimizer")[h].nunique() > 1).any()]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _check_epoch(at: str | int, finals: pd.DataFrame) -> None:
    most = int(finals["epochs"].max())
    if isinstance(at, int) and at > most:
        raise ArgumentError("at", f"epoch={at}", f"the trials have {most} epochs")


def length_in_words(trials: pd.DataFrame) -> str:
    """How long trials of one sweep train, or of sweeps that agree: "5 epochs", or "10,000 steps" where one says so."""
    steps = trials["steps"].dropna()
    return wording.length_in_words(int(trials["epochs"].max()), int(steps.max()) if len(steps) else None)


def seeds_in_words(trials: pd.DataFrame) -> str:
    """How many seeds select, and how many confirm: "5 seeds and 10 fresh"."""
    seeds = {phase: part["seed"].nunique() for phase, part in trials.groupby("phase")}
    fresh = f" and {seeds['confirm']} fresh" if "confirm" in seeds else ""
    return f"{plural(seeds.get('tune', 0), 'seed')}{fresh}"


def under_way(store: Store | Joined) -> str:
    """What to call trials that have neither finished nor failed, by whether a run still trains them."""
    return "running" if store.is_locked() else "interrupted"


def count(rows: pd.DataFrame, outline: Outline, under_way: str) -> str:
    """How many trials are in which state, in words."""
    states = stats.states(rows)["status"].value_counts().to_dict()
    total = sum(outline.optimizers.values())
    states["missing"] = total - sum(states.values())
    words = {
        "finished": "finished",
        "diverged": "diverged",
        "stopped": "stopped early",
        "failed": "failed",
        "running": under_way,
        "missing": "missing",
    }
    shown = [f"{states[state]} {word}" for state, word in words.items() if states.get(state)]
    return f"{total} trial{'s' * (total != 1)}: {', '.join(shown) or 'none'}"
