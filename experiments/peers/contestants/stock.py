"""The script that everybody starts from: DataLoader, a transform for each image, one trial after another.

Like PyTorch's MNIST example, but with more loader processes. They are kept from epoch to epoch and from trial to
trial. On a CPU the cores are needed for training, so the main process loads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from workload import Net, Result, Settings, evaluated, measure, prepare

import optbench.data.datasets

_LOADERS = 8


class Images(Dataset):
    """Transforms one image at a time, as torchvision's ToTensor and Normalize do."""

    def __init__(self, data: optbench.data.datasets.Dataset, splits: Sequence[optbench.data.datasets.Split]) -> None:
        self.images = torch.cat([split.images for split in splits])
        self.labels = torch.cat([split.labels for split in splits]).tolist()
        (self.mean,), (self.std,) = data.info.mean, data.info.std

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.images[i].float().div(255).sub_(self.mean).div_(self.std), self.labels[i]


class Stock:
    """See `workload.Trainer`."""

    def __init__(self, data: optbench.data.datasets.Dataset, settings: Settings) -> None:
        self.device = torch.device(settings.device)
        workers = min(_LOADERS, len(os.sched_getaffinity(0))) if settings.device == "cuda" else 0
        options = {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": settings.device == "cuda",
        }
        splits = evaluated(data)
        self.sizes = {name: len(split.labels) for name, split in splits.items()}
        self.train = DataLoader(
            Images(data, [data.train]), settings.batch_size, shuffle=True, drop_last=True, **options
        )
        self.evaluated = DataLoader(Images(data, list(splits.values())), 1000, **options)

    def start(self, seeds: Sequence[int]) -> None:
        torch.manual_seed(seeds[0])
        self.net = Net().to(self.device)
        self.optimizer = torch.optim.Adam(self.net.parameters())

    def epoch(self) -> Iterator[int]:
        self.net.train()
        for images, labels in self.train:
            x, y = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            self.optimizer.zero_grad()
            loss = F.nll_loss(self.net(x), y)
            loss.backward()
            self.optimizer.step()
            yield len(labels)

    def evaluate(self) -> dict[str, list[float]]:
        self.net.eval()
        losses, correct = [], []
        with torch.no_grad():
            for images, labels in self.evaluated:
                x, y = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
                output = self.net(x)
                losses.append(F.nll_loss(output, y, reduction="none"))
                correct.append(output.argmax(dim=1) == y)
        sizes = list(self.sizes.values())
        [split.mean().item() for split in torch.cat(losses).split(sizes)]
        accuracies = [split.float().mean().item() for split in torch.cat(correct).split(sizes)]
        return {name: [accuracy] for name, accuracy in zip(self.sizes, accuracies, strict=True)}


def run(settings: Settings) -> Result:
    """One trial after another."""
    prepare(settings)
    data = settings.load()
    trainer = Stock(data, settings)
    result = measure(trainer, [[seed] for seed in settings.seeds], data, settings)
    result.notes["loader processes"] = trainer.train.num_workers
    return result
