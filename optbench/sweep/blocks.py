"""What `parameters`, an optimizer's block and an exclusion may contain: axes, each a list of values.

The types are those of `axes`, `optimizers` and `schedules`; in the latter two a range may replace any number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    create_model,
)
from pydantic_core import ErrorDetails

from optbench import networks, optimizers
from optbench.errors import UserError, did_you_mean
from optbench.optimizers import OPTIMIZERS, schedules
from optbench.optimizers.hyperparameters import Hyperparameters
from optbench.optimizers.schedules import SCHEDULES, Schedule
from optbench.sweep.axes import AXES, PARAMETERS
from optbench.sweep.search import Range, SearchedSchedule, ranges
from optbench.sweep.search import schedule as make_schedule
from optbench.wording import in_words, location, show, worth_saying, wrong, wrong_at


def as_list(value: Any) -> Any:
    """A scalar stands for a list of one."""
    return value if isinstance(value, list) else [value]


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values as they are, if none occurs twice."""
    for i, value in enumerate(values):
        if value in values[:i]:
            raise wrong(f"the value {show(value)} occurs twice")
    return values


# Bounds of a range: up to here a float holds every whole number, and the difference of two is finite.
MAX_WHOLE, MAX_REAL = 2**53, 1e300

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)


def _axis(kind: Any) -> Any:
    """A grid axis: a list of values of this kind, a scalar standing for a list of one."""
    sequence = Annotated[tuple[kind, ...], Field(strict=False, min_length=1)]
    return Annotated[sequence, BeforeValidator(as_list), AfterValidator(distinct)]


class Grid(BaseModel):
    """A block whose keys are axes; `of` holds the classes that the block is for."""

    model_config = STRICT
    of: ClassVar[tuple[type[BaseModel], ...]] = ()

    @classmethod
    def in_words(cls, detail: ErrorDetails) -> str:
        """An error about the block, or inside it."""
        if detail["type"] != "extra_forbidden":
            return in_words(detail)
        key = str(detail["loc"][-1])
        if key in optimizers.IMPOSSIBLE_ARGUMENTS:
            return f"'{key}' cannot be set: {optimizers.IMPOSSIBLE_ARGUMENTS[key]}"
        if optimizers.SYNONYMS.get(key) in cls.model_fields:
            return f"unknown key '{key}'; did you mean '{optimizers.SYNONYMS[key]}'?"
        lacking = [of.algorithm for of in cls.of if issubclass(of, Hyperparameters) and key not in of.model_fields]
        if lacking and any(key in other.model_fields for other in [*OPTIMIZERS.values(), *cls.of]):
            return f"'{key}' is not a hyperparameter of {', '.join(lacking)}"
        return f"unknown key '{key}'; {did_you_mean(key, sorted(cls.model_fields))}"


def _grid(kinds: Mapping[str, Any], of: Iterable[type[BaseModel]]) -> type[Grid]:
    fields: dict[str, Any] = {name: (_axis(kind), None) for name, kind in kinds.items()}
    made = create_model("Grid", __base__=Grid, **fields)
    made.of = tuple(of)
    return made


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """The fields of a class and the type of one value, with a range allowed in place of every number."""
    kinds = {
        n: Annotated[f.annotation, *f.metadata] if f.metadata else f.annotation for n, f in model.model_fields.items()
    }
    return {name: _searchable(kind) for name, kind in kinds.items()}


# ---------------------------------------------------------------- ranges


def _searchable(kind: Any) -> Any:
    if get_origin(kind) is Annotated and get_origin(get_args(kind)[0]) is tuple:
        inner, *metadata = get_args(kind)
        return Annotated[_searchable(inner), *metadata]
    if get_origin(kind) is tuple:
        return tuple[tuple(part if part is Ellipsis else _searchable(part) for part in get_args(kind))]  # type: ignore[misc]
    if not (_allows(kind, int) or _allows(kind, float)):
        return kind
    return Annotated[kind, WrapValidator(partial(_number_or_range, kind=kind))]


def _allows(kind: Any, number: type) -> bool:
    """Whether a type of value allows `number`, int or float."""
    if kind in (number, Any):
        return True
    return get_origin(kind) in (Annotated, Union, UnionType) and any(_allows(part, number) for part in get_args(kind))


