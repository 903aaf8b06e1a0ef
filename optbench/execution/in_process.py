"""Stacks one after another in this process: for a GPU, and inside each worker process."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from optbench.data.datasets import Dataset, load
from optbench.data.info import Validation
from optbench.execution.event import Event, Failure, Stopped, Verdict, halve
from optbench.machine.device import is_out_of_memory, make_deterministic
from optbench.sweep.stacks import Stack
from optbench.training import engine


class Trainer:
    """Trains stacks on `device`, each up to its next rung; an exception ends its own stack only.

    A stack that waits at a rung is a suspended generator: all its state stays in memory.
    """

    def __init__(self, device: str, data_dir: Path | None) -> None:
        make_deterministic(device)
        self._device, self._data_dir = device, data_dir
        self._datasets: dict[tuple[str, int, Validation], Dataset] = {}  # by name, split_seed and validation
        self._waiting: dict[str, engine.Rows] = {}

    def advance(self, stack: Stack, stop: frozenset[str] = frozenset()) -> Iterator[list[dict[str, Any]] | Failure]:
        """Begin a stack, or resume a waiting one without the trials in `stop`; yields rows, or its failure."""
        training = self._waiting.pop(stack.stack_id, None)
        try:
            if training is None:
                training = engine.train(stack, self._dataset(stack), self._device)
                rows = next(training)
            else:
                rows = training.send(stop)
            while True:
                yield rows
                if rows[0]["epoch"] in stack.rungs and any(row["status"] == "running" for row in rows):
                    self._waiting[stack.stack_id] = training
                    return
                rows = next(training)
        except StopIteration:
            return
        except Exception as error:
            failure = Failure(traceback.format_exc(), is_out_of_memory(error) and len(stack) > 1)
        training = None  # together with the exception it held all of the stack's memory
        if self._device != "cpu":
            torch.cuda.empty_cache()
        yield failure

    def waits(self, stack: Stack) -> bool:
        """Whether the stack waits at a rung."""
        return stack.stack_id in self._waiting

    def _dataset(self, stack: Stack) -> Dataset:
        key = stack.dataset, stack.split_seed, stack.validation
        if key not in self._datasets:
            self._datasets[key] = load(stack.dataset, self._data_dir, *key[1:]).to(self._device)
        return self._datasets[key]


def run_in_process(
    stacks: Sequence[Stack], device: str, data_dir: Path | None, verdict: Verdict
) -> Generator[Event, None, None]:
    """Train the stacks one at a time; see `execution.run`."""
    trainer = Trainer(device, data_dir)
    new, waiting = deque(stacks), dict[Stack, int]()
    while new or waiting:
        stack, stop = _next(new, waiting, verdict)
        if stop:
            yield stack, Stopped(stop)
        epoch = 0
        for message in trainer.advance(stack, stop):
            if isinstance(message, Failure) and message.is_too_large:
                yield stack, halve(stack, new)
                continue
            yield stack, message
            epoch = epoch if isinstance(message, Failure) else message[0]["epoch"]
        if trainer.waits(stack):
            waiting[stack] = epoch


def _next(new: deque[Stack], waiting: dict[Stack, int], verdict: Verdict) -> tuple[Stack, frozenset[str]]:
    for stack, epoch in waiting.items():
        stop = verdict(stack, epoch)
        if stop is not None:
            del waiting[stack]
            return stack, stop
    return new.popleft(), frozenset()
