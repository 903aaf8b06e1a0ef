"""Successive halving: after each rung the best of the configurations that compete train on, the others are stopped.

Jamieson and Talwalkar, 2016, "Non-stochastic best arm identification and hyperparameter optimization", algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optbench.spec import Halving
from optbench.stacks import Stack
from optbench.trials import Trial

_Group = tuple[str, int]


class Judge:
    """Knows the scores so far, and says which trials of a stack stop at a rung.

    Configurations compete within an optimizer and a combination of compared axes, by their mean `metric` over all seeds
    at the rung; one with a diverged or failed seed is worse than all others. Of n, the best ⌊n / factor⌋ are kept, and
    one at least. Equal scores are kept in the order of the sweep. What is decided depends on the rows alone, so a
    resumed run decides the same.
    """

    def __init__(self, trials: Sequence[Trial], settings: Halving, metric: str) -> None:
        self._factor = settings.factor
        self._metric, self._sign = metric, -1.0 if metric.endswith("loss") else 1.0
        self._rungs = settings.rungs(trials[0].epochs)
        self._group_of = {trial.trial_id: (trial.optimizer, trial.group) for trial in trials}
        self._seeds: dict[_Group, dict[str, list[str]]] = {}  # group → configuration → trials
        for trial in trials:
            group = self._seeds.setdefault(self._group_of[trial.trial_id], {})
            group.setdefault(trial.configuration_id, []).append(trial.trial_id)
        self._scores: dict[tuple[str, int], float] = {}
        self._lost: dict[str, int] = {}  # diverged and failed trials, and when
        self._stopped: dict[tuple[_Group, int], frozenset[str]] = {}

    def observe(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in rows of any epoch, of this run or an earlier one."""
        for row in rows:
            if row["status"] in ("diverged", "failed"):
                self._lost.setdefault(row["trial_id"], row["epoch"])
            elif row["epoch"] in self._rungs:
                self._scores[row["trial_id"], row["epoch"]] = self._sign * row[self._metric]

    def give_up(self, trials: Iterable[Trial]) -> None:
        """These trials could not be trained."""
        self._lost |= {trial.trial_id: 0 for trial in trials}

    def verdict(self, stack: Stack, epoch: int) -> frozenset[str] | None:
        """Ids of the trials of the stack that stop after the epoch, which is a rung; None while scores are missing.

        Trials that diverged or failed have stopped by themselves.
        """
        verdicts = [self._verdict(group, epoch) for group in {self._group_of[t.trial_id] for t in stack.trials}]
        if None in verdicts:
            return None
        stopped = frozenset[str]().union(*(verdict for verdict in verdicts if verdict))
        return stopped & {trial.trial_id for trial in stack.trials} - self._lost.keys()

    def _verdict(self, group: _Group, rung: int) -> frozenset[str] | None:
        """All trials of a group that are stopped at a rung or were before it."""
        if (group, rung) not in self._stopped:
            before: frozenset[str] | None = frozenset()
            earlier = [r for r in self._rungs if r < rung]
            if earlier:
                before = self._verdict(group, earlier[-1])
            if before is None:
                return None
            left = {c: trials for c, trials in self._seeds[group].items() if trials[0] not in before}
            if any(self._score(trial, rung) is None for trials in left.values() for trial in trials):
                return None
            ranked = sorted(left, key=lambda configuration: self._mean(left[configuration], rung), reverse=True)
            losers = ranked[max(1, len(ranked) // self._factor) :]
            self._stopped[group, rung] = before.union(*(left[configuration] for configuration in losers))
        return self._stopped[group, rung]

    def _score(self, trial_id: str, rung: int) -> float | None:
        if self._lost.get(trial_id, math.inf) <= rung:
            return -math.inf
        return self._scores.get((trial_id, rung))

    def _mean(self, trial_ids: Sequence[str], rung: int) -> float:
        scores = [score for i in trial_ids if (score := self._score(i, rung)) is not None]
        return math.fsum(scores) / len(scores) if -math.inf not in scores else -math.inf
