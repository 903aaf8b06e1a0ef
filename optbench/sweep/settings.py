"""What all optimizers of a sweep share, read from its folder of results, so that another sweep can have the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from optbench.errors import UserError
from optbench.sweep.axes import PARAMETERS
from optbench.sweep.document import Document, Place
from optbench.sweep.lookup import RESERVED
from optbench.sweep.spec import MAX_SEEDS, Search, plain


class Settings:
    """The settings of the sweep that ran last in a folder, as a sweep file would hold them, without what is default.

    Its optimizers need not be there: of one in a file, only the settings are read.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """`name` is what messages call the folder. Raises `UserError` where the folder does not say what ran there."""
        path, document, self._name = folder / "_optbench" / "sweep.yaml", Document(), name
        try:
            self._data = document.read(path.read_text(encoding="utf-8"), Place(str(path)))
            self._blocks: dict[str, dict[str, Any]] = dict(self._data["optimizers"])
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{name}: does not say which sweep it has results of: there is no {path}") from None

    @property
    def optimizers(self) -> list[str]:
        """Their labels."""
        return list(self._blocks)

    def own(self, label: str) -> dict[str, Any]:
        """The hyperparameters of an optimizer, as its block would hold them."""
        block = self._blocks[label]
        return {name: _brief(values) for name, values in block.items() if name not in RESERVED}

    def shared(self) -> dict[str, Any]:
        """What a sweep file has beside its name, its `parameters` and its optimizers.

        Raises `UserError` where the optimizers differ in how many configurations each has.
        """
        data = self._data
        length = {key: data[key] for key in ("epochs", "steps") if key in data}
        found = {"dataset": data["dataset"]} | length | {"seeds": _seeds(data["seeds"], 0)}
        if data["metric"] != "val_accuracy":
            found["metric"] = data["metric"]
        found["search"] = {"num_samples": self._num_samples()} | self._search()
        if data.get("pretrain"):
            found["pretrain"] = data["pretrain"]
        if data["confirm"]:
            found["confirm"] = {"seeds": _seeds(data["confirm"]["seeds"], MAX_SEEDS)}
        if exclude := [entry for entry in data["exclude"] if "optimizer" not in entry]:
            found["exclude"] = exclude
        return found

    def parameters(self) -> dict[str, Any]:
        """What its `parameters` would hold: the usual ones, and others that are not as by default.

        Raises `UserError` where the optimizers differ in them.
        """
        found = {}
        for name, axis in PARAMETERS.items():
            default = [plain(name, axis.default)]
            values = self._same([block.get(name, default) for block in self._blocks.values()], name)
            if axis.is_always_hashed or values != default:
                found[name] = _brief(values)
        return found

    def _search(self) -> dict[str, Any]:
        """How ranges are searched, where not as usual."""
        given, usual = self._data["search"] or {}, Search().model_dump()
        return {name: value for name, value in given.items() if name != "num_samples" and value != usual[name]}

    def _num_samples(self) -> int:
        """How many configurations each optimizer has for a combination of the parameters."""
        shared = (self._data["search"] or {}).get("num_samples")
        numbers = [
            block.get("num_samples") or (shared if _has_range(block) else _listed(block))
            for block in self._blocks.values()
        ]
        return int(self._same(numbers, "how many configurations they have"))

    def _same(self, values: Iterable[Any], what: str) -> Any:
        """The value that all optimizers have."""
        first, *others = values
        if any(value != first for value in others):
            raise UserError(f"{self._name}: its optimizers differ in {what}: write a sweep beside it by hand")
        return first


def _listed(block: Mapping[str, Any]) -> int:
    """How many configurations the lists of an optimizer's hyperparameters give."""
    return math.prod(len(values) for name, values in block.items() if name not in RESERVED)


def _has_range(value: Any) -> bool:
    if isinstance(value, dict):
        return "min" in value or any(map(_has_range, value.values()))
    return isinstance(value, list) and any(map(_has_range, value))


def _seeds(seeds: list[int], first: int) -> int | list[int]:
    """Their number, where it means these."""
    return len(seeds) if seeds == list(range(first, first + len(seeds))) else seeds


def _brief(values: list[Any]) -> Any:
    """A list of one as its value, unless that would be read as a list of several."""
    return values[0] if len(values) == 1 and not isinstance(values[0], list) else values
