"""What a report is asked for: which trials, which score, at which epoch, grouped by what."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import pandas as pd

from optbench import stats
from optbench.errors import ArgumentError, did_you_mean
from optbench.scores import Score


@dataclass(frozen=True)
class Query:
    """The options of `optbench report`.

    by: columns whose combinations become the rows of one table; none: a table for each axis that varies.
    metric: the score that rows are ranked by. Configurations are selected by the sweep's own metric.
    at: "last", "best" (each trial's epoch of best selection metric) or an epoch.
    where: a condition on a trial's columns in Python's syntax, such as `batch_size == 64`.
    target: the value of the selection metric to reach; None: the rule of `stats.target`.
    seconds: whether tables show seconds.
    baseline: the label of the optimizer that all others are compared with; None: the best one.
    rope: differences of the score smaller than this do not matter; None: the rule of `Results.rope`.
    """

    by: tuple[str, ...] = ()
    metric: Score = Score.test_accuracy
    at: str | int = "last"
    where: str = ""
    target: float | None = None
    seconds: bool = False
    baseline: str | None = None
    rope: float | None = None

    @property
    def when(self) -> str:
        """The epoch of the scores, in words."""
        known = {"last": "after the last epoch", "best": "at each trial's best epoch"}
        return known.get(str(self.at), f"after epoch {self.at}")


def parse_metric(text: str) -> Score:
    """A score by its name. Raises `UserError` for anything else."""
    if text not in Score.__members__:
        raise ArgumentError("metric", text, did_you_mean(text, Score))
    return Score(text)


def parse_at(text: str) -> str | int:
    """`last`, `best` or `epoch=K`. Raises `UserError` for anything else."""
    if text in ("last", "best"):
        return text
    name, _, number = text.partition("=")
    if name.strip() == "epoch" and number.strip().isdigit():
        return int(number)
    raise ArgumentError("at", text, "valid: last, best, epoch=K")


def parse_rope(text: str, metric: Score) -> float:
    """The smallest difference that matters, as tables show it: in points of an accuracy, plain of a loss.

    Raises `UserError` for anything else than a number above 0.
    """
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        unit = "" if metric.is_loss else " of points, such as 0.2"
        raise ArgumentError("rope", text, f"must be a number above 0{unit}")
    return value / metric.scale


def parse_target(text: str) -> float:
    """`98.5%`, or a plain number: an accuracy is a share. Raises `UserError` for anything else."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / 100 if percent else float(number)
    except ValueError:
        raise ArgumentError("target", text, "must be a number, such as 0.985 or 98.5%") from None
    if not math.isfinite(value):
        raise ArgumentError("target", text, "must be a finite number")
    if percent and value > 1:
        raise ArgumentError("target", text, "no score is above 100%")
    return value


def matching(finals: pd.DataFrame, where: str) -> pd.DataFrame:
    """The trials that meet the condition. Raises `UserError` for an invalid one, or one that no trial meets."""
    found = meeting(finals, where)
    if found.empty:
        raise ArgumentError("where", repr(where), "no trial meets this condition")
    return found


def meeting(trials: pd.DataFrame, where: str) -> pd.DataFrame:
    """The trials that meet the condition, if any. Raises `UserError` for an invalid one."""
    plain = {str(name): str(name).removeprefix(stats.HYPERPARAMETER) for name in trials}
    frame = trials.rename(columns={name: short for name, short in plain.items() if short not in trials})
    try:
        found = frame.eval(where, engine="python")
    except Exception as error:  # whatever is wrong with the user's own expression
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        known = f"columns: {', '.join(sorted(map(str, frame)))}"
        raise ArgumentError("where", repr(where), f"{reason}; {_unquoted(reason, frame) or known}") from None
    if not (isinstance(found, pd.Series) and found.dtype == bool):
        raise ArgumentError("where", repr(where), "is not a condition; write for example 'batch_size == 64'")
    return trials[found]


def _unquoted(reason: str, frame: pd.DataFrame) -> str:
    """What is meant by a name that is not a column, but a value in one."""
    match = re.fullmatch(r"name '(\w+)' is not defined", reason)
    if not match:
        return ""
    holding = [str(name) for name, column in frame.items() if (column.astype(object) == match[1]).any()]
    return f"a value of {' or '.join(holding)} is written with quotes, '{match[1]}'" if holding else ""
