"""Sweep file → `Sweep`. Every problem of a file is reported at once, each with its line and column.

pydantic checks types and bounds; its errors are put into the user's words and given their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticCustomError

from optbench import optimizers
from optbench.datasets import DATASETS
from optbench.document import Document, Dumper, Key, Place, Problem
from optbench.errors import UserError, did_you_mean
from optbench.optimizers import OPTIMIZERS
from optbench.schedules import SCHEDULES, AnySchedule, Schedule

MAX_SEEDS = 10_000


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


def _schedule(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise PydanticCustomError("schedule", "must be a schedule's name or a mapping with 'name'")
    if name not in SCHEDULES:
        hint = did_you_mean(name, SCHEDULES)
        raise PydanticCustomError("schedule", "unknown schedule '{name}'; {hint}", {"name": name, "hint": hint})
    return value if isinstance(value, dict) else {"name": name}


Rate = Annotated[float, Field(ge=0, lt=1)]
Dropout = Annotated[tuple[Rate, Rate], Field(strict=False), BeforeValidator(_pair)]
ScheduleValue = Annotated[AnySchedule, Field(discriminator="name"), BeforeValidator(_schedule)]
ScheduleOrName = Annotated[str | ScheduleValue, BeforeValidator(lambda v: v if isinstance(v, str) else _schedule(v))]
_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)


def _axis(kind: Any) -> Any:
    """A grid axis: a list of values, a scalar standing for a list of one."""
    sequence = Annotated[tuple[kind, ...], Field(strict=False, min_length=1)]
    return Annotated[sequence, BeforeValidator(_as_list), AfterValidator(_distinct)]


PARAMETERS: dict[str, Any] = {
    "batch_size": Annotated[int, Field(ge=1)],
    "dropout": Dropout,
    "schedule": ScheduleValue,
}
DEFAULTS: dict[str, tuple[Any, ...]] = {
    "batch_size": (64,),
    "dropout": ((0.1, 0.25),),
    "schedule": (SCHEDULES["constant"](name="constant"),),
}


def _kinds(algorithm: str) -> dict[str, Any]:
    """Every parameter of a trial with this optimizer and the type of one value."""
    fields = OPTIMIZERS[algorithm].model_fields
    return PARAMETERS | {
        n: Annotated[f.annotation, *f.metadata] if f.metadata else f.annotation for n, f in fields.items()
    }


def _model(kinds: Mapping[str, Any], algorithms: frozenset[str]) -> type[BaseModel]:
    fields: dict[str, Any] = {name: (_axis(kind), None) for name, kind in kinds.items()}
    return create_model(" ".join(sorted(algorithms)), __config__=_STRICT, **fields)


def _lacking(model: type[BaseModel], hyperparameter: str) -> list[str]:
    """Which of the optimizers that a block is for do not have this hyperparameter."""
    return [name for name in model.__name__.split() if hyperparameter not in OPTIMIZERS[name].model_fields]


@cache
def _block_model(algorithms: frozenset[str]) -> type[BaseModel]:
    """A block that may set every parameter that all these optimizers have, each to a list of values."""
    each = [_kinds(name) for name in sorted(algorithms)]
    return _model({name: kind for name, kind in each[0].items() if all(name in other for other in each)}, algorithms)


@cache
def _exclusion_model(algorithms: frozenset[str]) -> type[BaseModel]:
    """An entry of `exclude`, which may name every parameter that any of these optimizers has."""
    kinds = {name: kind for algorithm in sorted(algorithms) for name, kind in _kinds(algorithm).items()}
    return _model(kinds | {"optimizer": str, "schedule": ScheduleOrName}, algorithms)


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


Seed = Annotated[int, Field(ge=0, lt=2**63)]


class _File(BaseModel):
    """The outline of a sweep file; what stands inside `parameters`, `optimizers` and `exclude` is checked after it."""

    model_config = _STRICT

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    dataset: Annotated[str, BeforeValidator(_dataset)]
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    seeds: Annotated[
        tuple[Seed, ...], Field(strict=False, min_length=1), BeforeValidator(_seeds), AfterValidator(_distinct)
    ] = (0,)
    metric: Annotated[Literal["val_accuracy", "val_loss"], BeforeValidator(_metric)] = "val_accuracy"
    parameters: dict[str, Any] | None = None
    optimizers: Annotated[dict[str, dict[str, Any] | None], Field(min_length=1)]
    exclude: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class OptimizerGrid:
    """One label of the sweep: its algorithm, and the values of each parameter it sets or inherits."""

    algorithm: str
    axes: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Sweep:
    """What a sweep file describes: every axis as a tuple of values, inherited and default ones filled in."""

    name: str
    dataset: str
    epochs: int
    seeds: tuple[int, ...]
    metric: str
    optimizers: Mapping[str, OptimizerGrid]
    exclude: tuple[Mapping[str, tuple[Any, ...]], ...] = ()
    places: Mapping[Key, Place] = field(default_factory=dict, compare=False, repr=False)


def load(path: Path, settings: Iterable[str] = ()) -> Sweep:
    """Read a sweep file and apply `--set` settings. Raises `UserError` with all problems."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such sweep file; 'optbench init' writes one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}") from None
    return parse(text, source=str(path), default_name=path.stem, settings=settings)


