"""Successive halving: after each rung the best of the configurations that compete train on, the others are stopped.

Jamieson and Talwalkar, 2016, "Non-stochastic best arm identification and hyperparameter optimization", algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optbench.scores import Score
from optbench.sweep.spec import Halving
from optbench.sweep.stacks import Stack
from optbench.sweep.trials import Trial

_Group = tuple[str, int]


class Judge:
    """Knows the scores so far, and says which trials of a stack stop at a rung.

    Configurations compete within an optimizer and a combination of compared axes, by their mean `metric` over all seeds
    at the rung; one with a diverged or failed seed is worse than all others. Of n, the best ⌊n / factor⌋ are kept, but
    at least one. Equal scores are kept in the order of the sweep. Verdicts depend only on the rows, so a resumed run
    decides the same.
    """

    def __init__(self, trials: Sequence[Trial], settings: Halving, metric: Score) -> None:
        self._factor = settings.factor
        self._metric = metric
        self._rungs = settings.rungs(trials[0].epochs)
        self._group_of = {trial.trial_id: (trial.optimizer, trial.group) for trial in trials}
        self._seeds: dict[_Group, dict[str, list[str]]] = {}  # group → configuration → trials
        for trial in trials:
            group = self._seeds.setdefault(self._group_of[trial.trial_id], {})
            group.setdefault(trial.configuration_id, []).append(trial.trial_id)
        self._scores: dict[tuple[str, int], float] = {}
        self._lost: dict[str, int] = {}  # diverged and failed trials, and the epoch of their last row
        self._decided: dict[tuple[_Group, int], frozenset[str]] = {}

    def observe(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in rows of any epoch, of this run or an earlier one."""
        for row in rows:
            # Not by the status "diverged": on disk all rows of a trial have the status of its last one.
            if row["status"] == "failed" or math.isnan(row[self._metric]):
                self._lost.setdefault(row["trial_id"], row["epoch"])
            elif row["epoch"] in self._rungs:
                self._scores[row["trial_id"], row["epoch"]] = self._metric.sign * row[self._metric]

    def give_up(self, trials: Iterable[Trial]) -> None:
        """These trials could not be trained."""
        for trial in trials:
            self._lost.setdefault(trial.trial_id, 0)

    def verdict(self, stack: Stack, epoch: int) -> frozenset[str] | None:
        """Ids of the trials of the stack that stop after the epoch, which is a rung; None while scores are missing.

        Trials that diverged or failed have stopped by themselves.
        """
        losers = {group: self._losers(group, epoch) for group in {self._group_of[t.trial_id] for t in stack.trials}}
        if None in losers.values():
            return None
        return frozenset(
            trial.trial_id
            for trial in stack.trials
            if trial.configuration_id in (losers[self._group_of[trial.trial_id]] or ())
            and self._lost.get(trial.trial_id, math.inf) > epoch
        )

    def _losers(self, group: _Group, rung: int) -> frozenset[str] | None:
        """The configurations of a group that stop at this rung, by id."""
        if (group, rung) not in self._decided:
            gone = [self._losers(group, earlier) for earlier in self._rungs[: self._rungs.index(rung)]]
            if None in gone:
                return None
            before = frozenset[str]().union(*filter(None, gone))
            left = {c: trials for c, trials in self._seeds[group].items() if c not in before}
            if any(self._score(trial, rung) is None for trials in left.values() for trial in trials):
                return None
            ranked = sorted(left, key=lambda configuration: self._mean(left[configuration], rung), reverse=True)
            self._decided[group, rung] = frozenset(ranked[max(1, len(ranked) // self._factor) :])
        return self._decided[group, rung]

    def _score(self, trial_id: str, rung: int) -> float | None:
        if self._lost.get(trial_id, math.inf) <= rung:
            return -math.inf
        return self._scores.get((trial_id, rung))

    def _mean(self, trial_ids: Sequence[str], rung: int) -> float:
        scores = [score for i in trial_ids if (score := self._score(i, rung)) is not None]
        return math.fsum(scores) / len(scores) if -math.inf not in scores else -math.inf
