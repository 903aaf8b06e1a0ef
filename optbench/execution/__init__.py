"""Where stacks run: `run` yields what happens to them, in the order in which it happens."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path

from optbench.execution.event import Event, Failure, Halved, Message, Stopped, Verdict, never
from optbench.sweep.stacks import Stack

__all__ = [
    "Event",
    "Failure",
    "Halved",
    "Message",
    "Stopped",
    "Verdict",
    "default_workers",
    "never",
    "run",
]


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    stacks: Sequence[Stack], device: str, workers: int, data_dir: Path | None, verdict: Verdict = never
) -> Generator[Event, None, None]:
    """Train the stacks: on a CPU in `workers` single-threaded processes, on any other device in this process.

    Yields (stack, rows) after every epoch, (stack, Stopped) when the verdict on a rung stops trials, (stack, Halved)
    when a stack of several trials ran out of memory and goes on in halves, and (stack, Failure) when a stack is given
    up; a stack whose rows begin again with epoch 0 was started again. `verdict` is asked after all rows so far have
    been yielded. Closing the iterator stops all work.
    """
    if device == "cpu":
        from optbench.execution.processes import run_in_processes

        return run_in_processes(stacks, workers, data_dir, verdict)
    from optbench.execution.in_process import run_in_process

    return run_in_process(stacks, device, data_dir, verdict)
