"""Datasets: the packaged digits, tiny IDX files on disk, and downloads from a server in this process."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
import torch

from optbench.data.datasets import load
from optbench.data.downloads import ensure, locate
from optbench.data.info import DATASETS, DatasetInfo, Validation
from optbench.errors import UserError

IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = FILES = tuple(DATASETS["mnist"].files)


def idx(values: torch.Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.dim()]) + sizes + bytes(values.flatten().tolist())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def example(n: int, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n images, each filled with its own number, and their labels."""
    numbers = torch.arange(offset, offset + n)
    return numbers.view(-1, 1, 1).expand(-1, 28, 28), numbers % 10


@pytest.fixture(scope="module")
def packed() -> dict[str, bytes]:
    """The four files of a dataset of 40 training and 8 test images."""
    contents = map(idx, (*example(40, 0), *example(8, 100)))
    return {file: gzip.compress(content, mtime=0) for file, content in zip(FILES, contents, strict=True)}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: dict[str, bytes]) -> DatasetInfo:
    """`mnist` is the tiny dataset, it has no mirrors, and the user's cache is empty."""
    info = dataclasses.replace(
        DATASETS["mnist"],
        train=30,
        val=10,
        test=8,
        mirrors=(),
        files={file: sha256(content) for file, content in packed.items()},
        unpacked={file.removesuffix(".gz"): sha256(gzip.decompress(content)) for file, content in packed.items()},
    )
    monkeypatch.setitem(DATASETS, "mnist", info)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path / "cache")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for variable in ("OPTBENCH_DATA", "OPTBENCH_MIRROR"):
        monkeypatch.delenv(variable, raising=False)
    return info


