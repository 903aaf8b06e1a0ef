"""Arrays of images and labels: what they may be, and how they are stored here.

Shapes: N examples, C H W image. `where` in messages names the file, and the array in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from optbench.errors import UserError
from optbench.wording import count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FEWEST = 10  # images that a test and a validation set can be drawn from
_MEMORY_SHARE = 0.5  # of the machine's that the images may need


class Part(NamedTuple):
    """Images, uint8 (N, C, H, W), 0 black to 255, and labels, int64 (N,), from 0 on."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


# "train" and "test", perhaps "val"; or "all", of which these are drawn.
Parts = Mapping[str, Part]


def joined(a: Part, b: Part) -> Part:
    """The images of both."""
    import numpy as np

    return Part(np.concatenate([a.images, b.images]), np.concatenate([a.labels, b.labels]))


_SHAPES = "(N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 channels"


def images(array: Any, where: str) -> NDArray[np.uint8]:
    """Images as they are stored here, (N, C, H, W).

    Takes (N, H, W) and both orders with 1 or 3 channels; uint8 and other whole numbers from 0 to 255, booleans, and
    floats from 0 to 1, which are rounded to 256 levels. Raises `UserError` for all else.
    """
    import numpy as np

    array = _numpy(array, where)
    if array.ndim not in (3, 4) or 0 in array.shape[1:]:
        raise UserError(f"{where}: has the shape {array.shape}; images are {_SHAPES}")
    if not len(array):
        raise UserError(f"{where}: holds no image")
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[1] not in (1, 3):
        if array.shape[3] not in (1, 3):
            raise UserError(f"{where}: has the shape {array.shape}; images are {_SHAPES}")
        array = array.transpose(0, 3, 1, 2)
    refuse_too_large(array.size, where)
    return np.ascontiguousarray(_pixels(array, where))


def _pixels(array: NDArray[Any], where: str) -> NDArray[np.uint8]:
    import numpy as np

    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{where}: pixels are {array.dtype}; they must be uint8, or floats from 0 to 1")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = int(np.argwhere(~np.isfinite(array))[0][0])
        raise UserError(f"{where}: image {first} has a pixel that is NaN or infinite")
    low, high, limit = array.min(), array.max(), 1 if array.dtype.kind == "f" else 255
    if low < 0 or high > limit:
        must = "floats must be from 0 to 1" if limit == 1 else "whole numbers must be from 0 to 255"
        raise UserError(f"{where}: pixels are from {low:g} to {high:g}; {must}")
    return (array if limit == 255 else np.rint(array * 255)).astype(np.uint8)


def labels(arrays: Mapping[str, Any]) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """The labels of each part as numbers, and the names of the classes, if labels are text; keys say where they are.

    Texts are numbered in alphabetical order. Raises `UserError` unless there is an image of each class from 0 on.
    """
    import numpy as np

    found = {where: _flat(array, where) for where, array in arrays.items()}
    if {array.dtype.kind for array in found.values()} == {"U"}:
        names, numbers = np.unique(np.concatenate(list(found.values())), return_inverse=True)
        ends = np.cumsum([len(array) for array in found.values()])[:-1]
        return dict(zip(found, np.split(numbers.astype(np.int64), ends), strict=True)), tuple(names.tolist())
    for where, array in found.items():
        if array.dtype.kind not in "iub":
            raise UserError(f"{where}: labels are {array.dtype}; they must be whole numbers from 0 on, or text")
    numbers_of = {where: array.astype(np.int64) for where, array in found.items()}
    for where, array in numbers_of.items():
        if (array < 0).any():
            raise UserError(f"{where}: image {int((array < 0).argmax())} has the label {array.min()}; they begin at 0")
    there = np.unique(np.concatenate(list(numbers_of.values())))
    missing = np.flatnonzero(there != np.arange(len(there)))
    if len(missing):
        largest = f"labels go up to {there[-1]}, but no image has the label {missing[0]}"
        raise UserError(f"{next(iter(found))}: {largest}; number the classes 0, 1, 2 …")
    return numbers_of, ()


def _flat(array: Any, where: str) -> NDArray[Any]:
    """Labels as (N,); MedMNIST and Keras have (N, 1)."""
    array = _numpy(array, where)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = "; of one-hot labels take argmax(axis=1)" if array.ndim == 2 else ""
        raise UserError(f"{where}: has the shape {array.shape}; labels are one for each image, (N,){hint}")
    flat: NDArray[Any] = array.astype(str) if array.dtype.kind == "S" else array
    return flat


def _numpy(array: Any, where: str) -> NDArray[Any]:
    """An array, a tensor, or a list of numbers as an array."""
    import numpy as np

    try:
        return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    except ValueError:
        raise UserError(f"{where}: holds lists of different lengths; all images must have one size") from None


def parts_of(
    arrays: Mapping[str, tuple[Any, Any]], where: Mapping[str, tuple[str, str]]
) -> tuple[Parts, Sequence[str]]:
    """Images and labels of each part → `Parts` and the names of classes, if there are any.

    `where` says how messages call the images and the labels of each part. Raises `UserError` for what cannot be
    trained on.
    """
    pixels = {split: images(of_part, where[split][0]) for split, (of_part, _) in arrays.items()}
    numbers, names = labels({where[split][1]: of_part for split, (_, of_part) in arrays.items()})
    parts = {split: Part(pixels[split], numbers[where[split][1]]) for split in arrays}
    first = next(iter(parts))
    for split, part in parts.items():
        n, of_image = len(part.images), where[split][0]
        if n != len(part.labels):
            raise UserError(f"{of_image}: {count(n, 'image')}, but {count(len(part.labels), 'label')}")
        if part.images.shape[1:] != parts[first].images.shape[1:]:
            here, there = in_words(part.images.shape[1:]), in_words(parts[first].images.shape[1:])
            raise UserError(f"{of_image}: images are {here}, but {there} in {where[first][0]}; they must be alike")
    fewest = _FEWEST if "test" not in parts else 2
    if len(parts[first].images) < fewest:
        raise UserError(f"{where[first][0]}: {count(len(parts[first].images), 'image')}; it takes at least {fewest}")
    if max(int(part.labels.max()) for part in parts.values()) == 0:
        raise UserError(f"{where[first][1]}: all images are of one class; there is nothing to learn")
    return parts, names


def in_words(image: Sequence[int]) -> str:
    """A shape (C, H, W) as text: "28 × 28, grey"."""
    channels, height, width = image
    return f"{height} × {width}, {'grey' if channels == 1 else 'colour' if channels == 3 else f'{channels} channels'}"


def refuse_too_large(pixels: int, where: str) -> None:
    """Raise `UserError` where so many bytes of images would take too much of this machine's memory."""
    memory = _memory()
    if memory and pixels > _MEMORY_SHARE * memory:
        sizes = f"{pixels / 2**30:.1f} GiB of pixels, and this machine has {memory / 2**30:.1f} GiB of memory"
        raise UserError(f"{where}: {sizes}; take fewer or smaller images")


def _memory() -> int:
    """The bytes of this machine's memory; 0 where that is not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
