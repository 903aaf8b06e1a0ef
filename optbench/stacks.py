"""Which trials train together: trials with the same data, epochs and batch size, so that they step in unison."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from optbench.optimizers import OPTIMIZERS
from optbench.trials import Trial

_ORDER = list(OPTIMIZERS)


@dataclass(frozen=True)
class Stack:
    """Trials that train together; all have the same dataset, epochs and batch size."""

    trials: tuple[Trial, ...]

    @cached_property
    def stack_id(self) -> str:
        return hashlib.sha256(" ".join(trial.trial_id for trial in self.trials).encode()).hexdigest()[:16]

    @property
    def dataset(self) -> str:
        return self.trials[0].dataset

    @property
    def batch_size(self) -> int:
        return self.trials[0].batch_size

    @property
    def epochs(self) -> int:
        return self.trials[0].epochs

    def __len__(self) -> int:
        return len(self.trials)


def plan(trials: Sequence[Trial], size: int, finished: Collection[str] = ()) -> list[Stack]:
    """Cut all trials of a sweep into stacks of at most `size`, then leave out the trials with an id in `finished`.

    The cut depends on the whole sweep alone, so a resumed sweep trains the same stacks as an uninterrupted one.
    Stacks hold one seed as far as possible: its batches and dropout draws are then made once for all.
    """

    def together(trial: Trial) -> tuple[str, int, int]:
        return trial.dataset, trial.epochs, trial.batch_size

    seeds = {trial.seed: i for i, trial in reversed(list(enumerate(trials)))}  # in the order of the sweep
    stacks = []
    for _, group in groupby(sorted(trials, key=together), key=together):
        ordered = sorted(group, key=lambda t: (seeds[t.seed], _ORDER.index(t.algorithm)))
        for i in range(0, len(ordered), size):
            left = tuple(trial for trial in ordered[i : i + size] if trial.trial_id not in finished)
            if left:
                # Neighbours with one optimizer share its update.
                stacks.append(Stack(tuple(sorted(left, key=lambda t: _ORDER.index(t.algorithm)))))
    return sorted(stacks, key=lambda stack: min(seeds[trial.seed] for trial in stack.trials))
