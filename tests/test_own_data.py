"""Data of the user's own: every format means the same, what cannot be trained on is named, and changes are noticed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from optbench.data import arrays, own
from optbench.data.datasets import load
from optbench.errors import UserError
from optbench.report import build, status
from optbench.results.store import Store
from optbench.runs.job import Job
from optbench.runs.run import events
from optbench.sweep.spec import parse, read, to_yaml
from optbench.sweep.trials import expand
from optbench.training import check_data as checking

NAMES = ("daisy", "rose", "tulip")


def made_up(n=60, shape=(6, 5), seed=0):
    """Images that show their class, and labels in no order."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(n) % 3)
    noise = generator.integers(0, 60, (n, *shape))
    return (noise + 70 * labels.reshape(-1, *[1] * len(shape))).astype(np.uint8), labels


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


def pair(part, images, labels):
    return {f"{part}_images": images, f"{part}_labels": labels}


def sweep(name, *lines):
    return "\n".join(
        [f"dataset: {name}", "epochs: 2", "optimizers: {sgd: {lr: 0.1}, adam: }", "seeds: 2", *lines]
        if lines
        else [f"dataset: {name}", "epochs: 2", "parameters: {model: softmax, batch_size: 10}", "optimizers: {adam: }"]
    )


# ---------------------------------------------------------------- formats


def as_npz(folder, images, labels):
    np.savez(folder / "data.npz", images=images, labels=labels)
    return "./data.npz"


def as_texts(folder, images, labels):
    np.savez_compressed(folder / "data.npz", images=images, labels=np.array(NAMES)[labels])
    return "./data.npz"


def as_column_of_labels(folder, images, labels):
    np.savez(folder / "data.npz", images=images[:, None], labels=labels[:, None].astype(np.uint8))
    return "./data.npz"


def as_floats(folder, images, labels):
    np.savez(folder / "data.npz", images=images / 255, labels=labels)
    return "./data.npz"


def as_hugging_face_has_it(folder, images, labels):
    features = {"label": {"names": NAMES, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    rows = [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(images)]
    table = pa.table({"image": rows, "label": labels}).replace_schema_metadata(metadata)
    pq.write_table(table, folder / "table.parquet", row_group_size=7)
    return "./table.parquet"


def as_binaries(folder, images, labels):
    (folder / "tables").mkdir()
    for i in range(2):  # two files of one pool
        part = slice(30 * i, 30 * i + 30)
        table = pa.table({"image": list(map(png, images[part])), "label": np.array(NAMES)[labels[part]]})
        pq.write_table(table, folder / "tables" / f"{i}.parquet")
    return "./tables"


def as_lists_of_pixels(folder, images, labels):
    flat = pa.array(images.ravel())
    for size in images.shape[:0:-1]:
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    pq.write_table(pa.table({"label": labels, "image": flat}), folder / "table.parquet")
    return "./table.parquet"


def as_function(folder, images, labels):
    as_npz(folder, images, labels)
    (folder / "mine.py").write_text(
        "from pathlib import Path\nimport numpy as np, torch\n"
        "def load(size=6):\n"
        "    arrays = np.load(Path(__file__).parent / 'data.npz')\n"
        "    return torch.tensor(arrays['images']), torch.tensor(arrays['labels'])\n"
    )
    return "./mine.py:load"


POOLS = (
    as_npz,
    as_texts,
    as_column_of_labels,
    as_floats,
    as_hugging_face_has_it,
    as_binaries,
    as_lists_of_pixels,
    as_function,
)


@pytest.mark.parametrize("write", POOLS)
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)], ids=["grey", "colour"])
def test_the_same_content_is_the_same_data_in_every_format(tmp_path, write, shape):
    if shape == (6, 5, 3) and write is as_column_of_labels:
        pytest.skip("for grey images only")
    images, labels = made_up(shape=shape)
    found = own.find(write(tmp_path, images, labels), tmp_path)
    np.savez(tmp_path / "same.npz", images=images, labels=labels)
    assert found.digest == own.find("./same.npz", tmp_path).digest
    assert (found.info.classes, found.info.image) == (3, (shape[2] if shape[2:] else 1, 6, 5))
    part = own.read(found)["all"]
    assert np.array_equal(part.images[:, 0], images if not shape[2:] else images[..., 0])
    assert np.array_equal(part.labels, labels) and part.labels.dtype == np.int64


