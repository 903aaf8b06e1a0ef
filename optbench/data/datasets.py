"""Named datasets: found on disk or downloaded, verified, and cut into fixed splits of uint8 images.

Everything is identical on every machine: each file is checked by its sha256, and the split is drawn with a fixed
seed. Shapes: N examples, C H W image.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import sys
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from optbench.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_PACKAGED = Path(__file__).parent
_TIMEOUT = 30.0  # seconds without a single byte


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a dataset before it is loaded."""

    title: str
    licence: str
    classes: int
    train: int  # sizes of the splits; train_eval has the size of val
    val: int
    test: int
    mean: tuple[float, ...]  # of each channel's pixels in the train split, scaled to [0, 1]
    std: tuple[float, ...]
    mirrors: tuple[str, ...]  # base URLs, tried in this order
    files: Mapping[str, str]  # name → sha256: training images, training labels, test images, test labels; {}: packaged
    unpacked: Mapping[str, str]  # the same for the files without .gz
    image: tuple[int, int, int] = (1, 28, 28)  # channels, height, width

    @property
    def splits(self) -> dict[str, int]:
        """How many images each split has."""
        return {"train": self.train, "val": self.val, "test": self.test}


DATASETS: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        title="Optical Recognition of Handwritten Digits",
        licence="CC BY 4.0",
        classes=10,
        train=1_200,
        val=297,
        test=300,
        mean=(0.3053,),
        std=(0.3247,),
        mirrors=(),
        files={},
        unpacked={},
    ),
    "mnist": DatasetInfo(
        title="MNIST",
        licence="CC BY-SA 3.0",
        classes=10,
        train=55_000,
        val=5_000,
        test=10_000,
        mean=(0.1307,),
        std=(0.3081,),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        files={
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        unpacked={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion_mnist": DatasetInfo(
        title="Fashion-MNIST",
        licence="MIT",
        classes=10,
        train=55_000,
        val=5_000,
        test=10_000,
        mean=(0.2858,),
        std=(0.3529,),
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        files={
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        unpacked={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
}


class OwnData(str):
    """Data of the user's own, as text by which sweep files, rows and tables name it, "./flowers.npz".

    `info` is what is known of it, `digest` is of its content, and `folder` is where a relative name begins.
    """

    __slots__ = ("digest", "folder", "info")

    info: DatasetInfo
    digest: str
    folder: Path

    def __new__(cls, name: str, info: DatasetInfo, digest: str, folder: Path) -> Self:
        made = super().__new__(cls, name)
        made.info, made.digest, made.folder = info, digest, folder
        return made

    def __reduce__(self) -> tuple[Any, ...]:  # text alone would be copied without its attributes
        return type(self), (str(self), self.info, self.digest, self.folder)


def info_of(name: str) -> DatasetInfo:
    """What is known of a data set, with a name of `DATASETS` or of the user's own."""
    return name.info if isinstance(name, OwnData) else DATASETS[name]


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
    """Four splits; `train_eval` is the first part of `train`, the other three are disjoint."""

    name: str
    info: DatasetInfo
    train: Split
    train_eval: Split
    val: Split
    test: Split

    def to(self, device: torch.device | str) -> Dataset:
        """The same dataset on `device`."""
        train = self.train.to(device)
        train_eval = train[: self.info.val]
        return Dataset(self.name, self.info, train, train_eval, self.val.to(device), self.test.to(device))

    def normalise(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 images (…, C, H, W) → numbers with mean 0 and standard deviation 1 in the training set, by channel."""
        mean, std = (_by_channel(values, dtype, images.device) for values in (self.info.mean, self.info.std))
        return images.to(dtype).div_(255).sub_(mean).div_(std)


@cache
def _by_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor | float:
    """(C, 1, 1); or just the number, where there is one channel: dividing by a tensor may round differently."""
    import torch

    if len(values) == 1:
        return values[0]
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


def load(name: str, data_dir: Path | None = None, split_seed: int = 0) -> Dataset:
    """The dataset `name` on the CPU, downloaded if it is missing (see `ensure`).

    `split_seed` draws which images validate; and which test, where the dataset does not say that itself.
    Raises UserError for an unknown name, a failed download and a damaged file.
    """
    from optbench.machine.randomness import permutation

    info = _info(name)
    folder = ensure(name, data_dir)
    if info.files:
        paths = [path for path in _files(folder, info) if path]
        pool = _read_split(paths[0], paths[1], info.train + info.val, info)
        test = _read_split(paths[2], paths[3], info.test, info)
    else:
        pool, test = _read_digits(folder), None
    # Epoch 0 of a seed: training starts at epoch 1, so no trial ever draws this order again.
    order = permutation(seeds=[split_seed], epoch=0, n=len(pool.labels), device="cpu")[0]
    if test is None:
        test, order = pool[order[: info.test]], order[info.test :]
    val, train = pool[order[: info.val]], pool[order[info.val :]]
    return Dataset(name, info, train, train[: info.val], val, test)


def locate(name: str, data_dir: Path | None) -> Path | None:
    """The first folder that has all files of `name`, or None; never downloads.

    Searches only `data_dir` if it is given, else $OPTBENCH_DATA and the user's cache. In each of them: a folder with
    the dataset's name, torchvision's folder, and the folder itself. Raises UserError for an unknown name.
    """
    info = _info(name)
    if not info.files:
        return _PACKAGED
    hashes = {*info.files.values(), *info.unpacked.values()}
    torchvision = f"{info.title.replace('-', '')}/raw"
    for root in _roots(data_dir):
        for folder in (root / name, root / name.replace("_", "-"), root / torchvision, root):
            paths = [path for path in _files(folder, info) if path]
            # MNIST's and Fashion-MNIST's files have the same names: where no folder tells them apart, a hash must.
            if len(paths) == len(info.files) and (folder != root or _sha256(paths[-1]) in hashes):
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

    info, folder = _info(name), _roots(data_dir)[0] / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            # Another process may have finished meanwhile, so what is there is looked up under the lock.
            for file, path in zip(info.files, _files(folder, info), strict=True):
                if path is None:
                    _download(name, file, folder)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {folder}: {reason}; set OPTBENCH_DATA to a writable folder") from error
    return folder


def _info(name: str) -> DatasetInfo:
    if name not in DATASETS:
        raise UserError(f"unknown dataset '{name}'; valid: {', '.join(DATASETS)}")
    return DATASETS[name]


def _roots(data_dir: Path | None) -> list[Path]:
    from platformdirs import user_cache_path

    if data_dir:
        return [data_dir]
    variable = os.environ.get("OPTBENCH_DATA")
    return [*([Path(variable).expanduser()] if variable else []), user_cache_path("optbench")]


def _files(folder: Path, info: DatasetInfo) -> list[Path | None]:
    """The path of each file of the dataset, packed or else unpacked; None where it is missing."""
    pairs = ((folder / file, folder / file.removesuffix(".gz")) for file in info.files)
    # Not Path.is_file, which raises for a folder that may not be searched.
    return [next((path for path in pair if os.path.isfile(path) and os.access(path, os.R_OK)), None) for pair in pairs]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_split(images: Path, labels: Path, n: int, info: DatasetInfo) -> Split:
    pixels = _read_idx(images, (n, *info.image[1:]), info).unsqueeze(1)
    split = Split(pixels, _read_idx(labels, (n,), info).long())
    largest = int(split.labels.max())
    if largest >= info.classes:
        raise UserError(f"{labels} has the label {largest}, but {info.title} has the labels 0 to {info.classes - 1}")
    return split


def _read_idx(path: Path, shape: tuple[int, ...], info: DatasetInfo) -> Tensor:
    """The uint8 tensor in an IDX file, which must have this `shape`."""
    import torch

    try:
        found, expected = _sha256(path), {**info.files, **info.unpacked}[path.name]
        if found != expected:
            raise UserError(f"{path} is damaged: its sha256 is {found}, not {expected}; delete it and run again")
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; delete it and run again") from error
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions, each size; then the data.
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    if not content.startswith(header) or len(content) != len(header) + math.prod(shape):
        raise UserError(f"{path} is not an IDX file of unsigned bytes of shape {shape}; delete it and run again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=len(header)).reshape(shape)


def _read_digits(folder: Path) -> Split:
    import numpy as np
    import torch

    with np.load(folder / "digits.npz") as arrays:
        images_NHW, labels_N = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    larger_NCHW = torch.nn.functional.interpolate(
        images_NHW.unsqueeze(1).double(), size=(28, 28), mode="bilinear", align_corners=False
    )
    # Ties (127.5) do occur; the nudge rounds them up, whatever the last bit of the interpolation is on this machine.
    pixels_NCHW = (larger_NCHW * (255 / 16) + 0.5 + 1e-6).floor()
    return Split(pixels_NCHW.to(torch.uint8), labels_N.long())


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


def _fetch(url: str, part: Path, sha256: str) -> None:
    """Completes `part` from `url`; OSError or HTTPException if that fails, and then keeps only bytes worth resuming."""
    start = part.stat().st_size if part.exists() else 0
    complete = _receive(url, part, start)
    if start and not (complete and _sha256(part) == sha256):
        _receive(url, part, 0)  # the fault may lie in the old bytes
    found = _sha256(part)
    if found != sha256:
        part.unlink()
        raise OSError(f"wrong content: its sha256 is {found}, not {sha256}")


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
