"""Sweep file → `Sweep`. Every problem of a file is reported at once, each with its line and column."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from optbench import networks
from optbench.data.info import Last, info_of
from optbench.errors import UserError, did_you_mean
from optbench.networks import Model
from optbench.optimizers.hyperparameters import Hyperparameters
from optbench.optimizers.schedules import Schedule
from optbench.scores import Score
from optbench.sweep.axes import PARAMETERS, Augmentation, Dataset, Epochs, Seed, Steps
from optbench.sweep.blocks import STRICT, Grid, as_list, block_model, distinct, exclusion_model, pretrain_model
from optbench.sweep.document import Document, Dumper, Key, Place, Problem, SweepError, Unfit
from optbench.sweep.lookup import find
from optbench.sweep.search import Method, Range, SearchedSchedule, ranges
from optbench.wording import in_words, length_in_words, location, refusal, show, worth_saying, wrong

MAX_SEEDS = 10_000
MAX_SAMPLES = 10_000


def _seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_SEEDS:
            raise wrong(f"the number of seeds must be from 1 to {MAX_SEEDS}")
        return list(range(value))
    if not isinstance(value, list):
        raise wrong(f"takes a number of seeds or a list of them, not {show(value)}")
    return value


def _metric(value: Any) -> Any:
    if str(value).startswith("test_"):
        raise wrong("selecting on the test set would bias it; select on val_accuracy or val_loss")
    return value


def _confirm_seeds(value: Any) -> Any:
    """A number of seeds begins after all seeds that a number in `seeds` can mean, so that the two never overlap."""
    seeds = _seeds(value)
    return [MAX_SEEDS + seed for seed in seeds] if isinstance(value, int) else seeds


_Datasets = Annotated[
    tuple[Dataset, ...], Field(strict=False, min_length=1), BeforeValidator(as_list), AfterValidator(distinct)
]
_SeedList = Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)]


class Halving(BaseModel):
    """Successive halving (Jamieson and Talwalkar, 2016): after `min_epochs` epochs, and each time that number has grown
    by `factor`, the best 1 / `factor` of the configurations that are left train on."""

    model_config = STRICT

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

    model_config = STRICT

    method: Method = "sobol"
    num_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    seed: Seed = 0
    halving: Halving | None = None


class Confirm(BaseModel):
    """Each optimizer's selected configuration is trained again with these seeds, which selected nothing."""

    model_config = STRICT

    seeds: Annotated[_SeedList, BeforeValidator(_confirm_seeds), AfterValidator(distinct)]


class _File(BaseModel):
    """The outline of a sweep file; what is inside `parameters`, `optimizers` and `exclude` is checked after it."""

    model_config = STRICT

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    dataset: _Datasets
    epochs: Epochs | None = None
    steps: Steps | None = None
    seeds: Annotated[_SeedList, BeforeValidator(_seeds), AfterValidator(distinct)] = (0,)
    metric: Annotated[
        Literal["val_accuracy", "val_loss", "train_accuracy", "train_loss"] | None, BeforeValidator(_metric)
    ] = None
    parameters: dict[str, Any] | None = None
    optimizers: Annotated[dict[str, dict[str, Any] | None], Field(min_length=1)]
    pretrain: dict[str, Any] | None = None
    search: Search | None = None
    confirm: Confirm | None = None
    defaults: bool = False
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
    """What a sweep file describes: every axis as a tuple of values, inherited and default ones filled in.

    Either `epochs` or `steps` says how long each trial trains.
    `pretrain` is the recipe of the networks that trials begin with (see `axes.Transfer`), where any does.
    """

    name: str
    datasets: tuple[str, ...]
    epochs: int | None
    seeds: tuple[int, ...]
    metric: Score
    optimizers: Mapping[str, OptimizerGrid]
    steps: int | None = None
    pretrain: Mapping[str, Any] | None = None
    search: Search | None = None
    confirm: tuple[int, ...] = ()
    defaults: bool = False
    exclude: tuple[Mapping[str, tuple[Any, ...]], ...] = ()
    places: Mapping[Key, Place] = field(default_factory=dict, compare=False, repr=False)

    @property
    def length(self) -> str:
        """How long each trial trains, in words."""
        return length_in_words(self.epochs, self.steps)

    @property
    def searched(self) -> tuple[str, ...]:
        """The axes in which any optimizer has a range."""
        axes = [axis for grid in self.optimizers.values() for axis in grid.axes.items()]
        return tuple(dict.fromkeys(name for name, values in axes if any(map(ranges, values))))

    def problem(self, message: str, *path: str | int) -> Problem:
        """What is wrong at a path; with the sweep's name if the sweep did not come from a file."""
        place = self.places.get(path)
        return Problem(place, message if place else f"{self.name}: {message}")

    @property
    def searched_schedules(self) -> tuple[str, ...]:
        """The names of the schedules in which a parameter has a range."""
        schedules = [value for grid in self.optimizers.values() for value in grid.axes["schedule"]]
        return tuple(dict.fromkeys(value.name for value in schedules if isinstance(value, SearchedSchedule)))


