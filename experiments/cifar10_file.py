"""CIFAR-10's binary files → one .npz file, of all training images and the first test images.

    python experiments/cifar10_file.py FOLDER experiments/cifar10-1000.npz

FOLDER has data_batch_1.bin to data_batch_5.bin and test_batch.bin, or these compressed by xz. A test file that is cut
short will do.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_RECORD = 1 + 3 * 32 * 32  # a label, then the planes of red, green and blue


def read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 3, 32, 32) and labels (N,)."""
    content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--test", type=int, default=1000, help="how many test images (default 1000)")
    given = parser.parse_args()
    batches = [read(path) for path in sorted(given.folder.glob("data_batch_*.bin*"))]
    (test,) = (read(path) for path in given.folder.glob("test_batch*.bin*"))
    train = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(given.file, **dict(zip(names, (*train, *(part[: given.test] for part in test)), strict=True)))


if __name__ == "__main__":
    main()
