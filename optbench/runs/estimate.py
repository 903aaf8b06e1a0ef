"""How long and how large a phase will be: a few steps of each batch size are timed on the device that will train."""

from __future__ import annotations

from statistics import median

import torch

from optbench.machine.device import is_out_of_memory, make_deterministic, settings_given_back
from optbench.networks.network import Network
from optbench.runs.phases import Phase
from optbench.sweep.stacks import Stack
from optbench.training import speed
from optbench.training.engine import network_of

# Measured on finished sweeps: the schema of 35 columns outweighs the rows of a small part, and so does that of the part
# that holds a bit for each image.
_BYTES_PER_PART, _BYTES_PER_ROW = 13_000, 100
# Of stacks that differ only in optimizers that step on their own, this many kinds are timed; others take the median.
_TIMED = 5

_Kind = tuple[Network, int, int]


def disk_bytes(phase: Phase) -> int:
    """Size of the rows that the phase will add, and of the bits and networks beside them."""
    rows = sum(len(stack) * (stack.epochs + 1) for stack in phase.stacks)
    images = sum(len(stack) * (stack.data.val + stack.data.test) for stack in phase.stacks)
    kept = [len(stack) * network_of(stack, phase.job.device).architecture.size for stack in phase.stacks]
    weights = 4 * sum(kept) if phase.keeps_weights else 0
    return len(phase.stacks) * _BYTES_PER_PART + rows * _BYTES_PER_ROW + images // 8 + weights


def seconds(phase: Phase) -> float:
    """Expected duration of the phase and of what follows it, from a few measured steps on random images.

    Takes about a second.
    """
    with settings_given_back():
        if phase.job.device == "cpu":
            torch.set_num_threads(1)  # like the workers
        make_deterministic(phase.job.device)
        return _seconds(phase)


def _seconds(phase: Phase) -> float:
    device = phase.job.device
    total = whole = 0.0
    timed: dict[_Kind, dict[tuple[str, ...], tuple[float, float]]] = {}
    for stack in phase.stacks:
        # Update rules cost little compared to gradients; an optimizer that steps on its own may cost more than these.
        singles = tuple(trial.algorithm for trial in stack.trials if not trial.hyperparameters.stacked)
        rates = timed.setdefault((network_of(stack, device), stack.batch_size, len(stack)), {})
        if singles not in rates and len(rates) < _TIMED:
            rates[singles] = _seconds_per_image(stack, device)
        training, evaluation = rates.get(singles) or _median(list(rates.values()))
        info = stack.data
        evaluated = info.train_eval + info.val + info.test
        seconds = stack.steps * stack.batch_size * training + (stack.epochs + 1) * evaluated * evaluation
        whole += seconds
        total += seconds * phase.share(stack)
    total += whole / phase.missing.total() * phase.to_follow
    return total / phase.workers


def _seconds_per_image(stack: Stack, device: str) -> tuple[float, float]:
    try:
        return speed.seconds_per_image(stack, device)
    except Exception as error:
        if len(stack) == 1 or not is_out_of_memory(error):
            raise
    halves = [_seconds_per_image(half, device) for half in stack.halves()]  # as the run will do
    return sum(training for training, _ in halves), sum(evaluation for _, evaluation in halves)


def _median(rates: list[tuple[float, float]]) -> tuple[float, float]:
    training, evaluation = zip(*rates, strict=True)
    return median(training), median(evaluation)
