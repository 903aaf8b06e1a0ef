"""How far a sweep is, also while it runs: once, or again and again."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from optbench import stats
from optbench.report import formats
from optbench.report.tables import Column, Table
from optbench.results.store import Store

_PAUSE = 2.0  # seconds between two looks
_FRAME = 5  # lines of a screen beside the rows of the table


@dataclass(frozen=True)
class Status:
    """How many trials of each optimizer are in which state: `counts` has a column for each, and one for all trials.

    is_running: whether a run is training them now.   pretrained, to_pretrain: how many of how many networks that they
    begin with are there.
    """

    sweep: str
    folder: Path
    is_running: bool
    counts: pd.DataFrame
    pretrained: int = 0
    to_pretrain: int = 0

    @property
    def total(self) -> int:
        """How many trials the sweep has."""
        return int(self.counts["trials"].sum())

    @property
    def done(self) -> int:
        """How many of them need no more training."""
        return self.total - int(self.counts[["failed", "running", "missing"]].to_numpy().sum())

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train, but for what failed, which no run is training."""
        return not self.is_running and not self.counts[["running", "missing"]].to_numpy().any()

    @property
    def line(self) -> str:
        """It in a line."""
        before = f", {self.pretrained}/{self.to_pretrain} pretrained" if self.to_pretrain else ""
        return f"{self.done}/{self.total} trials done in {self.folder}{before}"

    @property
    def table(self) -> Table:
        """It as a table with a row for each optimizer."""
        optimizer, *states = map(str, self.counts)
        words = dict(zip(states, states, strict=True)) | ({} if self.is_running else {"running": "interrupted"})
        columns = (Column(optimizer, optimizer), *(Column(state, words[state], "count") for state in states))
        return Table(f"Status of {self.sweep}", f"{self.line}.", columns, self.counts)

    def content(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        numbers = {"done": self.done, "trials": self.total, "is_running": self.is_running}
        if self.to_pretrain:
            numbers |= {"pretrained": self.pretrained, "to_pretrain": self.to_pretrain}
        return {"sweep": self.sweep, "folder": str(self.folder), **numbers, "optimizers": formats.rows(self.table)}


def status(store: Store) -> Status:
    """How far the sweep in a folder is; works while it runs."""
    outline, is_running = store.outline(), store.is_locked()
    rows = store.rows(["trial_id", "optimizer", "epoch", "status"], last=True)
    states = ["finished", "diverged", *(["stopped"] if outline.halving else []), "failed", "running"]
    counts = stats.states(rows).groupby("optimizer")["status"].value_counts().unstack(fill_value=0)
    data = pd.DataFrame({"optimizer": list(outline.optimizers), "trials": list(outline.optimizers.values())})
    for state in states:
        found = counts[state].to_dict() if state in counts else {}
        data[state] = [int(found.get(label, 0)) for label in data["optimizer"]]
    data["missing"] = data["trials"] - data[states].sum(axis=1)
    settled = store.pretraining(["status"])["status"].isin(["finished", "diverged"]).sum()
    return Status(outline.name, store.folder, is_running, data, int(settled), len(outline.pretrain_ids))


def watch(store: Store, console: Console) -> None:
    """Show it until nothing is left to train: in a terminal a screen that is redrawn, else a line for each change."""
    said = ""
    with Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            began = time.monotonic()
            now = status(store)
            if live:
                live.update(_screen(now, console), refresh=True)
            elif now.line != said:
                console.print(now.line, markup=False, soft_wrap=True)
            if now.is_over:
                return
            said = now.line
            time.sleep(max(_PAUSE, 10 * (time.monotonic() - began)))  # of a large sweep, a look takes long


def _screen(now: Status, console: Console) -> RenderableType:
    """What fits on a screen; of many optimizers those first that are training."""
    rows, fitting = now.counts, max(1, console.height - _FRAME)
    if len(rows) > fitting:
        rows = rows.sort_values(["running", "missing"], ascending=False, kind="stable")
    caption = f"and {len(rows) - fitting} more" if len(rows) > fitting else ""
    table = replace(now.table, data=rows.head(fitting), caption=caption)
    training = "a run is training" if now.is_running else "no run is training"
    line = Text(f"{now.line} · {training} · {time.strftime('%H:%M:%S')} · Ctrl-C leaves", style="bold")
    return Group(line, formats.rendered(table, console.width))
