"""Whether data can be trained on, and what is in them: classes, balance, duplicates between splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from optbench.data import own
from optbench.data.arrays import in_words
from optbench.data.datasets import Dataset, Split, load
from optbench.data.info import DatasetInfo, OwnData
from optbench.training.check import Finding
from optbench.wording import count

_LEAK = 0.01  # the share of a split that is also trained on from which its score means little
_UNBALANCED = 10  # the largest class against the smallest
SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class CheckedData:
    """Data, how many images of each class each split has, and the findings about them."""

    dataset: Dataset
    balance: pd.DataFrame  # class, name, and a column for each split
    findings: Sequence[Finding]


def check(name: str, data_dir: Path | None, folder: Path) -> CheckedData:
    """Findings about data with a name, or of the user's own in `folder`. Raises `UserError` for what cannot be read."""
    data = own.find(name, folder) if own.is_own(name) else name
    dataset = load(data, data_dir)
    content = own.content(name, folder) if isinstance(data, OwnData) else None
    splits = {split: getattr(dataset, split) for split in SPLITS}
    balance = _balance(splits, dataset.info.classes, content.names if content else ())
    findings = [_sizes(dataset.info), _classes(balance), _duplicates(splits), _memory(splits)]
    if content:
        findings.append(Finding("digest", True, f"{content.digest}, of pixels and labels; it is in the ids of trials"))
    if content and content.are_rounded:
        findings.append(Finding("pixels", True, "they are floats, and are rounded to 256 levels"))
    return CheckedData(dataset, balance, findings)


def _balance(splits: Mapping[str, Split], classes: int, names: Sequence[str]) -> pd.DataFrame:
    """How many images of each class each split has."""
    counts = {split: part.labels.bincount(minlength=classes).tolist() for split, part in splits.items()}
    shown = list(names) if len(names) == classes else list(map(str, range(classes)))
    return pd.DataFrame({"class": range(classes), "name": shown, **counts})


def _sizes(info: DatasetInfo) -> Finding:
    sizes = ", ".join(f"{n:,} {SPLITS[split]}" for split, n in info.splits.items())
    return Finding("sizes", True, f"{sizes} images, {in_words(info.image)}; {count(info.classes, 'class', 'classes')}")


def _classes(balance: pd.DataFrame) -> Finding:
    train, test = balance["train"], balance["test"]
    seen = f"{train.min():,} to {train.max():,} training images of each class"
    for split, words in SPLITS.items():
        missing = balance["name"][balance[split] == 0].tolist()
        if missing:
            seen += f"; no {words} image of {', '.join(missing)}"
    but = ""
    if train.max() > _UNBALANCED * train.min():
        commonest = balance["name"].iloc[int(test.argmax())]
        but = f"who always guesses {commonest} is right for {test.max() / test.sum():.0%} of test"
    return Finding("classes", bool(train.min() > 0), seen, but)


def _duplicates(splits: Mapping[str, Split]) -> Finding:
    """Images that are, pixel by pixel, also in a split that is trained on, or that selects."""
    labels_of: dict[bytes, set[int]] = {}
    parts, leaked = [], 0.0
    for split in ("train", "val", "test"):
        hashes = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in splits[split].images]
        labels = splits[split].labels.tolist()
        if split != "train":
            again = [labels_of[h] - {label} for h, label in zip(hashes, labels, strict=True) if h in labels_of]
            before = "training" if split == "val" else "training or validation"
            others = sum(map(bool, again))
            parts.append(f"{len(again):,} of {len(hashes):,} {SPLITS[split]} images are also {before} images")
            parts[-1] += f", {others:,} of them with another label" if again else ""
            leaked = max(leaked, len(again) / max(1, len(hashes)))
        for h, label in zip(hashes, labels, strict=True):
            labels_of.setdefault(h, set()).add(label)
    but = "some images are in two splits" if leaked else ""
    return Finding("duplicates", leaked < _LEAK, "; ".join(parts), but)


def _memory(splits: Mapping[str, Split]) -> Finding:
    pixels = sum(part.images.numel() for part in splits.values())
    return Finding("memory", True, f"{pixels / 2**20:,.1f} MiB of pixels in each process that trains")
