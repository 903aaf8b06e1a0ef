"""Sweep file → `Sweep`. Every problem of a file is reported at once, each with its line and column.

pydantic checks types and bounds; its errors are put into the user's words and given their place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Union, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    create_model,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from optbench import optimizers, schedules
from optbench.datasets import DATASETS
from optbench.document import Document, Dumper, Key, Place, Problem
from optbench.errors import UserError, did_you_mean
from optbench.optimizers import OPTIMIZERS, Hyperparameters
from optbench.optimizers.lookup import find
from optbench.schedules import SCHEDULES, Schedule
from optbench.search import Method, Range, SearchedSchedule, ranges
from optbench.search import schedule as make_schedule

MAX_SEEDS = 10_000
MAX_SAMPLES = 10_000


# ---------------------------------------------------------------- the grid


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise PydanticCustomError("duplicate", "the value {value} stands twice", {"value": show(value)})
    return values


def _pair(value: Any) -> Any:
    return value if isinstance(value, list) else [value, value]


Rate = Annotated[float, Field(ge=0, lt=1)]
Dropout = Annotated[tuple[Rate, Rate], Field(strict=False), BeforeValidator(_pair)]
_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)


def _axis(kind: Any) -> Any:
    """A grid axis: a list of values, a scalar standing for a list of one."""
    sequence = Annotated[tuple[kind, ...], Field(strict=False, min_length=1)]
    return Annotated[sequence, BeforeValidator(_as_list), AfterValidator(_distinct)]


class _Grid(BaseModel):
    """A block whose keys are axes; `of` holds the classes that the block is for."""

    model_config = _STRICT
    of: ClassVar[tuple[type[BaseModel], ...]] = ()


def _grid(kinds: Mapping[str, Any], of: Iterable[type[BaseModel]]) -> type[_Grid]:
    fields: dict[str, Any] = {name: (_axis(kind), None) for name, kind in kinds.items()}
    made = create_model("Grid", __base__=_Grid, **fields)
    made.of = tuple(of)
    return made


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """The fields of a class and the type of one value, a range allowed in the place of every number."""
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
    return Annotated[kind, WrapValidator(_number_or_range)] if _is_number(kind) else kind


def _is_number(kind: Any) -> bool:
    if kind in (int, float, Any):
        return True
    return get_origin(kind) in (Annotated, Union, UnionType) and any(map(_is_number, get_args(kind)))


def _number_or_range(value: Any, validate: Callable[[Any], Any]) -> Any:
    """The value as it is, or the range that a mapping with `min` and `max` stands for."""
    if not isinstance(value, dict) or not {"min", "max", "log"} & set(value):
        return validate(value)
    for key in value:
        if key not in ("min", "max", "log"):
            _refuse_range(f"unknown key '{key}'; a range has min, max and log", key)
    for key in ("min", "max"):
        if key not in value:
            _refuse_range(f"a range needs '{key}'")
        if isinstance(value[key], bool) or not isinstance(value[key], int | float):
            _refuse_range(f"must be a number, not {show(value[key])}", key)
    log = value.get("log", False)
    if not isinstance(log, bool):
        _refuse_range(f"must be true or false, not {show(log)}", "log")
    bounds = {}
    for key in ("min", "max"):
        try:
            bounds[key] = validate(value[key])
        except ValidationError as error:
            detail = error.errors()[0]
            raise PydanticCustomError("in_words", "{why}", {"why": _in_words(detail), "at": key}) from None
    if bounds["min"] >= bounds["max"]:
        empty = bounds["min"] == bounds["max"]
        _refuse_range(f"the range from {value['min']} to {value['max']} is {'empty' if empty else 'reversed'}", "min")
    if log and bounds["min"] <= 0:
        _refuse_range("a logarithmic range must begin above 0", "min")
    return Range(bounds["min"], bounds["max"], log, all(isinstance(bound, int) for bound in bounds.values()))


def _refuse_range(why: str, key: str | None = None) -> NoReturn:
    raise PydanticCustomError("in_words", "{why}", {"why": why, "at": key})


# ---------------------------------------------------------------- schedules


@cache
def _schedule_grid(name: str) -> type[_Grid]:
    kinds = _fields(SCHEDULES[name])
    return _grid(kinds | {"name": str}, [SCHEDULES[name]])


def _schedules(value: Any) -> list[Schedule | SearchedSchedule]:
    """An entry of the axis `schedule`: a name, or a mapping whose lists are axes of their own."""
    name = value.get("name") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise PydanticCustomError("schedule", "must be a schedule's name or a mapping with 'name'")
    if name in schedules.IMPOSSIBLE:
        why = schedules.IMPOSSIBLE[name]
        raise PydanticCustomError("schedule", "{name} cannot stand in a sweep file: {why}", {"name": name, "why": why})
    known = schedules.ALIASES.get(name, name)
    if known not in SCHEDULES:
        hint = did_you_mean(name, [*SCHEDULES, *schedules.ALIASES])
        raise PydanticCustomError("schedule", "unknown schedule '{name}'; {hint}", {"name": name, "hint": hint})
    given = dict(value) if isinstance(value, dict) else {}
    # Milestones are a list themselves: one list of them is one value.
    if isinstance(given.get("milestones"), list) and not any(isinstance(m, list) for m in given["milestones"]):
        given["milestones"] = [given["milestones"]]
    grid, problems = _schedule_grid(known), []
    for parameter, info in SCHEDULES[known].model_fields.items():
        if info.is_required() and parameter not in given:
            problems.append(_line(f"missing key '{parameter}'", (parameter,), given))
    try:
        axes = grid.model_validate(given | {"name": known})
    except ValidationError as error:
        for detail in _worth_saying(error):
            loc, is_key = _location(detail)
            problems.append(_line(_message(detail, grid), loc, detail["input"], is_key))
    if problems:
        raise ValidationError.from_exception_data(known, problems)
    names = [parameter for parameter in given if parameter != "name"]
    return [
        make_schedule(known, dict(zip(names, values, strict=True)))
        for values in product(*(getattr(axes, parameter) for parameter in names))
    ]


def _line(why: str, loc: tuple[str | int, ...], value: Any, is_key: bool = False) -> InitErrorDetails:
    """An error of pydantic's that is already in the user's words."""
    error = PydanticCustomError("in_words", "{why}", {"why": why, "is_key": is_key})
    return InitErrorDetails(type=error, loc=loc, input=value)


def _flat(values: tuple[list[Any], ...]) -> tuple[Any, ...]:
    return tuple(part for value in values for part in value)


Schedules = Annotated[
    tuple[Annotated[Any, AfterValidator(_schedules)], ...],
    Field(strict=False, min_length=1),
    BeforeValidator(_as_list),
    AfterValidator(_flat),
    AfterValidator(_distinct),
]
SchedulesOrNames = Annotated[
    tuple[Annotated[Any, AfterValidator(lambda v: [v] if isinstance(v, str) else _schedules(v))], ...],
    Field(strict=False, min_length=1),
    BeforeValidator(_as_list),
    AfterValidator(_flat),
    AfterValidator(_distinct),
]


# ---------------------------------------------------------------- blocks

# What every trial has besides its optimizer's hyperparameters: these are compared, never searched.
PARAMETERS: dict[str, Any] = {
    "batch_size": Annotated[int, Field(ge=1)],
    "dropout": Dropout,
    "schedule": Schedule,
    "model": Literal["cnn", "mlp", "rnn", "softmax"],
    "activation": Literal["relu", "leaky_relu", "tanh", "sigmoid"],
    "loss": Literal["cross_entropy", "mse", "bce"],
}
DEFAULTS: dict[str, tuple[Any, ...]] = {
    "batch_size": (64,),
    "dropout": ((0.1, 0.25),),
    "schedule": (SCHEDULES["constant"](name="constant"),),
    "model": ("cnn",),
    "activation": ("relu",),
    "loss": ("cross_entropy",),
}


def _block_grid(kinds: Mapping[str, Any], of: Iterable[type[BaseModel]], schedule: Any) -> type[_Grid]:
    shared = {name: kind for name, kind in PARAMETERS.items() if name != "schedule"}
    base = _grid({**shared, **kinds}, of)
    return create_model("Block", __base__=base, schedule=(schedule, None))


@cache
def _block_model(of: frozenset[type[Hyperparameters]]) -> type[_Grid]:
    """A block that may set every parameter that all these optimizers have, each to a list of values."""
    each = [_fields(model) for model in of]
    common = {name: kind for name, kind in each[0].items() if all(name in other for other in each)}
    return _block_grid(common, of, Schedules)


@cache
def _exclusion_model(of: frozenset[type[Hyperparameters]]) -> type[_Grid]:
    """An entry of `exclude`, which may name every parameter that any of these optimizers has."""
    kinds = {name: kind for model in of for name, kind in _fields(model).items()}
    return _block_grid(kinds | {"optimizer": str}, of, SchedulesOrNames)


# ---------------------------------------------------------------- the sweep


def _seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_SEEDS:
            raise PydanticCustomError("seeds", f"the number of seeds must be from 1 to {MAX_SEEDS}")
        return list(range(value))
    if not isinstance(value, list):
        raise PydanticCustomError("seeds", "takes a number of seeds or a list of them, not {got}", {"got": show(value)})
    return value


def _dataset(value: Any) -> Any:
    if isinstance(value, str) and value not in DATASETS:
        hint = did_you_mean(value, DATASETS)
        raise PydanticCustomError("dataset", "unknown dataset '{name}'; {hint}", {"name": value, "hint": hint})
    return value


def _metric(value: Any) -> Any:
    if str(value).startswith("test_"):
        raise PydanticCustomError(
            "metric", "selecting on the test set would bias it; select on val_accuracy or val_loss"
        )
    return value


def _confirm_seeds(value: Any) -> Any:
    """A number of seeds begins behind all that the number `seeds` can stand for, so that the two never meet."""
    seeds = _seeds(value)
    return [MAX_SEEDS + seed for seed in seeds] if isinstance(value, int) else seeds


Seed = Annotated[int, Field(ge=0, lt=2**63)]
_SeedList = Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)]


class Halving(BaseModel):
    """Successive halving (Jamieson and Talwalkar, 2016): after `min_epochs` epochs, and whenever they have grown by
    `factor`, the best 1 / `factor` of the configurations that are left train on."""

    model_config = _STRICT

    factor: Annotated[int, Field(ge=2)] = 3
    min_epochs: Annotated[int, Field(ge=1)] = 1

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """The epochs after which trials are stopped."""
        rungs, rung = [], self.min_epochs
        while rung < epochs:
            rungs.append(rung)
            rung *= self.factor
        return tuple(rungs)

    def share(self, configurations: int, epochs: int) -> float:
        """The share of all epochs that is trained when so many configurations compete."""
        trained, left, before = 0, configurations, 0
        for rung in (*self.rungs(epochs), epochs):
            trained += left * (rung - before)
            left, before = max(1, left // self.factor), rung
        return trained / (configurations * epochs)


class Search(BaseModel):
    """How ranges are searched: `num_samples` configurations of each optimizer for each combination that is compared."""

    model_config = _STRICT

    method: Method = "sobol"
    num_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    seed: Seed = 0
    halving: Halving | None = None


class Confirm(BaseModel):
    """Each optimizer's selected configuration is trained again with these seeds, which selected nothing."""

    model_config = _STRICT

    seeds: Annotated[_SeedList, BeforeValidator(_confirm_seeds), AfterValidator(_distinct)]