def test_a_folder_of_class_folders_is_a_pool_or_has_the_parts(tmp_path):
    images, labels = made_up()
    for root in ("pool", "parts/train", "parts/test", "parts/val"):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / root / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:02}.png").write_bytes(png(image))
        (tmp_path / root / ".hidden").mkdir()
        (tmp_path / root / "notes.txt").write_text("no image")
    order = np.argsort(labels, kind="stable")
    np.savez(tmp_path / "same.npz", images=images[order], labels=labels[order])
    pool, parts = (own.find(f"./{name}", tmp_path) for name in ("pool", "parts"))
    assert pool.digest == own.find("./same.npz", tmp_path).digest
    assert parts.info.splits == {"train": 60, "val": 60, "test": 60}
    assert own.content("./pool", tmp_path).names == NAMES


@pytest.mark.parametrize("keys", ["MedMNIST", "Keras", "function", "mapping", "parquet"])
def test_parts_are_kept_as_they_come(tmp_path, keys):
    train, val, test = (made_up(n, seed=n) for n in (40, 12, 20))
    expected = (
        {"train": 40, "val": 12, "test": 20} if keys in ("MedMNIST", "parquet") else {"train": 36, "val": 4, "test": 20}
    )
    match keys:
        case "MedMNIST":
            name = "./data.npz"
            np.savez(tmp_path / name, **pair("train", *train), **pair("val", *val), **pair("test", *test))
        case "Keras":
            name = "./data.npz"
            np.savez(tmp_path / name, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
        case "function" | "mapping":
            name = "./mine.py:made.load"
            np.savez(tmp_path / "data.npz", x=train[0], y=train[1], v=test[0], w=test[1])
            returned = (
                "(a['x'], a['y']), (a['v'], a['w'])"
                if keys == "function"
                else "{'train_images': a['x'], 'train_labels': a['y'], 'test_images': a['v'], 'test_labels': a['w']}"
            )
            (tmp_path / "mine.py").write_text(
                "from pathlib import Path\nimport numpy as np\nclass made:\n    def load():\n"
                f"        a = np.load(Path(__file__).parent / 'data.npz')\n        return {returned}\n"
            )
        case "parquet":
            name = "./tables"
            (tmp_path / name).mkdir()
            for part, (images, labels) in {"train": train, "validation": val, "test": test}.items():
                table = pa.table({"img": list(map(png, images)), "label": labels})
                pq.write_table(table, tmp_path / name / f"{part}-00000-of-00001.parquet")
    found = own.find(name, tmp_path)
    assert found.info.splits == expected
    data = load(found)
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(test[0]))
    if expected["val"] == 12:
        assert torch.equal(data.val.images[:, 0], torch.from_numpy(val[0]))
        assert load(found, validation=5).info.splits == {"train": 47, "val": 5, "test": 20}
        assert load(found, validation="none").info.splits == {"train": 52, "val": 0, "test": 20}


def test_grey_and_coloured_images_and_palettes_are_read_together(tmp_path):
    grey, colour = np.full((4, 4), 9, np.uint8), np.full((4, 4, 3), 77, np.uint8)
    palette, mask = Image.fromarray(colour).quantize(4), Image.fromarray(grey > 3)
    for i in range(10):
        for label, image in (("a", grey), ("b", colour), ("c", palette), ("d", mask)):
            (tmp_path / "pool" / label).mkdir(parents=True, exist_ok=True)
            made = image if isinstance(image, Image.Image) else Image.fromarray(image)
            made.save(tmp_path / "pool" / label / f"{i}.png")
    part = own.read(own.find("./pool", tmp_path))["all"]
    assert part.images.shape == (40, 3, 4, 4)
    assert part.images[:, :, 2, 2].tolist() == [[9] * 3] * 10 + [[77] * 3] * 20 + [[255] * 3] * 10


# ---------------------------------------------------------------- splits


