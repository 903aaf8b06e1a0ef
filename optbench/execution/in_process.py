"""Stacks one after another in this process: what a GPU wants, and the inside of each worker process."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterable
from pathlib import Path

from optbench import engine
from optbench.datasets import Dataset, load
from optbench.execution.event import Event, Failure
from optbench.stacks import Stack


def run_in_process(stacks: Iterable[Stack], device: str, data_dir: Path | None) -> Generator[Event, None, None]:
    """Train the stacks on `device`; an exception ends its own stack only."""
    engine.make_deterministic(device)
    loaded: dict[str, Dataset] = {}
    for stack in stacks:
        try:
            if stack.dataset not in loaded:
                loaded[stack.dataset] = load(stack.dataset, data_dir).to(device)
            for rows in engine.train(stack, loaded[stack.dataset], device):
                yield stack, rows
        except Exception:
            yield stack, Failure(traceback.format_exc())
