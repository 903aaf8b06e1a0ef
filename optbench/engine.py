"""The training loop, the only one: `train(stack)` yields the rows of every trial after every epoch.

Shape suffixes: T trials, S distinct seeds among them, B batch, C channels, H W image, K classes, P parameters,
U dropout units.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from optbench import model, randomness
from optbench.datasets import Dataset, Split
from optbench.optimizers.rules import StackedOptimizer
from optbench.schedules import LearningRate
from optbench.stacks import Stack

Row = dict[str, Any]

# Images evaluated at once: on a CPU, trial by trial, few enough for its caches; elsewhere images × trials, to bound the
# memory of a large stack (about 130 KB each).
EVALUATION_IMAGES_CPU = 100
EVALUATION_IMAGES_ALL_TRIALS = 32_768
# Dropout is drawn for at least so many examples at once: small tensors cost more in calls than in arithmetic.
DROPOUT_EXAMPLES = 2048


def make_deterministic(device: str) -> None:
    """Settings under which the same stack gives the same bits; call once in each process that trains.

    On a CPU, denormals are flushed to zero in this process from then on (`torch.set_flush_denormal` takes it back).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may sum in another order
    if device == "cpu":
        torch.set_flush_denormal(True)  # moments of dead units decay into denormals, which a CPU computes 100× slower
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def train(
    stack: Stack, dataset: Dataset, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> Iterator[list[Row]]:
    """Train a stack; yields one row for each trial, first for epoch 0 (before training), then after each epoch.

    A row holds `trial_id`, `epoch`, `step`, `status`, `scheduled_lr` (of the epoch's last step), `train_seconds` (so
    far, evaluation excluded), and loss and accuracy on the splits `train` (a fixed slice of the training set, in
    evaluation mode), `val` and `test`. A trial whose loss was ever not finite is "diverged", its numbers are NaN.
    """
    device = torch.device(device)
    data = dataset.to(device)
    seeds = list(dict.fromkeys(trial.seed for trial in stack.trials))
    seed_of_T = torch.tensor([seeds.index(trial.seed) for trial in stack.trials], device=device)
    batch_size = stack.batch_size
    steps_per_epoch = len(data.train.labels) // batch_size  # the examples left over differ from epoch to epoch

    parameters_TP = model.initialize(seeds, device, dtype)[seed_of_T]
    optimizer = StackedOptimizer(
        parameters_TP,
        [trial.algorithm for trial in stack.trials],
        [trial.hyperparameters.model_dump() for trial in stack.trials],
    )
    rates = [LearningRate(t.schedule, t.hyperparameters.lr, steps_per_epoch, stack.epochs) for t in stack.trials]
    finite_T = torch.ones(len(stack), dtype=torch.bool, device=device)
    scheduled_lrs = [trial.hyperparameters.lr for trial in stack.trials]
    train_seconds = 0.0

    for epoch in range(stack.epochs + 1):
        if epoch > 0:
            started = _clock(device)
            lrs_T = [rate.of_epoch(epoch - 1) for rate in rates]
            scheduled_lrs = [lrs[-1] for lrs in lrs_T]
            lr_NT1 = torch.tensor(lrs_T, dtype=torch.float64).T.unsqueeze(-1).to(parameters_TP)
            order_SN = randomness.permutation(seeds, epoch, len(data.train.labels), device)
            scales = _dropout(stack, seeds, seed_of_T, epoch, steps_per_epoch, parameters_TP)
            for step, scale_TBU in enumerate(scales):
                batch_SB = order_SN[:, step * batch_size : (step + 1) * batch_size]
                images_SBCHW = normalise(data.train.images[batch_SB], data, dtype)
                labels_SB = data.train.labels[batch_SB]
                loss_T, gradients_TP = model.loss_and_gradients(
                    parameters_TP, images_SBCHW, labels_SB, seed_of_T, scale_TBU
                )
                optimizer.step(gradients_TP, lr_NT1[step])
                finite_T &= loss_T.isfinite()
            train_seconds += _clock(device) - started

        measured = {}
        for name, split in (("train", data.train_eval), ("val", data.val), ("test", data.test)):
            loss_T, accuracy_T = evaluate(parameters_TP, split, data, dtype)
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
        yield [
            {
                "trial_id": trial.trial_id,
                "epoch": epoch,
                "step": epoch * steps_per_epoch,
                "status": "diverged" if not finite[t] else "finished" if epoch == stack.epochs else "running",
                "scheduled_lr": scheduled_lrs[t],
                "train_seconds": train_seconds,
                **{name: values[t] for name, values in columns.items()},
            }
            for t, trial in enumerate(stack.trials)
        ]


def normalise(images: Tensor, data: Dataset, dtype: torch.dtype) -> Tensor:
    """uint8 images (…, H, W) → (…, C, H, W) with mean 0 and standard deviation 1 over the training set."""
    return images.to(dtype).div_(255).sub_(data.info.mean).div_(data.info.std).unsqueeze(-3)


def evaluate(parameters_TP: Tensor, split: Split, data: Dataset, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean loss and accuracy of every trial on a split, each (T,) in float64; dropout is off."""
    weights = model.weights(parameters_TP)
    trials = len(parameters_TP)
    loss_T = torch.zeros(trials, dtype=torch.float64, device=parameters_TP.device)
    correct_T = torch.zeros_like(loss_T)
    size = EVALUATION_IMAGES_CPU
    if parameters_TP.device.type != "cpu":
        size = max(1, min(1000, EVALUATION_IMAGES_ALL_TRIALS // trials))
    same_T = torch.zeros(trials, dtype=torch.int64, device=parameters_TP.device)
    with torch.inference_mode():
        for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
            labels_TB = labels.expand(trials, -1)
            logits_TBK = model.forward(weights, normalise(images[None], data, dtype), same_T, None)
            loss_T += model.losses(logits_TBK, labels_TB).sum(dim=1)
            correct_T += (logits_TBK.argmax(dim=-1) == labels_TB).sum(dim=1)
    return loss_T / len(split.labels), correct_T / len(split.labels)


def _dropout(
    stack: Stack, seeds: Sequence[int], seed_of_T: Tensor, epoch: int, steps: int, like: Tensor
) -> Iterator[Tensor | None]:
    """For each step of an epoch, what dropout multiplies the units with: (T, B, U), or None when no trial has any."""
    rate_T2 = torch.tensor([trial.dropout for trial in stack.trials], dtype=like.dtype, device=like.device)
    if not rate_T2.any():
        yield from [None] * steps
        return
    units = torch.tensor([model.CONV_UNITS, model.LINEAR_UNITS], device=like.device)
    rate_T1U = rate_T2.repeat_interleave(units, dim=1, output_size=model.DROPOUT_UNITS).unsqueeze(1)
    scale_T1U = 1 / (1 - rate_T1U)
    size = stack.batch_size
    steps_at_once = max(1, DROPOUT_EXAMPLES // size)
    for first in range(0, steps, steps_at_once):
        n = min(steps_at_once, steps - first)
        uniform_SNU = randomness.dropout(seeds, epoch, first * size, n * size, model.DROPOUT_UNITS, like.device)
        for uniform_SBU in uniform_SNU.split(size, dim=1):
            yield (uniform_SBU[seed_of_T] >= rate_T1U) * scale_T1U


def _clock(device: torch.device) -> float:
    """Seconds on a steady clock, once the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
