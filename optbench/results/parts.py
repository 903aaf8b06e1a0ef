"""The parquet files of one flat folder: read quickly, replaced in one step, and merged when they have become many.

A reader sees the old or the new state of the folder, never half a part and never a row twice, even after a crash. For
that a merge keeps a journal beside the rows, which names the new parts and the old ones that they replace. While the
journal is there, the old parts count as long as a new one is missing, and the new ones from then on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from optbench.errors import UserError

if TYPE_CHECKING:
    import numpy as np

VERSION_KEY = b"optbench.schema_version"
DEFAULT_KEY = b"optbench.default"  # of a field: as JSON, its value in parts that are older than the field
ROWS_PER_PART = 1_000_000
_ROWS_PER_GROUP = 100_000  # read at a time; few enough for the ids of short trials to be stored as a dictionary
_ORDER = ("optimizer", "configuration_id", "seed", "trial_id")
_JOURNAL, _MERGED = "merge.json", ".merge-{}.tmp"


_ATTEMPTS = 10  # to read parts that disappear meanwhile because a run merges or retrains them


class VanishedError(Exception):
    """A part that was listed is gone: it was merged, or its trials train again."""


# ------------------------------------------------------------ reading


def listed(folder: Path, meta: Path) -> list[Path]:
    """The parts of a folder that count now, by name; none if it does not exist. `meta` is where the journal is."""
    before = _names(folder)
    while True:
        new, old = _journal(meta)
        after = _names(folder)
        if after == before:  # else it changed meanwhile
            ignored = old if new <= set(after) else new
            return [folder / name for name in after if name not in ignored]
        before = after


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.name.startswith("part-") and e.name.endswith(".parquet"))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _journal(meta: Path) -> tuple[set[str], set[str]]:
    """The new parts of a merge in progress, and the old ones."""
    try:
        names = json.loads((meta / _JOURNAL).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return set(), set()
    return set(names["new"]), set(names["old"])


def read(
    paths: Sequence[Path],
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    trial_ids: Collection[str] | None = None,
    last: bool = False,
) -> pa.Table:
    """The rows of these parts, or those of some trials, or the last of each trial; texts as dictionaries.

    Raises `VanishedError`, and `UserError` for a file that is not a part or has another schema version.
    """
    names = list(schema.names if columns is None else columns)
    wanted = None if trial_ids is None else frozenset(trial_ids)
    with _pool() as pool:
        tables = list(pool.map(lambda path: _of_part(path, schema, names, wanted, last), paths))
    return pa.concat_tables([_empty(schema, names), *tables]).unify_dictionaries()


def read_folder(
    folder: Path,
    meta: Path,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    trial_ids: Collection[str] | None = None,
    last: bool = False,
) -> pa.Table | None:
    """What `read` gives of all parts of a folder, or None if there are none; begins again when one disappears."""
    for _ in range(_ATTEMPTS):
        paths = listed(folder, meta)
        try:
            return read(paths, schema, columns, trial_ids, last) if paths else None
        except VanishedError:
            continue
    raise UserError(f"{folder}: changes faster than it can be read; try again")


def trials(paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.Table]:
    """For each of these parts its trials: their ids, and columns that are the same in all rows of a trial."""
    names = ["trial_id", *columns]
    with _pool() as pool:
        for table in pool.map(lambda path: _of_part(path, schema, names, None, False), paths):
            yield table.unify_dictionaries().group_by(names).aggregate([])


def _pool() -> ThreadPoolExecutor:
    """A thread for each core that this process may use: more would wait for one another."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ThreadPoolExecutor(cores)


def _of_part(path: Path, schema: pa.Schema, names: list[str], wanted: frozenset[str] | None, last: bool) -> pa.Table:
    """What `read` needs from one part."""
    try:
        with pa.OSFile(str(path)) as stream:
            metadata = pq.read_metadata(stream)
            found = metadata.schema.to_arrow_schema()
            _check_version(path, found, schema)
            there = [name for name in names if name in found.names]
            texts = [each.name for each in schema if pa.types.is_string(each.type) and each.name in found.names]
            with pq.ParquetFile(stream, metadata=metadata, read_dictionary=texts) as file:
                if wanted is None and not last:
                    table = file.read(columns=there, use_threads=False)
                else:
                    table = _some(file, there, wanted, last)
        for name in set(names) - set(there):
            table = table.append_column(name, _defaults(schema.field(name), len(table)))
        return table.select(names).replace_schema_metadata(None)
    except FileNotFoundError:
        raise VanishedError(path) from None
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        why = f"cannot be read as parquet written by optbench: {reason}"
        raise UserError(f"{path}: {why}; delete it and run again") from None


def _defaults(field: pa.Field, rows: int) -> pa.Array:
    """A column that a part does not have because it is older."""
    if DEFAULT_KEY not in (field.metadata or {}):
        raise pa.ArrowInvalid(f"no column {field.name}")
    column = pa.repeat(pa.scalar(json.loads(field.metadata[DEFAULT_KEY]), field.type), rows)
    return column.dictionary_encode() if pa.types.is_string(field.type) else column


