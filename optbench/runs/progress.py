"""What the user sees while a phase trains: a live display in a terminal, else one plain line per stack."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optbench.execution import Failure, Halved, Stopped
from optbench.report.results import reason
from optbench.runs.phases import Phase
from optbench.runs.run import StackEvent
from optbench.sweep.stacks import Stack
from optbench.sweep.trials import Trial
from optbench.wording import count


def duration(seconds: float) -> str:
    """Seconds in words of at most two units: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass(frozen=True)
class _Best:
    """A configuration: the mean of its seeds' last scores, and the epochs from which to which they are."""

    trial: Trial  # any one of it
    mean: float
    seeds: int
    epochs: tuple[int, int]


class _Scores:
    """What trials scored last, once they have trained an epoch, and the mean of each configuration."""

    def __init__(self, phase: Phase) -> None:
        self._sign = phase.job.sweep.metric.sign
        self._trials_of: dict[str, list[Trial]] = {}
        for trial in phase.trials:
            self._trials_of.setdefault(trial.configuration_id, []).append(trial)
        self._means: dict[str, dict[str, _Best]] = {label: {} for label in phase.per_optimizer}
        self.last: dict[str, tuple[int, float]] = {}

    def add(self, trial: Trial, epoch: int, score: float) -> None:
        """A trial has this score now; epoch 0 is before training, and forgets what there was of an earlier attempt."""
        if epoch > 0:
            self.last[trial.trial_id] = epoch, score
        else:
            self.last.pop(trial.trial_id, None)
        configuration, means = trial.configuration_id, self._means[trial.optimizer]
        known = [self.last[each.trial_id] for each in self._trials_of[configuration] if each.trial_id in self.last]
        if any(math.isnan(score) for _, score in known) or not known:  # one that diverged is not the best
            means.pop(configuration, None)
            return
        mean, epochs = math.fsum(score for _, score in known) / len(known), [epoch for epoch, _ in known]
        means[configuration] = _Best(trial, mean, len(known), (min(epochs), max(epochs)))

    def best(self, optimizer: str) -> _Best | None:
        """The configuration of an optimizer with the best mean; None before its first epoch."""
        means = list(self._means[optimizer].values())  # in one step: the display has a thread of its own
        return max(means, key=lambda each: self._sign * each.mean, default=None)


