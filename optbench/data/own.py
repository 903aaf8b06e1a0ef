"""Data of the user's own: by name, with a digest of their content, read once in each process."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from optbench.data import arrays, files
from optbench.data.arrays import Parts
from optbench.data.info import DatasetInfo, OwnData
from optbench.errors import UserError

TEST_SHARE, VAL_SHARE, MOST_VAL = 5, 10, 5_000  # a fifth of one pool, a tenth of what is not test


class Content(NamedTuple):
    """What the data hold, the names of the classes if they have any, and a digest of the images and labels.

    Pixels that were floats `are_rounded`.
    """

    parts: Parts
    names: tuple[str, ...]
    digest: str
    are_rounded: bool


def is_own(name: str) -> bool:
    """Whether a name is that of files or a function, and not of a data set that optbench knows."""
    return any(mark in name for mark in "/:\\") or name.startswith((".", "~")) or name.endswith((".npz", ".parquet"))


def find(name: str, folder: Path) -> OwnData:
    """The data of that name; relative ones are in `folder`. Raises `UserError` for what cannot be trained on."""
    found = content(name, folder)
    return OwnData(name, _info(name, found), found.digest, folder)


def read(data: OwnData) -> Parts:
    """The images and labels. Raises `UserError` if they are not those that were found."""
    found = content(data, data.folder)
    if found.digest != data.digest:
        again = "; a function must return the same each time" if ":" in data else ""
        raise UserError(f"the data {data} were changed while the sweep ran; run again{again}")
    return found.parts


def content(name: str, folder: Path) -> Content:
    """What the data hold; relative names are in `folder`. Raises `UserError` for what cannot be trained on."""
    text, _, function = name.rpartition(":") if ":" in name else (name, "", "")
    path = folder / Path(text).expanduser()
    return _content(path, function, _state(path))


def _state(path: Path) -> tuple[tuple[str, int, int], ...]:
    """The files, when they were changed, and their sizes: while that is the same, they need not be read again."""
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(each), each.stat()) for each in paths if each.exists()]
    return tuple((text, stat.st_mtime_ns, stat.st_size) for text, stat in stats)


@lru_cache(maxsize=4)
def _content(path: Path, function: str, state: object) -> Content:
    found = files.read(path, function)
    parts, names = arrays.parts_of(found.arrays, found.where)
    are_rounded = any("float" in str(getattr(images, "dtype", "")) for images, _ in found.arrays.values())
    return Content(parts, found.names or tuple(names), _digest(parts), are_rounded)


def _digest(parts: Parts) -> str:
    """Of the pixels, the labels and their shapes, so that the same content has one digest in every format."""
    digest = hashlib.sha256()
    for split in sorted(parts):
        part = parts[split]
        digest.update(f"{split} {part.images.shape}".encode())
        digest.update(part.images.data)
        digest.update(part.labels.astype("<i8").data)
    return digest.hexdigest()[:16]


def _info(name: str, found: Content) -> DatasetInfo:
    """What is known of the data: what is not test is split like this unless they have a validation set of their own."""
    sizes = {split: len(part.labels) for split, part in found.parts.items()}
    test = sizes.get("test", 0) or sizes["all"] // TEST_SHARE
    rest = sizes.get("all", 0) - test if "all" in sizes else sizes["train"] + sizes.get("val", 0)
    val = sizes.get("val", 0) or min(max(1, rest // VAL_SHARE), MOST_VAL)
    image = next(iter(found.parts.values())).images.shape[1:]
    return DatasetInfo(
        title=name,
        licence="",
        classes=1 + max(int(part.labels.max()) for part in found.parts.values()),
        train=rest - val,
        val=val,
        test=test,
        mean=(0.0,) * image[0],
        std=(1.0,) * image[0],
        mirrors=(),
        files={},
        unpacked={},
        image=(image[0], image[1], image[2]),
    )