def _check_version(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    versions = [(schema.metadata or {}).get(VERSION_KEY, b"none").decode() for schema in (found, expected)]
    if versions[0] != versions[1]:
        raise UserError(f"{path}: has schema version {versions[0]}; this optbench reads version {versions[1]}")


def _some(file: pq.ParquetFile, names: list[str], wanted: frozenset[str] | None, last: bool) -> pa.Table:
    """The rows of wanted trials, or the last one of each trial. Row groups without any are not read."""
    keys, groups = ["trial_id", "epoch"], range(file.num_row_groups)
    if len(groups) == 1:
        table = file.read(columns=list(dict.fromkeys([*names, *keys])), use_threads=False)
        return table.filter(pa.array(_are_wanted(table, wanted, last)))
    mask = _are_wanted(file.read(columns=keys, use_threads=False), wanted, last)
    tables, end = [_empty(file.schema_arrow, names)], 0
    for group in groups:
        first, end = end, end + file.metadata.row_group(group).num_rows
        if mask[first:end].any():
            table = file.read_row_group(group, columns=names, use_threads=False)
            tables.append(table.filter(pa.array(mask[first:end])))
    return pa.concat_tables(tables)


def _are_wanted(keys: pa.Table, wanted: frozenset[str] | None, last: bool) -> np.ndarray:
    """For each row of a part, which holds whole trials: is it of a wanted trial and, if `last`, that trial's last?"""
    import numpy as np

    ids = keys.column("trial_id").unify_dictionaries().combine_chunks()
    known = [wanted is None or value in wanted for value in ids.dictionary.to_pylist()]
    codes, epochs = ids.indices.to_numpy(), keys.column("epoch").to_numpy()
    mask: np.ndarray = np.array(known, bool)[codes]
    if last:
        ends = np.full(len(known), -1)
        np.maximum.at(ends, codes, epochs)
        mask &= epochs == ends[codes]
    return mask


def _empty(schema: pa.Schema, names: list[str]) -> pa.Table:
    return pa.schema([_as_dictionary(schema.field(name)) for name in names]).empty_table()


def _as_dictionary(field: pa.Field) -> pa.Field:
    return field.with_type(pa.dictionary(pa.int32(), pa.string())) if pa.types.is_string(field.type) else field


# ------------------------------------------------------------ writing


def write(table: pa.Table, schema: pa.Schema, path: Path, temporary: Path) -> None:
    """Write a part in one step: a reader sees the old or the new one, even after a power cut."""
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        _write(table, schema, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def _write(table: pa.Table, schema: pa.Schema, path: Path) -> None:
    with path.open("wb") as stream:
        with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            for first in range(0, max(1, len(table)), _ROWS_PER_GROUP):
                writer.write_table(table.slice(first, _ROWS_PER_GROUP).cast(schema))
        _to_disk(stream)


def merge(folder: Path, meta: Path, schema: pa.Schema) -> tuple[int, int]:
    """Merge the parts of a folder, for its only writer; returns how many there were and how many there are.

    Rows are sorted by optimizer, configuration, seed and epoch and cut between trials, into parts of at most
    `ROWS_PER_PART`. A part is named by a digest of its content: the same rows give the same files.
    """
    recover(folder, meta)
    old = listed(folder, meta)
    if len(old) < 2:
        return len(old), len(old)
    rows = read(old, schema).combine_chunks()
    order, bounds = _in_order(rows)
    if len(bounds) > len(old):
        return len(old), len(old)
    merged: dict[str, Path] = {}
    for i, (first, last) in enumerate(pairwise(bounds)):
        temporary = meta / _MERGED.format(i)
        _write(rows.take(pa.array(order[first:last])), schema, temporary)
        with temporary.open("rb") as stream:
            merged[f"part-{hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}.parquet"] = temporary
    replaced = {path.name for path in old}
    _note(meta, {"new": sorted(merged.keys() - replaced), "old": sorted(replaced - merged.keys())})
    for name, temporary in merged.items():
        os.replace(temporary, folder / name)
    recover(folder, meta)
    return len(old), len(merged)


def _in_order(rows: pa.Table) -> tuple[np.ndarray, list[int]]:
    """The positions of the rows of the merged parts, part after part, and where each begins and the last ends."""
    import numpy as np

    ids = rows.column("trial_id").combine_chunks()
    codes, n = ids.indices.to_numpy(), len(ids.dictionary)
    some = np.zeros(n, np.int64)  # a row of each trial
    some[codes] = np.arange(len(codes))
    trials = pa.table([rows.column(name).take(pa.array(some)) for name in _ORDER], names=_ORDER)
    trials = trials.cast(pa.schema([(name, pa.int64() if name == "seed" else pa.string()) for name in _ORDER]))
    rank = np.empty(n, np.int64)
    rank[pc.sort_indices(trials, sort_keys=[(name, "ascending") for name in _ORDER]).to_numpy()] = np.arange(n)
    epochs = rows.column("epoch").to_numpy().astype(np.int64)
    order = np.argsort(rank[codes] * (epochs.max(initial=0) + 1) + epochs, kind="stable")
    bounds, end = [0], 0
    for size in np.bincount(rank[codes], minlength=n).tolist():
        if end > bounds[-1] and end + size - bounds[-1] > ROWS_PER_PART:
            bounds.append(end)
        end += size
    return order, [*bounds, end]


def recover(folder: Path, meta: Path) -> None:
    """Finish an interrupted merge if all its parts are in place, else undo it; for the folder's only writer."""
    new, old = _journal(meta)
    if new or old:
        _sync(folder)  # the renames must last before anything is deleted
        for name in old if new <= set(_names(folder)) else new:
            (folder / name).unlink(missing_ok=True)
        _sync(folder)
        (meta / _JOURNAL).unlink()
    for temporary in meta.glob(_MERGED.format("*")):
        temporary.unlink()


def _note(meta: Path, names: dict[str, list[str]]) -> None:
    """Write the journal of a merge."""
    temporary = meta / _MERGED.format("journal")
    with temporary.open("wb") as stream:
        stream.write(json.dumps(names, indent=1).encode())
        _to_disk(stream)
    os.replace(temporary, meta / _JOURNAL)
    _sync(meta)


def _to_disk(stream: IO[bytes]) -> None:
    """Without this a power cut could leave an empty file under its final name."""
    stream.flush()
    os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    """The same for what was renamed in a folder."""
    with suppress(OSError):  # where folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
