"""What a person sees while a sweep runs, on stderr: a live display in a terminal, else one plain line per stack."""

from __future__ import annotations

import math
import shlex
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optbench.execution import Event, Failure
from optbench.run import Plan
from optbench.stacks import Stack
from optbench.trials import Trial


def duration(seconds: float) -> str:
    """Seconds in words of at most two units: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _count(n: int, noun: str, plural: str = "") -> str:
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def _size(n: int) -> str:
    return f"{n / 1e3:.0f} kB" if n < 1e6 else f"{n / 1e6:.1f} MB" if n < 1e9 else f"{n / 1e9:.1f} GB"


def describe(plan: Plan, seconds: float, disk_bytes: int) -> RenderableType:
    """The plan in words: trials per optimizer, stacks, and what they will cost."""
    sweep = plan.sweep
    table = Table(box=None, pad_edge=False)
    for heading in ("optimizer", "configurations", "seeds", "trials", "to run"):
        table.add_column(heading, justify="left" if heading == "optimizer" else "right")
    for label, trials in plan.per_optimizer.items():
        n = len(sweep.seeds)
        table.add_row(Text(label), str(trials // n), str(n), str(trials), str(plan.missing[label]))
    head = f"{sweep.name}: {_count(len(plan.trials), 'trial')} of {_count(sweep.epochs, 'epoch')} on {sweep.dataset}"
    parts: list[RenderableType] = [Text(head, style="bold"), table]
    if plan.stacks:
        parts.append(
            Text(
                f"{_count(plan.missing.total(), 'trial')} to run in {_count(len(plan.stacks), 'stack')} "
                f"on {plan.device} ({_count(plan.workers, 'process', 'processes')}): about {duration(seconds)} "
                f"(from a few timed steps), {_size(disk_bytes)} in {plan.store.folder}"
            )
        )
    parts += [Text(f"warning: {warning}", style="yellow") for warning in plan.warnings]
    return Group(*parts)


def command_line(argv: Sequence[str]) -> str:
    """The command that was typed, to be typed again."""
    program = Path(argv[0]).name
    return shlex.join([*(["python", "-m", "optbench"] if program == "__main__.py" else [program]), *argv[1:]])


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, which batch systems send, ends a run like Ctrl-C: what is finished is kept."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Progress:
    """Counts what the events say; use as a context manager around them."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan, self._console = plan, console
        self._trials = {trial.trial_id: trial for trial in plan.trials}
        self._done = plan.per_optimizer - plan.missing
        self._epochs: dict[str, int] = {}
        self._all_epochs = sum(len(stack) * stack.epochs for stack in plan.stacks)
        self._best: dict[str, tuple[float, Trial, int]] = {}
        if self.done:
            for row in plan.store.rows()[["trial_id", "epoch", plan.sweep.metric]].to_dict("records"):
                if row["trial_id"] in self._trials:
                    self._compare(row)
        self._stacks_done = 0
        self._started = time.monotonic()
        self.diverged = self.failed = 0
        self._is_live = console.is_terminal and not console.is_dumb_terminal and bool(plan.stacks)
        # A terminal is redrawn by Live's own thread, so the clock runs on between events.
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    @property
    def done(self) -> int:
        """Trials that need no more training, those of earlier runs included."""
        return self._done.total()

    def __enter__(self) -> Progress:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the live display away."""
        if self._is_live:
            self._live.stop()

    def summary(self) -> str:
        """How the run ended."""
        took = duration(time.monotonic() - self._started)
        return (
            f"{self.done}/{len(self._plan.trials)} trials done "
            f"({self.diverged} diverged and {self.failed} failed in this run, {took})"
        )

    def update(self, event: Event) -> None:
        stack, message = event
        if isinstance(message, Failure):
            self.failed += len(stack)
            self._epochs[stack.stack_id] = stack.epochs  # nothing of it is left to do
            self._finish_stack(stack, f"failed: {message.error.strip().splitlines()[-1]}")
            return
        for row in message:
            self._compare(row)
        epoch = message[0]["epoch"]
        self._epochs[stack.stack_id] = epoch
        if epoch == stack.epochs:
            diverged = sum(row["status"] == "diverged" for row in message)
            self.diverged += diverged
            self._done.update(trial.optimizer for trial in stack.trials)
            metric = self._plan.sweep.metric
            values = [
                (row[metric], self._trials[row["trial_id"]].optimizer) for row in message if row[metric] == row[metric]
            ]
            value, label = (min if metric.endswith("loss") else max)(values, default=(math.nan, ""))
            best = f"best {metric} {value:.4f} ({label})" if label else "all diverged"
            self._finish_stack(stack, best + (f", {diverged} diverged" if label and diverged else ""))

    def _compare(self, row: Mapping[Any, Any]) -> None:
        """Keep the row in mind if it is its optimizer's best so far."""
        trial, metric = self._trials[row["trial_id"]], self._plan.sweep.metric
        value = row[metric] if metric.endswith("accuracy") else -row[metric]
        if not math.isnan(value) and value > self._best.get(trial.optimizer, (-math.inf,))[0]:
            self._best[trial.optimizer] = value, trial, row["epoch"]

    def _finish_stack(self, stack: Stack, result: str) -> None:
        self._stacks_done += 1
        if not self._is_live:
            line = (
                f"stack {self._stacks_done}/{len(self._plan.stacks)}: {_count(len(stack), 'trial')}, "
                f"batch_size {stack.batch_size}, {result}; {self.done}/{len(self._plan.trials)} trials done, "
                f"{self._time_left()}"
            )
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _epochs_done(self) -> int:
        return sum(self._epochs.get(stack.stack_id, 0) * len(stack) for stack in self._plan.stacks)

    def _share(self) -> float:
        return self._epochs_done() / max(1, self._all_epochs)

    def _time_left(self) -> str:
        elapsed, share = time.monotonic() - self._started, self._share()
        return f"{duration(elapsed * (1 - share) / share)} left" if share else "time left not known yet"

    def _render(self) -> RenderableType:
        elapsed = duration(time.monotonic() - self._started)
        head = Text(
            f"{self._plan.sweep.name}: {self.done}/{len(self._plan.trials)} trials · "
            f"{self._epochs_done()}/{self._all_epochs} epochs · {elapsed} · {self._time_left()}"
        )
        if self.diverged or self.failed:
            head.append(f" · {self.diverged} diverged · {self.failed} failed", style="yellow")
        table = Table(box=None, pad_edge=False)
        table.add_column("optimizer", max_width=30, no_wrap=True, overflow="ellipsis")
        table.add_column("trials", justify="right", no_wrap=True)
        table.add_column(f"best {self._plan.sweep.metric}", justify="right", no_wrap=True)
        table.add_column("with", no_wrap=True, overflow="ellipsis")
        for label, total in self._plan.per_optimizer.items():
            best, value, where = self._best.get(label), "–", ""
            if best:
                value = f"{abs(best[0]):.4f}"
                trial, epoch = best[1], best[2]
                where = f"lr={trial.hyperparameters.lr:g} batch_size={trial.batch_size} {trial.schedule} epoch {epoch}"
            table.add_row(Text(label), f"{self._done[label]}/{total}", value, Text(where))
        bar = Table.grid()
        bar.add_row(ProgressBar(total=1, completed=self._share(), width=min(60, self._console.width)))
        return Group(head, bar, table)