def parse(text: str, source: str = "sweep", default_name: str = "sweep", settings: Iterable[str] = ()) -> Sweep:
    """Sweep text → `Sweep`. Raises `UserError` with all problems, one a line, each with its place."""
    document = Document()
    document.data = document.read(text, source)
    if document.data is None:  # a syntax error, or nothing there
        _stop_at(document.problems)
    if not isinstance(document.data, dict):
        raise UserError(f"{source}:1:1: a sweep file is a mapping such as 'dataset: mnist'; 'optbench init' writes one")
    for setting in settings:
        document.override(setting)
    document.data.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", default_name).strip("-._") or "sweep")

    for later, what in (("search", "searching a range"), ("confirm", "confirming on fresh seeds")):
        if later in document.data:
            del document.data[later]
            document.problems.append(
                Problem(document.place((later,), key=True), f"'{later}': {what} is not supported yet")
            )

    outline = _check(document, _File, document.data, ())
    blocks = document.data.get("optimizers")
    blocks = blocks if isinstance(blocks, dict) else {}
    algorithms = {label: _algorithm(document, label, block) for label, block in blocks.items()}
    known = {label: name for label, name in algorithms.items() if name}
    shared = {}
    if known:
        model = _block_model(frozenset(known.values()))
        shared = _block(document, model, document.data.get("parameters"), ("parameters",))
    grids = {}
    for label, name in known.items():
        block = blocks[label]
        if isinstance(block, dict):
            block = {key: value for key, value in block.items() if key != "optimizer"}
        own = _block(document, _block_model(frozenset({name})), block, ("optimizers", label))
        grids[label] = OptimizerGrid(name, DEFAULTS | shared | own)
    _check_batch_sizes(document, grids)
    exclude = _exclude(document, grids)
    _stop_at(document.problems)
    assert outline is not None
    return Sweep(
        name=outline.name,
        dataset=outline.dataset,
        epochs=outline.epochs,
        seeds=outline.seeds,
        metric=outline.metric,
        optimizers=grids,
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
        for detail in error.errors():
            if detail["type"] == "too_short" and detail["input"]:
                continue  # only because the items have problems of their own
            loc = (*prefix, *detail["loc"])
            place = document.place(loc, key=detail["type"] == "extra_forbidden")
            if str(place) not in known:
                document.problems.append(Problem(place, _message(detail, model)))
        return None


def _message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    """A pydantic error in the words of a sweep file."""
    kind, value, word = detail["type"], detail["input"], str(detail["loc"][-1]) if detail["loc"] else ""
    if kind == "extra_forbidden":
        if word in optimizers.NOT_YET_ARGUMENTS:
            return f"'{word}' is not supported yet"
        fields = set(model.model_fields)
        schedule = next((SCHEDULES[str(part)] for part in detail["loc"] if part in SCHEDULES), None)
        if schedule is not None:
            fields = set(schedule.model_fields)
        elif model is _File and word in {*PARAMETERS, "lr"}:
            return f"'{word}' belongs under 'parameters'"
        elif model is not _File and any(word in other.model_fields for other in OPTIMIZERS.values()):
            return f"'{word}' is no hyperparameter of {', '.join(_lacking(model, word))}"
        return f"unknown key '{word}'; {did_you_mean(word, sorted(fields))}"
    if kind == "missing" and isinstance(detail["loc"][-1], int):
        return f"takes pairs: two numbers, not {show(value)}"
    if kind == "missing":
        return f"missing key '{word}'"
    if isinstance(value, dict) and {"min", "max"} & set(value) and model is not _File:
        return "searching a range {min, max} is not supported yet; list the values"
    if kind == "tuple_type":
        return f"takes pairs, and a list is a grid axis: write one pair as [[a, b]], not {show(value)}"
    types = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "text",
        "dict": "a mapping",
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


def _algorithm(document: Document, label: str, block: Any) -> str | None:
    """The optimizer that a label stands for; None and a problem when there is none."""
    given = isinstance(block, dict) and "optimizer" in block
    name = block["optimizer"] if given else label
    place = (
        document.place(("optimizers", label, "optimizer")) if given else document.place(("optimizers", label), key=True)
    )
    if not label.strip() or not label.isprintable():
        document.problems.append(Problem(place, "a label must be printable and not empty"))
    elif isinstance(name, str) and name in OPTIMIZERS:
        return name
    elif not isinstance(name, str):
        document.problems.append(Problem(place, f"must be an optimizer's name, not {show(name)}"))
    elif name.lower() in optimizers.NOT_YET or ":" in name or "." in name:
        document.problems.append(Problem(place, f"optimizer '{name}' is not supported yet"))
    else:
        hint = did_you_mean(name, OPTIMIZERS)
        own = "" if given else " (a label of your own needs 'optimizer: NAME' inside)"
        document.problems.append(Problem(place, f"unknown optimizer '{name}'; {hint}{own}"))
    return None


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
    model = _exclusion_model(frozenset(grid.algorithm for grid in grids.values()))
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
    if isinstance(actual, Schedule) and isinstance(wanted, str):
        return actual.name == wanted
    return bool(actual == wanted)


# ---------------------------------------------------------------- Sweep → YAML


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Schedule):
        parameters = value.model_dump(exclude_defaults=True) | {"name": value.name}
        return parameters if len(parameters) > 1 else value.name
    if isinstance(value, tuple):
        return value[0] if name == "dropout" and value[0] == value[1] else list(value)
    return value


def to_yaml(sweep: Sweep) -> str:
    """The sweep as a file that parses to an equal sweep, with everything inherited written out."""
    blocks = {
        label: {"optimizer": grid.algorithm} | {k: [_plain(k, v) for v in values] for k, values in grid.axes.items()}
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
        "exclude": [{k: [_plain(k, v) for v in values] for k, values in entry.items()} for entry in sweep.exclude],
    }
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
