"""Training, in one place: `Training` is a stack with its state, `train(stack)` yields its rows after every epoch.

Shape suffixes: T trials, S distinct seeds among them, B batch, C channels, H W image, K classes, P parameters,
Q buffers.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.data.datasets import Dataset, Split
from optbench.errors import UserError
from optbench.machine.device import allow_tf32, clock, memory_bytes, precision_on
from optbench.networks.network import Network
from optbench.optimizers.schedules import LearningRate
from optbench.sweep.stacks import Stack
from optbench.training import pretrained
from optbench.training.adapter import Cost
from optbench.training.autotune import with_convolution
from optbench.training.recipe import MovingAverage
from optbench.training.stacked import StackedOptimizer
from optbench.training.step import Steps, distinct_seeds

Row = dict[str, Any]

# Images evaluated at once: on a CPU few enough for its caches; elsewhere what fills about so many bytes, or this share
# of the device's memory, by the estimate for training, of which evaluation takes less than half.
EVALUATION_IMAGES_CPU = 100
EVALUATION_BYTES, EVALUATION_SHARE = 2**33, 1 / 16

_KEPT = ("val", "test")  # splits of which it is kept which images were right


def network_of(stack: Stack, device: torch.device | str) -> Network:
    """The network that the stack's trials train on that device."""
    first, data = stack.trials[0], stack.data
    return Network(
        first.model,
        first.activation,
        first.loss,
        precision_on(device, first.precision),
        image=data.image,
        classes=data.classes,
        is_frozen=first.transfer == "features",
    )


