"""What a sweep file may name, as tables."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from pydantic import BaseModel

from optbench.datasets import DATASETS, locate
from optbench.optimizers import OPTIMIZERS
from optbench.report.tables import Column, Table
from optbench.schedules import SCHEDULES


def _parameters(model: type[BaseModel]) -> str:
    shown = []
    for name, field in model.model_fields.items():
        default = field.default
        if name == "name" or (name == "warmup_steps" and default == 0):  # what every schedule has
            continue
        if field.is_required():
            shown.append(f"{name} (required)")
        else:
            shown.append(f"{name}={list(default) if isinstance(default, tuple) else str(default).lower()}")
    return ", ".join(shown) or "–"


def _table(title: str, caption: str, columns: dict[str, list[object]]) -> Table:
    """The first column is the name, numbers are counts, all else may fold."""
    name, *others = columns
    kinds = {other: "count" if isinstance(columns[other][0], int) else "prose" for other in others}
    shown = (Column(name, name), *(Column(other, other, kind) for other, kind in kinds.items()))
    return Table(title, caption, shown, pd.DataFrame(columns))


def optimizers() -> Table:
    return _table(
        "Optimizers",
        "Names and defaults are those of torch.optim. A list is a grid axis: one pair of betas is [[0.9, 0.999]].",
        {"optimizer": list(OPTIMIZERS), "hyperparameters": [_parameters(model) for model in OPTIMIZERS.values()]},
    )


def schedules() -> Table:
    return _table(
        "Learning-rate schedules",
        "Write a schedule as its name, or with parameters as {name: step, step_size: 3, gamma: 0.3}. Each takes "
        "warmup_steps, over which lr first rises from 0; below 1 it is a share of all steps.",
        {
            "schedule": list(SCHEDULES),
            "parameters": [_parameters(model) for model in SCHEDULES.values()],
            "learning rate": [" ".join((model.__doc__ or "").split()) for model in SCHEDULES.values()],
        },
    )


def datasets() -> Table:
    return _table(
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


LISTINGS: dict[str, Callable[[], Table]] = {"optimizers": optimizers, "schedules": schedules, "datasets": datasets}