def read(path: Path, settings: Iterable[str] = ()) -> Sweep:
    """Read a sweep file and apply settings, `key=value` each.

    Raises `SweepError` with all problems, `UserError` for a file that cannot be read.
    """
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
    """Sweep text → `Sweep`. Raises `SweepError` with all problems.

    `folder` is where optimizers, networks and data in files are looked for.
    """
    document = Document(folder)
    document.data = document.read(text, Place(source))
    if document.data is None:  # a syntax error, or nothing there
        _stop_at(document.problems)
    if not isinstance(document.data, dict):
        wrong = "a sweep file is a mapping such as 'dataset: mnist'; 'optbench init' writes one"
        raise SweepError([Problem(Place(source), wrong)])
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
        model = block_model(frozenset(known.values()))
        shared = _block(document, model, document.data.get("parameters"), ("parameters",))
    grids = {}
    for label, hyperparameters in known.items():
        block, num_samples = blocks[label], None
        if isinstance(block, dict):
            num_samples = _num_samples(document, label, block)
            block = {key: value for key, value in block.items() if key not in ("optimizer", "num_samples")}
        own = _block(document, block_model(frozenset({hyperparameters})), block, ("optimizers", label))
        defaults = {name: (axis.default,) for name, axis in PARAMETERS.items()}
        grids[label] = OptimizerGrid(hyperparameters, defaults | shared | own, num_samples)
    datasets = outline.dataset if outline else ()
    _check_batch_sizes(document, datasets, grids)
    metric = _selecting(document, outline.metric if outline else None, grids)
    _check_networks(document, datasets, grids)
    pretrain = _pretrain(document)
    _check_transfer(document, grids)
    exclude = _exclude(document, datasets, grids)
    _check_length(document)
    if outline is not None:
        _check_search(document, outline, grids)
    _stop_at(document.problems)
    assert outline is not None
    return Sweep(
        name=outline.name,
        datasets=outline.dataset,
        epochs=outline.epochs,
        steps=outline.steps,
        seeds=outline.seeds,
        metric=metric,
        optimizers=grids,
        pretrain=pretrain,
        search=outline.search,
        confirm=outline.confirm.seeds if outline.confirm else (),
        defaults=outline.defaults,
        exclude=exclude,
        places=document.values,
    )


def _stop_at(problems: Sequence[Problem]) -> None:
    if problems:
        raise SweepError(sorted(problems, key=_order))


def _order(problem: Problem) -> tuple[bool, int, int]:
    """The file from top to bottom, then the settings."""
    place = problem.place
    assert place is not None, "a document knows its places"
    return place.is_setting, place.line, place.column


def _check(document: Document, model: type[BaseModel], data: Any, prefix: Key) -> Any:
    """Validate `data`, which is at `prefix`; None and more problems when it is not valid."""
    try:
        return model.model_validate(data, context=document.folder)
    except ValidationError as error:
        known = {str(p.place) for p in document.problems}
        for detail in worth_saying(error):
            loc, is_key = location(detail)
            place = document.place((*prefix, *loc), key=is_key)
            if str(place) not in known:
                document.problems.append(Problem(place, _message(detail, model)))
        return None


def _message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    if issubclass(model, Grid):
        return model.in_words(detail)
    if detail["type"] != "extra_forbidden":
        return in_words(detail)
    key = str(detail["loc"][-1])
    if len(detail["loc"]) == 1 and key in {*PARAMETERS, "lr"}:
        return f"'{key}' belongs under 'parameters'"
    inner: dict[str, type[BaseModel]] = {"search": Search, "halving": Halving, "confirm": Confirm}
    block = ([model] + [inner[str(part)] for part in detail["loc"][:-1] if part in inner])[-1]
    return f"unknown key '{key}'; {did_you_mean(key, sorted(block.model_fields))}"


