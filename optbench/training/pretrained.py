"""Networks that were trained for others to begin with: a file for each, with its tensors by name.

<folder>/<trial id>.npz     parameters and buffers, as `numpy.load` reads them; each with a checksum

This file does not import torch: only training needs it.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optbench.errors import UserError

Arrays = dict[str, NDArray[Any]]


def write(folder: Path, trial_id: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep a network; a reader sees the old file or the new one, even after a power cut. Raises `UserError`."""
    path, temporary = _path(folder, trial_id), folder / f".{trial_id}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for its option
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def read(folder: Path, trial_id: str) -> Arrays:
    """A network. Raises `UserError` where it is damaged, and where there is none: its training failed or diverged."""
    path = _path(folder, trial_id)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise UserError(f"no pretrained network to begin with: its trial {trial_id} failed or diverged") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path}: damaged: {error}; the next run trains it again") from None


def is_whole(folder: Path, trial_id: str) -> bool:
    """Whether the network is there, and its checksums are right."""
    try:
        read(folder, trial_id)
    except UserError:
        return False
    return True


def forget(folder: Path, trial_ids: Collection[str]) -> None:
    """Delete the networks of these trials: they train again."""
    for trial_id in trial_ids:
        _path(folder, trial_id).unlink(missing_ok=True)


def _path(folder: Path, trial_id: str) -> Path:
    return folder / f"{trial_id}.npz"
