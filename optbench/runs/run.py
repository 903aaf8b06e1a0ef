"""A sweep from plan to rows: what is missing is trained phase by phase, every epoch is stored and yielded as an event.

    for event in run.events(Job(sweep, Store(Path("results") / sweep.name))):
        ...

Any thread may do that; closing the iterator stops all work, and what is finished is kept.
"""

from __future__ import annotations

import platform
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from optbench import __version__, execution
from optbench.data import datasets
from optbench.errors import UserError
from optbench.execution import Failure, Halved, Message, Stopped
from optbench.machine.device import cpu_name, device_name, os_name, precision_on, settings_given_back
from optbench.results.store import Part
from optbench.runs.halving import Judge
from optbench.runs.job import Job
from optbench.runs.phases import Phase, phases_of
from optbench.sweep.stacks import Stack

_MANY_PARTS = 64  # more are merged when the phase that wrote them is over: each costs a millisecond to read


@dataclass(frozen=True)
class PhasePlanned:
    """The phase is planned: what it will train is known, perhaps nothing."""

    phase: Phase


@dataclass(frozen=True)
class PhaseBegun:
    """The phase has something to train, its data are here, and training begins."""

    phase: Phase


@dataclass(frozen=True)
class StackEvent:
    """What happened to a stack, and is stored: rows of an epoch, or that it failed, was split, or trials stopped."""

    stack: Stack
    message: Message


@dataclass(frozen=True)
class PhaseEnded:
    """The phase has nothing left to train."""

    phase: Phase


RunEvent = PhasePlanned | PhaseBegun | StackEvent | PhaseEnded


def preview(job: Job) -> Generator[RunEvent, None, None]:
    """What `events` would begin with, without changing anything.

    That is up to the first phase that has to train and whose scores decide what comes after it.
    """
    for phase in phases_of(job):
        yield PhasePlanned(phase)
        if phase.stacks and phase.decides:
            return
        yield PhaseEnded(phase)


def events(job: Job) -> Generator[RunEvent, None, None]:
    """Train what is missing of all phases; says what happens, in the order in which it happens.

    Raises `UserError` when the data are not available, another run writes to the folder, or it cannot be written.
    """
    for phase in phases_of(job):
        yield PhasePlanned(phase)
        if phase.stacks:
            for name in phase.datasets:  # downloads it; a damaged file is found before any training
                datasets.load(name, job.data_dir)
            yield PhaseBegun(phase)
        yield from execute(phase)
        yield PhaseEnded(phase)


def execute(phase: Phase) -> Generator[StackEvent, None, None]:
    """Train the stacks of a phase; every event has been stored when it is yielded."""
    with phase.job.store.locked(), settings_given_back():
        here = phase.settled()
        if any(trial.trial_id in here for stack in phase.stacks for trial in stack.trials):
            raise UserError(f"{phase.job.store.folder}: another run has finished trials meanwhile; run again")
        judge, parts = phase.judge(), dict[str, Part]()
        phase.begin()
        with closing(_train(phase, judge)) as messages:
            for stack, message in messages:
                _record(phase, parts, stack, message)
                if judge:
                    _tell(judge, stack, message)
                yield StackEvent(stack, message)
        if len(phase.store.parts()) > _MANY_PARTS:
            phase.store.compact()


def _train(phase: Phase, judge: Judge | None) -> Generator[execution.Event, None, None]:
    verdict = judge.verdict if judge else execution.never
    return execution.run(phase.stacks, phase.job.device, phase.workers, phase.job.data_dir, verdict)


def _record(phase: Phase, parts: dict[str, Part], stack: Stack, message: Message) -> None:
    """Write what happened to a stack; `parts` are those of the stacks in progress."""
    if stack.stack_id not in parts:
        parts[stack.stack_id] = Part(phase.store, stack.stack_id, _columns(phase, stack))
    part = parts[stack.stack_id]
    if isinstance(message, Halved):
        part.hand_on(message.into[0].stack_id)
    elif isinstance(message, Failure):
        part.fail(message.error)
    elif isinstance(message, Stopped):
        part.stop(message.trial_ids)
    else:
        part.add(message)
    if part.is_settled or isinstance(message, Halved):
        del parts[stack.stack_id]


def _tell(judge: Judge, stack: Stack, message: Message) -> None:
    if isinstance(message, Failure):
        judge.give_up(stack.trials)
    elif isinstance(message, list):
        judge.observe(message)


def _columns(phase: Phase, stack: Stack) -> dict[str, dict[str, Any]]:
    """What is the same in all rows of each trial, by trial id."""
    device = phase.job.device
    common = {
        "sweep": phase.job.sweep.name,
        "stack": stack.stack_id,
        "stack_size": len(stack),
        "classes": stack.data.classes,
        **{f"{split}_images": images for split, images in stack.data.splits.items()},
        "train_eval_images": stack.data.train_eval,
        "workers": phase.workers,
        "device": device_name(device),
        "cpu": cpu_name(),
        "precision": precision_on(device, stack.trials[0].precision),
        "optbench_version": __version__,
        "torch_version": torch.__version__,
        "python_version": platform.python_version(),
        "os": os_name(),
    }
    return {trial.trial_id: common | trial.columns() for trial in stack.trials}