class _File(BaseModel):
    """The outline of a sweep file; what stands inside `parameters`, `optimizers` and `exclude` is checked after it."""

    model_config = _STRICT

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    dataset: Annotated[str, BeforeValidator(_dataset)]
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    seeds: Annotated[_SeedList, BeforeValidator(_seeds), AfterValidator(_distinct)] = (0,)
    metric: Annotated[Literal["val_accuracy", "val_loss"], BeforeValidator(_metric)] = "val_accuracy"
    parameters: dict[str, Any] | None = None
    optimizers: Annotated[dict[str, dict[str, Any] | None], Field(min_length=1)]
    search: Search | None = None
    confirm: Confirm | None = None
    exclude: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class OptimizerGrid:
    """One label of the sweep: its hyperparameters' class, and the values of each parameter it sets or inherits.

    A value is as a trial has it, or holds ranges. `num_samples` is this label's own number of configurations, if any.
    """

    hyperparameters: type[Hyperparameters]
    axes: Mapping[str, tuple[Any, ...]]
    num_samples: int | None = None

    @property
    def algorithm(self) -> str:
        return self.hyperparameters.algorithm

    @property
    def is_searched(self) -> bool:
        """Whether any value holds a range."""
        return any(ranges(value) for values in self.axes.values() for value in values)