def put(folder: Path, contents: dict[str, bytes], unpacked: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        if unpacked:
            (folder / file.removesuffix(".gz")).write_bytes(gzip.decompress(content))
        else:
            (folder / file).write_bytes(content)
    return folder


def declare(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """Changes the DatasetInfo of `mnist`."""
    monkeypatch.setitem(DATASETS, "mnist", dataclasses.replace(DATASETS["mnist"], **changes))  # type: ignore[arg-type]


class Server(ThreadingHTTPServer):
    """Serves the tiny dataset under /<mode>/; what a mode does wrong is in `Handler`. Records (mode, file, Range)."""

    contents: dict[str, bytes]
    requests: list[tuple[str, str, str | None]]

    def url(self, mode: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{mode}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        _, mode, *_, file = self.path.split("/")
        asked = self.headers["Range"]
        self.server.requests.append((mode, file, asked))
        content = self.server.contents[file]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and mode != "no-range" else 0
        if mode == "missing":
            return self.answer(404, b"")
        if start and start >= len(content):
            return self.answer(416, b"")
        if mode == "wrong-start" and start:
            return self.answer(206, content[1:], f"bytes 1-{len(content) - 1}/{len(content)}")
        if mode == "wrong-bytes":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if start:
            return self.answer(206, content[start:], f"bytes {start}-{len(content) - 1}/{len(content)}")
        return self.answer(200, content, cut=mode == "cut")

    def answer(self, status: int, body: bytes, content_range: str = "", cut: bool = False) -> None:
        self.send_response(status)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(packed: dict[str, bytes]) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.contents, server.requests = packed, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def mirrors(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *modes: declare(monkeypatch, mirrors=tuple(server.url(mode) for mode in modes))


# The packaged digits


def test_digits_have_the_declared_sizes_and_statistics() -> None:
    digits = load("digits")
    for split, n in ((digits.train, 1200), (digits.train_eval, 297), (digits.val, 297), (digits.test, 300)):
        assert split.images.shape == (n, 1, 28, 28) and split.images.dtype == torch.uint8
        assert split.labels.shape == (n,) and split.labels.dtype == torch.int64
        assert set(split.labels.tolist()) == set(range(10))
    assert [int(extreme) for extreme in digits.train.images.aminmax()] == [0, 255]
    pixels = digits.train.images.double() / 255
    assert pixels.mean() == pytest.approx(digits.info.mean[0], abs=1e-3)
    assert pixels.std() == pytest.approx(digits.info.std[0], abs=1e-3)


def test_digits_are_the_same_pixels_in_the_same_split_everywhere() -> None:
    digits = load("digits")
    splits = (digits.train, digits.val, digits.test)
    assert [sha256(bytes(split.labels.tolist()))[:8] for split in splits] == ["e648cfa4", "5db9fbc2", "36112daa"]
    assert [sha256(split.images.numpy().tobytes())[:8] for split in splits] == ["3db7fe5f", "45b93884", "5b76e816"]


def test_digits_are_packaged() -> None:
    folder = ensure("digits", None)
    assert folder == locate("digits", None) and (folder / "digits.npz").is_file()


# Splits


def test_splits_are_disjoint_and_complete(tmp_path: Path, packed: dict[str, bytes]) -> None:
    put(tmp_path / "mnist", packed)
    data = load("mnist", tmp_path)
    numbers = {
        split: getattr(data, split).images[:, 0, 0, 0].tolist() for split in ("train", "train_eval", "val", "test")
    }
    assert {split: len(of_split) for split, of_split in numbers.items()} == {
        "train": 30,
        "train_eval": 10,
        "val": 10,
        "test": 8,
    }
    assert sorted(numbers["train"] + numbers["val"]) == list(range(40))
    assert numbers["train"] != sorted(numbers["train"])
    assert numbers["train_eval"] == numbers["train"][:10]
    assert numbers["test"] == list(range(100, 108))
    for split in (data.train, data.train_eval, data.val, data.test):
        assert split.labels.tolist() == [number % 10 for number in split.images[:, 0, 5, 7].tolist()]


def test_another_seed_splits_otherwise_and_leaves_the_test_images(tmp_path: Path, packed: dict[str, bytes]) -> None:
    put(tmp_path / "mnist", packed)
    first, again, other = (load("mnist", tmp_path, seed) for seed in (0, 0, 1))
    numbers = [
        {split: getattr(data, split).images[:, 0, 0, 0].tolist() for split in ("train", "val", "test")}
        for data in (first, again, other)
    ]
    assert numbers[0] == numbers[1]
    assert sorted(numbers[2]["train"] + numbers[2]["val"]) == list(range(40))
    assert set(numbers[2]["val"]) != set(numbers[0]["val"])
    assert numbers[2]["test"] == numbers[0]["test"]
    assert not torch.equal(load("digits").test.images, load("digits", split_seed=1).test.images)


def test_train_eval_shares_the_memory_of_train(tmp_path: Path, packed: dict[str, bytes]) -> None:
    put(tmp_path / "mnist", packed)
    for data in (load("mnist", tmp_path), load("mnist", tmp_path).to("cpu")):
        assert data.train_eval.images.data_ptr() == data.train.images.data_ptr()
    assert load("mnist", tmp_path).to("meta").test.labels.device.type == "meta"


# Files on disk


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
def test_existing_files_are_used_where_they_lie(
    tmp_path: Path, packed: dict[str, bytes], folder: str, unpacked: bool
) -> None:
    put(tmp_path / folder, packed, unpacked)
    assert locate("mnist", tmp_path) == tmp_path / folder
    assert load("mnist", tmp_path).train.labels.shape == (30,)


@pytest.mark.parametrize("folder", ["fashion_mnist", "fashion-mnist", "FashionMNIST/raw"])
def test_folders_of_fashion_mnist(tmp_path: Path, packed: dict[str, bytes], folder: str) -> None:
    put(tmp_path / folder, packed)
    assert locate("fashion_mnist", tmp_path) == tmp_path / folder


@pytest.mark.parametrize("unpacked", [False, True])
def test_mnist_is_not_taken_for_fashion_mnist(tmp_path: Path, packed: dict[str, bytes], unpacked: bool) -> None:
    put(tmp_path, packed, unpacked)
    assert locate("mnist", tmp_path) == tmp_path
    assert locate("fashion_mnist", tmp_path) is None


def test_incomplete_folder_is_not_used(tmp_path: Path, packed: dict[str, bytes]) -> None:
    put(tmp_path / "mnist", {file: packed[file] for file in FILES[:3]})
    assert locate("mnist", tmp_path) is None


def test_precedence_of_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: dict[str, bytes]) -> None:
    assert locate("mnist", None) is None
    cache = put(tmp_path / "cache/mnist", packed)
    assert locate("mnist", None) == cache
    monkeypatch.setenv("OPTBENCH_DATA", str(tmp_path / "shared"))
    assert locate("mnist", None) == cache
    shared = put(tmp_path / "shared/mnist", packed)
    assert locate("mnist", None) == shared
    assert locate("mnist", tmp_path / "explicit") is None
    explicit = put(tmp_path / "explicit/mnist", packed)
    assert locate("mnist", tmp_path / "explicit") == explicit


@pytest.mark.parametrize("function", [load, locate, ensure])
def test_unknown_name(function: Callable[[str, Path | None], object]) -> None:
    with pytest.raises(UserError, match="unknown dataset 'mnst'; valid: digits, mnist, fashion_mnist, cifar10"):
        function("mnst", None)


@pytest.mark.parametrize("unpacked", [False, True])
def test_changed_file(tmp_path: Path, packed: dict[str, bytes], unpacked: bool) -> None:
    put(tmp_path / "mnist", packed | {LABELS: gzip.compress(idx(example(40, 1)[1]), mtime=0)}, unpacked)
    with pytest.raises(UserError, match=r"train-labels.*is damaged: its sha256 is \w{64}, not \w{64}; delete it"):
        load("mnist", tmp_path)


def replace_file(monkeypatch: pytest.MonkeyPatch, folder: Path, file: str, content: bytes) -> None:
    """Writes a file that has the declared sha256 whatever is in it."""
    (folder / file).write_bytes(content)
    field = "files" if file.endswith(".gz") else "unpacked"
    declare(monkeypatch, **{field: {**getattr(DATASETS["mnist"], field), file: sha256(content)}})


@pytest.mark.parametrize("damage", ["half", "flipped bits", "no gzip"])
def test_corrupt_gzip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: dict[str, bytes], damage: str) -> None:
    folder, content = put(tmp_path / "mnist", packed), packed[IMAGES]
    content = {
        "half": content[: len(content) // 2],
        "flipped bits": content[:20] + bytes(byte ^ 0xFF for byte in content[20:]),
        "no gzip": b"<html>",
    }[damage]
    replace_file(monkeypatch, folder, IMAGES, content)
    with pytest.raises(UserError, match=r"cannot read .*train-images.*delete it and run again"):
        load("mnist", tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda content: content[:-1], id="truncated"),
        pytest.param(lambda content: content + b"\0", id="too long"),
        pytest.param(lambda content: content[:7], id="half a header"),
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:2] + b"\x0d" + content[3:], id="floats"),
        pytest.param(lambda content: content[:3] + b"\1" + content[4:], id="one dimension"),
        pytest.param(lambda content: content[:8] + (56).to_bytes(4, "big") + content[12:], id="height"),
    ],
)
def test_malformed_idx(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: dict[str, bytes], change: Callable[[bytes], bytes]
) -> None:
    folder = put(tmp_path / "mnist", packed, unpacked=True)
    file = IMAGES.removesuffix(".gz")
    replace_file(monkeypatch, folder, file, change((folder / file).read_bytes()))
    with pytest.raises(
        UserError, match=r"train-images\S+ is not an IDX file of unsigned bytes of shape \(40, 28, 28\)"
    ):
        load("mnist", tmp_path)


