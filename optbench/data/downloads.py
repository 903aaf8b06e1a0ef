"""The files of named data sets: found on disk or else downloaded, and verified by their sha256."""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

from optbench.data.info import DATASETS, DatasetInfo
from optbench.errors import UserError

_PACKAGED = Path(__file__).parent
_TIMEOUT = 30.0  # seconds without a single byte


def locate(name: str, data_dir: Path | None) -> Path | None:
    """The first folder that has all files of `name`, or None; never downloads.

    Searches only `data_dir` if it is given, else $OPTBENCH_DATA and the user's cache. In each of them: a folder with
    the dataset's name, torchvision's folder, and the folder itself. Raises UserError for an unknown name.
    """
    info = known(name)
    if not info.files:
        return _PACKAGED
    hashes = {*info.files.values(), *info.unpacked.values()}
    torchvision = f"{info.title.replace('-', '')}/raw"
    for root in _roots(data_dir):
        for folder in (root / name, root / name.replace("_", "-"), root / torchvision, root):
            paths = files(folder, info)
            # MNIST's and Fashion-MNIST's files have the same names: where no folder tells them apart, a hash must.
            if paths and (folder != root or sha256(paths[-1]) in hashes):
                return folder
    return None


def ensure(name: str, data_dir: Path | None) -> Path:
    """The folder with the files of `name`; what is missing is downloaded to <data_dir, $OPTBENCH_DATA or cache>/name.

    Raises UserError for an unknown name, when no mirror delivers, and when the folder cannot be written.
    """
    folder = locate(name, data_dir)
    if folder:
        return folder
    from filelock import FileLock

    info, folder = known(name), _roots(data_dir)[0] / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            # Another process may have finished meanwhile, so what is there is looked up under the lock.
            for file in info.files:
                if not (files(folder, info) or _first(folder / file, folder / file.removesuffix(".gz"))):
                    _download(name, file, folder)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {folder}: {reason}; set OPTBENCH_DATA to a writable folder") from error
    return folder


def known(name: str) -> DatasetInfo:
    """What is known of a named data set. Raises UserError for an unknown name."""
    if name not in DATASETS:
        raise UserError(f"unknown dataset '{name}'; valid: {', '.join(DATASETS)}")
    return DATASETS[name]


def _roots(data_dir: Path | None) -> list[Path]:
    from platformdirs import user_cache_path

    if data_dir:
        return [data_dir]
    variable = os.environ.get("OPTBENCH_DATA")
    return [*([Path(variable).expanduser()] if variable else []), user_cache_path("optbench")]


def files(folder: Path, info: DatasetInfo) -> list[Path]:
    """The paths of all files of the dataset, packed or unpacked; none if any is missing."""
    if info.archived:
        (archive,) = info.files
        unpacked = [_first(folder / file, folder / info.archived / file) for file in info.unpacked]
        found = unpacked if all(unpacked) else [_first(folder / archive)]
    else:
        found = [_first(folder / file, folder / file.removesuffix(".gz")) for file in info.files]
    paths = [path for path in found if path]
    return paths if len(paths) == len(found) else []


def _first(*paths: Path) -> Path | None:
    """The first of them that is a file and may be read."""
    # Not Path.is_file, which raises for a folder that may not be searched.
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.R_OK)), None)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(name: str, file: str, folder: Path) -> None:
    """Puts `file` into `folder` once its sha256 is right; UserError if no mirror delivers it."""
    from http.client import HTTPException

    info, part, failures = DATASETS[name], folder / f"{file}.part", []
    own = os.environ.get("OPTBENCH_MIRROR")
    for mirror in ([f"{own.rstrip('/')}/{name}/"] if own else []) + list(info.mirrors):
        try:
            _fetch(mirror + file, part, info.files[file])
        except (OSError, HTTPException, ValueError) as error:  # ValueError: OPTBENCH_MIRROR is not a URL
            failures.append(f"  {mirror}{file}: {str(error).strip('<>') or type(error).__name__}")
        else:
            os.replace(part, folder / file)
            return
    tried = "\n".join(failures)
    raise UserError(
        f"cannot download {info.title}:\n{tried}\n"
        f"Or put {', '.join(info.files)} into {folder} by hand, or set OPTBENCH_DATA to a folder that has them."
    )


def _fetch(url: str, part: Path, expected: str) -> None:
    """Completes `part` from `url`; OSError or HTTPException if that fails, and then keeps only bytes worth resuming."""
    start = part.stat().st_size if part.exists() else 0
    complete = _receive(url, part, start)
    if start and not (complete and sha256(part) == expected):
        _receive(url, part, 0)  # the fault may lie in the old bytes
    found = sha256(part)
    if found != expected:
        part.unlink()
        raise OSError(f"wrong content: its sha256 is {found}, not {expected}")


def _receive(url: str, part: Path, start: int) -> bool:
    """Writes the bytes of `url` from `start` on to `part`, or all if the server sends all; False: it sends neither."""
    import shutil
    import urllib.error
    import urllib.request

    headers = {"User-Agent": "optbench"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == 416:  # range not satisfiable: `part` is as long as the file, or longer
            return False
        raise
    with response:
        resumed = start > 0 and response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return False
        size = int(response.headers.get("Content-Length", 0))
        with _progress(response, url, size) as stream, part.open("ab" if resumed else "wb") as out:
            shutil.copyfileobj(stream, out)
    received = part.stat().st_size - (start if resumed else 0)
    if received < size:  # urllib does not raise for this
        raise ConnectionError(f"connection closed after {received:,} of {size:,} bytes")
    return True


def _progress(response: BinaryIO, url: str, size: int) -> AbstractContextManager[BinaryIO]:
    """`response` with a progress bar on stderr, or after one plain line where stderr is not a terminal."""
    if size and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import wrap_file

        return wrap_file(response, size, description=url.rpartition("/")[2], console=Console(stderr=True))
    print(f"downloading {url} ({size / 1e6:.1f} MB)", file=sys.stderr)
    return nullcontext(response)