@dataclass(frozen=True)
class Sweep:
    """What a sweep file describes: every axis as a tuple of values, inherited and default ones filled in."""

    name: str
    dataset: str
    epochs: int
    seeds: tuple[int, ...]
    metric: str
    optimizers: Mapping[str, OptimizerGrid]
    search: Search | None = None
    confirm: tuple[int, ...] = ()
    exclude: tuple[Mapping[str, tuple[Any, ...]], ...] = ()
    places: Mapping[Key, Place] = field(default_factory=dict, compare=False, repr=False)

    @property
    def searched(self) -> tuple[str, ...]:
        """The axes in which any optimizer has a range."""
        axes = [axis for grid in self.optimizers.values() for axis in grid.axes.items()]
        return tuple(dict.fromkeys(name for name, values in axes if any(map(ranges, values))))


def load(path: Path, settings: Iterable[str] = ()) -> Sweep:
    """Read a sweep file and apply `--set` settings. Raises `UserError` with all problems."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such sweep file; 'optbench init' writes one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}") from None
    return parse(text, source=str(path), default_name=path.stem, settings=settings, folder=path.parent)


def parse(
    text: str,
    source: str = "sweep",
    default_name: str = "sweep",
    settings: Iterable[str] = (),
    folder: Path = Path(),
) -> Sweep:
    """Sweep text → `Sweep`. Raises `UserError` with all problems, one a line, each with its place.

    `folder` is where optimizers that stand in a file are looked for.
    """
    document = Document()
    document.data = document.read(text, source)
    if document.data is None:  # a syntax error, or nothing there
        _stop_at(document.problems)
    if not isinstance(document.data, dict):
        raise UserError(f"{source}:1:1: a sweep file is a mapping such as 'dataset: mnist'; 'optbench init' writes one")
    for setting in settings:
        document.override(setting)
    document.data.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", default_name).strip("-._") or "sweep")

    outline = _check(document, _File, document.data, ())
    blocks = document.data.get("optimizers")
    blocks = blocks if isinstance(blocks, dict) else {}
    found = {label: _algorithm(document, label, block, folder) for label, block in blocks.items()}
    known = {label: model for label, model in found.items() if model}
    shared = {}
    if known:
        model = _block_model(frozenset(known.values()))
        shared = _block(document, model, document.data.get("parameters"), ("parameters",))
    grids = {}
    for label, hyperparameters in known.items():
        block, num_samples = blocks[label], None
        if isinstance(block, dict):
            num_samples = _num_samples(document, label, block)
            block = {key: value for key, value in block.items() if key not in ("optimizer", "num_samples")}
        own = _block(document, _block_model(frozenset({hyperparameters})), block, ("optimizers", label))
        grids[label] = OptimizerGrid(hyperparameters, DEFAULTS | shared | own, num_samples)
    _check_batch_sizes(document, grids)
    exclude = _exclude(document, grids)
    if outline is not None:
        _check_search(document, outline, grids)
    _stop_at(document.problems)
    assert outline is not None
    return Sweep(
        name=outline.name,
        dataset=outline.dataset,
        epochs=outline.epochs,
        seeds=outline.seeds,
        metric=outline.metric,
        optimizers=grids,
        search=outline.search,
        confirm=outline.confirm.seeds if outline.confirm else (),
        exclude=exclude,
        places=document.values,
    )


def _stop_at(problems: Sequence[Problem]) -> None:
    if problems:
        ordered = sorted(problems, key=lambda p: (p.place.source.startswith("--set"), p.place.line, p.place.column))
        raise UserError("\n".join(dict.fromkeys(map(str, ordered))))


def _check(document: Document, model: type[BaseModel], data: Any, prefix: Key) -> Any:
    """Validate `data`, which stands at `prefix`; None and more problems when it does not hold."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        known = {str(p.place) for p in document.problems}
        for detail in _worth_saying(error):
            loc, is_key = _location(detail)
            place = document.place((*prefix, *loc), key=is_key)
            if str(place) not in known:
                document.problems.append(Problem(place, _message(detail, model)))
        return None


