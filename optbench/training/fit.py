"""How many trials train together on a GPU: as many as still make a sweep faster and fit in its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from optbench.machine import device as devices
from optbench.optimizers import OPTIMIZERS
from optbench.sweep.axes import AXES
from optbench.sweep.stacks import SHARED, Stack
from optbench.sweep.trials import Trial
from optbench.training.autotune import Choice, remembered, with_convolution
from optbench.training.engine import network_of
from optbench.training.speed import seconds_per_image

LARGEST = 1024
_SMALLEST = 8  # fewer leave any GPU idle
_GAIN = 1.1  # how much faster a stack of twice the size must train
_MEMORY_SHARE = 0.8  # of the device; stacks that wait at a rung of halving and other programs have the rest


def stack_size(trials: Sequence[Trial], device: str) -> int:
    """How many of these trials, which could all train together, make a stack.

    Measured with Adam, once for each device, network and batch size, since a resumed sweep must have the same stacks.
    """
    if len(trials) <= _SMALLEST:
        return len(trials)
    first = replace(trials[0], hyperparameters=OPTIMIZERS["adam"](lr=1e-3))
    place = torch.device(device)
    devices.make_deterministic(device)  # as the run will
    shared = [str(AXES[name].hashed(getattr(first, name))) for name in SHARED if name not in ("epochs", "steps")]
    key = f"{devices.key(place)}, stack size, {', '.join(shared)}"
    return int(remembered(key, lambda: Choice(knee(_measured(first, place), _SMALLEST, LARGEST))))


def knee(rate: Callable[[int], float | None], smallest: int, largest: int) -> int:
    """The size up to which each doubling gained a tenth; `rate` is a size's throughput, None if it is too large."""
    size, best = smallest, rate(smallest)
    while best is not None and 2 * size <= largest:
        doubled = rate(2 * size)
        if doubled is None or doubled < _GAIN * best:
            break
        size, best = 2 * size, doubled
    return size


def _measured(trial: Trial, device: torch.device) -> Callable[[int], float | None]:
    """Images × trials per second of stacks of this trial.

    None where the memory cannot hold twice what the size before took.
    """
    peak = 0

    def rate(size: int) -> float | None:
        nonlocal peak
        if 2 * peak > _MEMORY_SHARE * devices.memory_bytes(device):
            return None
        stack = Stack((trial,) * size)
        try:
            with_convolution(network_of(stack, device), size, stack.batch_size, device)  # some take more memory
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            seconds, _ = seconds_per_image(stack, str(device))
        except Exception as error:
            if devices.is_out_of_memory(error):
                return None
            raise
        peak = torch.cuda.max_memory_reserved(device)
        return size / seconds

    return rate
