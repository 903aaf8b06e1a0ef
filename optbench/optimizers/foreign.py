"""Optimizers from elsewhere: any `torch.optim.Optimizer` that can be imported, with the arguments of its signature.

A sweep file names them `package.module:Class`, `./file.py:Class` (beside the sweep file) or `pytorch_optimizer.NAME`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from pydantic import create_model, model_validator
from torch import nn

from optbench import elsewhere
from optbench.errors import UserError
from optbench.optimizers import IMPOSSIBLE, library
from optbench.optimizers.bounds import NonNegative
from optbench.optimizers.hyperparameters import Hyperparameters


def in_groups(
    parameters: list[nn.Parameter], of_weights: Mapping[str, Any], of_rest: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Weights, the parameters of two or more dimensions, and the rest, each as a group with options of its own."""
    weights, rest = ([p for p in parameters if (p.ndim >= 2) == is_weight] for is_weight in (True, False))
    groups = [{"params": weights, **of_weights}, {"params": rest, **of_rest}]
    return [group for group in groups if group["params"]]


class Foreign(Hyperparameters):
    """Arguments of a class from elsewhere: `optimizer_class`, looked for in `folder` if it is in a file.

    Names in `reserved` mean something else in a sweep file, so an argument of such a name keeps its default.
    """

    stacked = False

    optimizer_class: ClassVar[type[torch.optim.Optimizer]]
    folder: ClassVar[Path]
    reserved: ClassVar[frozenset[str]]

    def arguments(self) -> dict[str, Any]:
        """What the sweep file gives to the constructor; what it leaves out keeps the class's own default."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def make(self, parameters: list[nn.Parameter], of_rest: Mapping[str, Any] | None = None) -> torch.optim.Optimizer:
        """The optimizer for these parameters, in groups if the class needs them, or if `of_rest` (see `in_groups`)."""
        groups: Any = parameters
        if self.algorithm.removeprefix(f"{library.NAME}.") in library.MUON_GROUPS:
            groups = in_groups(parameters, {"use_muon": True}, {"use_muon": False, **(of_rest or {})})
        elif of_rest:
            groups = in_groups(parameters, {}, of_rest)
        return self.optimizer_class(groups, **self.arguments())

    @model_validator(mode="after")
    def _constructs(self) -> Foreign:
        """The constructor itself checks its arguments, before anything trains."""
        try:
            self.make([nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(4))])
        except Exception as error:
            raise ValueError(elsewhere.one_line(error)) from None
        return self

    def __reduce__(self) -> tuple[Any, ...]:  # a class made at run time cannot be pickled by name
        return _restore, (self.algorithm, self.folder, self.reserved, self.arguments(), self.source)


def _restore(name: str, folder: Path, reserved: frozenset[str], arguments: Mapping[str, Any], source: str) -> Foreign:
    found = find_foreign(name, folder, reserved)
    if found.source != source:
        raise UserError(f"the code of {name} was changed while the sweep ran; run again")
    return found(**arguments)


@cache
def find_foreign(name: str, folder: Path, reserved: frozenset[str] = frozenset()) -> type[Foreign]:
    """The class behind a name as hyperparameters, without arguments that are named in `reserved`.

    Raises `UserError` when there is no such class, or when it cannot train or requires such an argument.
    """
    if ":" in name:
        found = elsewhere.named(name, folder, _is_optimizer, "optimizers")
    else:
        found = _of_library(name.removeprefix(f"{library.NAME}."))
    if not _is_optimizer(found):
        raise UserError(f"{name} is {elsewhere.in_words(found)}, not a torch.optim.Optimizer")
    optimizer_class = cast(type[torch.optim.Optimizer], found)
    if issubclass(optimizer_class, torch.optim.SparseAdam):
        raise UserError(f"{name} cannot train here: {IMPOSSIBLE['sparseadam']}")
    return _hyperparameters(name, folder, reserved, optimizer_class)


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer


def _of_library(name: str) -> Any:
    try:
        package = importlib.import_module(library.NAME)
    except ModuleNotFoundError:
        raise UserError(f"{library.NAME} is not installed: pip install 'optbench[optimizers]'") from None
    if name in library.UNSUITABLE:
        raise UserError(f"{library.NAME}.{name} cannot train here: {library.UNSUITABLE[name]}")
    names = package.get_supported_optimizers()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "'optbench list optimizers' shows them all"
        raise UserError(f"{library.NAME} has no optimizer '{name}'; {hint}")
    return package.load_optimizer(name)


# ---------------------------------------------------------------- signature → hyperparameters

# Arguments that a sweep file cannot set either: pydantic or `Foreign` uses these words.
_TAKEN = {*dir(Foreign), *Foreign.__class_vars__}


def _hyperparameters(
    name: str, folder: Path, reserved: frozenset[str], optimizer_class: type[torch.optim.Optimizer]
) -> type[Foreign]:
    fields: dict[str, Any] = {}
    for argument in _arguments(optimizer_class):
        kind, default = elsewhere.kind(argument), argument.default
        is_required = default is argument.empty or type(default).__name__ == "_RequiredParameter"
        if argument.name in _TAKEN | reserved or argument.name.startswith(("_", "model_")):
            if is_required:
                raise UserError(f"{name} needs '{argument.name}', which has another meaning in a sweep file")
            continue
        if kind is None:
            continue
        if argument.name == "lr":
            kind, is_required = NonNegative, is_required or default is None
        fields[argument.name] = (kind, ... if is_required else default)
    if "lr" not in fields:
        raise UserError(f"{name} takes no lr")
    made = create_model(optimizer_class.__name__, __base__=Foreign, **fields)
    made.algorithm, made.folder, made.reserved, made.optimizer_class = name, folder, reserved, optimizer_class
    made.provider = (
        optimizer_class.__module__.partition(".")[0] if not name.rpartition(":")[0].endswith(".py") else "file"
    )
    made.source = elsewhere.source(optimizer_class)
    return made


def _arguments(optimizer_class: type) -> list[inspect.Parameter]:
    """The constructor's arguments after the parameters; **kwargs stand for the arguments of the next base class."""
    found: dict[str, inspect.Parameter] = {}
    for base in optimizer_class.__mro__:
        if base is torch.optim.Optimizer:
            break
        if "__init__" not in vars(base):
            continue
        given = list(inspect.signature(vars(base)["__init__"]).parameters.values())[2:]  # without self and params
        is_base = bool(found)
        for argument in given:
            # The derived class itself passes what a base class requires, except lr.
            is_handed_on = is_base and argument.default is argument.empty and argument.name != "lr"
            if argument.kind not in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL) and not is_handed_on:
                found.setdefault(argument.name, argument)
        if not any(argument.kind is argument.VAR_KEYWORD for argument in given):
            break
    return list(found.values())