def _worth_saying(error: ValidationError) -> list[ErrorDetails]:
    """Its details, less lists that are too short only because their items have problems of their own."""
    return [detail for detail in error.errors() if not (detail["type"] == "too_short" and detail["input"])]


def _location(detail: ErrorDetails) -> tuple[tuple[str | int, ...], bool]:
    """Where in the data an error stands, and whether it is about the key there and not its value."""
    context = detail.get("ctx", {})
    at = (context["at"],) if context.get("at") else ()
    return (*detail["loc"], *at), detail["type"] == "extra_forbidden" or bool(context.get("is_key"))


def _message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    """A pydantic error in the words of a sweep file."""
    word = str(detail["loc"][-1]) if detail["loc"] else ""
    if detail["type"] != "extra_forbidden":
        return _in_words(detail)
    if not issubclass(model, _Grid):
        if model is _File and word in {*PARAMETERS, "lr"}:
            return f"'{word}' belongs under 'parameters'"
        inner: dict[str, type[BaseModel]] = {"search": Search, "halving": Halving, "confirm": Confirm}
        nearest = [inner[str(part)] for part in detail["loc"][:-1] if part in inner]
        return f"unknown key '{word}'; {did_you_mean(word, sorted((nearest or [model])[-1].model_fields))}"
    if word in optimizers.IMPOSSIBLE_ARGUMENTS:
        return f"'{word}' cannot be set: {optimizers.IMPOSSIBLE_ARGUMENTS[word]}"
    lacking = [of.algorithm for of in model.of if issubclass(of, Hyperparameters) and word not in of.model_fields]
    if any(word in other.model_fields for other in [*OPTIMIZERS.values(), *model.of]) and lacking:
        return f"'{word}' is no hyperparameter of {', '.join(sorted(lacking))}"
    return f"unknown key '{word}'; {did_you_mean(word, sorted(model.model_fields))}"


