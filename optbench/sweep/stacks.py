"""Which trials train together: those that step in unison, with the same network, data, epochs and batch size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from optbench.data.info import DatasetInfo, Validation
from optbench.optimizers import OPTIMIZERS
from optbench.sweep.axes import AXES
from optbench.sweep.trials import Trial

_ORDER = list(OPTIMIZERS)
# The axes in which all trials of a stack have the same value.
SHARED = tuple(axis.name for axis in AXES.values() if not axis.is_per_trial)


@dataclass(frozen=True, eq=False)
class Stack:
    """Trials that train together.

    `rungs` are the epochs after which some of them may be stopped, so that training waits for the verdict.
    `pretrained` is the folder of the networks that they begin with; without it all begin from scratch, as is enough to
    measure speed. `keeps_weights`: the last rows hold the trained networks, for others to begin with.
    """

    trials: tuple[Trial, ...]
    rungs: tuple[int, ...] = ()
    pretrained: Path | None = None
    keeps_weights: bool = False

    @cached_property
    def stack_id(self) -> str:
        return hashlib.sha256(" ".join(trial.trial_id for trial in self.trials).encode()).hexdigest()[:16]

    @property
    def dataset(self) -> str:
        return self.trials[0].dataset

    @property
    def data(self) -> DatasetInfo:
        """What is known of their data."""
        return self.trials[0].data

    @property
    def split_seed(self) -> int:
        return self.trials[0].split_seed

    @property
    def validation(self) -> Validation:
        return self.trials[0].validation

    @property
    def batch_size(self) -> int:
        return self.trials[0].batch_size

    @property
    def epochs(self) -> int:
        return self.trials[0].epochs

    @property
    def steps(self) -> int:
        """How many updates each trial makes, all epochs together."""
        first = self.trials[0]
        return first.epochs * first.steps_per_epoch if first.steps is None else first.steps

    def __len__(self) -> int:
        return len(self.trials)

    def halves(self) -> tuple[Stack, ...]:
        """The same trials in two stacks, or this one if it is alone."""
        middle = len(self) // 2
        return tuple(replace(self, trials=part) for part in (self.trials[:middle], self.trials[middle:]) if part)


def _optimizer(trial: Trial) -> tuple[int, str]:
    """Neighbours with one optimizer share its update; those without a stacked rule come last."""
    name = trial.algorithm
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER)), name


def plan(
    trials: Sequence[Trial],
    size: int | Callable[[Sequence[Trial]], int],
    finished: Collection[str] = (),
    rungs: tuple[int, ...] = (),
) -> list[Stack]:
    """Cut all trials of a sweep into stacks of at most `size`, then leave out the trials with an id in `finished`.

    `size` may be a function of the trials that could all train together if there were no limit. The cut depends only on
    the whole sweep, so a resumed sweep trains the same stacks as an uninterrupted one. Stacks hold one seed as far as
    possible: its batches and dropout draws are then made once for all. Where trials are stopped at `rungs`, those that
    compete are neighbours, so that few stacks wait for a verdict at a time.
    """

    def together(trial: Trial) -> list[tuple[str, Any]]:
        values = [getattr(trial, name) for name in SHARED]
        return [(type(value).__name__, value) for value in values]  # values of one type alone can be compared

    seeds = {trial.seed: i for i, trial in reversed(list(enumerate(trials)))}  # in the order of the sweep
    rivals = {(t.optimizer, t.group): i for i, t in reversed(list(enumerate(trials)))}

    def place(trial: Trial) -> tuple[int, int]:
        return rivals[trial.optimizer, trial.group] if rungs else 0, seeds[trial.seed]

    stacks = []
    for _, group in groupby(sorted(trials, key=together), key=together):
        ordered = sorted(group, key=lambda trial: (place(trial), _optimizer(trial)))
        n = size if isinstance(size, int) else size(ordered)
        for i in range(0, len(ordered), n):
            left = [trial for trial in ordered[i : i + n] if trial.trial_id not in finished]
            if left:
                stacks.append(Stack(tuple(sorted(left, key=_optimizer)), rungs))
    return sorted(stacks, key=lambda stack: min(map(place, stack.trials)))
