"""How long and how large a run will be: a few steps of each batch size are timed on the device that will train."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from statistics import median

import torch

from optbench import engine
from optbench.datasets import DATASETS, Dataset, Split
from optbench.model import Network
from optbench.run import Plan
from optbench.stacks import Stack

# Measured on finished sweeps: the schema of 35 columns outweighs the rows of a small part.
_BYTES_PER_PART, _BYTES_PER_ROW = 10_000, 100
_STEPS, _IMAGES = 4, 256
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
    engine.make_deterministic(plan.device)
    try:
        return _seconds(plan)
    finally:
        torch.set_flush_denormal(False)  # numpy and scipy, which this process will load, warn of it


def _seconds(plan: Plan) -> float:
    info = DATASETS[plan.sweep.dataset]
    evaluated = 2 * info.val + info.test
    total = whole = 0.0
    halving = plan.sweep.search.halving if plan.sweep.search and plan.phase == "tune" else None
    rivals = Counter((t.optimizer, t.group) for t in plan.tuning if t.seed == plan.tuning[0].seed)
    timed: dict[_Kind, dict[tuple[str, ...], tuple[float, float]]] = {}
    for stack in plan.stacks:
        # Update rules cost little beside the gradients; what steps on its own may cost more than all the rest.
        singles = tuple(trial.algorithm for trial in stack.trials if not trial.hyperparameters.stacked)
        rates = timed.setdefault((stack.network(plan.device.partition(":")[0]), stack.batch_size, len(stack)), {})
        if singles not in rates and len(rates) < _TIMED:
            rates[singles] = _seconds_per_image(stack, plan.device)
        training, evaluation = rates.get(singles) or _median(list(rates.values()))
        seconds = stack.epochs * info.train * training + (stack.epochs + 1) * evaluated * evaluation
        whole += seconds
        first = stack.trials[0]
        total += seconds * (halving.share(rivals[first.optimizer, first.group], stack.epochs) if halving else 1)
    if plan.phase == "tune":
        total += whole / plan.missing.total() * len(plan.budgets) * len(plan.sweep.confirm)
    return total / plan.workers


def _median(rates: list[tuple[float, float]]) -> tuple[float, float]:
    training, evaluation = zip(*rates, strict=True)
    return median(training), median(evaluation)


def _seconds_per_image(stack: Stack, device: str) -> tuple[float, float]:
    """Seconds for one image of every trial of the stack: to train on it and to evaluate it."""
    info = DATASETS[stack.dataset]
    n = min(info.train, max(_STEPS, _IMAGES // stack.batch_size) * stack.batch_size)
    generator = torch.Generator().manual_seed(0)

    def split(size: int) -> Split:
        images = torch.randint(256, (size, 28, 28), generator=generator, dtype=torch.uint8)
        return Split(images, torch.randint(10, (size,), generator=generator))

    evaluated = split(_IMAGES)
    data = Dataset(stack.dataset, dataclasses.replace(info, val=_IMAGES), split(n), evaluated, evaluated, evaluated)
    # So small a learning rate that no trial diverges, and leaves.
    once = Stack(
        tuple(
            dataclasses.replace(t, epochs=2, hyperparameters=t.hyperparameters.model_copy(update={"lr": 1e-12}))
            for t in stack.trials
        )
    )
    trained, clocks = [], []
    for rows in engine.train(once, data, device):
        trained.append(rows[0]["train_seconds"])
        clocks.append(time.perf_counter())
    if len(trained) < 3:  # every optimizer failed, and will soon again
        return 0.0, 0.0
    training = trained[2] - trained[1]  # the first epoch warms up
    evaluation = (clocks[2] - clocks[1]) - training
    return training / n, max(0.0, evaluation) / (3 * _IMAGES)