def _in_words(detail: ErrorDetails) -> str:
    """A pydantic error about a value."""
    kind, value = detail["type"], detail["input"]
    if kind == "in_words":
        return str(detail["msg"])
    if kind == "missing" and isinstance(detail["loc"][-1], int):
        return f"takes pairs: two numbers, not {show(value)}"
    if kind == "missing":
        return f"missing key '{detail['loc'][-1]}'"
    if isinstance(value, dict) and {"min", "max"} & set(value) and detail["loc"][-1:] != ("seeds",):
        return "this is compared, not searched: list the values"
    if kind == "tuple_type":
        return f"takes pairs, and a list is a grid axis: write one pair as [[a, b]], not {show(value)}"
    types = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "text",
        "dict": "a mapping",
        "model": "a mapping",
    }
    for name, wanted in types.items():
        if kind in (f"{name}_type", f"{name}_parsing", f"{name}_from_float"):
            return f"must be {wanted}, not {show(value)}"
    if kind == "too_short":
        return "needs at least one value"
    if kind == "too_long":
        return f"takes pairs: two numbers, not {show(value)}"
    if kind == "list_type":
        return f"must be a list, not {show(value)}"
    if kind == "string_pattern_mismatch":
        return f"must be letters, digits, '.', '_' and '-' and begin with a letter or digit, not {show(value)}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return message if message == detail["msg"] else f"{message}, not {show(value)}"


