"""The training loop, the only one: `train(stack)` yields the rows of every trial after every epoch.

Shape suffixes: T trials, S distinct seeds among them, B batch, C channels, H W image, K classes, P parameters,
U dropout units.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optbench import randomness
from optbench.datasets import Dataset, Split
from optbench.model import Network
from optbench.optimizers.stacked import StackedOptimizer
from optbench.schedules import LearningRate
from optbench.stacks import Stack
from optbench.trials import Trial

Row = dict[str, Any]
Training = Generator[list[Row], frozenset[str] | None, None]

# Images evaluated at once: on a CPU few enough for its caches; elsewhere what fills about so much memory by the
# estimate for training, of which evaluation takes less than half.
EVALUATION_IMAGES_CPU = 100
EVALUATION_BYTES = 2**33
# Dropout is drawn at once for the steps that need about so many numbers: small tensors cost more in calls than in
# arithmetic, large ones leave the caches.
DROPOUT_NUMBERS = 200_000


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


def train(stack: Stack, dataset: Dataset, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Training:
    """Train a stack; yields one row for each trial, first for epoch 0 (before training), then after each epoch.

    A row holds `trial_id`, `epoch`, `step`, `status`, `scheduled_lr` (of the epoch's last step), `train_seconds` (so
    far, evaluation excluded), and loss and accuracy on the splits `train` (a fixed slice of the training set, in
    evaluation mode), `val` and `test`. A trial whose loss was ever not finite is "diverged", its numbers are NaN; else
    one whose optimizer raised is "failed", with the traceback as `error`. Such a row is a trial's last, and so is that
    of a trial whose id is sent into the generator. The stack goes on without them.
    """
    device = torch.device(device)
    data, network = dataset.to(device), stack.network
    batch_size = stack.batch_size
    steps_per_epoch = len(data.train.labels) // batch_size  # the examples left over differ from epoch to epoch

    trials = list(stack.trials)
    seeds, seed_of_T = _seeds(trials, device)
    parameters_TP = network.initialize(seeds, device, dtype)[seed_of_T]
    optimizer = StackedOptimizer(
        parameters_TP,
        [shape for shape, _ in network.architecture.shapes.values()],
        [trial.hyperparameters for trial in trials],
        [trial.seed for trial in trials],
    )
    rates = [LearningRate(t.schedule, t.hyperparameters.lr, steps_per_epoch, stack.epochs) for t in trials]
    finite_T = torch.ones(len(trials), dtype=torch.bool, device=device)
    scheduled_lrs = [trial.hyperparameters.lr for trial in trials]
    train_seconds = 0.0

    for epoch in range(stack.epochs + 1):
        if epoch > 0:
            started = _clock(device)
            lrs_NT = list(zip(*(rate.of_epoch(epoch - 1) for rate in rates), strict=True))
            scheduled_lrs = list(lrs_NT[-1])
            lr_NT1 = torch.tensor(lrs_NT, dtype=torch.float64).unsqueeze(-1).to(parameters_TP)
            order_SN = randomness.permutation(seeds, epoch, len(data.train.labels), device)
            scales = _dropout(network, trials, seeds, seed_of_T, epoch, steps_per_epoch, parameters_TP)
            for step, scale_TBU in enumerate(scales):
                batch_SB = order_SN[:, step * batch_size : (step + 1) * batch_size]
                images_SBCHW = normalise(data.train.images[batch_SB], data, dtype)
                labels_SB = data.train.labels[batch_SB]
                batch = images_SBCHW, labels_SB, seed_of_T, scale_TBU
                loss_T, gradients_TP = network.loss_and_gradients(parameters_TP, *batch)
                again = partial(_again, network, parameters_TP, batch)
                optimizer.step(loss_T, gradients_TP, lr_NT1[step], lrs_NT[step], again)
                finite_T &= loss_T.isfinite()
            train_seconds += _clock(device) - started

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
                "step": epoch * steps_per_epoch,
                "status": "diverged" if not finite[t] else "failed" if t in optimizer.failures else last,
                "error": optimizer.failures.get(t) if finite[t] else None,
                "scheduled_lr": scheduled_lrs[t],
                "train_seconds": train_seconds,
                **{name: values[t] for name, values in columns.items()},
            }
            for t, trial in enumerate(trials)
        ]
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


def _seeds(trials: Sequence[Trial], device: torch.device) -> tuple[list[int], Tensor]:
    """The distinct seeds, and which of them each trial has, an int64 index (T,)."""
    seeds = list(dict.fromkeys(trial.seed for trial in trials))
    return seeds, torch.tensor([seeds.index(trial.seed) for trial in trials], device=device)


def _again(
    network: Network, parameters_TP: Tensor, batch: tuple[Tensor, Tensor, Tensor, Tensor | None], t: int
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of trial `t` at its present weights, on a batch of the whole stack."""
    images_SBCHW, labels_SB, seed_of_T, scale_TBU = batch
    row = slice(t, t + 1)
    scale = None if scale_TBU is None else scale_TBU[row]
    with torch.enable_grad():  # optimizers step without
        loss_T, gradient_TP = network.loss_and_gradients(
            parameters_TP[row], images_SBCHW, labels_SB, seed_of_T[row], scale
        )
    return loss_T[0], gradient_TP[0]


