"""The training loop, the only one: `train(stack)` yields the rows of every trial after every epoch.

Shape suffixes: T trials, S distinct seeds among them, B batch, C channels, H W image, K classes, P parameters,
U dropout units.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from optbench.autotune import with_convolution
from optbench.datasets import Dataset, Split
from optbench.device import allow_tf32, clock, memory_bytes
from optbench.model import Network
from optbench.optimizers.stacked import StackedOptimizer
from optbench.schedules import LearningRate
from optbench.stacks import Stack
from optbench.step import Step
from optbench.trials import Trial

Row = dict[str, Any]
Training = Generator[list[Row], frozenset[str] | None, None]

# Images evaluated at once: on a CPU few enough for its caches; elsewhere what fills about so much memory, or so much of
# all that the device has, by the estimate for training, of which evaluation takes less than half.
EVALUATION_IMAGES_CPU = 100
EVALUATION_BYTES, EVALUATION_SHARE = 2**33, 1 / 16


def train(stack: Stack, dataset: Dataset, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Training:
    """Train a stack; yields one row for each trial, first for epoch 0 (before training), then after each epoch.

    A row holds `trial_id`, `epoch`, `step`, `status`, `scheduled_lr` (of the epoch's last step), `train_seconds` (so
    far, evaluation excluded), `convolution` (how it was computed), and loss and accuracy on the splits `train` (a fixed
    slice of the training set, in evaluation mode), `val` and `test`. A trial whose loss was ever not finite is
    "diverged", its numbers are NaN; else one whose optimizer raised is "failed", with the traceback as `error`. Such a
    row is a trial's last, and so is that of a trial whose id is sent into the generator. The stack goes on without
    them.
    """
    device = torch.device(device)
    data, network = dataset.to(device), stack.network(device)
    allow_tf32(network.precision == "tf32")
    network = with_convolution(network, len(stack), stack.batch_size, device)

    trials = list(stack.trials)
    seeds, seed_of_T = _seeds(trials, device)
    parameters_TP = network.initialize(seeds, device, dtype)[seed_of_T]
    optimizer = StackedOptimizer(
        parameters_TP,
        [shape for shape, _ in network.architecture.shapes.values()],
        [trial.hyperparameters for trial in trials],
        [trial.seed for trial in trials],
    )
    finite_T = torch.ones(len(trials), dtype=torch.bool, device=device)
    step = Step(network, data, trials, seeds, seed_of_T, parameters_TP, optimizer, finite_T)
    rates = [LearningRate(t.schedule, t.hyperparameters.lr, step.steps, stack.epochs) for t in trials]
    scheduled_lrs = [trial.hyperparameters.lr for trial in trials]
    train_seconds = 0.0

    for epoch in range(stack.epochs + 1):
        if epoch > 0:
            lrs_NT = list(zip(*(rate.of_epoch(epoch - 1) for rate in rates), strict=True))
            scheduled_lrs = list(lrs_NT[-1])
            allow_tf32(network.precision == "tf32")  # another stack may have trained in this process meanwhile
            step.prepare()
            started = clock(device)
            step.train_epoch(epoch, lrs_NT)
            train_seconds += clock(device) - started

        measured = {}
        with optimizer.evaluating():
            for name, split in (("train", data.train_eval), ("val", data.val), ("test", data.test)):
                loss_T, accuracy_T = evaluate(network, parameters_TP, split, data, dtype)
                finite_T &= loss_T.isfinite()
                measured[f"{name}_loss"], measured[f"{name}_accuracy"] = loss_T, accuracy_T
        finite = finite_T.tolist()
        columns = {
            name: [value if ok else math.nan for value, ok in zip(values_T.tolist(), finite, strict=True)]
            for name, values_T in measured.items()
        }
        if epoch > 0:
            for rate, val_loss in zip(rates, columns["val_loss"], strict=True):
                rate.observe(val_loss)
        last = "finished" if epoch == stack.epochs else "running"
        rows = [
            {
                "trial_id": trial.trial_id,
                "epoch": epoch,
                "step": epoch * step.steps,
                "status": "diverged" if not finite[t] else "failed" if t in optimizer.failures else last,
                "error": optimizer.failures.get(t) if finite[t] else None,
                "scheduled_lr": scheduled_lrs[t],
                "train_seconds": train_seconds,
                "convolution": network.convolution if trial.model == "cnn" else None,
                **{name: values[t] for name, values in columns.items()},
            }
            for t, trial in enumerate(trials)
        ]
        if epoch in stack.rungs:
            step.release()
        stop = (yield rows) or frozenset()
        kept = [t for t, row in enumerate(rows) if row["status"] == "running" and row["trial_id"] not in stop]
        if not kept:
            return
        if len(kept) < len(trials):
            trials, rates = [trials[t] for t in kept], [rates[t] for t in kept]
            seeds, seed_of_T = _seeds(trials, device)
            parameters_TP = parameters_TP[kept]
            finite_T = finite_T[kept]
            optimizer.keep(kept, parameters_TP)
            step = Step(network, data, trials, seeds, seed_of_T, parameters_TP, optimizer, finite_T)


def _seeds(trials: Sequence[Trial], device: torch.device) -> tuple[list[int], Tensor]:
    """The distinct seeds, and which of them each trial has, an int64 index (T,)."""
    seeds = list(dict.fromkeys(trial.seed for trial in trials))
    return seeds, torch.tensor([seeds.index(trial.seed) for trial in trials], device=device)


def evaluate(
    network: Network, parameters_TP: Tensor, split: Split, data: Dataset, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Mean loss and accuracy of every trial on a split, each (T,) in float64; dropout is off."""
    weights = network.weights(parameters_TP)
    trials = len(parameters_TP)
    loss_T = torch.zeros(trials, dtype=torch.float64, device=parameters_TP.device)
    correct_T = torch.zeros_like(loss_T)
    size = _evaluated_at_once(network.architecture.activation_bytes * trials, parameters_TP.device)
    same_T = torch.zeros(trials, dtype=torch.int64, device=parameters_TP.device)
    with torch.inference_mode():
        for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
            labels_TB = labels.expand(trials, -1)
            logits_TBK = network.forward(weights, data.normalise(images[None], dtype), same_T, None)
            loss_T += network.losses(logits_TBK, labels_TB).sum(dim=1)
            correct_T += (logits_TBK.argmax(dim=-1) == labels_TB).sum(dim=1)
    return loss_T / len(split.labels), correct_T / len(split.labels)


def _evaluated_at_once(bytes_of_image: int, device: torch.device) -> int:
    """How many images; by what the device has and not by what is free, so that sums are rounded alike every time."""
    if device.type == "cpu":
        return EVALUATION_IMAGES_CPU
    available = min(EVALUATION_BYTES, int(EVALUATION_SHARE * memory_bytes(device)))
    return max(1, min(1000, available // bytes_of_image))
