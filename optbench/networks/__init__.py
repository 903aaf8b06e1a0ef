"""The networks by name, each a function from the number of classes, and perhaps arguments of its own, to its layers.

This file does not import torch, so that sweep files are checked at once. To add a network, add a file like `lenet5.py`,
a name here, and a row in the table of `tests/test_networks.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Self

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


def _written(value: Any) -> str:
    """An argument as a sweep file writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def arguments(name: str) -> dict[str, tuple[Any, Any]]:
    """The type, as pydantic takes it, and the default of each argument that a network takes. Raises `UserError`."""
    if name not in NETWORKS:
        raise UserError(f"unknown network '{name}'; {did_you_mean(name, NETWORKS)}")
    signature = inspect.signature(NETWORKS[name], eval_str=True)
    taken = (own for own in signature.parameters.values() if own.kind is own.KEYWORD_ONLY)
    return {own.name: (_KINDS[own.annotation], own.default) for own in taken}


_Count = Annotated[int, Field(ge=1, le=100_000)]
# Networks are made of whole numbers: how deep, how wide.
_KINDS = {int: _Count, tuple[int, ...]: Annotated[tuple[_Count, ...], Field(strict=False, min_length=1)]}


def model(name: str, given: Mapping[str, Any]) -> str:
    """A network with valid arguments, as trials have it. Raises `UserError` for arguments that do not fit together."""
    taken = arguments(name)
    own = {key: given[key] for key, (_, default) in taken.items() if key in given and given[key] != default}
    try:
        NETWORKS[name](2, **own)
    except ValueError as error:
        raise UserError(str(error)) from None
    return Model(name, own) if own else name


@cache
def architecture(model: str, image: Shape, classes: int) -> Architecture:
    """A network, by its name or with arguments, for images (C, H, W) of so many classes.

    Raises `UserError` for too small images.
    """
    network, own = (model.network, model.arguments) if isinstance(model, Model) else (model, {})
    return Architecture(NETWORKS[network](classes, **own), image)
