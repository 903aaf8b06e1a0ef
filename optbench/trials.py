"""`Sweep` → trials: the product of every axis, less what is excluded, once for each seed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from pydantic import ValidationError

from optbench.errors import UserError
from optbench.optimizers import OPTIMIZERS, Hyperparameters
from optbench.schedules import Schedule
from optbench.spec import PARAMETERS, OptimizerGrid, Sweep, matches

MAX_TRIALS = 1_000_000

# Part of every id: raise it when the same trial would train to other numbers, so that old rows are not taken for new.
NUMERICS = 1


@dataclass(frozen=True)
class Trial:
    """One training with one seed, every hyperparameter resolved.

    `optimizer` is the sweep file's label, `algorithm` the update rule behind it, `dropout` the rates after the
    convolutions and after the linear layer.
    """

    dataset: str
    epochs: int
    optimizer: str
    algorithm: str
    hyperparameters: Hyperparameters
    batch_size: int
    dropout: tuple[float, float]
    schedule: Schedule
    seed: int

    @cached_property
    def configuration_id(self) -> str:
        """A hash of everything but the seed: the same configuration has the same id in every sweep."""
        return self._hash(seed=None)

    @cached_property
    def trial_id(self) -> str:
        """A hash of the resolved trial; what is written in the sweep file and what is left to defaults are alike."""
        return self._hash(seed=self.seed)

    def _hash(self, seed: int | None) -> str:
        # Values equal to a default are left out, so that an argument that a later version adds, neutral by default,
        # does not change the ids of all earlier trials. A default that changes its value must raise NUMERICS.
        resolved = {
            "numerics": NUMERICS,
            "dataset": self.dataset,
            "epochs": self.epochs,
            "optimizer": self.optimizer,
            "algorithm": self.algorithm,
            "hyperparameters": self.hyperparameters.model_dump(exclude_defaults=True),
            "batch_size": self.batch_size,
            "dropout": self.dropout,
            "schedule": [self.schedule.name, self.schedule.model_dump(exclude_defaults=True)],
            "seed": seed,
        }
        return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:16]

    def columns(self) -> dict[str, Any]:
        """What a row of results says about its trial (see `store.SCHEMA`)."""
        conv, linear = self.dropout
        others = self.hyperparameters.model_dump(exclude={"lr"})
        return {
            "trial_id": self.trial_id,
            "configuration_id": self.configuration_id,
            "dataset": self.dataset,
            "epochs": self.epochs,
            "optimizer": self.optimizer,
            "algorithm": self.algorithm,
            "lr": self.hyperparameters.lr,
            "hyperparameters": json.dumps(others, sort_keys=True),
            "schedule": str(self.schedule),
            "batch_size": self.batch_size,
            "dropout": conv if conv == linear else None,
            "dropout_conv": conv,
            "dropout_linear": linear,
            "seed": self.seed,
        }


def expand(sweep: Sweep) -> list[Trial]:
    """All trials of a sweep, seed by seed, so that a sweep cut short holds whole comparisons with fewer seeds.

    Raises `UserError` for combinations that an optimizer refuses, for too many trials and for none.
    """
    count = sum(math.prod(map(len, grid.axes.values())) for grid in sweep.optimizers.values()) * len(sweep.seeds)
    if count > MAX_TRIALS:
        raise UserError(
            f"{_place(sweep, 'optimizers')}: {count:,} trials are more than the {MAX_TRIALS:,} that one sweep may have"
        )
    refused: dict[str, None] = {}
    configurations = []
    useful: set[int] = set()
    for label, grid in sweep.optimizers.items():
        for combination in _combinations(grid):
            exclusions = {i for i, exclusion in enumerate(sweep.exclude) if _matches(label, combination, exclusion)}
            if exclusions:
                useful |= exclusions
                continue
            own = {k: v for k, v in combination.items() if k not in PARAMETERS}
            try:
                hyperparameters = OPTIMIZERS[grid.algorithm](**own)
            except ValidationError as error:
                why = error.errors()[0]["msg"].removeprefix("Value error, ")
                at = _place(sweep, "optimizers", label)
                refused[f"{at}: {label}: {why} (use 'exclude' for single combinations)"] = None
                continue
            configurations.append((label, grid.algorithm, hyperparameters, combination))
    for i in range(len(sweep.exclude)):
        if i not in useful:
            refused[f"{_place(sweep, 'exclude', i)}: excludes nothing: no combination of this sweep is like this"] = (
                None
            )
    if refused:
        raise UserError("\n".join(refused))
    if not configurations:
        raise UserError(f"{_place(sweep, 'exclude')}: 'exclude' leaves no trial")
    return [
        Trial(
            dataset=sweep.dataset,
            epochs=sweep.epochs,
            optimizer=label,
            algorithm=algorithm,
            hyperparameters=hyperparameters,
            batch_size=combination["batch_size"],
            dropout=combination["dropout"],
            schedule=combination["schedule"],
            seed=seed,
        )
        for seed in sweep.seeds
        for label, algorithm, hyperparameters, combination in configurations
    ]


def _combinations(grid: OptimizerGrid) -> Iterator[dict[str, Any]]:
    """Every combination of the grid's values."""
    for values in product(*grid.axes.values()):
        yield dict(zip(grid.axes, values, strict=True))


def _matches(label: str, combination: Mapping[str, Any], exclusion: Mapping[str, tuple[Any, ...]]) -> bool:
    """Whether every key of the exclusion names this combination's value among its own."""
    named = {**combination, "optimizer": label}
    return all(key in named and any(matches(named[key], v) for v in wanted) for key, wanted in exclusion.items())


def _place(sweep: Sweep, *path: str | int) -> str:
    """Where in the sweep file the path stands, or the sweep's name when it came from elsewhere."""
    return str(sweep.places.get(path, sweep.name))