def show(value: Any) -> str:
    """A value as the user would write it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text '{value[:40]}'"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(show, value))}]"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _algorithm(document: Document, label: str, block: Any, folder: Path) -> type[Hyperparameters] | None:
    """The optimizer that a label stands for; None and a problem when there is none."""
    given = isinstance(block, dict) and "optimizer" in block
    name = block["optimizer"] if given else label
    place = (
        document.place(("optimizers", label, "optimizer")) if given else document.place(("optimizers", label), key=True)
    )
    problem = None
    if not label.strip() or not label.isprintable():
        problem = "a label must be printable and not empty"
    elif not isinstance(name, str):
        problem = f"must be an optimizer's name, not {show(name)}"
    else:
        try:
            return find(name, folder)
        except UserError as error:
            problem = str(error) + ("" if given else " (a label of your own needs 'optimizer: NAME' inside)")
    document.problems.append(Problem(place, problem))
    return None


def _num_samples(document: Document, label: str, block: dict[str, Any]) -> int | None:
    """A label's own number of configurations."""
    given = block.get("num_samples")
    if given is None or (type(given) is int and 1 <= given <= MAX_SAMPLES):
        return given
    place = document.place(("optimizers", label, "num_samples"))
    document.problems.append(Problem(place, f"must be a whole number from 1 to {MAX_SAMPLES}, not {show(given)}"))
    return None


def _check_search(document: Document, outline: _File, grids: Mapping[str, OptimizerGrid]) -> None:
    """What holds between the ranges, `search` and `confirm`."""

    def problem(path: Key, message: str, key: bool = False) -> None:
        document.problems.append(Problem(document.place(path, key=key), message))

    search = outline.search
    searched = [label for label, grid in grids.items() if grid.is_searched]
    for label in searched:
        if not (grids[label].num_samples or (search and search.num_samples)):
            problem(
                ("optimizers", label),
                f"{label} has a range: say how many values to try, 'search: {{num_samples: 8}}'",
                True,
            )
    if search and not searched and (search.num_samples or not search.halving):
        problem(("search",), "there is no range {min, max} to search", True)
    for label, grid in grids.items():
        if grid.num_samples and not grid.is_searched:
            problem(("optimizers", label, "num_samples"), f"{label} has no range {{min, max}} to search", True)
    if search and search.halving and not search.halving.rungs(outline.epochs):
        problem(("search", "halving", "min_epochs"), f"halving cannot act: the sweep has {outline.epochs} epochs")
    if outline.confirm and set(outline.confirm.seeds) & set(outline.seeds):
        both = min(set(outline.confirm.seeds) & set(outline.seeds))
        problem(("confirm", "seeds"), f"seed {both} is a tuning seed, too; confirming needs fresh ones")


def _block(document: Document, model: type[BaseModel], block: Any, path: Key) -> dict[str, tuple[Any, ...]]:
    """The axes that a block sets."""
    checked = _check(document, model, block, path) if isinstance(block, dict) else None
    return {} if checked is None else {name: getattr(checked, name) for name in block}