def _number_or_range(value: Any, validate: Callable[[Any], Any], kind: Any) -> Any:
    """The value as it is, or the range that a mapping with `min` and `max` stands for.

    Where both whole and other numbers are allowed, a range has all of them; where nothing is known, its bounds decide.
    """
    if not isinstance(value, dict) or not {"min", "max", "log"} & set(value):
        return validate(value)
    for key in value:
        if key not in ("min", "max", "log"):
            raise wrong(f"unknown key '{key}'; a range has min, max and log", key)
    for key in ("min", "max"):
        if key not in value:
            raise wrong(f"a range needs '{key}'")
        if isinstance(value[key], bool) or not isinstance(value[key], int | float):
            raise wrong(f"must be a number, not {show(value[key])}", key)
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise wrong(f"must be true or false, not {show(log)}", "log")
    bounds = {}
    for key in ("min", "max"):
        try:
            bounds[key] = validate(value[key])
        except ValidationError as error:
            detail = error.errors()[0]
            raise wrong(in_words(detail), key) from None
    if bounds["min"] >= bounds["max"]:
        empty = bounds["min"] == bounds["max"]
        raise wrong(f"the range from {value['min']} to {value['max']} is {'empty' if empty else 'reversed'}", "min")
    if log and bounds["min"] <= 0:
        raise wrong("a logarithmic range must begin above 0", "min")
    is_whole = all(isinstance(bound, int) for bound in bounds.values()) and (kind is Any or not _allows(kind, float))
    limit = MAX_WHOLE if is_whole else MAX_REAL
    for key, bound in bounds.items():
        if abs(bound) > limit:
            raise wrong(f"must lie within ±{limit:g} in a range", key)
    return Range(bounds["min"], bounds["max"], log, is_whole)


# ---------------------------------------------------------------- what has a name and arguments


def _name_and_arguments(value: Any, what: str) -> tuple[str, dict[str, Any]]:
    """An entry of an axis whose values have arguments: a name, or a mapping with it."""
    name = value.get("name") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise wrong(f"must be a {what}'s name or a mapping with 'name'")
    return name, {key: own for key, own in value.items() if key != "name"} if isinstance(value, dict) else {}