def _algorithm(document: Document, label: str, block: Any, folder: Path) -> type[Hyperparameters] | None:
    """The optimizer that a label means; None and a problem if it means none."""
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
            is_label = not given and str(error).startswith("unknown")
            problem = str(error) + (" (a label of your own needs 'optimizer: NAME' inside)" if is_label else "")
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


def _check_length(document: Document) -> None:
    """Either epochs or steps say how long to train."""
    given = [key for key in ("epochs", "steps") if document.data.get(key) is not None]
    if not given:
        place = document.place(("epochs",))
        if str(place) not in {str(p.place) for p in document.problems}:  # else it is there, but cannot be read
            document.problems.append(Problem(place, "missing key 'epochs' (or 'steps')"))
    elif len(given) > 1:
        both = "'epochs' already says how long each trial trains; leave out one of the two"
        document.problems.append(Problem(document.place(("steps",), key=True), both))


def _check_search(document: Document, outline: _File, grids: Mapping[str, OptimizerGrid]) -> None:
    """Check that the ranges, `search`, `confirm` and `defaults` fit together."""

    def problem(path: Key, message: str, key: bool = False) -> None:
        document.problems.append(Problem(document.place(path, key=key), message))

    search = outline.search
    is_whole = not document.problems  # else a range may be missing only because it is wrong
    searched = [label for label, grid in grids.items() if grid.is_searched]
    for label in searched:
        if not (grids[label].num_samples or (search and search.num_samples)):
            problem(
                ("optimizers", label),
                f"{label} has a range: say how many values to try, 'search: {{num_samples: 8}}'",
                True,
            )
    if is_whole and search and not searched and (search.num_samples or not search.halving):
        problem(("search",), "there is no range {min, max} to search", True)
    for label, grid in grids.items():
        if is_whole and grid.num_samples and not grid.is_searched:
            problem(("optimizers", label, "num_samples"), f"{label} has no range {{min, max}} to search", True)
    # Where the file says steps, how many epochs these are is known of trials only.
    if search and search.halving and outline.epochs and not search.halving.rungs(outline.epochs):
        problem(("search", "halving", "min_epochs"), f"halving cannot act: the sweep has {outline.epochs} epochs")
    if outline.confirm and set(outline.confirm.seeds) & set(outline.seeds):
        both = min(set(outline.confirm.seeds) & set(outline.seeds))
        problem(("confirm", "seeds"), f"seed {both} is a tuning seed, too; confirming needs fresh ones")
    if outline.defaults and search and search.halving and not outline.confirm:
        problem(
            ("defaults",), "halving may stop what is also a default; 'confirm: {seeds: 5}' gives it seeds of its own"
        )


def _block(document: Document, model: type[BaseModel], block: Any, path: Key) -> dict[str, tuple[Any, ...]]:
    """The axes that a block sets."""
    checked = _check(document, model, block, path) if isinstance(block, dict) else None
    return {} if checked is None else {name: getattr(checked, name) for name in block}


def _check_batch_sizes(document: Document, datasets: Sequence[str], grids: Mapping[str, OptimizerGrid]) -> None:
    """No size may be too large for every dataset; one that is too large for some can be excluded there."""
    for label, grid in grids.items():
        largest = max((_most_trained(name, grid) for name in datasets), default=math.inf)
        for i, size in enumerate(grid.axes["batch_size"]):
            if size > largest:
                message = f"batch_size {size} is larger than the training set of {largest} images"
                document.problems.append(Problem(_place_of(document, label, "batch_size", i), message))


def _most_trained(dataset: str, grid: OptimizerGrid) -> int:
    """The size of the largest training set that an optimizer has of the data."""
    sizes = [info_of(dataset).train]
    for validation in grid.axes["validation"]:
        with suppress(ValueError):  # it is too large for these data, which is said of the trial
            sizes.append(info_of(dataset).validated(validation).train)
    return max(sizes)


