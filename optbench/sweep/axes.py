"""The axes: what trials vary. Each is declared once, as a field of `Axes`, and every list of axes is made from these.

A new axis is one more field: sweep files may set it, stacks are cut by it, ids, rows, tables, comparisons and exports
have it, and older rows have its default. What is left to do is to train by it, as `trial.<name>`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, NamedTuple, Self, get_type_hints

from pydantic import BeforeValidator, Field

from optbench.data.datasets import DATASETS, OwnData
from optbench.errors import did_you_mean
from optbench.optimizers.hyperparameters import Hyperparameters
from optbench.optimizers.schedules import SCHEDULES, Schedule
from optbench.wording import wrong


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
    is_pretrained: the network that a trial begins with was trained with the trial's own value of it; of the other axes
        a sweep file's `pretrain` has the values.
    is_against_default: a report compares its other values with its default.
    is_always_hashed: it is in ids even with its default; a new axis is not, or it would change the ids of older trials.
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
    is_pretrained: bool = False
    is_against_default: bool = False
    is_always_hashed: bool = False
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


def _dataset(value: Any) -> Any:
    if isinstance(value, str) and value not in DATASETS:
        raise wrong(f"unknown dataset '{value}'; {did_you_mean(value, DATASETS)}")
    return value


def _pair(value: Any) -> Any:
    return value if isinstance(value, list) else [value, value]


Dataset = Annotated[str, BeforeValidator(_dataset)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Dropout = Annotated[tuple[Rate, Rate], Field(strict=False), BeforeValidator(_pair)]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The value that a trial has of each axis, in the order of the columns."""

    dataset: Dataset = axis(
        Column("dataset", "string", "digits, mnist or fashion_mnist"),
        hashed=lambda name: name.digest if isinstance(name, OwnData) else name,
        title="Datasets",
        is_workload=True,
    )
    epochs: Epochs = axis(Column("epochs", "int32", "how many epochs the trial trains"))
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
        is_per_trial=True,
        is_always_hashed=True,
    )
    model: str = axis(
        Column("model", "string", "name of the network, with the arguments that differ from its defaults"),
        default="cnn",
        title="Model accuracy comparison",
        is_workload=True,
        is_pretrained=True,
    )
    activation: Literal["relu", "leaky_relu", "tanh", "sigmoid"] = axis(
        Column("activation", "string", "relu, leaky_relu, tanh or sigmoid"),
        default="relu",
        title="Activation functions",
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
    split_seed: Seed = axis(
        Column("split_seed", "int64", "seed of the split into training and validation images"),
        default=0,
        title="Splits of the data",
        is_pretrained=True,
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
PARAMETERS = _with_first(("batch_size", "dropout"), (each for each in AXES.values() if each.has_default))

# The axes whose values are compared, in the order of their tables: what is trained, then how.
COMPARED = _with_first(
    ("dataset", "optimizer", "model", "activation", "loss"), (each for each in AXES.values() if each.title)
)
