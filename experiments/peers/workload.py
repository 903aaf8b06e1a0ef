"""What every contestant trains and how it is timed: the network, the data, the training clock.

Shape suffixes: T trials that train together (1 for a sequential contestant), B batch, N examples, C channels, H W
image, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optbench.data.datasets import Dataset, load

DROPOUT = 0.25
WARM_UP_STEPS = 20  # before the clock starts: kernels are chosen and loaded, memory is allocated
_STEPS_BETWEEN_LOOKS = 50  # a look at the clock waits for the device, so there are few


class CannotRunError(Exception):
    """Why a contestant cannot run here."""


@dataclass(frozen=True)
class Settings:
    """Equal for all contestants.

    `budget` is the number of seconds of training after which measuring ends, even within an epoch; without one every
    trial trains all its epochs. `launched` is when the process was started, in seconds since 1970. Each trial has a
    seed of its own, or all share one, and with it initial weights, batches and dropout draws.
    """

    dataset: str
    data_dir: str | None
    device: str  # cpu or cuda
    trials: int
    epochs: int
    batch_size: int
    precision: str  # fp32 or tf32
    budget: float | None
    launched: float
    has_shared_seed: bool = False

    @property
    def seeds(self) -> list[int]:
        """The seed of each trial."""
        return [0] * self.trials if self.has_shared_seed else list(range(self.trials))

    def load(self) -> Dataset:
        """The dataset on the CPU."""
        return load(self.dataset, Path(self.data_dir) if self.data_dir else None)


@dataclass
class Result:
    """One run of a contestant. Images are counted once for each trial that sees them.

    `images` were trained on in `train_seconds`, `evaluated_images` evaluated in `evaluation_seconds`; `setup_seconds`
    is everything between the start of the process and the first measured step: imports, data, compiling, capture,
    warm-up.
    `accuracies`: seed → split → share classified correctly, of the trials that trained all their epochs; where they
    share a seed, of the last one.
    """

    setup_seconds: float
    images: int
    train_seconds: float
    evaluated_images: int
    evaluation_seconds: float
    accuracies: dict[int, dict[str, float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class Net(nn.Module):
    """The network of the comparison, with PyTorch's initial weights; images (B, C, H, W) → log-probabilities (B, K)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3)
        self.conv2 = nn.Conv2d(16, 32, 3)
        self.dropout1 = nn.Dropout2d(DROPOUT)
        self.linear1 = nn.Linear(4608, 64)
        self.dropout2 = nn.Dropout(DROPOUT)
        self.linear2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = self.dropout2(F.relu(self.linear1(x.flatten(1))))
        return F.log_softmax(self.linear2(x), dim=1)


class DeviceData:
    """A dataset on the device, normalised once: `images` float32 (N, 1, 28, 28), `labels` int64 (N,)."""

    def __init__(self, data: Dataset, device: str) -> None:
        def normalised(images: Tensor) -> Tensor:
            return data.normalise(images.to(device), torch.float32)

        self.images, self.labels = normalised(data.train.images), data.train.labels.to(device)
        # All contestants measure what the engine of optbench measures after every epoch.
        self.splits = {
            name: (normalised(split.images), split.labels.to(device)) for name, split in evaluated(data).items()
        }

    def batches(self, batch_size: int, trials: int) -> Tensor:
        """A random order for each trial, cut into the batches of an epoch: int64 (steps, T, B)."""
        n = len(self.labels)
        steps = n // batch_size
        order_TN = torch.rand(trials, n, device=self.labels.device).argsort(dim=1)
        return order_TN[:, : steps * batch_size].view(trials, steps, batch_size).transpose(0, 1).contiguous()


def evaluated(data: Dataset) -> dict[str, Any]:
    """The splits that are evaluated after every epoch."""
    return {"train": data.train_eval, "val": data.val, "test": data.test}