def _check_batch_sizes(document: Document, grids: Mapping[str, OptimizerGrid]) -> None:
    dataset = DATASETS.get(str(document.data.get("dataset")))
    for label, grid in grids.items():
        for i, size in enumerate(grid.axes["batch_size"]):
            if dataset and size > dataset.train:
                own: Key = ("optimizers", label, "batch_size", i)
                loc = own if own[:3] in document.values else ("parameters", "batch_size", i)
                message = f"batch_size {size} is larger than the training set of {dataset.train} images"
                document.problems.append(Problem(document.place(loc), message))


def _exclude(document: Document, grids: Mapping[str, OptimizerGrid]) -> tuple[dict[str, tuple[Any, ...]], ...]:
    """The exclusions with their values read like those of the axes; one that cannot match anything is a problem."""
    entries = document.data.get("exclude")
    if not isinstance(entries, list) or not grids:
        return ()
    model = _exclusion_model(frozenset(grid.hyperparameters for grid in grids.values()))
    axes: dict[str, list[Any]] = {"optimizer": list(grids)}
    for grid in grids.values():
        for name, values in grid.axes.items():
            axes.setdefault(name, []).extend(values)
    exclusions = []
    for i, entry in enumerate(entries):
        exclusion = _block(document, model, entry, ("exclude", i))
        if entry == {}:
            document.problems.append(Problem(document.place(("exclude", i)), "this would exclude every trial"))
        if not document.problems:  # else what is excluded may only be missing because it is misspelt elsewhere
            for name, values in exclusion.items():
                for j, value in enumerate(values):
                    if not any(matches(actual, value) for actual in axes.get(name, ())):
                        message = f"excludes nothing: no {name} of this sweep is {show(value)}"
                        document.problems.append(Problem(document.place(("exclude", i, name, j)), message))
        exclusions.append(exclusion)
    return tuple(exclusions)


def matches(actual: Any, wanted: Any) -> bool:
    """Whether a trial's value is the one an exclusion names; a schedule matches by name or whole."""
    if isinstance(actual, Schedule | SearchedSchedule) and isinstance(wanted, str):
        return actual.name == wanted
    return bool(actual == wanted)


# ---------------------------------------------------------------- Sweep → YAML


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Schedule):
        parameters = value.model_dump(exclude_defaults=True, exclude={"name"})
        return {"name": value.name} | parameters if parameters else value.name
    if isinstance(value, SearchedSchedule):
        # A list here would be a grid axis, and this one's axes are unfolded already.
        return {"name": value.name} | {k: [_plain(k, v)] for k, v in value.parameters}
    if isinstance(value, Range):
        return {"min": value.min, "max": value.max} | ({"log": True} if value.log else {})
    if isinstance(value, tuple):
        return value[0] if name == "dropout" and value[0] == value[1] else [_plain("", part) for part in value]
    return value


def to_yaml(sweep: Sweep) -> str:
    """The sweep as a file that parses to an equal sweep, with everything inherited written out."""
    blocks = {
        label: {"optimizer": grid.algorithm}
        | ({"num_samples": grid.num_samples} if grid.num_samples else {})
        | {k: [_plain(k, v) for v in values] for k, values in grid.axes.items()}
        for label, grid in sweep.optimizers.items()
    }
    data = {
        "version": 1,
        "name": sweep.name,
        "dataset": sweep.dataset,
        "epochs": sweep.epochs,
        "seeds": list(sweep.seeds),
        "metric": sweep.metric,
        "optimizers": blocks,
        "search": sweep.search.model_dump() if sweep.search else None,
        "confirm": {"seeds": list(sweep.confirm)} if sweep.confirm else None,
        "exclude": [{k: [_plain(k, v) for v in values] for k, values in entry.items()} for entry in sweep.exclude],
    }
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