def _place_of(document: Document, label: str, name: str, i: int) -> Place | None:
    """Where a value of a parameter is that an optimizer sets or inherits."""
    own: Key = ("optimizers", label, name, i)
    return document.place(own if own[:3] in document.values else ("parameters", name, i))


def _selecting(document: Document, metric: str | None, grids: Mapping[str, OptimizerGrid]) -> Score:
    """What selects: the given metric, or the usual one. It must be measured by all trials."""
    sets = [
        (_place_of(document, label, "validation", i), value)
        for label, grid in grids.items()
        for i, value in enumerate(grid.axes["validation"])
    ]
    without = [place for place, value in sets if value == "none"]
    if without and len(without) < len(sets):
        message = "with no validation set other numbers select: it needs a sweep of its own"
        document.problems.append(Problem(without[0], message))
    elif metric and metric.startswith("train_") != bool(without):
        why = "there is no validation set; select on train_loss or train_accuracy"
        if not without:
            why = "selecting on the training set favours what overfits; select on val_accuracy or val_loss"
        document.problems.append(Problem(document.place(("metric",)), why))
    return Score(metric or ("train_loss" if without else "val_accuracy"))


def _check_networks(document: Document, datasets: Sequence[str], grids: Mapping[str, OptimizerGrid]) -> None:
    """No network may be impossible on every dataset; one that is impossible on some can be excluded there."""
    for label, grid in grids.items():
        for model in grid.axes["model"]:
            why = [_impossible(model, name) for name in datasets]
            if why and all(why):
                loc = _entry(document, ("optimizers", label, "model"), model) or _entry(
                    document, ("parameters", "model"), model
                )
                document.problems.append(Unfit(document.place(loc or ("parameters",)), str(why[0])))


def _impossible(model: str, dataset: str) -> str | None:
    """Why a network cannot train on a dataset."""
    info = info_of(dataset)
    try:
        networks.architecture(model, info.image, info.classes)
    except UserError as error:
        return str(error)
    return None


def _entry(document: Document, path: Key, model: str) -> Key | None:
    """Which entry of an axis a network comes from."""
    block: Any = document.data
    for part in path:
        block = block.get(part) if isinstance(block, dict) else None
    name = model.network if isinstance(model, Model) else model
    for i, entry in enumerate(as_list(block)):
        if name == (entry.get("name") if isinstance(entry, dict) else entry):
            return (*path, i)
    return None


def _pretrain(document: Document) -> dict[str, Any] | None:
    """How the networks are trained that trials begin with; None where none is, or where it is not valid."""
    block = document.data.get("pretrain")
    if not isinstance(block, dict):
        return None
    try:
        optimizer = find(str(block.get("optimizer", "adam")), document.folder)
    except UserError as error:
        document.problems.append(Problem(document.place(("pretrain", "optimizer")), str(error)))
        return None
    given = {key: value for key, value in block.items() if key != "optimizer"}
    checked = _check(document, pretrain_model(optimizer), given, ("pretrain",))
    if checked is None:
        return None
    own = {name: getattr(checked, name) for name in optimizer.model_fields}
    try:
        hyperparameters = optimizer(**own)
    except ValidationError as error:
        document.problems.append(Problem(document.place(("pretrain",), key=True), refusal(error)))
        return None
    images = info_of(checked.dataset).train
    if checked.batch_size > images:
        message = f"batch_size {checked.batch_size} is larger than the training set of {images} images"
        document.problems.append(Problem(document.place(("pretrain", "batch_size")), message))
    axes = {name: getattr(checked, name) for name in type(checked).model_fields if name not in own}
    return axes | {"optimizer": optimizer.algorithm, "hyperparameters": hyperparameters}


def _check_transfer(document: Document, grids: Mapping[str, OptimizerGrid]) -> None:
    """Where trials begin with pretrained networks, `pretrain` must say how these are trained, and only there."""
    is_given, is_used = bool(document.data.get("pretrain")), False
    for label, grid in grids.items():
        for i, way in enumerate(grid.axes["transfer"]):
            if way != "scratch":
                is_used = True
                if not is_given:
                    message = f"{way} needs a pretrained network: 'pretrain: {{dataset: mnist, epochs: 5}}' trains it"
                    document.problems.append(Problem(_place_of(document, label, "transfer", i), message))
    if is_given and not is_used and not document.problems:
        message = (
            "nothing begins with a pretrained network: 'parameters: {transfer: [scratch, features, fine_tune]}' does"
        )
        document.problems.append(Problem(document.place(("pretrain",), key=True), message))