class Progress:
    """Counts what the events of a phase say; shows that in a terminal from `start` to `stop`.

    `quiet`: prints only what failed.
    """

    def __init__(self, phase: Phase, console: Console, quiet: bool = False) -> None:
        self._phase, self._console, self._quiet = phase, console, quiet
        self._metric = phase.job.sweep.metric
        self._trials = {trial.trial_id: trial for trial in phase.trials}
        self._done = phase.per_optimizer - phase.missing
        self._epochs: Counter[str] = Counter()  # of each trial; one that ended early has nothing left to do
        self._all_epochs = sum(len(stack) * stack.epochs for stack in phase.stacks)
        self._scores = _Scores(phase)
        self._reasons: dict[str, str] = {}  # of the trials of this run that failed by themselves
        self._settled: dict[str, str] = {}  # status of the trials of this run that have ended
        if self.done:
            self._recall()
        self._stacks_done, self._stacks = 0, len(phase.stacks)
        self._started = time.monotonic()
        self._is_live = console.is_terminal and not console.is_dumb_terminal and bool(phase.stacks) and not quiet
        # A terminal is redrawn by Live's own thread, so the clock runs on between events.
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    @property
    def done(self) -> int:
        """Trials of the phase that need no more training, those of earlier runs included."""
        return self._done.total()

    @property
    def failed(self) -> int:
        """Trials that failed in this run."""
        return self._number("failed")

    def _number(self, status: str) -> int:
        return sum(other == status for other in self._settled.values())

    def start(self) -> None:
        """Begin to show it."""
        if self._is_live:
            self._live.start()

    def stop(self) -> None:
        """Remove the live display."""
        if self._is_live:
            self._live.stop()

    def summary(self) -> str:
        """How the run ended."""
        took = duration(time.monotonic() - self._started)
        stopped = f", {self._number('stopped')} stopped early" if self._number("stopped") else ""
        return (
            f"{self.done}/{len(self._phase.trials)} trials {self._phase.done} ({self._number('diverged')} diverged and "
            f"{self.failed} failed in this run{stopped}, {took})"
        )

    def update(self, event: StackEvent) -> None:
        """Take in what happened to a stack."""
        stack, message = event.stack, event.message
        if isinstance(message, Halved):
            for trial in stack.trials:
                self._unsettle(trial)
            self._finish_stack(stack, "too large for the memory, continues in halves")
            self._stacks += len(message.into)
            return
        if isinstance(message, Failure):
            left = [trial.trial_id for trial in stack.trials if trial.trial_id not in self._settled]
            self._settle(stack, dict.fromkeys(left, "failed"))
            self._finish_stack(stack, f"failed: {reason(message.error)}", is_error=True)
            return
        if isinstance(message, Stopped):
            self._settle(stack, dict.fromkeys(message.trial_ids, "stopped"))
        else:
            if message[0]["epoch"] == 0:  # perhaps once more, after its worker died
                for trial in stack.trials:
                    self._unsettle(trial)
            for row in message:
                self._observe(row)
                self._epochs[row["trial_id"]] = row["epoch"]
                if row["status"] == "failed":
                    self._reasons[row["trial_id"]] = reason(row["error"])
            self._settle(stack, {row["trial_id"]: row["status"] for row in message if row["status"] != "running"})
        if all(trial.trial_id in self._settled for trial in stack.trials):
            has_failed = any(self._settled[trial.trial_id] == "failed" for trial in stack.trials)
            self._finish_stack(stack, self._result(stack), is_error=has_failed)

    def _settle(self, stack: Stack, statuses: Mapping[str, str]) -> None:
        for trial_id, status in statuses.items():
            assert trial_id not in self._settled, "a trial ends once"
            self._settled[trial_id] = status
            self._epochs[trial_id] = stack.epochs
            if status != "failed":
                self._done[self._trials[trial_id].optimizer] += 1

    def _unsettle(self, trial: Trial) -> None:
        if self._settled.pop(trial.trial_id, "failed") != "failed":
            self._done[trial.optimizer] -= 1

    def _result(self, stack: Stack) -> str:
        """The best trial of a stack that is done, and how the others ended."""
        metric, ids = self._metric, [trial.trial_id for trial in stack.trials]
        parts = []
        best = [(self._scores.last[i][1], self._trials[i].optimizer) for i in ids if self._settled[i] == "finished"]
        if best:
            value, label = (min if metric.is_loss else max)(best)
            parts.append(f"best {metric} {metric.written(value)} ({label})")
        for status in ("diverged", "stopped", "failed"):
            n = sum(self._settled[i] == status for i in ids)
            if n:
                parts.append(f"all {status}" if n == len(ids) else f"{n} {status}")
        reasons = dict.fromkeys(self._reasons[i] for i in ids if i in self._reasons)
        return ", ".join(parts) + (f": {'; '.join(reasons)}" if reasons else "")

    def _recall(self) -> None:
        """Take in the scores of the trials that earlier runs have trained."""
        missing = {trial.trial_id for stack in self._phase.stacks for trial in stack.trials}
        columns = ["trial_id", "epoch", self._metric]
        for row in self._phase.scored.rows(columns, self._trials.keys() - missing, last=True).to_dict("records"):
            self._observe(row)

    def _observe(self, row: Mapping[Any, Any]) -> None:
        self._scores.add(self._trials[row["trial_id"]], row["epoch"], row[self._metric])

    def _finish_stack(self, stack: Stack, result: str, is_error: bool = False) -> None:
        self._stacks_done += 1
        if is_error if self._quiet else not self._is_live:
            line = (
                f"stack {self._stacks_done}/{self._stacks}: {count(len(stack), 'trial')}, "
                f"batch_size {stack.batch_size}, {result}; "
                f"{self.done}/{len(self._phase.trials)} trials {self._phase.done}, {self._time_left()}"
            )
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _epochs_done(self) -> int:
        return self._epochs.total()

    def _share(self) -> float:
        return self._epochs_done() / max(1, self._all_epochs)

    def _time_left(self) -> str:
        elapsed, share = time.monotonic() - self._started, self._share()
        return f"{duration(elapsed * (1 - share) / share)} left" if share else "time left not known yet"

    def _where(self, best: _Best) -> str:
        """The configuration with the best mean."""
        trial = best.trial
        where = f"lr={trial.hyperparameters.lr:g} batch_size={trial.batch_size} {trial.schedule}"
        return f"{trial.dataset} {where}" if len(self._phase.job.sweep.datasets) > 1 else where

    def _render(self) -> RenderableType:
        elapsed = duration(time.monotonic() - self._started)
        head = Text(
            f"{self._phase.job.sweep.name}: {self.done}/{len(self._phase.trials)} trials · "
            f"{self._epochs_done()}/{self._all_epochs} epochs · {elapsed} · {self._time_left()}"
        )
        counts = {status: self._number(status) for status in ("diverged", "failed", "stopped")}
        if any(counts.values()):
            head.append("".join(f" · {n} {status}" for status, n in counts.items() if n), style="yellow")
        table = Table(box=None, pad_edge=False)
        table.add_column("optimizer", max_width=30, no_wrap=True, overflow="ellipsis")
        table.add_column("trials", justify="right", no_wrap=True)
        metric = self._metric
        table.add_column(f"mean {metric}{'' if metric.is_loss else ' %'}", justify="right", no_wrap=True)
        table.add_column("n", justify="right", no_wrap=True)
        table.add_column("epoch", justify="right", no_wrap=True)
        table.add_column("with")  # the only one that shrinks in a narrow terminal
        for label, total in self._phase.per_optimizer.items():
            cells, best = ["–", "", "", ""], self._scores.best(label)
            if best:
                value = f"{metric.scale * best.mean:.{4 if metric.is_loss else 2}f}"
                cells = [value, str(best.seeds), "–".join(map(str, dict.fromkeys(best.epochs))), self._where(best)]
            *numbers, where = cells
            done = f"{self._done[label]}/{total}"
            table.add_row(Text(label), done, *numbers, Text(where, no_wrap=True, overflow="ellipsis"))
        bar = Table.grid()
        bar.add_row(ProgressBar(total=1, completed=self._share(), width=min(60, self._console.width)))
        return Group(head, bar, table)