def _unfolded(
    name: str, given: Mapping[str, Any], grid: type[Grid], required: Iterable[str], lists: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Every combination of the arguments given: a list is an axis of its own.

    A value of `lists` is a list itself: one list of them is one value.
    """
    wrapped = {key: [as_list(given[key])] for key in lists if key in given and not _has_lists(given[key])}
    problems = [wrong_at((key,), f"missing key '{key}'", given) for key in required if key not in given]
    try:
        axes = grid.model_validate({**given, **wrapped})
    except ValidationError as error:
        for detail in worth_saying(error):
            loc, is_key = location(detail)
            problems.append(wrong_at(loc, grid.in_words(detail), detail["input"], is_key))
    if problems:
        raise ValidationError.from_exception_data(name, problems)
    for values in product(*(getattr(axes, key) for key in given)):
        yield dict(zip(given, values, strict=True))


def _has_lists(value: Any) -> bool:
    return any(isinstance(part, list) for part in as_list(value))


@cache
def _schedule_grid(name: str) -> type[Grid]:
    return _grid(_fields(SCHEDULES[name]) | {"name": str}, [SCHEDULES[name]])


def _schedules(value: Any, info: ValidationInfo) -> list[Schedule | SearchedSchedule]:
    """An entry of the axis `schedule`."""
    name, given = _name_and_arguments(value, "schedule")
    if name in schedules.IMPOSSIBLE:
        raise wrong(f"{name} cannot be used in a sweep file: {schedules.IMPOSSIBLE[name]}")
    known = schedules.ALIASES.get(name, name)
    if known not in SCHEDULES:
        raise wrong(f"unknown schedule '{name}'; {did_you_mean(name, [*SCHEDULES, *schedules.ALIASES])}")
    required = [key for key, info in SCHEDULES[known].model_fields.items() if info.is_required() and key != "name"]
    unfolded = _unfolded(known, given, _schedule_grid(known), required, ["milestones"])
    return [make_schedule(known, arguments) for arguments in unfolded]


# Arguments of these names cannot be set: an entry's name is no argument, and a grid's own cannot be fields.
_TAKEN = {"name", *dir(Grid)}


def _models(value: Any, info: ValidationInfo) -> list[str]:
    """An entry of the axis `model`; files are looked for in the folder that is the context."""
    name, given = _name_and_arguments(value, "network")
    folder = (info.context or Path()).resolve()
    try:
        taken = _settable(name, networks.arguments(name, folder))
        grid = _grid({"name": str} | {key: kind for key, (kind, _) in taken.items()}, [])
        required = [key for key, (_, default) in taken.items() if default is networks.REQUIRED]
        lists = [key for key, (_, default) in taken.items() if isinstance(default, tuple)]
        return [networks.model(name, own, folder) for own in _unfolded(name, given, grid, required, lists)]
    except UserError as error:
        raise wrong(str(error)) from None


def _settable(name: str, taken: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The arguments that a sweep file may set. Raises `UserError` if it would have to set another one."""
    settable = {}
    for key, (kind, default) in taken.items():
        if key not in _TAKEN and not key.startswith(("_", "model_")):
            settable[key] = kind, default
        elif default is networks.REQUIRED:
            raise UserError(f"{name} needs '{key}', which has another meaning in a sweep file")
    return settable


# An entry of an axis, and what is known of the file → the values that it stands for.
Entry = Callable[[Any, ValidationInfo], list[Any]]


def _flat(values: tuple[list[Any], ...]) -> tuple[Any, ...]:
    return tuple(part for value in values for part in value)


def _unfolding_axis(entry: Entry) -> Any:
    """A grid axis each entry of which may stand for several values."""
    return Annotated[
        tuple[Annotated[Any, AfterValidator(entry)], ...],
        Field(strict=False, min_length=1),
        BeforeValidator(as_list),
        AfterValidator(_flat),
        AfterValidator(distinct),
    ]


def _or_name(entry: Entry) -> Entry:
    """A bare name stands for itself, whatever arguments go with it."""
    return lambda value, info: [value] if isinstance(value, str) else entry(value, info)


_UNFOLDING: dict[str, Entry] = {"schedule": _schedules, "model": _models}


# ---------------------------------------------------------------- blocks


def _block_grid(kinds: Mapping[str, Any], of: Iterable[type[BaseModel]], unfolding: Mapping[str, Entry]) -> type[Grid]:
    shared = {name: axis.kind for name, axis in PARAMETERS.items() if name not in unfolding}
    fields: dict[str, Any] = {name: (_unfolding_axis(entry), None) for name, entry in unfolding.items()}
    return create_model("Block", __base__=_grid({**shared, **kinds}, of), **fields)


@cache
def block_model(of: frozenset[type[Hyperparameters]]) -> type[Grid]:
    """A block that may set every parameter that all these optimizers have, each to a list of values."""
    ordered = sorted(of, key=lambda model: model.algorithm)
    each = [_fields(model) for model in ordered]
    common = {name: kind for name, kind in each[0].items() if all(name in other for other in each)}
    return _block_grid(common, ordered, _UNFOLDING)


class Pretrain(Grid):
    """The block `pretrain`, in which every key has one value."""

    @classmethod
    def in_words(cls, detail: ErrorDetails) -> str:
        key, value = str(detail["loc"][-1]), detail["input"]
        if detail["type"] == "extra_forbidden" and key in AXES:
            return f"'{key}' cannot be set here: it is that of the trials that begin with the network"
        if isinstance(value, dict) and {"min", "max"} & set(value):
            return "takes one value: nothing is searched here"
        return super().in_words(detail)


@cache
def pretrain_model(of: type[Hyperparameters]) -> type[Pretrain]:
    """What `pretrain` may set for this optimizer: its hyperparameters, and the axes that are not the trials' own."""
    fields: dict[str, Any] = {name: (info.annotation, info) for name, info in of.model_fields.items()}
    for name, axis in AXES.items():
        if not (axis.is_pretrained or axis.is_of_sweep) and name not in ("optimizer", "hyperparameters", "transfer"):
            entry = _UNFOLDING.get(name)
            kind = Annotated[Any, AfterValidator(partial(_only, entry=entry))] if entry else axis.kind
            fields[name] = kind, axis.default if axis.has_default else ...
    made = create_model("Pretrain", __base__=Pretrain, **fields)
    made.of = (of,)
    return made


def _only(value: Any, info: ValidationInfo, entry: Entry) -> Any:
    """The one value that an entry of an axis stands for."""
    values = [value] if isinstance(value, list) else entry(value, info)
    if isinstance(value, list) or len(values) > 1 or ranges(values[0]):
        raise wrong("takes one value: nothing is searched here")
    return values[0]


@cache
def exclusion_model(of: frozenset[type[Hyperparameters]]) -> type[Grid]:
    """An entry of `exclude`, which may name every parameter that any of these optimizers has."""
    kinds = {name: kind for model in of for name, kind in _fields(model).items()}
    named = {name: AXES[name].kind for name in ("dataset", "optimizer")}
    return _block_grid(kinds | named, of, {name: _or_name(entry) for name, entry in _UNFOLDING.items()})
