"""What the user sees of a run: its phases announced, each with its progress and how it ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from optbench.runs import estimate
from optbench.runs.phases import Phase
from optbench.runs.progress import Progress, duration
from optbench.runs.run import PhaseBegun, PhaseEnded, PhasePlanned, RunEvent, StackEvent
from optbench.wording import count


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, which batch systems send, ends a run like Ctrl-C: what is finished is kept."""
    if threading.current_thread() is not threading.main_thread():  # no other may handle signals
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Screen:
    """Prints the events of a run as they come; a context manager around them.

    `every_phase`: also announces later phases that have nothing to train.   `quiet`: prints only what failed, and how
    each phase ended.   phase: the one planned last.   trained: whether a phase had something to train.
    failed: how many trials failed.
    """

    def __init__(self, console: Console, every_phase: bool = False, quiet: bool = False) -> None:
        self._console, self._every_phase, self._quiet = console, every_phase, quiet
        self._status = console.status("")
        self._progress: Progress | None = None
        self.phase: Phase | None = None
        self.trained, self.failed = False, 0

    def __enter__(self) -> Self:
        self._wait("planning …")
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()
        if self._progress:
            self._progress.stop()

    def _wait(self, why: str) -> None:
        """In a terminal, say what the user is waiting for, until the status is stopped."""
        if self._console.is_terminal and not self._quiet:
            self._status.update(why)
            self._status.start()

    def show(self, event: RunEvent) -> None:
        """Print what an event says."""
        match event:
            case PhasePlanned(phase):
                self._status.stop()
                if not self._quiet and (phase.stacks or self._every_phase or self.phase is None):
                    self._announce(phase)
                self.phase = phase
            case PhaseBegun(phase):
                self.trained, self._progress = True, Progress(phase, self._console, self._quiet)
                self._progress.start()
            case StackEvent():
                assert self._progress is not None, "a phase begins before its stacks train"
                self._progress.update(event)
            case PhaseEnded():
                self._sum_up()
                self._wait("planning …")

    def _announce(self, phase: Phase) -> None:
        """The phase, and what it costs: a few steps are timed for that, also with optimizers from elsewhere."""
        self._console.print(describe(phase))
        if phase.stacks:
            self._wait("timing a few steps …")
            seconds = estimate.seconds(phase)
            self._status.stop()
            self._console.print(cost(phase, seconds, estimate.disk_bytes(phase)))

    def _sum_up(self) -> None:
        if self._progress:
            self._progress.stop()
            self._console.print(self._progress.summary(), soft_wrap=True, markup=False)
            self.failed += self._progress.failed
            self._progress = None


def describe(phase: Phase) -> RenderableType:
    """The phase in words: trials per optimizer and what happens to them."""
    table = Table(box=None, pad_edge=False)
    for heading in ("optimizer", "configurations", "seeds", "trials", "to run"):
        table.add_column(heading, justify="left" if heading == "optimizer" else "right")
    for label, trials in phase.per_optimizer.items():
        numbers = trials // phase.seeds, phase.seeds, trials, phase.missing[label]
        table.add_row(Text(label), *map(str, numbers))
    notes = [Text(note) for note in phase.notes]
    warnings = [Text(f"warning: {warning}", style="yellow") for warning in phase.warnings]
    return Group(Text(phase.title, style="bold"), table, *notes, *warnings)


def cost(phase: Phase, seconds: float, disk_bytes: int) -> RenderableType:
    """What will run, and what that takes."""
    return Text(
        f"{count(phase.missing.total(), 'trial')} to run in {count(len(phase.stacks), 'stack')} "
        f"on {phase.job.device} ({count(phase.workers, 'process', 'processes')}): about {duration(seconds)} "
        f"(from a few timed steps), {_size(disk_bytes)} in {phase.job.store.folder}"
    )


def _size(n: int) -> str:
    return f"{n / 1e3:.0f} kB" if n < 1e6 else f"{n / 1e6:.1f} MB" if n < 1e9 else f"{n / 1e9:.1f} GB"
