"""What a sweep file may name: tables of optimizers, networks, schedules and data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from optbench.data.downloads import locate
from optbench.data.info import DATASETS
from optbench.errors import UserError
from optbench.networks import NETWORKS, architecture
from optbench.optimizers import OPTIMIZERS, library
from optbench.optimizers.schedules import SCHEDULES, LearningRate, ReduceLROnPlateau
from optbench.report.characters import braille
from optbench.report.tables import Column, Table
from optbench.sweep.lookup import find

EPOCHS, STEPS_PER_EPOCH, HEIGHT = 10, 20, 4
# Parameters for the schedules that cannot be drawn without any, or would show nothing.
_EXAMPLES: dict[str, dict[str, Any]] = {
    "polynomial": {"power": 2.0},
    "inverse_sqrt": {"warmup_steps": 0.1},
    "step": {"step_size": 3},
    "multistep": {"milestones": [3, 6]},
    "reduce_lr_on_plateau": {"patience": 1},
    "CosineAnnealingLR": {"T_max": 10},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
}


def as_yaml(value: object) -> str:
    """A value as a sweep file writes it."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(as_yaml, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _parameters(model: type[BaseModel]) -> str:
    shown = []
    for name, field in model.model_fields.items():
        default = field.default
        if name == "name" or (name == "warmup_steps" and default == 0):  # what every schedule has
            continue
        if field.is_required():
            shown.append(f"{name} (required)")
        else:
            shown.append(f"{name}={as_yaml(default)}")
    return ", ".join(shown) or "–"


def _table(title: str, caption: str, columns: dict[str, list[object]]) -> Table:
    """The first column is the name, numbers are counts, everything else may fold."""
    name, *others = columns
    kinds = {other: "count" if isinstance(columns[other][0], int) else "prose" for other in others}
    shown = (Column(name, name), *(Column(other, other, kind) for other, kind in kinds.items()))
    return Table(title, caption, shown, pd.DataFrame(columns))


def optimizers() -> list[Table]:
    own = _table(
        "Optimizers",
        "Hyperparameters have torch's names and defaults. Stacked: many trials take their step at once; others run as "
        "they are, one object for each trial. A list is a grid axis: one pair of betas is [[0.9, 0.999]]. Any other "
        "torch.optim.Optimizer is package.module:Class or ./file.py:Class; 'optbench check-optimizer' tries it.",
        {
            "optimizer": list(OPTIMIZERS),
            "provider": [model.provider for model in OPTIMIZERS.values()],
            "stacked": ["yes" if model.stacked else "no" for model in OPTIMIZERS.values()],
            "hyperparameters": [_parameters(model) for model in OPTIMIZERS.values()],
        },
    )
    return [own, _library()]


def _library() -> Table:
    """The tested optimizers of the library, with their hyperparameters if it is installed."""
    caption = f"Write {library.NAME}.NAME. None is stacked. "
    try:
        shown = [_parameters(find(f"{library.NAME}.{name}", Path())) for name in library.TESTED]
    except UserError as error:
        shown = ["–"] * len(library.TESTED)
        caption += f"{error}. "
    notes = []
    for name in library.TESTED:
        advice = f"set {library.advice(name)}" if name in library.WITH else None
        notes.append("; ".join(note for note in (advice, library.LICENCES.get(name)) if note))
    caption += "The others cannot train here; naming one in a sweep file shows why."
    columns: dict[str, list[object]] = {
        "optimizer": list(library.TESTED),
        "hyperparameters": [f"{note}; {text}" if note else text for note, text in zip(notes, shown, strict=True)],
    }
    return _table(f"Optimizers from {library.NAME} that work here", caption, columns)


def schedules() -> list[Table]:
    table = _table(
        "Learning-rate schedules",
        "Write a schedule as its name, or with parameters as {name: step, step_size: 3, gamma: 0.3}. Each takes "
        "warmup_steps, over which lr first rises from 0; below 1 it is a share of all steps.",
        {
            "schedule": list(SCHEDULES),
            "parameters": [_parameters(model) for model in SCHEDULES.values()],
            "learning rate": [" ".join((model.__doc__ or "").split()) for model in SCHEDULES.values()],
        },
    )
    return [table]


def networks() -> list[Table]:
    of = DATASETS["mnist"]
    table = _table(
        "Networks",
        "Write one under 'model'. Between its layers a network has the trial's activation. Parameters are counted for "
        f"images of {of.image[1]} × {of.image[2]} and {of.classes} classes. Any other torch.nn.Module is "
        "package.module:Class or ./file.py:Class; 'optbench check-model' tries it.",
        {
            "model": list(NETWORKS),
            "parameters": [architecture(name, of.image, of.classes).size for name in NETWORKS],
            "layers": [(layers.__doc__ or "").rstrip(".") for layers in NETWORKS.values()],
        },
    )
    return [table]


def datasets() -> list[Table]:
    table = _table(
        "Datasets",
        "Missing ones are downloaded by 'optbench run'. Train accuracy is measured on a slice of the training set as "
        "large as the validation set.",
        {
            "dataset": list(DATASETS),
            "train": [info.train for info in DATASETS.values()],
            "validation": [info.val for info in DATASETS.values()],
            "test": [info.test for info in DATASETS.values()],
            "here": [
                str(locate(name, None) or "not yet") if info.files else "with optbench"
                for name, info in DATASETS.items()
            ],
            "licence": [info.licence for info in DATASETS.values()],
        },
    )
    return [table]


def learning_rates(name: str) -> tuple[str, list[float]]:
    """A schedule with its parameters in words, and its learning rate over ten epochs as a share of lr."""
    schedule = SCHEDULES[name](**_EXAMPLES.get(name, {}))
    rate = LearningRate(schedule, 1.0, STEPS_PER_EPOCH, STEPS_PER_EPOCH * EPOCHS)
    values: list[float] = []
    for epoch in range(EPOCHS):
        values += rate.of_epoch(epoch)
        rate.observe(1.0 - min(epoch, 3) / 10)
    words = str(schedule)
    if isinstance(schedule, ReduceLROnPlateau):
        words += ", where val_loss improves for only 4 epochs"
    return words, values


def plot_schedules(console: Console) -> None:
    """Every schedule's curve."""
    width = min(60, console.width - 6)
    for name in SCHEDULES:
        words, values = learning_rates(name)
        console.print(Text(words, style="bold"))
        for i, row in enumerate(braille(values, width, HEIGHT)):
            console.print(Text(f"{'lr' if i == 0 else '0' if i == HEIGHT - 1 else '':>3} {row}"))
    console.print(Text(f"From left to right: {EPOCHS} epochs.", style="dim"))


CATALOGUE: dict[str, Callable[[], list[Table]]] = {
    "optimizers": optimizers,
    "networks": networks,
    "schedules": schedules,
    "datasets": datasets,
}
