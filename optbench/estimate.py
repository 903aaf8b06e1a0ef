"""How long and how large a run will be: a few steps of each batch size are timed on the device that will train."""

from __future__ import annotations

from collections import Counter
from statistics import median

import torch

from optbench import bench
from optbench.datasets import DATASETS
from optbench.device import make_deterministic
from optbench.model import Network
from optbench.run import Plan
from optbench.stacks import Stack

# Measured on finished sweeps: the schema of 35 columns outweighs the rows of a small part.
_BYTES_PER_PART, _BYTES_PER_ROW = 10_000, 100
# Of stacks alike but for optimizers that step on their own, so many kinds are timed, and stand for the others.
_TIMED = 5

_Kind = tuple[Network, int, int]


def disk_bytes(plan: Plan) -> int:
    """Size of the rows that the run will add."""
    rows = sum(len(stack) * (stack.epochs + 1) for stack in plan.stacks)
    return len(plan.stacks) * _BYTES_PER_PART + rows * _BYTES_PER_ROW


def seconds(plan: Plan) -> float:
    """Expected duration of the run, its confirmation included, from a few measured steps on random images.

    Takes about a second.
    """
    if plan.device == "cpu":
        torch.set_num_threads(1)  # like the workers
    make_deterministic(plan.device)
    try:
        return _seconds(plan)
    finally:
        torch.set_flush_denormal(False)  # numpy and scipy, which this process will load, warn of it


def _seconds(plan: Plan) -> float:
    total = whole = 0.0
    halving = plan.sweep.search.halving if plan.sweep.search and plan.phase == "tune" else None
    rivals = Counter((t.optimizer, t.group) for t in plan.tuning if t.seed == plan.tuning[0].seed)
    timed: dict[_Kind, dict[tuple[str, ...], tuple[float, float]]] = {}
    for stack in plan.stacks:
        # Update rules cost little beside the gradients; what steps on its own may cost more than all the rest.
        singles = tuple(trial.algorithm for trial in stack.trials if not trial.hyperparameters.stacked)
        rates = timed.setdefault((stack.network(plan.device), stack.batch_size, len(stack)), {})
        if singles not in rates and len(rates) < _TIMED:
            rates[singles] = _seconds_per_image(stack, plan.device)
        training, evaluation = rates.get(singles) or _median(list(rates.values()))
        info = DATASETS[stack.dataset]
        evaluated = 2 * info.val + info.test
        seconds = stack.epochs * info.train * training + (stack.epochs + 1) * evaluated * evaluation
        whole += seconds
        first = stack.trials[0]
        total += seconds * (halving.share(rivals[first.optimizer, first.group], stack.epochs) if halving else 1)
    if plan.phase == "tune":
        total += whole / plan.missing.total() * plan.selections.total() * len(plan.sweep.confirm)
    return total / plan.workers


def _seconds_per_image(stack: Stack, device: str) -> tuple[float, float]:
    try:
        return bench.seconds_per_image(stack, device)
    except torch.OutOfMemoryError:
        if len(stack) == 1:
            raise
    halves = [_seconds_per_image(half, device) for half in stack.halves()]  # as the run will do
    return sum(training for training, _ in halves), sum(evaluation for _, evaluation in halves)


def _median(rates: list[tuple[float, float]]) -> tuple[float, float]:
    training, evaluation = zip(*rates, strict=True)
    return median(training), median(evaluation)