class Training:
    """A stack on a device: the trials that still train, their weights, optimizers and schedules, and how far they are.

    `step` or `epoch` trains, `rows` evaluates, `keep` drops trials. `epoch_number` counts the epochs that are over,
    `train_seconds` the time that `epoch` took for them; `peak_memory_bytes` is the most that was allocated on a GPU
    meanwhile, known of a trial that trains alone.
    """

    def __init__(
        self, stack: Stack, dataset: Dataset, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> None:
        self.device, self.epochs = torch.device(device), stack.epochs
        self.trials = list(stack.trials)
        self.epoch_number, self.train_seconds = 0, 0.0
        self.peak_memory_bytes: int | None = None
        # Stacks that wait at a rung would count with it, and a CPU's allocator does not tell what is in use.
        self._is_memory_its_own = self.device.type == "cuda" and len(stack) == 1 and not stack.rungs
        self._data, self._dtype = dataset.to(device).scaled(stack.trials[0].input), dtype
        self._keeps_weights = stack.keeps_weights
        network = network_of(stack, device)
        allow_tf32(network.precision == "tf32")
        self.network = with_convolution(network, len(stack), stack.batch_size, self.device)

        seeds = [trial.seed for trial in self.trials]
        distinct, seed_of_T = distinct_seeds(seeds, self.device)
        self.parameters_TP = self.network.initialize(distinct, self.device, dtype)[seed_of_T]
        self.buffers_TQ = self.network.buffers(distinct, self.device, dtype)[seed_of_T]
        without = self._transfer(stack.pretrained) if stack.pretrained else {}
        shapes = list(self.network.trained.values())
        hyperparameters = [trial.hyperparameters for trial in self.trials]
        decayed = [trial.weight_decay_on for trial in self.trials]
        self.optimizer = StackedOptimizer(self._trained_TP, shapes, hyperparameters, seeds, decayed)
        self.optimizer.failures |= without
        self._average = MovingAverage(self.trials, self.parameters_TP, self.buffers_TQ)
        self._finite_T = torch.ones(len(self.trials), dtype=torch.bool, device=self.device)
        self._steps = self._new_steps()
        first = self.trials[0]
        self._total_steps = self.epochs * self._steps.per_epoch if first.steps is None else first.steps
        self._rates = [
            LearningRate(t.schedule, t.hyperparameters.lr, self._steps.per_epoch, self._total_steps)
            for t in self.trials
        ]
        self._scheduled_lrs = [trial.hyperparameters.lr for trial in self.trials]

    @property
    def _trained_TP(self) -> Tensor:
        """The parameters that are trained: of networks of which most is fixed, only some columns."""
        return self.parameters_TP[:, self.network.trained_columns]

    def _transfer(self, folder: Path) -> dict[int, str]:
        """Begin with the pretrained networks, but with a fresh head; returns why a trial cannot, by its row."""
        own, without = self.network.tensors(self.parameters_TP, self.buffers_TQ), dict[int, str]()
        for t, trial in enumerate(self.trials):
            if trial.pretraining is None:
                continue
            try:
                found = pretrained.read(folder, trial.pretraining.trial_id)
            except UserError as error:
                without[t] = str(error)
                continue
            for name in own.keys() - set(self.network.architecture.head):
                own[name][t].copy_(torch.from_numpy(found[name]))
        return without

    def _new_steps(self) -> Steps:
        return Steps(
            self.network, self._data, self.trials, self.parameters_TP, self.buffers_TQ, self.optimizer, self._finite_T
        )

    @property
    def step_number(self) -> int:
        """How many steps each trial has made."""
        return min(self.epoch_number * self._steps.per_epoch + self._steps.done, self._total_steps)

    def step(self) -> Tensor:
        """One step of every trial; returns their losses (T,), before the step, in memory that the next one reuses."""
        if self._steps.done == 0:
            self._begin_epoch()
        loss_T = self._steps.step()
        self._average.update(self.parameters_TP, self.buffers_TQ)
        if self._steps.done == self._steps.steps:
            self._end_epoch()
        return loss_T

    def epoch(self) -> None:
        """The steps of the next epoch, or those that are left of it."""
        allow_tf32(self.network.precision == "tf32")  # another stack may have trained in this process meanwhile
        if self._is_memory_its_own:
            torch.cuda.reset_peak_memory_stats(self.device)
        self._steps.prepare()
        epoch, started = self.epoch_number, clock(self.device)
        while self.epoch_number == epoch:
            self.step()
        self.train_seconds += clock(self.device) - started
        if self._is_memory_its_own:
            self.peak_memory_bytes = max(self.peak_memory_bytes or 0, torch.cuda.max_memory_allocated(self.device))

    def _begin_epoch(self, done: int = 0) -> None:
        lrs_NT = list(zip(*(rate.of_epoch(self.epoch_number) for rate in self._rates), strict=True))
        self._scheduled_lrs = list(lrs_NT[-1])
        self._steps.begin(self.epoch_number + 1, lrs_NT, done)

    def _end_epoch(self) -> None:
        self.epoch_number += 1
        self._steps.done = 0

    def rows(self) -> list[Row]:
        """Evaluate every trial, and tell its schedule; once after each epoch. The columns are those of `train`."""
        measured, correct = {}, {}
        is_last = self.epoch_number == self.epochs
        splits = {"train": self._data.train_eval, "val": self._data.val, "test": self._data.test}
        with self.optimizer.evaluating():
            parameters_TP, buffers_TQ = self._average.averaged(self.parameters_TP, self.buffers_TQ)
            for name, split in splits.items():
                if len(split.labels) == 0:  # no images validate
                    continue
                loss_T, correct[name] = evaluate(
                    self.network, parameters_TP, buffers_TQ, split, self._data, self._dtype
                )
                self._finite_T &= loss_T.isfinite()
                measured[f"{name}_loss"], measured[f"{name}_accuracy"] = loss_T, _share(correct[name])
            networks = self._networks(parameters_TP, buffers_TQ) if is_last and self._keeps_weights else []
        finite = self._finite_T.tolist()
        columns = {
            name: [value if ok else math.nan for value, ok in zip(values_T.tolist(), finite, strict=True)]
            for name, values_T in measured.items()
        }
        if self.epoch_number > 0:
            observed = columns["val_loss" if "val_loss" in columns else "train_loss"]
            for rate, loss in zip(self._rates, observed, strict=True):
                rate.observe(loss)
        masks = {split: correct[split].cpu().numpy() for split in _KEPT if split in correct and is_last}
        costs = self.optimizer.costs()
        return [
            {
                "trial_id": trial.trial_id,
                "epoch": self.epoch_number,
                "step": self.step_number,
                **self._status(t, finite[t]),
                "scheduled_lr": self._scheduled_lrs[t],
                "train_seconds": self.train_seconds,
                **(costs[t] if finite[t] and self.step_number > 0 else Cost(None, None))._asdict(),
                "peak_memory_bytes": self.peak_memory_bytes,
                "convolution": self.network.convolution if self.network.ways else None,
                **dict.fromkeys(("val_loss", "val_accuracy")),
                **{name: values[t] for name, values in columns.items()},
                **{f"{split}_images": mask_TN.shape[1] for split, mask_TN in masks.items()},
                **{f"{split}_correct": np.packbits(mask_TN[t]).tobytes() for split, mask_TN in masks.items()},
                **({"weights": networks[t]} if networks else {}),
            }
            for t, trial in enumerate(self.trials)
        ]

    def _networks(self, parameters_TP: Tensor, buffers_TQ: Tensor) -> list[pretrained.Arrays]:
        """Those parameters and buffers of each trial, by name."""
        tensors = self.network.tensors(parameters_TP, buffers_TQ)
        tensors = {name: own.to("cpu", copy=True) for name, own in tensors.items()}
        return [{name: own[t].numpy() for name, own in tensors.items()} for t in range(len(self.trials))]

    def _status(self, t: int, is_finite: bool) -> Row:
        if not is_finite:
            return {"status": "diverged", "error": None}
        if t in self.optimizer.failures:
            return {"status": "failed", "error": self.optimizer.failures[t]}
        return {"status": "finished" if self.epoch_number == self.epochs else "running", "error": None}

    def keep(self, kept: Sequence[int]) -> None:
        """Go on with only these of the trials, by their places in `trials`."""
        if len(kept) == len(self.trials):
            return
        self.trials, self._rates = [self.trials[t] for t in kept], [self._rates[t] for t in kept]
        self.parameters_TP, self.buffers_TQ = self.parameters_TP[kept], self.buffers_TQ[kept]
        self._finite_T = self._finite_T[kept]
        self.optimizer.keep(kept, self._trained_TP)
        self._average.keep(kept)
        self._steps = self._new_steps()

    def release(self) -> None:
        """Free what a training that waits does not need; the next epoch makes it again."""
        self._steps.release()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to continue from here bit by bit, in tensors and plain values."""
        return {
            "epoch": self.epoch_number,
            "step": self._steps.done,
            "train_seconds": self.train_seconds,
            "parameters": self.parameters_TP.clone(),
            "buffers": self.buffers_TQ.clone(),
            "finite": self._finite_T.clone(),
            "optimizer": self.optimizer.state_dict(),
            "average": self._average.state_dict(),
            "schedules": [rate.state_dict() for rate in self._rates],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one with the same trials left off."""
        self.epoch_number, self.train_seconds = state["epoch"], state["train_seconds"]
        self.parameters_TP.copy_(state["parameters"])
        self.buffers_TQ.copy_(state["buffers"])
        self._finite_T.copy_(state["finite"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._average.load_state_dict(state["average"])
        for rate, own in zip(self._rates, state["schedules"], strict=True):
            rate.load_state_dict(own)
        if state["step"] > 0:
            self._begin_epoch(state["step"])


Rows = Generator[list[Row], frozenset[str] | None, None]


def train(stack: Stack, dataset: Dataset, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Rows:
    """Train a stack; yields one row for each trial, first for epoch 0 (before training), then after each epoch.

    A row holds `trial_id`, `epoch`, `step`, `status`, `scheduled_lr` (of the epoch's last step), `train_seconds` (so
    far, evaluation excluded), `state_per_parameter`, `gradients_per_step` and `peak_memory_bytes` (None where they are
    not known), `convolution` (how it was computed), and loss and accuracy on the splits `train` (a fixed slice of the
    training set, in evaluation mode), `val` (None where no images validate) and `test`. A trial whose loss was ever
    not finite is "diverged", its numbers are NaN; else one whose optimizer raised is "failed", with the traceback
    as `error`. Such a row is a trial's last, and so is that of a trial whose id is sent into the generator. The
    stack goes on without them. Rows of the last epoch also hold which of the `val_images` and `test_images` were
    classified correctly, as bits, eight in a byte: `val_correct` and `test_correct`; and `weights`, the network that
    was scored, if the stack keeps it. A trial whose pretrained network is not there has failed at epoch 0.
    """
    training = Training(stack, dataset, device, dtype)
    while True:
        rows = training.rows()
        if training.epoch_number in stack.rungs:
            training.release()
        stop = (yield rows) or frozenset()
        kept = [t for t, row in enumerate(rows) if row["status"] == "running" and row["trial_id"] not in stop]
        if not kept:
            return
        training.keep(kept)
        training.epoch()


def evaluate(
    network: Network, parameters_TP: Tensor, buffers_TQ: Tensor, split: Split, data: Dataset, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Mean loss of every trial on a split, (T,) in float64, and which of its N images are right, (T, N); no dropout."""
    weights = network.weights(parameters_TP)
    trials = len(parameters_TP)
    loss_T = torch.zeros(trials, dtype=torch.float64, device=parameters_TP.device)
    correct_TN = torch.empty(trials, len(split.labels), dtype=torch.bool, device=parameters_TP.device)
    size = _evaluated_at_once(network.architecture.activation_bytes * trials, parameters_TP.device)
    same_T = torch.zeros(trials, dtype=torch.int64, device=parameters_TP.device)
    with torch.inference_mode():
        chunks = zip(split.images.split(size), split.labels.split(size), correct_TN.split(size, dim=1), strict=True)
        for images, labels, correct_TB in chunks:
            labels_TB = labels.expand(trials, -1)
            images_SBCHW = data.normalise(images[None], dtype)
            logits_TBK = network.forward(weights, images_SBCHW, same_T, training=False, buffers_TQ=buffers_TQ)
            loss_T += network.losses(logits_TBK, labels_TB).sum(dim=1)
            torch.eq(logits_TBK.argmax(dim=-1), labels_TB, out=correct_TB)
    return loss_T / len(split.labels), correct_TN


def _share(correct_TN: Tensor) -> Tensor:
    """The accuracies, (T,) in float64."""
    return correct_TN.sum(dim=1).double() / correct_TN.shape[1]


def _evaluated_at_once(bytes_of_image: int, device: torch.device) -> int:
    """How many images; by the device's memory, free or not, so that sums are rounded the same way every time."""
    if device.type == "cpu":
        return EVALUATION_IMAGES_CPU
    available = min(EVALUATION_BYTES, int(EVALUATION_SHARE * memory_bytes(device)))
    return max(1, min(1000, available // bytes_of_image))
