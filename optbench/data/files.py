"""Files of the user's own → arrays as they are in them: .npz, parquet, folders of images, and functions.

Nothing that is pickled is read.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from optbench import elsewhere
from optbench.data.arrays import in_words, refuse_too_large
from optbench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from PIL.Image import Image


class Found(NamedTuple):
    """Images and labels of each part, "train", "val" and "test" or "all"; how messages call both; names of classes."""

    arrays: dict[str, tuple[Any, Any]]
    where: dict[str, tuple[str, str]]
    names: tuple[str, ...] = ()


# The names that arrays of a part may have: as one pool, as MedMNIST has them, as Keras has them.
_KEYS = {
    "all": (("images", "labels"),),
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "val": (("val_images", "val_labels"), ("x_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}
_EXPECTED = "images and labels, or train_images, train_labels, test_images and test_labels, or x_train, y_train, …"
_PARTS = {"train": "train", "test": "test", "validation": "val", "valid": "val", "val": "val"}
_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


def read(path: Path, function: str) -> Found:
    """What is in a file or a folder; or, of a Python file or a module, what its `function` returns.

    Raises `UserError` for what cannot be read.
    """
    if function:
        return _returned(path, function)
    if path.is_dir():
        tables = sorted(path.glob("*.parquet"))
        return _tables(tables) if tables else _folders(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder of data")
    match path.suffix:
        case ".npz":
            return _npz(path)
        case ".parquet":
            return _tables([path])
    raise UserError(f"{path}: data are an .npz or a .parquet file, a folder, or a function: ./my_data.py:load")


def _by_key(keys: Mapping[str, Any], where: str) -> dict[str, tuple[str, str]]:
    """The names of the arrays of each part. Raises `UserError` where a part has only one, or one is missing."""
    found = {part: pair for part, pairs in _KEYS.items() for pair in pairs if set(pair) & set(keys)}
    for name in [name for pair in found.values() for name in pair]:
        if name not in keys:
            raise UserError(f"{where}: has no '{name}'; it takes {_EXPECTED}")
    if set(found) != {"all"} and not {"train", "test"} <= set(found):
        there = ", ".join(map(repr, keys)) or "nothing"
        raise UserError(f"{where}: has {there}; it takes {_EXPECTED}")
    return found


def _of_keys(arrays: Mapping[str, Any], names: Mapping[str, tuple[str, str]], where: str) -> Found:
    return Found(
        {part: (arrays[of_images], arrays[of_labels]) for part, (of_images, of_labels) in names.items()},
        {part: (f"{where}: {of_images}", f"{where}: {of_labels}") for part, (of_images, of_labels) in names.items()},
    )


# ---------------------------------------------------------------- .npz


def _npz(path: Path) -> Found:
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
        names = _by_key(sizes, str(path))
        refuse_too_large(sum(sizes[name] for pair in names.values() for name in pair), str(path))
        with np.load(path, allow_pickle=False) as arrays:
            return _of_keys({name: arrays[name] for pair in names.values() for name in pair}, names, str(path))
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        hint = "; save arrays of numbers with numpy.savez"
        raise UserError(f"{path}: cannot be read: {elsewhere.one_line(error)}{hint}") from None


# ---------------------------------------------------------------- functions


def _returned(path: Path, function: str) -> Found:
    where = f"{path.name}:{function}"
    load = elsewhere.named(where, path.parent, callable, "functions")
    if not callable(load):
        raise UserError(f"{where}: is {elsewhere.in_words(load)}, not a function that returns images and labels")
    try:
        found = load()
    except Exception as error:
        raise UserError(f"{where}: raised {elsewhere.one_line(error)}") from None
    if isinstance(found, Mapping):
        return _of_keys(found, _by_key(found, where), where)
    match found:
        case (tuple((x_train, y_train)), tuple((x_test, y_test))):
            arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
        case (images, labels):
            arrays = {"images": images, "labels": labels}
        case _:
            must = "(images, labels), ((x_train, y_train), (x_test, y_test)) or a mapping of arrays"
            raise UserError(f"{where}: returned {elsewhere.in_words(found)}; it must return {must}")
    return _of_keys(arrays, _by_key(arrays, where), where)


# ---------------------------------------------------------------- parquet


def _tables(paths: Sequence[Path]) -> Found:
    """One pool, or the parts that files are named for: train-00000-of-00001.parquet."""
    matches = {path: re.match(r"(train|test|validation|valid|val)(?![a-z])", path.stem) for path in paths}
    is_named = len(paths) > 1 and any(matches.values())
    of_part: dict[str, list[Path]] = {}
    for path, match in matches.items():
        if is_named and not match:
            raise UserError(f"{path}: is named neither train-…, validation-… nor test-…, as others beside it are")
        of_part.setdefault(_PARTS[match[1]] if is_named and match else "all", []).append(path)
    if is_named and not {"train", "test"} <= set(of_part):
        missing = "train" if "train" not in of_part else "test"
        raise UserError(f"{paths[0].parent}: has no {missing}-….parquet beside {paths[0].name}")
    read = {part: _table(files) for part, files in of_part.items()}
    where = {part: (str(files[0]), str(files[0])) for part, files in of_part.items()}
    return Found({part: arrays for part, (arrays, _) in read.items()}, where, next(iter(read.values()))[1])


def _table(paths: Sequence[Path]) -> tuple[tuple[Any, Any], tuple[str, ...]]:
    """Images and labels of parquet files with the same columns, and the names of the classes if they say them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(paths[0])
        of_images = _column(schema, ("image", "img", "images"), paths[0])
        of_labels = _column(schema, ("label", "labels", "fine_label"), paths[0])
        table = pa.concat_tables([pq.read_table(path, columns=[of_images, of_labels]) for path in paths])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{paths[0]}: cannot be read: {elsewhere.one_line(error)}") from None
    for name in (of_images, of_labels):
        if table[name].null_count:
            raise UserError(f"{paths[0]}: row {table[name].is_null().index(True)} has no {name}")
    arrays = _pixels(table[of_images], f"{paths[0]}: {of_images}"), table[of_labels].to_pylist()
    return arrays, _class_names(schema, of_labels)


