"""The axes: what trials vary. Each is declared once, as a field of `Axes`, and every list of axes is made from these.

A new axis is one more field: sweep files may set it, stacks are cut by it, ids, rows, tables, comparisons and exports
have it, and older rows have its default. What is left to do is to train by it, as `trial.<name>`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_type_hints

from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo

from optbench import networks
from optbench.data import own
from optbench.data.info import DATASETS, Input, Last, OwnData, Validation
from optbench.errors import UserError, did_you_mean
from optbench.optimizers.bounds import BelowOne, Positive
from optbench.optimizers.hyperparameters import Hyperparameters
from optbench.optimizers.schedules import SCHEDULES, Schedule
from optbench.wording import show, wrong


class Column(NamedTuple):
    """A column of the rows: its type, by Arrow's name, what it says, and how its value follows from the axis's."""

    name: str
    type: str
    says: str
    of: Callable[[Any], Any] = lambda value: value
    is_redundant: bool = False  # the axis's other columns say the same and more


@dataclass(frozen=True)
class Axis:
    """An axis: everything but the value that each trial has of it.

    name, kind, default: the field's, its type as pydantic takes it. An axis with a default may be set under
    `parameters` and in an optimizer's block; the others are what a sweep file is made of.
    columns: those of the rows that hold it.
    title: of the table that compares its values in a report; empty: they are not compared.
    is_per_trial: trials that train together may differ in it; else stacks are cut by it.
    is_workload: another value makes another task, what is learned by what; how it is trained, such as the batch size,
        is chosen like a hyperparameter and makes none.
    is_resolved: the device decides its value, and the rows have what it was.
    is_of_sweep: a sweep file sets it once, beside its `dataset`, and not under `parameters`.
    is_pretrained: the network that a trial begins with was trained with the trial's own value of it; of the other axes
        a sweep file's `pretrain` has the values.
    is_against_default: a report compares its other values with its default.
    is_always_hashed: it is in ids even with its default; a new axis is not, or it would change the ids of older trials.
    is_own_of_modules: a network from elsewhere has its own, whatever the trial's value is.
    hashed: the value as it enters ids.
    """

    name: str
    kind: Any
    default: Any
    columns: tuple[Column, ...]
    title: str = ""
    is_per_trial: bool = False
    is_workload: bool = False
    is_resolved: bool = False
    is_of_sweep: bool = False
    is_pretrained: bool = False
    is_against_default: bool = False
    is_always_hashed: bool = False
    is_own_of_modules: bool = False
    hashed: Callable[[Any], Any] = lambda value: value

    @property
    def has_default(self) -> bool:
        """Whether a sweep file may leave it out."""
        return self.default is not MISSING

    @property
    def heading(self) -> str:
        """As tables and sentences name it."""
        return self.name.replace("_", " ")


def axis(*columns: Column, default: Any = MISSING, **about: Any) -> Any:
    """A field of `Axes`; `about` holds further attributes of its `Axis`."""
    return field(default=default, metadata={"columns": columns, **about})


class Transfer(str):
    """What a trial takes from a pretrained network, `features` or `fine_tune`.

    `recipe` says how that was trained: what its trial has of each axis whose value is not that of the trial itself.
    """

    __slots__ = ("recipe",)

    recipe: Mapping[str, Any]

    def __new__(cls, way: str, recipe: Mapping[str, Any]) -> Self:
        made = super().__new__(cls, way)
        made.recipe = recipe
        return made

    def __reduce__(self) -> tuple[Any, ...]:  # text alone would be copied without its attribute
        return type(self), (str(self), self.recipe)


def _recipe(transfer: str) -> str:
    """How the network that a trial begins with was trained, as a sweep file says it, without what is default."""
    if not isinstance(transfer, Transfer):
        return ""
    given, own = transfer.recipe, transfer.recipe["hyperparameters"]
    said = {name: given[name] for name in ("dataset", "epochs", "optimizer")} | {"lr": own.lr}
    said |= own.model_dump(exclude={"lr"}, exclude_defaults=True)
    said |= {name: value for name, value in given.items() if name in PARAMETERS and value != PARAMETERS[name].default}
    return ", ".join(f"{name}={value}" for name, value in said.items())


def _dataset(value: Any, info: ValidationInfo) -> str:
    """A name as it is; data of the user's own, which are looked for in the context's folder, as `OwnData`."""
    if not isinstance(value, str):
        raise wrong(f"must be text, not {show(value)}")
    if value in DATASETS:
        return value
    if not own.is_own(value):
        raise wrong(f"unknown dataset '{value}'; {did_you_mean(value, DATASETS)}")
    try:
        return own.find(value, info.context or Path())
    except UserError as error:
        raise wrong(str(error)) from None


def _validation(value: Any) -> Any:
    if isinstance(value, dict) and list(value) == ["last"] and type(value["last"]) is int and value["last"] >= 1:
        return Last(value["last"])
    if isinstance(value, Last):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or value == "none" or (is_number and (value >= 1 if isinstance(value, int) else 0 < value < 1)):
        return value
    raise wrong(f"takes a number of images, a share below 1, {{last: 6000}}, none or null, not {show(value)}")


def _input(value: Any) -> Any:
    if value in ("standardised", "unit"):
        return value
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(type(part) in (int, float) and math.isfinite(part) for part in pair):
        raise wrong(f"takes standardised, unit or a pair, written [[mean, std]], not {show(value)}")
    if pair[1] <= 0:
        raise wrong(f"the standard deviation must be above 0, not {show(pair[1])}")
    return float(pair[0]), float(pair[1])


class Augmentation(NamedTuple):
    """How training images are changed: flipped with probability 1/2; padded by `crop` pixels and cropped again."""

    flip: bool = False
    crop: int = 0

    def __str__(self) -> str:
        return " + ".join([*(["flip"] if self.flip else []), *([f"crop {self.crop}"] if self.crop else [])])


def _augment(value: Any) -> Any:
    if value is None or isinstance(value, Augmentation):
        return value
    if not isinstance(value, dict):
        raise wrong(f"takes a mapping such as {{flip: true, crop: 4}}, or null, not {show(value)}")
    for key in value:
        if key not in Augmentation._fields:
            raise wrong(f"unknown key '{key}'; {did_you_mean(str(key), Augmentation._fields)}", key, is_key=True)
    if not isinstance(value.get("flip", False), bool):
        raise wrong(f"must be true or false, not {show(value['flip'])}", "flip")
    if type(value.get("crop", 0)) is not int or value.get("crop", 0) < 0:
        raise wrong(f"must be a number of pixels, not {show(value['crop'])}", "crop")
    made = Augmentation(**value)
    return made if any(made) else None


def _pair(value: Any) -> Any:
    return value if isinstance(value, list) else [value, value]


Dataset = Annotated[str, PlainValidator(_dataset)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Decay = Annotated[float, Field(gt=0, lt=1)]
Dropout = Annotated[tuple[BelowOne, BelowOne], Field(strict=False), BeforeValidator(_pair)]
ValidationSet = Annotated[Validation, PlainValidator(_validation)]
Scaling = Annotated[Input, PlainValidator(_input)]
Augment = Annotated[Augmentation | None, PlainValidator(_augment)]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The value that a trial has of each axis, in the order of the columns."""

    dataset: Dataset = axis(
        Column("dataset", "string", "name of the data set, or the path of your own data"),
        hashed=lambda name: name.digest if isinstance(name, OwnData) else name,
        title="Datasets",
        is_workload=True,
    )
    epochs: Epochs = axis(Column("epochs", "int32", "how many epochs the trial trains"))
    steps: Steps | None = axis(
        Column(
            "steps", "int64", "how many updates the trial makes, where its sweep says so; null where it says epochs"
        ),
        default=None,
        is_of_sweep=True,
    )
    optimizer: str = axis(
        Column("optimizer", "string", "label in the sweep file"), title="Optimizers", is_per_trial=True
    )
    hyperparameters: Hyperparameters = axis(
        Column("algorithm", "string", "optimizer behind the label", lambda given: given.algorithm),
        Column("lr", "float64", "base learning rate", lambda given: given.lr),
        Column(
            "hyperparameters",
            "string",
            "the optimizer's other hyperparameters, JSON",
            lambda given: json.dumps(given.model_dump(exclude={"lr"}), sort_keys=True),
        ),
        is_per_trial=True,
        hashed=lambda given: given.model_dump(exclude_defaults=True),
    )
    schedule: Schedule = axis(
        Column("schedule", "string", "learning-rate schedule with what differs from its defaults", str),
        default=SCHEDULES["constant"](name="constant"),
        title="Learning-rate schedules",
        is_per_trial=True,
        is_always_hashed=True,
        hashed=lambda given: [given.name, given.model_dump(exclude_defaults=True)],
    )
    batch_size: Annotated[int, Field(ge=1)] = axis(
        Column("batch_size", "int32", "images per step"),
        default=64,
        title="Batch sizes and training time",
        is_always_hashed=True,
    )
    dropout: Dropout = axis(
        Column(
            "dropout",
            "float64",
            "dropout rate; null where the two rates differ",
            lambda rates: rates[0] if rates[0] == rates[1] else None,
            is_redundant=True,
        ),
        Column(
            "dropout_conv",
            "float64",
            "dropout rate after the convolutions, or the first hidden layer",
            lambda rates: rates[0],
        ),
        Column(
            "dropout_linear",
            "float64",
            "dropout rate after the linear layer, or the last hidden one",
            lambda rates: rates[1],
        ),
        default=(0.1, 0.25),
        title="Dropout rates",
        is_own_of_modules=True,
        is_per_trial=True,
        is_always_hashed=True,
    )
    model: str = axis(
        Column("model", "string", "name of the network, with the arguments that differ from its defaults"),
        default="cnn",
        hashed=networks.identity,
        title="Model accuracy comparison",
        is_workload=True,
        is_pretrained=True,
    )
    activation: Literal["relu", "leaky_relu", "tanh", "sigmoid"] = axis(
        Column("activation", "string", "relu, leaky_relu, tanh or sigmoid"),
        default="relu",
        title="Activation functions",
        is_own_of_modules=True,
        is_workload=True,
        is_pretrained=True,
    )
    loss: Literal["cross_entropy", "mse", "bce"] = axis(
        Column("loss", "string", "cross_entropy, mse or bce"),
        default="cross_entropy",
        title="Loss functions",
        is_workload=True,
        is_pretrained=True,
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = axis(
        Column("precision", "string", "fp32, tf32 or bf16"),
        default="auto",
        title="Precision",
        is_resolved=True,
        is_pretrained=True,
    )
    clip_norm: Positive | None = axis(
        Column("clip_norm", "float64", "norm to which a longer gradient is scaled down; null: it is not"),
        default=None,
        title="Gradient clipping",
        is_per_trial=True,
    )
    weight_decay_on: Literal["all", "weights"] = axis(
        Column("weight_decay_on", "string", "what decays: all, or weights, the tensors of two or more dimensions"),
        default="all",
        title="Weight decay on",
        is_per_trial=True,
    )
    label_smoothing: BelowOne = axis(
        Column("label_smoothing", "float64", "share of the target that all classes have alike, in training"),
        default=0.0,
        title="Label smoothing",
        is_per_trial=True,
    )
    ema: Decay | None = axis(
        Column("ema", "float64", "decay of the moving average of the weights that has the scores; null: no average"),
        default=None,
        title="Averaged weights",
        is_per_trial=True,
    )
    split_seed: Seed = axis(
        Column("split_seed", "int64", "seed of the split into training and validation images"),
        default=0,
        title="Splits of the data",
        is_pretrained=True,
    )
    validation: ValidationSet = axis(
        Column(
            "validation",
            "string",
            "validation set: a number of images, a share, the last ones, none, or default",
            lambda given: "default" if given is None else str(given),
        ),
        default=None,
        title="Validation sets",
    )
    input: Scaling = axis(
        Column(
            "input",
            "string",
            "scaling of the pixels: standardised, unit, or mean and standard deviation",
            lambda given: given if isinstance(given, str) else f"[{given[0]}, {given[1]}]",
        ),
        default="standardised",
        title="Scaling of the input",
        is_pretrained=True,
    )
    augment: Augment = axis(
        Column(
            "augment",
            "string",
            "random changes of the training images: flip, crop and by how many pixels, or none",
            lambda given: str(given or "none"),
        ),
        default=None,
        title="Augmentation",
    )
    transfer: Literal["scratch", "features", "fine_tune"] = axis(
        Column(
            "transfer", "string", "scratch; features: only the last layer of a pretrained network is trained; fine_tune"
        ),
        Column(
            "pretrain", "string", "how that network was trained, without what is default; empty for scratch", _recipe
        ),
        default="scratch",
        title="Transfer",
        is_against_default=True,
    )
    seed: Seed = axis(
        Column("seed", "int64", "seed of initial weights, batch order and dropout"),
        is_per_trial=True,
        is_pretrained=True,
    )


_KINDS = get_type_hints(Axes, include_extras=True)
AXES = {each.name: Axis(each.name, _KINDS[each.name], each.default, **each.metadata) for each in fields(Axes)}


def _with_first(names: Collection[str], axes: Iterable[Axis]) -> dict[str, Axis]:
    return {each.name: each for each in sorted(axes, key=lambda each: each.name not in names)}


# What every trial has besides its optimizer's hyperparameters. Their combinations are listed in this order, the last
# one changing fastest.
PARAMETERS = _with_first(
    ("batch_size", "dropout"), (each for each in AXES.values() if each.has_default and not each.is_of_sweep)
)

# The axes whose values are compared, in the order of their tables: what is trained, then how.
COMPARED = _with_first(
    ("dataset", "optimizer", "model", "activation", "loss"), (each for each in AXES.values() if each.title)
)