def test_one_pool_is_split_by_the_seed_and_standardised_exactly(tmp_path):
    images, labels = made_up(100, (4, 4, 3))
    found = own.find(as_npz(tmp_path, images, labels), tmp_path)
    assert found.info.splits == {"train": 72, "val": 8, "test": 20}
    first, again, other = (load(found, split_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.test.images, again.test.images)
    assert not torch.equal(first.test.images, other.test.images)
    for data in (first, other):
        together = torch.cat([data.train.images, data.val.images, data.test.images]).permute(0, 2, 3, 1)
        assert sorted(image.tobytes() for image in together.numpy()) == sorted(image.tobytes() for image in images)
        scaled = data.normalise(data.train.images, torch.float64)
        assert scaled.mean((0, 2, 3)) == pytest.approx(0, abs=1e-12)
        assert scaled.std((0, 2, 3), correction=0) == pytest.approx(1, abs=1e-12)
    assert first.info.mean != other.info.mean


def test_a_channel_without_contrast_is_not_divided_by_zero(tmp_path):
    images, labels = made_up(30, (4, 4, 3))
    images[..., 1] = 51
    data = load(own.find(as_npz(tmp_path, images, labels), tmp_path))
    assert data.info.std[1] == 1.0
    assert data.normalise(data.train.images, torch.float64)[:, 1].abs().max() < 1e-12


@pytest.mark.parametrize(("n", "val"), [(1000, 80), (60_000, 4_800), (100_000, 5_000)])
def test_a_tenth_validates_but_no_more_than_five_thousand(tmp_path, n, val):
    found = own.find(as_npz(tmp_path, np.zeros((n, 1, 1), np.uint8), np.arange(n) % 2), tmp_path)
    assert found.info.splits == {"train": n - n // 5 - val, "val": val, "test": n // 5}


# ---------------------------------------------------------------- what is wrong

GOOD, LABELS = made_up(30)


def fails(tmp_path, name="./data.npz"):
    with pytest.raises(UserError) as caught:
        own.find(name, tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": GOOD[:0], "labels": LABELS[:0]}, "data.npz: images: holds no image"),
        ({"images": GOOD, "labels": LABELS[:-1]}, "data.npz: images: 30 images, but 29 labels"),
        ({"images": GOOD[0], "labels": LABELS}, "data.npz: images: has the shape (6, 5); images are (N, H, W), (N, C"),
        (
            {"images": np.zeros((30, 4, 6, 5)), "labels": LABELS},
            "data.npz: images: has the shape (30, 4, 6, 5); images",
        ),
        ({"images": GOOD * 1j, "labels": LABELS}, "data.npz: images: pixels are complex128; they must be uint8, or"),
        (
            {"images": GOOD.astype(float), "labels": LABELS},
            "data.npz: images: pixels are from 0 to 199; floats must be",
        ),
        (
            {"images": GOOD.astype(int) - 1, "labels": LABELS},
            "data.npz: images: pixels are from -1 to 198; whole numbers",
        ),
        (
            {"images": np.where(np.arange(30)[:, None, None] == 7, np.nan, GOOD / 255), "labels": LABELS},
            "data.npz: images: image 7 has a pixel that is NaN or infinite",
        ),
        ({"images": GOOD, "labels": LABELS - 1}, "data.npz: labels: image 3 has the label -1; they begin at 0"),
        ({"images": GOOD, "labels": LABELS + 1}, "data.npz: labels: labels go up to 3, but no image has the label 0;"),
        ({"images": GOOD, "labels": LABELS * 2}, "data.npz: labels: labels go up to 4, but no image has the label 1;"),
        ({"images": GOOD, "labels": LABELS * 0}, "data.npz: labels: all images are of one class; there is nothing to"),
        ({"images": GOOD, "labels": LABELS / 2}, "data.npz: labels: labels are float64; they must be whole numbers"),
        (
            {"images": GOOD, "labels": np.eye(3)[LABELS]},
            "data.npz: labels: has the shape (30, 3); labels are one for ea",
        ),
        ({"images": GOOD[:9], "labels": LABELS[:9]}, "data.npz: images: 9 images; it takes at least 10"),
        ({"images": GOOD}, "data.npz: has no 'labels'; it takes images and labels, or train_images"),
        ({"x": GOOD, "y": LABELS}, "data.npz: has 'x', 'y'; it takes images and labels, or train_images"),
        (pair("train", GOOD, LABELS), "data.npz: has 'train_images', 'train_labels'; it takes images and labels, or"),
        (
            pair("train", GOOD, LABELS) | pair("test", GOOD[:, 1:], LABELS),
            "data.npz: test_images: images are 5 × 5, grey, but 6 × 5, grey in data.npz: train_images; they must be",
        ),
        (
            {"images": np.array([GOOD[0], GOOD[1][1:]], object), "labels": LABELS[:2]},
            "data.npz: cannot be read: ValueError: Object arrays cannot be loaded when allow_pickle=False; save",
        ),
    ],
)
def test_what_is_wrong_with_arrays_is_said_in_one_line(tmp_path, content, words):
    np.savez(tmp_path / "data.npz", **content)
    assert fails(tmp_path).startswith(words)


def test_what_cannot_be_read_is_said_in_one_line(tmp_path):
    assert fails(tmp_path) == "data.npz: no such file or folder of data"
    (tmp_path / "data.csv").write_text("1,2")
    assert fails(tmp_path, "./data.csv").startswith("data.csv: data are an .npz or a .parquet file, a folder, or a fun")
    (tmp_path / "data.npz").write_bytes(b"\x80\x04no archive, but the beginning of a pickle")
    assert fails(tmp_path).startswith("data.npz: cannot be read: BadZipFile: File is not a zip file; save")
    np.savez(tmp_path / "data.npz", images=GOOD, labels=LABELS)
    content = bytearray((tmp_path / "data.npz").read_bytes())
    content[400] ^= 1
    (tmp_path / "data.npz").write_bytes(content)
    assert fails(tmp_path).startswith("data.npz: cannot be read: BadZipFile: Bad CRC-32 for file 'images.npy'; save")
    (tmp_path / "data.npz").write_bytes(content[:600])
    assert fails(tmp_path).startswith("data.npz: cannot be read: BadZipFile: File is not a zip file; save")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"image": [png(GOOD[0])] * 30, "class": LABELS},
            "table.parquet: has the columns image, class; it takes 'image",
        ),
        ({"image": [png(GOOD[0])] * 29 + [None], "label": LABELS}, "table.parquet: row 29 has no image"),
        ({"image": [png(GOOD[0])] * 29 + [b"?"], "label": LABELS}, "table.parquet: image, row 29: is not an image"),
        (
            {"image": [png(GOOD[0])] * 29 + [png(GOOD[0][1:])], "label": LABELS},
            "table.parquet: image, row 29: is 5 × 5 pixels, but table.parquet: image, row 0 is 6 × 5; they must have",
        ),
        (
            {"image": [png(GOOD[0])] * 29 + [png(GOOD[0])[:-40]], "label": LABELS},
            "table.parquet: image, row 29: cannot be",
        ),
        (
            {"image": ["a.png"] * 30, "label": LABELS},
            "table.parquet: image: images are string; they must be PNG or JPEG",
        ),
        (
            {"image": [png(GOOD[0].astype(np.uint16) * 300)] * 30, "label": LABELS},
            "table.parquet: image, row 0: pixels are of the kind I",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(tmp_path, columns, words):
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    assert fails(tmp_path, "./table.parquet").startswith(words)


def test_what_is_wrong_with_tables_and_folders_is_said_in_one_line(tmp_path):
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    assert fails(tmp_path, "./table.parquet").startswith(
        "table.parquet: cannot be read: ArrowInvalid: Parquet file size"
    )
    for folder in ("empty", "classes/a", "classes/b", "tables"):
        (tmp_path / folder).mkdir(parents=True)
    assert fails(tmp_path, "./empty") == "empty: has neither .parquet files nor a folder of images for each class"
    (tmp_path / "classes" / "a" / "1.png").write_bytes(png(GOOD[0]))
    assert fails(tmp_path, "./classes") == "classes/b: has no image; a folder of images is a class"
    table = pa.table({"image": list(map(png, GOOD)), "label": LABELS})
    pq.write_table(table, tmp_path / "tables" / "train-0.parquet")
    pq.write_table(table, tmp_path / "tables" / "train-1.parquet")
    assert fails(tmp_path, "./tables") == "tables: has no test-….parquet beside train-0.parquet"
    pq.write_table(table, tmp_path / "tables" / "more.parquet")
    assert fails(tmp_path, "./tables").startswith(
        "tables/more.parquet: is named neither train-…, validation-… nor test-"
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 3", "mine.py:load: returned a int; it must return (images, labels), ((x_train, y_train),"),
        ("raise OSError('no disk')", "mine.py:load: raised OSError: no disk"),
        ("return {'images': 1}", "mine.py:load: has no 'labels'; it takes images and labels"),
        ("return [[[1]], [[1, 2]]], [0, 1]", "mine.py:load: images: holds lists of different lengths; all images must"),
    ],
)
def test_what_is_wrong_with_a_function_is_said_in_one_line(tmp_path, body, words):
    (tmp_path / "mine.py").write_text(f"def load():\n    {body}\n")
    assert fails(tmp_path, "./mine.py:load").startswith(words)
    assert fails(tmp_path, "./mine.py:laod") == "mine.py has no 'laod'; did you mean 'load'?"


def test_what_is_too_large_for_this_machine_is_not_read(tmp_path, monkeypatch):
    name = as_npz(tmp_path, GOOD, LABELS)
    for i, (image, label) in enumerate(zip(GOOD, LABELS, strict=True)):
        (tmp_path / "pool" / NAMES[label]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pool" / NAMES[label] / f"{i}.png").write_bytes(png(image))
    monkeypatch.setattr(arrays, "_memory", lambda: 2 * 30 * 30 - 1)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was read"))
    wrong = "0.0 GiB of pixels, and this machine has 0.0 GiB of memory; take fewer or smaller images"
    assert fails(tmp_path, name) == f"data.npz: {wrong}"
    assert fails(tmp_path, "./pool").endswith(wrong)


def test_pickles_are_never_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("images.npy", b"cposix\nsystem\n(S'touch bombed'\ntR.")
        archive.writestr("labels.npy", b"cposix\nsystem\n(S'touch bombed'\ntR.")
    assert fails(tmp_path).startswith("data.npz: images: has the shape ()")


# ---------------------------------------------------------------- sweeps


def run(folder, name="s.yaml"):
    parsed = read(folder / name)
    job = Job(parsed, Store(folder / "results"), "cpu", workers=1)
    trained = [event for event in events(job) if type(event).__name__ == "StackEvent"]
    return {trial.trial_id for trial in job.tuning}, trained


def test_changed_data_are_never_mixed_with_old_rows_and_reports_do_not_read_them(tmp_path):
    images, labels = made_up()
    as_npz(tmp_path, images, labels)
    (tmp_path / "s.yaml").write_text(sweep("./data.npz"))
    first, trained = run(tmp_path)
    assert trained and run(tmp_path) == (first, [])
    images[3, 2, 2] ^= 1
    as_npz(tmp_path, images, labels)
    second, trained = run(tmp_path)
    assert trained and not first & second
    (tmp_path / "data.npz").unlink()
    rows = pd.read_parquet(tmp_path / "results")
    assert set(rows["trial_id"]) == first | second and set(rows["dataset"]) == {"./data.npz"}
    report = build.build(Store(tmp_path / "results"))
    assert "1 trial: 1 finished" in report.summary
    assert status.status(Store(tmp_path / "results")).content()
    assert set(Store(tmp_path / "results").rows()["trial_id"]) == second


def test_the_name_of_the_file_is_not_in_the_ids(tmp_path):
    as_npz(tmp_path, *made_up())
    (tmp_path / "data.npz").rename(tmp_path / "other.npz")
    as_npz(tmp_path, *made_up())
    ids = [[t.trial_id for t in expand(parse(sweep(f"./{name}.npz"), folder=tmp_path))] for name in ("data", "other")]
    assert ids[0] == ids[1]


def test_data_that_change_while_a_sweep_runs_are_noticed(tmp_path):
    images, labels = made_up()
    found = own.find(as_npz(tmp_path, images, labels), tmp_path)
    as_npz(tmp_path, images[::-1], labels)
    with pytest.raises(UserError, match=r"^the data ./data.npz were changed while the sweep ran; run again$"):
        load(found)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\ndef load():\n    return np.random.rand(20, 4, 4), [0, 1] * 10\n"
    )
    found = own.find("./mine.py:load", tmp_path)
    own._content.cache_clear()
    with pytest.raises(UserError, match=r"run again; a function must return the same each time$"):
        load(found)


def test_data_are_read_once_in_a_process(tmp_path, monkeypatch):
    as_npz(tmp_path, *made_up())
    text = sweep("./data.npz") + "\nexclude: [{dataset: ./data.npz, batch_size: 20}]"
    text = text.replace("batch_size: 10", "batch_size: [10, 20]")
    found, read = [], own.files.read
    monkeypatch.setattr(own.files, "read", lambda *path: found.append(path) or read(*path))
    parsed = parse(text, folder=tmp_path)
    assert [trial.batch_size for trial in expand(parsed)] == [10]
    load(parsed.datasets[0])
    assert parse(to_yaml(parsed), folder=tmp_path) == parsed
    assert len(found) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./none.npz", "s:1:10: none.npz: no such file or folder of data"),
        ("[digits, ./none.npz]", "s:1:19: none.npz: no such file or folder of data"),
        ("none", "s:1:10: unknown dataset 'none'; valid: digits, mnist, fashion_mnist, cifar10"),
    ],
)
def test_what_is_wrong_with_data_has_its_place_in_the_sweep_file(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        parse(sweep(name), source="s")
    assert str(caught.value) == words


# ---------------------------------------------------------------- check-data


def check_data(folder, *arguments, code=0):
    command = [sys.executable, "-m", "optbench", "check-data", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout or done.stderr


def test_check_data_shows_sizes_classes_and_duplicates(tmp_path):
    (images, labels), (others, of_others) = made_up(300), made_up(40, seed=1)
    others[:2], of_others[1] = images[labels == 0][:2], 2  # two training images are tested, one with another label
    of_others[0] = 0
    arrays = pair("train", images, labels) | pair("val", *made_up(20, seed=2)) | pair("test", others, of_others)
    np.savez(tmp_path / "data.npz", **arrays)
    found = json.loads(check_data(tmp_path, "./data.npz", "-f", "json", code=1))
    assert found["splits"] == {"train": 300, "val": 20, "test": 40} and found["image"] == [1, 6, 5]
    assert found["verdict"] == "Something is wrong with them (duplicates)." and not found["works"]
    assert [of_class["train"] for of_class in found["classes"]] == [100, 100, 100]
    seen = {finding["check"]: finding["seen"] for finding in found["findings"]}
    assert seen["sizes"] == "300 training, 20 validation, 40 test images, 6 × 5, grey; 3 classes"
    assert seen["duplicates"].endswith(
        "; 2 of 40 test images are also training or validation images, 1 of them with another label"
    )


def test_check_data_says_what_is_not_balanced_or_not_there(tmp_path):
    images, labels = made_up(600)
    labels = np.where(np.arange(600) < 560, 0, labels)
    found = check_data_of(
        tmp_path, pair("train", images[20:] / 255, labels[20:]) | pair("test", images[:20], labels[:20])
    )
    seen = {finding.check: finding for finding in found.findings}
    assert seen["classes"].ok and "no test image of 1, 2" in seen["classes"].seen
    assert seen["classes"].but == "who always guesses 0 is right for 100% of test"
    assert seen["pixels"].seen == "they are floats, and are rounded to 256 levels"
    found = check_data_of(tmp_path, pair("train", images, labels * 0 + np.arange(600) % 2) | pair("test", *made_up(20)))
    assert not found.findings[1].ok and "no training image of 2" in found.findings[1].seen


def check_data_of(folder, arrays):
    np.savez(folder / "data.npz", **arrays)
    return checking.check("./data.npz", None, folder)


def test_check_data_shows_a_table_and_names_what_cannot_be_read(tmp_path):
    name = as_hugging_face_has_it(tmp_path, *made_up(300))
    out = check_data(tmp_path, name)
    assert out.startswith("./table.parquet\nclass  training  validation  test\ndaisy ")
    assert "ok  duplicates: 0 of 24 validation images are also training images; 0 of 60" in out
    assert out.endswith("They can be trained on.\n")
    assert check_data(tmp_path, "./none.npz", code=2) == "optbench: none.npz: no such file or folder of data\n"
