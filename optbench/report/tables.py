"""What a report is: tables of plain numbers that say how to show them, and sentences above them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from optbench.scores import Score


@dataclass(frozen=True)
class Column:
    """A column as it is shown: `name` in the data, and how its values are written.

    kind, of words: "text", "prose" (that may fold between words), or "yes" (for what is true, else "no").
    Of numbers: "count"; "number"; "percent" (a share, shown × 100); "points" (a difference of shares, likewise, with
    its sign); "loss"; "change" (a difference of losses); "seconds"; "milliseconds" (of seconds); "mebibytes" (of
    bytes); "ratio"; "p"; "effect" (in standard deviations, with its sign); "decades"; "times" (∞ is "never"); "seeds".
    Of several columns: "rank" (`rank` to `rank_to`); "pair" (two shares, `<name> train_accuracy` and
    `<name> val_accuracy`); "curve" (a tuple of shares, drawn small).
    The interval from `<name>_low` to `<name>_high`, where the data have one, is shown with a value.
    """

    name: str
    heading: str
    kind: str = "text"

    @classmethod
    def of(cls, score: Score) -> Column:
        """A column of values of a score."""
        return cls(str(score), score.heading, "loss" if score.is_loss else "percent")

    @classmethod
    def of_difference(cls, score: Score, name: str, heading: str) -> Column:
        """A column of differences of a score's values."""
        return cls(name, heading, "change" if score.is_loss else "points")

    @property
    def is_text(self) -> bool:
        """Whether its cells are words, which are aligned to the left, and not numbers."""
        return self.kind in ("text", "prose", "yes", "curve")


@dataclass(frozen=True)
class Table:
    """A table: `data` holds plain numbers, `columns` say which are shown and how, the first `keys` name a row.

    Where the data have columns `best` and `rank`, the best row is set off, and rows that share its rank are marked as
    ties.
    """

    title: str
    caption: str
    columns: tuple[Column, ...]
    data: pd.DataFrame
    keys: int = 1


@dataclass(frozen=True)
class Report:
    """The tables of a sweep, the line above them that counts its trials, and what holds for all of them.

    `findings` says in sentences what the numbers say: the most important first.
    """

    sweep: str
    summary: str
    findings: tuple[str, ...]
    tables: tuple[Table, ...]
    note: str