def test_labels_out_of_range(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: dict[str, bytes]) -> None:
    folder = put(tmp_path / "mnist", packed)
    replace_file(monkeypatch, folder, TEST_LABELS, gzip.compress(idx(torch.arange(3, 11))))
    with pytest.raises(UserError, match=r"t10k-labels\S+ has the label 10, but MNIST has the labels 0 to 9"):
        load("mnist", tmp_path)


# CIFAR-10's archive


def records(n: int, offset: int) -> bytes:
    """n records: the label, then three planes, each filled with a number of its own."""
    return b"".join(
        bytes([k % 10]) + b"".join(bytes([(k + plane) % 256]) * 1024 for plane in range(3))
        for k in range(offset, offset + n)
    )


def archive(contents: dict[str, bytes]) -> bytes:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The six files, of 8 records each, and the archive; `cifar10` is declared to be these."""
    names = list(DATASETS["cifar10"].unpacked)
    contents = {name: records(8, 8 * i) for i, name in enumerate(names)}
    packed = archive({f"cifar-10-batches-bin/{name}": content for name, content in contents.items()})
    unpacked = {name: sha256(content) for name, content in contents.items()}
    declare_cifar(monkeypatch, train=30, val=10, test=8, mirrors=(), unpacked=unpacked)
    declare_cifar(monkeypatch, files={"cifar-10-binary.tar.gz": sha256(packed)})
    return contents | {"cifar-10-binary.tar.gz": packed}


def declare_cifar(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(DATASETS["cifar10"], **changes))  # type: ignore[arg-type]


def put_cifar(folder: Path, cifar: dict[str, bytes], *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or [name for name in cifar if name.endswith(".bin")]:
        (folder / name).write_bytes(cifar[name])


@pytest.mark.parametrize("folder", [".", "cifar10", "cifar10/cifar-10-batches-bin", "cifar-10-batches-bin", "archive"])
def test_cifar_is_read_from_its_files_and_from_the_archive(
    tmp_path: Path, cifar: dict[str, bytes], folder: str
) -> None:
    if folder == "archive":
        put_cifar(tmp_path, cifar, "cifar-10-binary.tar.gz")
    else:
        put_cifar(tmp_path / folder, cifar)
    data = load("cifar10", tmp_path)
    assert data.train.images.shape == (30, 3, 32, 32) and data.val.images.shape == (10, 3, 32, 32)
    assert data.test.images[:, :, 5, 7].tolist() == [[k, k + 1, k + 2] for k in range(40, 48)]
    assert sorted([*data.train.images[:, 0, 0, 0].tolist(), *data.val.images[:, 0, 0, 0].tolist()]) == list(range(40))
    for split in (data.train, data.val, data.test):
        assert split.labels.tolist() == [k % 10 for k in split.images[:, 0, 31, 31].tolist()]


def test_cifar_is_downloaded_as_one_archive(
    server: Server, tmp_path: Path, cifar: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.contents = cifar
    declare_cifar(monkeypatch, mirrors=(server.url("good"),))
    for _ in range(2):
        assert load("cifar10", tmp_path).test.labels.shape == (8,)
    assert server.requests == [("good", "cifar-10-binary.tar.gz", None)]


def test_nothing_in_the_archive_is_written_to_the_disk(tmp_path: Path, cifar: dict[str, bytes]) -> None:
    inside = {f"cifar-10-batches-bin/{name}": content for name, content in cifar.items() if name.endswith(".bin")}
    (tmp_path / "cifar10").mkdir()
    path = tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    path.write_bytes(archive({"../escaped": b"?", "/tmp/escaped": b"?"} | inside))
    load("cifar10", tmp_path)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def damaged(cifar: dict[str, bytes], damage: str) -> bytes:
    inside = {f"cifar-10-batches-bin/{name}": content for name, content in cifar.items() if name.endswith(".bin")}
    name = "cifar-10-batches-bin/data_batch_2.bin"
    match damage:
        case "another byte":
            inside[name] = inside[name][:-1] + b"?"
        case "missing":
            del inside[name]
        case "half":
            return cifar["cifar-10-binary.tar.gz"][:300]
        case "no archive":
            return b"<html>"
    return archive(inside)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("another byte", r"data_batch_2.bin in \S+tar.gz is damaged: its sha256 is \w{64}, not \w{64}; delete it"),
        ("missing", r"cannot read \S+tar.gz: .*data_batch_2.bin.* not found.*; delete it and run again"),
        ("half", r"cannot read \S+tar.gz: .*; delete it and run again"),
        ("no archive", r"cannot read \S+tar.gz: .*; delete it and run again"),
    ],
)
def test_a_damaged_archive_is_named(tmp_path: Path, cifar: dict[str, bytes], damage: str, words: str) -> None:
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").write_bytes(damaged(cifar, damage))
    with pytest.raises(UserError, match=words):
        load("cifar10", tmp_path)


def test_files_of_cifar_are_checked(tmp_path: Path, cifar: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    put_cifar(tmp_path, cifar | {"data_batch_3.bin": records(8, 3)})
    with pytest.raises(UserError, match=r"data_batch_3.bin is damaged: its sha256 is"):
        load("cifar10", tmp_path)
    put_cifar(tmp_path, cifar)
    declare_cifar(monkeypatch, train=31)
    with pytest.raises(UserError, match=r"has 122,920 bytes, not 41 records of 3,073; delete it"):
        load("cifar10", tmp_path)


# Another validation set


@pytest.mark.parametrize(
    ("validation", "sizes"), [(None, (30, 10)), (4, (36, 4)), (0.25, (30, 10)), (0.9, (4, 36)), ("none", (40, 0))]
)
def test_another_validation_set(
    tmp_path: Path, packed: dict[str, bytes], validation: Validation, sizes: tuple[int, int]
) -> None:
    put(tmp_path / "mnist", packed)
    data = load("mnist", tmp_path, validation=validation)
    numbers = {split: getattr(data, split).images[:, 0, 0, 0].tolist() for split in ("train", "val", "test")}
    assert (len(numbers["train"]), len(numbers["val"])) == (data.info.train, data.info.val) == sizes
    assert sorted(numbers["train"] + numbers["val"]) == list(range(40))
    assert numbers["test"] == list(range(100, 108))
    assert len(data.train_eval.labels) == {(36, 4): 4, (4, 36): 4}.get(sizes, 10)
    assert torch.equal(data.to("cpu").train_eval.images, data.train.images[: len(data.train_eval.labels)])


@pytest.mark.parametrize("validation", [0, 40, 0.001, 0.999])
def test_a_validation_set_leaves_images_to_train_on(validation: float) -> None:
    with pytest.raises(ValueError, match=rf"validation {validation} is \d+ images of 40 that are not test images"):
        DATASETS["mnist"].validated(validation)


# Downloads


def test_download(
    server: Server, mirrors: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mirrors("good")
    assert load("mnist", tmp_path).test.labels.shape == (8,)
    assert server.requests == [("good", file, None) for file in FILES]
    assert sorted(path.name for path in (tmp_path / "mnist").glob("*")) == sorted([".lock", *FILES])
    out, err = capfd.readouterr()
    assert out == "" and [line.split()[:2] for line in err.splitlines()] == [
        ["downloading", server.url("good") + file] for file in FILES
    ]
    assert ensure("mnist", tmp_path) == tmp_path / "mnist"
    assert len(server.requests) == 4


def test_progress_bar_on_a_terminal(
    mirrors: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mirrors("good")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    ensure("mnist", tmp_path)
    out, err = capsys.readouterr()
    assert out == "" and all(file in err for file in FILES) and "downloading" not in err


def test_download_goes_to_the_first_folder(
    mirrors: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors("good")
    assert ensure("mnist", None) == tmp_path / "cache/mnist"
    monkeypatch.setenv("OPTBENCH_DATA", str(tmp_path / "shared"))
    assert ensure("mnist", None) == tmp_path / "cache/mnist"
    assert ensure("mnist", tmp_path / "explicit") == tmp_path / "explicit/mnist"
    (tmp_path / "cache/mnist" / LABELS).unlink()
    assert ensure("mnist", None) == tmp_path / "shared/mnist"


def test_only_missing_files_are_downloaded(
    server: Server, mirrors: Callable[..., None], tmp_path: Path, packed: dict[str, bytes]
) -> None:
    mirrors("good")
    put(tmp_path / "mnist", {LABELS: packed[LABELS]}, unpacked=True)
    put(tmp_path / "mnist", {IMAGES: packed[IMAGES]})
    load("mnist", tmp_path)
    assert [file for _, file, _ in server.requests] == [TEST_IMAGES, TEST_LABELS]


def test_own_mirror_comes_first(
    server: Server, mirrors: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors("good")
    monkeypatch.setenv("OPTBENCH_MIRROR", server.url("own").rstrip("/"))
    load("mnist", tmp_path)
    assert {mode for mode, _, _ in server.requests} == {"own"}


@pytest.mark.parametrize("own", ["no url", "http://127.0.0.1:1/", "file:///nowhere"])
def test_unusable_own_mirror_is_passed_over(
    server: Server, mirrors: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    mirrors("good")
    monkeypatch.setenv("OPTBENCH_MIRROR", own)
    load("mnist", tmp_path)
    assert [(mode, file) for mode, file, _ in server.requests] == [("good", file) for file in FILES]


def test_own_mirror_may_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: dict[str, bytes]) -> None:
    put(tmp_path / "own/mnist", packed)
    put(tmp_path / "data/mnist", {f"{IMAGES}.part": b"begun"})
    monkeypatch.setenv("OPTBENCH_MIRROR", (tmp_path / "own").as_uri())
    load("mnist", tmp_path / "data")
    assert {file: (tmp_path / "data/mnist" / file).read_bytes() for file in FILES} == packed


@pytest.mark.parametrize(
    ("mode", "requests"),
    [
        ("good", ["bytes=20-"]),
        ("no-range", ["bytes=20-"]),
        ("wrong-start", ["bytes=20-", None]),
    ],
)
def test_resume(
    server: Server,
    mirrors: Callable[..., None],
    tmp_path: Path,
    packed: dict[str, bytes],
    mode: str,
    requests: list[str | None],
) -> None:
    mirrors(mode)
    put(tmp_path / "mnist", {f"{IMAGES}.part": packed[IMAGES][:20]})
    load("mnist", tmp_path)
    assert [asked for _, file, asked in server.requests if file == IMAGES] == requests


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_part_with_wrong_bytes_is_downloaded_again(
    server: Server, mirrors: Callable[..., None], tmp_path: Path, length: int
) -> None:
    mirrors("good")
    put(tmp_path / "mnist", {f"{IMAGES}.part": b"?" * length})
    load("mnist", tmp_path)
    assert [asked for _, file, asked in server.requests if file == IMAGES] == [f"bytes={length}-", None]


def test_cut_connection_is_resumed_at_the_next_mirror(
    server: Server, mirrors: Callable[..., None], tmp_path: Path, packed: dict[str, bytes]
) -> None:
    mirrors("cut", "good")
    load("mnist", tmp_path)
    half = len(packed[IMAGES]) // 2
    assert server.requests[:2] == [("cut", IMAGES, None), ("good", IMAGES, f"bytes={half}-")]


@pytest.mark.parametrize("mode", ["missing", "wrong-bytes"])
def test_next_mirror(server: Server, mirrors: Callable[..., None], tmp_path: Path, mode: str) -> None:
    mirrors(mode, "good")
    load("mnist", tmp_path)
    assert server.requests == [(each, file, None) for file in FILES for each in (mode, "good")]


def test_all_mirrors_fail(
    server: Server, mirrors: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors("missing", "wrong-bytes", "cut")
    monkeypatch.setenv("OPTBENCH_MIRROR", "http://127.0.0.1:1")
    with pytest.raises(UserError) as caught:
        load("mnist", tmp_path)
    first, own, missing, wrong, cut, last = str(caught.value).splitlines()
    assert first == "cannot download MNIST:"
    assert own.startswith(f"  http://127.0.0.1:1/mnist/{IMAGES}: ") and "refused" in own
    assert missing == f"  {server.url('missing')}{IMAGES}: HTTP Error 404: Not Found"
    assert wrong.startswith(f"  {server.url('wrong-bytes')}{IMAGES}: wrong content: its sha256 is ")
    assert cut.startswith(f"  {server.url('cut')}{IMAGES}: connection closed after ")
    by_hand = f"Or put {', '.join(FILES)} into {tmp_path / 'mnist'} by hand"
    assert last == f"{by_hand}, or set OPTBENCH_DATA to a folder that has them."
    # What the cut connection left is kept for the next run; the wrong bytes are gone.
    mirrors("good")
    load("mnist", tmp_path)
    assert server.requests[3][:2] == ("good", IMAGES) and server.requests[3][2] is not None


def test_folder_that_cannot_be_written(mirrors: Callable[..., None], tmp_path: Path) -> None:
    mirrors("good")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/mnist: Not a directory"):
        ensure("mnist", tmp_path / "file")


def test_simultaneous_downloads_request_each_file_once(
    server: Server, mirrors: Callable[..., None], tmp_path: Path
) -> None:
    mirrors("good")
    ready = threading.Barrier(2)

    def download(_: int) -> Path:
        ready.wait()
        return ensure("mnist", tmp_path)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(download, range(2))) == [tmp_path / "mnist"] * 2
    assert sorted(file for _, file, _ in server.requests) == sorted(FILES)


# Manners


def test_import_is_light() -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'rich', 'urllib.request'}"
    code = f"import sys, optbench.data.datasets; sys.exit(str({heavy} & sys.modules.keys() or ''))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""