def evaluation_batch(device: str, trials: int = 1) -> int:
    """Images evaluated at once by contestants that keep the data on the device: on a CPU what fits its caches."""
    return 100 if device == "cpu" else max(1, min(1000, 64_000 // trials))


def scores(
    data: DeviceData, size: int, forward: Callable[[Tensor], Tensor], trials: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss and accuracy on every split, each (T,); `forward`: images (B, C, H, W) → log-probabilities (T, B, K)."""
    losses, accuracies = {}, {}
    with torch.no_grad():
        for name, (images, labels) in data.splits.items():
            loss_T = torch.zeros(trials, device=labels.device)
            correct_T = torch.zeros(trials, device=labels.device)
            for x, y in zip(images.split(size), labels.split(size), strict=True):
                log_TBK = forward(x)
                y_TB = y.expand(trials, -1)
                loss_T -= log_TBK.gather(2, y_TB.unsqueeze(2)).sum(dim=(1, 2))
                correct_T += (log_TBK.argmax(dim=2) == y_TB).sum(dim=1)
            losses[name], accuracies[name] = loss_T / len(labels), correct_T / len(labels)
    return losses, accuracies


def prepare(settings: Settings) -> None:
    """Precision as asked for, and the fastest convolutions that it allows."""
    if settings.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.precision == "tf32"
        torch.backends.cudnn.benchmark = True


def clock(device: str) -> float:
    """Seconds on a steady clock, once the device has done all its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Trainer(Protocol):
    """Trains groups of trials, one group after another, each from fresh weights."""

    def start(self, seeds: Sequence[int]) -> None:
        """New weights and a new optimizer for the trials with these seeds."""

    def epoch(self) -> Iterator[int]:
        """Train an epoch; every item is one step and says how many images × trials it had."""

    def evaluate(self) -> dict[str, list[float]]:
        """Loss and accuracy on the three splits; returns split → accuracy of each trial."""


def measure(
    trainer: Trainer,
    groups: Sequence[Sequence[int]],
    data: Dataset,
    settings: Settings,
    together: Callable[[], None] = lambda: None,
) -> Result:
    """Warm up, then train the groups of seeds until they are done or the budget is spent.

    Evaluation follows every epoch, outside the training clock; it is timed by itself at the end. `together` returns
    once all processes that share the device have called it: after the warm-up and before that last evaluation.
    """
    device = settings.device
    trainer.start(groups[0])
    for _ in islice(trainer.epoch(), WARM_UP_STEPS):
        pass
    trainer.evaluate()
    clock(device)
    together()

    setup_seconds = time.time() - settings.launched
    images, steps, train_seconds, spent = 0, 0, 0.0, False
    accuracies: dict[int, dict[str, float]] = {}
    for seeds in groups:
        trainer.start(seeds)
        look = max(1, _STEPS_BETWEEN_LOOKS // len(seeds))
        for epoch in range(settings.epochs):
            started = clock(device)
            for n in trainer.epoch():
                images, steps = images + n, steps + 1
                if settings.budget is not None and steps % look == 0:
                    spent = train_seconds + clock(device) - started >= settings.budget
                    if spent:
                        break
            train_seconds += clock(device) - started
            if spent:
                break
            accuracy = trainer.evaluate()
            if epoch + 1 == settings.epochs:
                accuracies |= {seed: {k: v[i] for k, v in accuracy.items()} for i, seed in enumerate(seeds)}
        if spent:
            break

    together()
    started = clock(device)
    trainer.evaluate()
    evaluation_seconds = clock(device) - started
    evaluated_images = sum(len(split.labels) for split in evaluated(data).values()) * len(groups[0])
    return Result(setup_seconds, images, train_seconds, evaluated_images, evaluation_seconds, accuracies)


def side_by_side(results: Sequence[Result], concurrent: int) -> Result:
    """What several processes did on one device, of which `concurrent` ran at any time: their rates add up."""

    def seconds(images: str, spent: str) -> float:
        rates = [getattr(result, images) / getattr(result, spent) for result in results]
        return sum(getattr(result, images) for result in results) / (sum(rates) * concurrent / len(results))

    return Result(
        max(result.setup_seconds for result in results[:concurrent]),
        sum(result.images for result in results),
        seconds("images", "train_seconds"),
        sum(result.evaluated_images for result in results),
        seconds("evaluated_images", "evaluation_seconds"),
        {seed: scores for result in results for seed, scores in result.accuracies.items()},
        {"concurrent": concurrent},
    )