def _exclude(
    document: Document, datasets: Sequence[str], grids: Mapping[str, OptimizerGrid]
) -> tuple[dict[str, tuple[Any, ...]], ...]:
    """The exclusions with their values read like those of the axes; one that cannot match anything is a problem."""
    entries = document.data.get("exclude")
    if not isinstance(entries, list) or not grids:
        return ()
    model = exclusion_model(frozenset(grid.hyperparameters for grid in grids.values()))
    axes: dict[str, list[Any]] = {"dataset": list(datasets), "optimizer": list(grids)}
    for grid in grids.values():
        for name, values in grid.axes.items():
            axes.setdefault(name, []).extend(values)
    exclusions = []
    for i, entry in enumerate(entries):
        exclusion = _block(document, model, entry, ("exclude", i))
        if entry == {}:
            document.problems.append(Problem(document.place(("exclude", i)), "this would exclude every trial"))
        if not document.problems:  # else what is excluded may be missing only because it is misspelt elsewhere
            for name, values in exclusion.items():
                for j, value in enumerate(values):
                    if not any(matches(actual, value) for actual in axes.get(name, ())):
                        message = f"excludes nothing: no {name} of this sweep is {show(value)}"
                        document.problems.append(Problem(document.place(("exclude", i, name, j)), message))
        exclusions.append(exclusion)
    return tuple(exclusions)


def matches(actual: Any, wanted: Any) -> bool:
    """Whether a trial's value is the one an exclusion names; a schedule or a network matches by name or whole."""
    if isinstance(actual, Schedule | SearchedSchedule) and isinstance(wanted, str):
        return actual.name == wanted
    if isinstance(actual, Model) and wanted == actual.network:
        return True
    return bool(actual == wanted)


# ---------------------------------------------------------------- Sweep → YAML


def plain(name: str, value: Any) -> Any:
    """A value of an axis or a hyperparameter, as YAML holds it."""
    if isinstance(value, Schedule):
        parameters = value.model_dump(exclude_defaults=True, exclude={"name"})
        return {"name": value.name} | parameters if parameters else value.name
    if isinstance(value, SearchedSchedule):
        # A list here would be a grid axis, and this one's axes are unfolded already.
        return {"name": value.name} | {k: [plain(k, v)] for k, v in value.parameters}
    if isinstance(value, Model):
        return {"name": value.network} | {k: [plain(k, v)] for k, v in value.arguments.items()}
    if isinstance(value, Range):
        return {"min": value.min, "max": value.max} | ({"log": True} if value.log else {})
    if isinstance(value, Augmentation | Last):
        return value._asdict()
    if isinstance(value, tuple):
        return value[0] if name == "dropout" and value[0] == value[1] else [plain("", part) for part in value]
    return value


def _plain_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    axes = {name: plain(name, value) for name, value in recipe.items() if name != "hyperparameters"}
    return axes | {name: plain(name, value) for name, value in recipe["hyperparameters"]}


def to_yaml(sweep: Sweep) -> str:
    """The sweep as a file that parses to an equal sweep, with everything inherited written out."""
    blocks = {
        label: {"optimizer": grid.algorithm}
        | ({"num_samples": grid.num_samples} if grid.num_samples else {})
        | {k: [plain(k, v) for v in values] for k, values in grid.axes.items()}
        for label, grid in sweep.optimizers.items()
    }
    data = {
        "version": 1,
        "name": sweep.name,
        "dataset": sweep.datasets[0] if len(sweep.datasets) == 1 else list(sweep.datasets),
        **({"epochs": sweep.epochs} if sweep.steps is None else {"steps": sweep.steps}),
        "seeds": list(sweep.seeds),
        "metric": str(sweep.metric),
        "optimizers": blocks,
        "pretrain": _plain_recipe(sweep.pretrain) if sweep.pretrain else None,
        "search": sweep.search.model_dump() if sweep.search else None,
        "confirm": {"seeds": list(sweep.confirm)} if sweep.confirm else None,
        "defaults": sweep.defaults,
        "exclude": [{k: [plain(k, v) for v in values] for k, values in entry.items()} for entry in sweep.exclude],
    }
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