def normalise(images: Tensor, data: Dataset, dtype: torch.dtype) -> Tensor:
    """uint8 images (…, H, W) → (…, C, H, W) with mean 0 and standard deviation 1 over the training set."""
    return images.to(dtype).div_(255).sub_(data.info.mean).div_(data.info.std).unsqueeze(-3)


def evaluate(
    network: Network, parameters_TP: Tensor, split: Split, data: Dataset, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Mean loss and accuracy of every trial on a split, each (T,) in float64; dropout is off."""
    weights = network.weights(parameters_TP)
    trials = len(parameters_TP)
    loss_T = torch.zeros(trials, dtype=torch.float64, device=parameters_TP.device)
    correct_T = torch.zeros_like(loss_T)
    size = EVALUATION_IMAGES_CPU
    if parameters_TP.device.type != "cpu":
        size = max(1, min(1000, EVALUATION_BYTES // (network.architecture.activation_bytes * trials)))
    same_T = torch.zeros(trials, dtype=torch.int64, device=parameters_TP.device)
    with torch.inference_mode():
        for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
            labels_TB = labels.expand(trials, -1)
            logits_TBK = network.forward(weights, normalise(images[None], data, dtype), same_T, None)
            loss_T += network.losses(logits_TBK, labels_TB).sum(dim=1)
            correct_T += (logits_TBK.argmax(dim=-1) == labels_TB).sum(dim=1)
    return loss_T / len(split.labels), correct_T / len(split.labels)


def _dropout(
    network: Network,
    trials: Sequence[Trial],
    seeds: Sequence[int],
    seed_of_T: Tensor,
    epoch: int,
    steps: int,
    like: Tensor,
) -> Iterator[Tensor | None]:
    """For each step of an epoch, what dropout multiplies the units with: (T, B, U), or None when no trial has any."""
    rate_T2 = torch.tensor([trial.dropout for trial in trials], dtype=like.dtype, device=like.device)
    units_2 = torch.tensor(network.architecture.dropout_units, device=like.device)
    if not (rate_T2 * units_2).any():
        yield from [None] * steps
        return
    units = sum(network.architecture.dropout_units)
    rate_T1U = rate_T2.repeat_interleave(units_2, dim=1, output_size=units).unsqueeze(1)
    scale_T1U = 1 / (1 - rate_T1U)
    size = trials[0].batch_size
    steps_at_once = max(1, DROPOUT_NUMBERS // (size * units))
    for first in range(0, steps, steps_at_once):
        n = min(steps_at_once, steps - first)
        uniform_SNU = randomness.dropout(seeds, epoch, first * size, n * size, units, like.device)
        for uniform_SBU in uniform_SNU.split(size, dim=1):
            yield (uniform_SBU[seed_of_T] >= rate_T1U) * scale_T1U


def _clock(device: torch.device) -> float:
    """Seconds on a steady clock, once the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
