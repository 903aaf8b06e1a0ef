"""Which images each finished trial classified correctly: a bit for each image, in parts of their own beside the rows.

results/<sweep>/_optbench/correct/part-<id>.parquet     one row for each trial, after its last epoch

A score alone does not say whether two trials fail on the same images; that decides how far other images would move the
difference between them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from optbench.results import parts

SPLITS = ("val", "test")

# The ids by which parts are merged, then for each split the number of images and their bits, eight in a byte.
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("trial_id", "optimizer", "configuration_id")),
        ("seed", pa.int64()),
        ("epoch", pa.int32()),
        *((f"{split}_images", pa.int32()) for split in SPLITS),
        *((f"{split}_correct", pa.binary()) for split in SPLITS),
    ],
    metadata={parts.VERSION_KEY: b"1"},
)


class CorrectImages:
    """The bits of a sweep's trials, in `folder`; only a run that has locked the sweep's folder may write."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._meta = folder, folder / "_optbench"

    def replace(self, stack_id: str, rows: list[dict[str, Any]]) -> None:
        """Write the part of a stack from rows with the columns of `SCHEMA`, and perhaps others."""
        self._write(self._part(stack_id), pa.Table.from_pylist(rows, SCHEMA))

    def remove(self, stack_id: str) -> None:
        """Delete the part of a stack, if it has one."""
        self._part(stack_id).unlink(missing_ok=True)

    def forget(self, trial_ids: Collection[str]) -> None:
        """Delete what is known of these trials: they train again."""
        if not trial_ids or not self._folder.is_dir():
            return
        parts.recover(self._folder, self._meta)
        for path in self._parts():
            found = set(parts.read([path], SCHEMA, ["trial_id"]).column("trial_id").to_pylist())
            kept = found.difference(trial_ids)
            if not kept:
                path.unlink()
            elif kept != found:  # only then are the bits read
                self._write(path, parts.read([path], SCHEMA, trial_ids=kept))

    def compact(self) -> None:
        """Merge the parts into few."""
        if self._folder.is_dir():
            parts.merge(self._folder, self._meta, SCHEMA)

    def of(self, trial_ids: Collection[str], split: str) -> dict[str, NDArray[np.bool_]]:
        """For each of these trials that has them a mask (N,): which images of the split it classified correctly."""
        columns = ["trial_id", f"{split}_images", f"{split}_correct"]
        table = parts.read_folder(self._folder, self._meta, SCHEMA, columns, trial_ids)
        return (
            {}
            if table is None
            else {
                row["trial_id"]: np.unpackbits(np.frombuffer(row[columns[2]], np.uint8), count=row[columns[1]]).astype(
                    bool
                )
                for row in table.to_pylist()
            }
        )

    def _parts(self) -> list[Path]:
        return parts.listed(self._folder, self._meta)

    def _part(self, stack_id: str) -> Path:
        return self._folder / f"part-{stack_id}.parquet"

    def _write(self, path: Path, table: pa.Table) -> None:
        parts.write(table, SCHEMA, path, self._meta / f".{path.stem}.tmp")
