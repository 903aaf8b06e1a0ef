"""The networks by name, each a function from the number of classes, and perhaps arguments of its own, to its layers.

Names with a colon, `./my_net.py:MyNet` or `package.module:Class`, are modules from elsewhere (see `foreign`).

This file does not import torch, so that sweep files are checked at once. To add a network, add a file like `lenet5.py`,
a name here, and a row in the table of `tests/test_networks.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field

from optbench.errors import UserError, did_you_mean
from optbench.networks import (
    alexnet,
    cnn,
    deepobs_2c2d,
    deepobs_3c3d,
    densenet,
    inception,
    lenet5,
    mlp,
    resnet20,
    rnn,
    softmax,
    vgg,
    wide_resnet,
)
from optbench.networks.architecture import Architecture
from optbench.networks.layers import Sequence, Shape

if TYPE_CHECKING:
    from optbench.networks.foreign import ForeignArchitecture

NETWORKS: dict[str, Callable[..., Sequence]] = {
    "cnn": cnn.layers,
    "mlp": mlp.layers,
    "rnn": rnn.layers,
    "softmax": softmax.layers,
    "lenet5": lenet5.layers,
    "2c2d": deepobs_2c2d.layers,
    "3c3d": deepobs_3c3d.layers,
    "resnet20": resnet20.layers,
    "wide_resnet": wide_resnet.layers,
    "densenet": densenet.layers,
    "vgg": vgg.layers,
    "alexnet": alexnet.layers,
    "inception": inception.layers,
}


class Model(str):
    """A network with arguments of its own: the text by which rows and tables name it, "mlp(widths=[400, 200])".

    `arguments` are those that differ from the network's defaults. A network as it is by default is its bare name.
    """

    __slots__ = ("arguments", "network")

    network: str
    arguments: Mapping[str, Any]

    def __new__(cls, network: str, arguments: Mapping[str, Any]) -> Self:
        given = ", ".join(f"{name}={_written(value)}" for name, value in arguments.items())
        made = super().__new__(cls, f"{network}({given})" if given else network)
        made.network, made.arguments = network, arguments
        return made

    def __reduce__(self) -> tuple[Any, ...]:  # text alone would be copied without its attributes
        return type(self), (self.network, self.arguments)


class ForeignModel(Model):
    """A module from elsewhere: `folder` is where its file is looked for, `source` a digest of it."""

    __slots__ = ("folder", "source")

    folder: Path
    source: str

    @classmethod
    def of(cls, network: str, arguments: Mapping[str, Any], folder: Path, source: str) -> Self:
        """The module of a name, with arguments that differ from its defaults."""
        made = cls(network, arguments)
        made.folder, made.source = folder, source
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.network, self.arguments, self.folder, self.source)


def _restore(network: str, arguments: Mapping[str, Any], folder: Path, source: str) -> ForeignModel:
    from optbench.networks import foreign

    if foreign.source(network, folder) != source:
        raise UserError(f"the code of {network} was changed while the sweep ran; run again")
    return ForeignModel.of(network, arguments, folder, source)


def identity(model: str) -> Any:
    """What a network is told apart by, wherever its results are kept: of code from elsewhere, the code too."""
    return [str(model), model.source] if isinstance(model, ForeignModel) else model


def _written(value: Any) -> str:
    """An argument as a sweep file writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "null" if value is None else str(value)


REQUIRED = inspect.Parameter.empty  # the default of an argument that has none


def arguments(name: str, folder: Path) -> dict[str, tuple[Any, Any]]:
    """The type, as pydantic takes it, and the default of each argument that a network takes.

    A file is looked for in `folder`. Raises `UserError`.
    """
    if _is_foreign(name):
        from optbench.networks import foreign

        return foreign.arguments(name, folder)
    if name not in NETWORKS:
        raise UserError(f"unknown network '{name}'; {did_you_mean(name, NETWORKS)}")
    signature = inspect.signature(NETWORKS[name], eval_str=True)
    taken = (own for own in signature.parameters.values() if own.kind is own.KEYWORD_ONLY)
    return {own.name: (_KINDS[own.annotation], own.default) for own in taken}


def _is_foreign(name: str) -> bool:
    if name.endswith(".py"):
        raise UserError(f"{name}: say which class of the file, '{name}:MyNet'")
    return ":" in name


_Count = Annotated[int, Field(ge=1, le=100_000)]
# Networks are made of whole numbers: how deep, how wide.
_KINDS = {int: _Count, tuple[int, ...]: Annotated[tuple[_Count, ...], Field(strict=False, min_length=1)]}


def model(name: str, given: Mapping[str, Any], folder: Path) -> str:
    """A network with valid arguments, as trials have it. Raises `UserError` for arguments that do not fit together."""
    taken = arguments(name, folder)
    own = {key: given[key] for key, (_, default) in taken.items() if key in given and given[key] != default}
    if _is_foreign(name):
        from optbench.networks import foreign

        return ForeignModel.of(name, own, folder, foreign.source(name, folder))
    try:
        NETWORKS[name](2, **own)
    except ValueError as error:
        raise UserError(str(error)) from None
    return Model(name, own) if own else name


def architecture(model: str, image: Shape, classes: int) -> Architecture | ForeignArchitecture:
    """A network, by its name or with arguments, for images (C, H, W) of so many classes.

    Raises `UserError` for too small images, and for a module from elsewhere that cannot train on them.
    """
    if isinstance(model, ForeignModel):
        from optbench.networks import foreign

        return foreign.architecture(model.network, model.folder, tuple(model.arguments.items()), image, classes)
    return _of_layers(model, image, classes)


@cache
def _of_layers(model: str, image: Shape, classes: int) -> Architecture:
    network, own = (model.network, model.arguments) if isinstance(model, Model) else (model, {})
    return Architecture(NETWORKS[network](classes, **own), image)
