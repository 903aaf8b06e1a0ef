"""What is known of a data set before it is loaded: its sizes, and for those with a name where its files are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from optbench.wording import count


class Last(NamedTuple):
    """A validation set that is not drawn: the last images in the order of the data."""

    last: int

    def __str__(self) -> str:
        return f"the last {self.last}"


Validation = int | float | Last | Literal["none"] | None
Input = Literal["standardised", "unit"] | tuple[float, float]


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a dataset before it is loaded."""

    title: str
    licence: str
    classes: int
    train: int  # sizes of the splits
    val: int
    test: int
    mean: tuple[float, ...]  # of each channel's pixels in the train split, scaled to [0, 1]; own data: once it is read
    std: tuple[float, ...]
    mirrors: tuple[str, ...]  # base URLs, tried in this order
    files: Mapping[str, str]  # name → sha256: training images, training labels, test images, test labels; {}: packaged
    unpacked: Mapping[str, str]  # the same for the files without .gz, or for those in an archive
    image: tuple[int, int, int] = (1, 28, 28)  # channels, height, width
    archived: str = ""  # the folder in the archive that has the unpacked files; empty: there is no archive
    default_val: int = 0  # images of the validation set by default, where there is none; else 0

    @property
    def train_eval(self) -> int:
        """How many images of the training set train accuracy is measured on: as many as validate, or would."""
        return min(self.val or self.default_val, self.train)

    @property
    def splits(self) -> dict[str, int]:
        """How many images each split has."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def validated(self, validation: Validation) -> DatasetInfo:
        """The same with another validation set: so many images, a share of those that are not test, or "none".

        None is the default. Raises `ValueError` where that leaves no images to train on, or to validate.
        """
        if validation is None:
            return self
        images = self.train + self.val
        if validation == "none":
            return replace(self, train=images, val=0, default_val=self.val)
        val = validation.last if isinstance(validation, Last) else validation
        val = round(val * images) if isinstance(val, float) else val
        if not 0 < val < images:
            raise ValueError(f"validation {validation} is {count(val, 'image')} of {images} that are not test images")
        return replace(self, train=images - val, val=val)


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
    "cifar10": DatasetInfo(
        title="CIFAR-10",
        licence="none stated",
        classes=10,
        train=45_000,
        val=5_000,
        test=10_000,
        mean=(0.4912, 0.4820, 0.4464),
        std=(0.2470, 0.2434, 0.2615),
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        files={"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
        unpacked={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
        image=(3, 32, 32),
        archived="cifar-10-batches-bin",
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
