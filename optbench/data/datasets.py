"""Data sets, cut into fixed splits of uint8 images.

Everything is identical on every machine: the split is drawn with a fixed seed. Shapes: N examples, C H W image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from optbench.data import named, own
from optbench.data.arrays import Part, joined
from optbench.data.downloads import ensure, known, locate
from optbench.data.info import DATASETS, DatasetInfo, Input, Last, OwnData, Validation, info_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["DATASETS", "Dataset", "DatasetInfo", "OwnData", "Split", "ensure", "info_of", "load", "locate"]


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 (N, C, H, W), 0 black to 255; labels, int64 (N,), from 0 on."""

    images: Tensor
    labels: Tensor

    def __getitem__(self, index: Tensor | slice) -> Split:
        """The examples that `index` selects."""
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> Split:
        """The same split on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Four splits; `train_eval` is the first part of `train`, the other three are disjoint. `val` may be empty."""

    name: str
    info: DatasetInfo
    train: Split
    train_eval: Split
    val: Split
    test: Split

    def to(self, device: torch.device | str) -> Dataset:
        """The same dataset on `device`."""
        train = self.train.to(device)
        train_eval = train[: self.info.train_eval]
        return Dataset(self.name, self.info, train, train_eval, self.val.to(device), self.test.to(device))

    def scaled(self, input: Input) -> Dataset:
        """The same images, normalised otherwise: pixels from 0 to 1 minus a mean, divided by a standard deviation."""
        if input == "standardised":
            return self
        mean, std = (0.0, 1.0) if input == "unit" else input
        channels = self.info.image[0]
        return replace(self, info=replace(self.info, mean=(mean,) * channels, std=(std,) * channels))

    def normalise(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 images (…, C, H, W) → numbers from 0 to 1 minus the mean of their channel, divided by its std.

        Both are in `info`; unless `scaled`, those of the training set.
        """
        mean, std = (_by_channel(values, dtype, images.device) for values in (self.info.mean, self.info.std))
        return images.to(dtype).div_(255).sub_(mean).div_(std)


@cache
def _by_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor | float:
    """(C, 1, 1); or just the number, where there is one channel: dividing by a tensor may round differently."""
    import torch

    if len(values) == 1:
        return values[0]
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


def load(name: str, data_dir: Path | None = None, split_seed: int = 0, validation: Validation = None) -> Dataset:
    """The dataset `name` on the CPU, downloaded if it is missing (see `ensure`).

    `split_seed` draws which images validate; and which test, where the dataset does not say that itself. `validation`
    is how many validate. Raises UserError for an unknown name, a failed download, a damaged file, and for data of the
    user's own that were changed meanwhile.
    """
    from optbench.machine.randomness import permutation

    is_own = isinstance(name, OwnData)
    info = (name.info if isinstance(name, OwnData) else known(name)).validated(validation)
    parts = dict(own.read(name) if isinstance(name, OwnData) else named.read(name, ensure(name, data_dir)))
    if validation is not None and "val" in parts:  # another one is drawn
        parts["train"] = joined(parts["train"], parts.pop("val"))
    splits = {split: _split(part) for split, part in parts.items()}
    pool = splits["all"] if "all" in splits else splits["train"]
    # Epoch 0 of a seed: training starts at epoch 1, so no trial ever draws this order again.
    order = permutation(seeds=[split_seed], epoch=0, n=len(pool.labels), device="cpu")[0]
    for split, n in (("test", info.test), ("val", info.val)):
        if split not in splits:
            if split == "val" and isinstance(validation, Last):
                order = order[(order < order.sort(descending=True).values[n - 1]).argsort(stable=True)]
            splits[split], order = pool[order[:n]], order[n:]
    train = pool[order]
    if is_own:
        mean, std = _statistics(train.images)
        info = replace(info, mean=mean, std=std)
    return Dataset(name, info, train, train[: info.train_eval], splits["val"], splits["test"])


def _split(part: Part) -> Split:
    import torch

    return Split(torch.from_numpy(part.images), torch.from_numpy(part.labels))


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, scaled to [0, 1], the same on every machine: by sums of integers.

    A channel that is the same everywhere has the standard deviation 1.
    """
    means, deviations = [], []
    for channel in images.unbind(1):
        counts = channel.flatten().bincount(minlength=256).tolist()
        n, total = sum(counts), sum(pixel * count for pixel, count in enumerate(counts))
        squares = sum(pixel**2 * count for pixel, count in enumerate(counts))
        means.append(total / (255 * n))
        deviations.append(math.sqrt((n * squares - total**2) / (255 * n) ** 2) or 1.0)
    return tuple(means), tuple(deviations)