def _column(schema: pa.Schema, names: Sequence[str], path: Path) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise UserError(f"{path}: has the columns {', '.join(schema.names)}; it takes 'image' and 'label'")


def _pixels(column: pa.ChunkedArray, where: str) -> NDArray[np.uint8]:
    """The images of a column: PNG or JPEG, alone or in a struct as Hugging Face has them, or lists of pixels."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_struct(kind) and "bytes" in {kind.field(i).name for i in range(kind.num_fields)}:
        column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks], pa.binary())
        kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _decoded([(f"{where}, row {i}", blob.as_py()) for i, blob in enumerate(column)])
    shape = []
    flat = column.combine_chunks()
    while pa.types.is_fixed_size_list(flat.type):
        shape.append(flat.type.list_size)
        flat = flat.flatten()
    if len(shape) < 2 or not pa.types.is_primitive(flat.type):
        must = "PNG or JPEG, or lists in lists of a fixed size: list<list<uint8>[28]>[28]"
        raise UserError(f"{where}: images are {kind}; they must be {must}")
    pixels: NDArray[np.uint8] = flat.to_numpy(zero_copy_only=False)
    return pixels.reshape(-1, *shape)


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """The names of classes that Hugging Face writes beside a column, if they are there."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[column]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


# ---------------------------------------------------------------- folders of images


def _folders(root: Path) -> Found:
    """A folder for each class, as one pool or in train, test and perhaps val."""
    folders = {path.name: path for path in _visible(root) if path.is_dir()}
    parts = {_PARTS[name]: path for name, path in folders.items() if name in _PARTS}
    if not {"train", "test"} <= set(parts):
        parts = {"all": root}
    files = {part: list(_labelled(path)) for part, path in parts.items()}
    of_class = sorted({name for found in files.values() for name, _ in found})
    arrays = {
        part: (_decoded([(str(path), path) for _, path in found]), [name for name, _ in found])
        for part, found in files.items()
    }
    where = {part: (str(path), str(path)) for part, path in parts.items()}
    return Found(arrays, where, tuple(of_class))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _labelled(root: Path) -> Iterator[tuple[str, Path]]:
    """The image files of each class, by the name of its folder, in alphabetical order."""
    folders = [path for path in _visible(root) if path.is_dir()]
    if not folders:
        raise UserError(f"{root}: has neither .parquet files nor a folder of images for each class")
    for folder in folders:
        found = [path for path in _visible(folder) if path.suffix.lower() in _IMAGES]
        if not found:
            raise UserError(f"{folder}: has no image; a folder of images is a class")
        yield from ((folder.name, path) for path in found)


def _decoded(files: Sequence[tuple[str, bytes | Path]]) -> NDArray[np.uint8]:
    """Images of one size, grey (N, H, W) or, if any of them is in colour, (N, H, W, 3); by where they are."""
    import numpy as np

    found: NDArray[np.uint8] | None = None
    for i, (where, file) in enumerate(files):
        image = _image(file, where)
        if found is None:
            refuse_too_large(len(files) * image.size, where)
            found = np.empty((len(files), *image.shape), np.uint8)
        if image.shape[:2] != found.shape[1:3]:
            sizes = [in_words((0, *shape)).partition(",")[0] for shape in (image.shape[:2], found.shape[1:3])]
            raise UserError(f"{where}: is {sizes[0]} pixels, but {files[0][0]} is {sizes[1]}; they must have one size")
        if image.ndim == found.ndim:  # the first in colour
            found = np.repeat(found[..., None], 3, axis=3)
        found[i] = image[..., None] if image.ndim < found[i].ndim else image
    assert found is not None, "every table and every folder has an image"
    return found


def _image(file: bytes | Path, where: str) -> NDArray[np.uint8]:
    """Pixels (H, W) of a grey image, (H, W, 3) of any other; transparency is left out."""
    import numpy as np

    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError:
        raise UserError(f"{where}: reading it needs Pillow: pip install 'optbench[images]'") from None
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
            return np.asarray(_eight_bits(image, where))
    except UnidentifiedImageError:
        raise UserError(f"{where}: is not an image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: cannot be read as an image: {elsewhere.one_line(error)}") from None


def _eight_bits(image: Image, where: str) -> Image:
    if image.mode in ("1", "L", "LA"):
        return image.convert("L")
    if image.mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
        return image.convert("RGB")
    raise UserError(f"{where}: pixels are of the kind {image.mode}; save them with 8 bits for each channel")
