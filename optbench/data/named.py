"""The files of named data sets → arrays. Each file is checked by its sha256 first."""

from __future__ import annotations

import gzip
import hashlib
import math
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from optbench.data import downloads
from optbench.data.arrays import Part, Parts
from optbench.data.info import DATASETS, DatasetInfo
from optbench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read(name: str, folder: Path) -> Parts:
    """The images of a named data set, whose files are in `folder`. Raises UserError for a damaged file."""
    info = DATASETS[name]
    if not info.files:
        return {"all": _digits(folder)}
    paths = downloads.files(folder, info)
    if info.archived:
        return _cifar(paths, info)
    train, test = (paths[0], paths[1], info.train + info.val), (paths[2], paths[3], info.test)
    return {"train": _idx_part(*train, info), "test": _idx_part(*test, info)}


def _content(path: Path, info: DatasetInfo) -> bytes:
    """What is in a file, unpacked."""
    try:
        _check(str(path), path.name, downloads.sha256(path), info)
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; delete it and run again") from error


def _check(what: str, name: str, found: str, info: DatasetInfo) -> None:
    expected = {**info.files, **info.unpacked}[name]
    if found != expected:
        raise UserError(f"{what} is damaged: its sha256 is {found}, not {expected}; delete it and run again")


def _labels(labels: NDArray[np.uint8], path: Path, info: DatasetInfo) -> NDArray[np.int64]:
    largest = int(labels.max())
    if largest >= info.classes:
        raise UserError(f"{path} has the label {largest}, but {info.title} has the labels 0 to {info.classes - 1}")
    return labels.astype("int64")


# ---------------------------------------------------------------- MNIST's format


def _idx_part(images: Path, labels: Path, n: int, info: DatasetInfo) -> Part:
    pixels = _idx(images, (n, *info.image[1:]), info)
    return Part(pixels[:, None], _labels(_idx(labels, (n,), info), labels, info))


def _idx(path: Path, shape: tuple[int, ...], info: DatasetInfo) -> NDArray[np.uint8]:
    """The bytes in an IDX file, which must have this `shape`."""
    import numpy as np

    content = _content(path, info)
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions, each size; then the data.
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    if not content.startswith(header) or len(content) != len(header) + math.prod(shape):
        raise UserError(f"{path} is not an IDX file of unsigned bytes of shape {shape}; delete it and run again")
    return np.frombuffer(bytearray(content), dtype=np.uint8, offset=len(header)).reshape(shape)


# ---------------------------------------------------------------- CIFAR's format


def _cifar(paths: list[Path], info: DatasetInfo) -> Parts:
    """The batches of CIFAR's binary version: in files of their own, the last of them for testing, or in the archive."""
    contents = list(_members(paths[0], info)) if len(paths) == 1 else [_content(path, info) for path in paths]
    train = _records(b"".join(contents[:-1]), info.train + info.val, paths[0], info)
    return {"train": train, "test": _records(contents[-1], info.test, paths[-1], info)}


def _members(path: Path, info: DatasetInfo) -> Iterator[bytes]:
    """The expected files of an archive, in memory: none is written, so no name in it can do harm."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            for name in info.unpacked:
                member = archive.extractfile(f"{info.archived}/{name}")
                content = member.read() if member else b""
                _check(f"{name} in {path}", name, hashlib.sha256(content).hexdigest(), info)
                yield content
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {str(error).strip(chr(34))}; delete it and run again") from error


def _records(content: bytes, n: int, path: Path, info: DatasetInfo) -> Part:
    """A record is one byte of label, then the red, the green and the blue plane."""
    import numpy as np

    size = 1 + math.prod(info.image)
    if len(content) != n * size:
        has = f"{len(content):,} bytes, not {n:,} records of {size:,}"
        raise UserError(f"{path} has {has}; delete it and run again")
    records = np.frombuffer(content, dtype=np.uint8).reshape(n, size)
    pixels = records[:, 1:].reshape(n, *info.image)
    return Part(np.ascontiguousarray(pixels), _labels(records[:, 0], path, info))


# ---------------------------------------------------------------- digits


def _digits(folder: Path) -> Part:
    import numpy as np
    import torch

    with np.load(folder / "digits.npz") as arrays:
        images_NHW, labels_N = torch.from_numpy(arrays["images"]), arrays["labels"]
    larger_NCHW = torch.nn.functional.interpolate(
        images_NHW.unsqueeze(1).double(), size=(28, 28), mode="bilinear", align_corners=False
    )
    # Ties (127.5) do occur; the nudge rounds them up, whatever the last bit of the interpolation is on this machine.
    pixels_NCHW = (larger_NCHW * (255 / 16) + 0.5 + 1e-6).floor()
    return Part(pixels_NCHW.to(torch.uint8).numpy(), labels_N.astype("int64"))
