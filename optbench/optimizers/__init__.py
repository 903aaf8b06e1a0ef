"""The optimizers by name, each with its hyperparameters: `torch.optim`'s argument names, defaults and valid ranges.

This file knows no torch, so that sweep files are checked at once; the update rules are in `rules.py`.
Adding an optimizer is a class and a row here, a function and a row there, and a row in the test's table.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from optbench.bounds import BelowOne, NonNegative, UpToOne

Betas = Annotated[tuple[BelowOne, BelowOne], Field(strict=False)]


class Hyperparameters(BaseModel):
    """What an optimizer takes; the fields' defaults are torch's. Numbers must be numbers, not strings or booleans."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    lr: NonNegative
    weight_decay: NonNegative


class SGD(Hyperparameters):
    lr: NonNegative = 1e-3
    momentum: NonNegative = 0.0
    dampening: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGD:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov needs a momentum above 0 and no dampening")
        return self


class Adagrad(Hyperparameters):
    lr: NonNegative = 1e-2
    lr_decay: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 0.0
    eps: NonNegative = 1e-10


class Adadelta(Hyperparameters):
    lr: NonNegative = 1.0
    rho: UpToOne = 0.9
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 0.0


class RMSprop(Hyperparameters):
    lr: NonNegative = 1e-2
    alpha: UpToOne = 0.99
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum: NonNegative = 0.0


class Adam(Hyperparameters):
    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0


class AdamW(Adam):
    weight_decay: NonNegative = 1e-2


OPTIMIZERS: dict[str, type[Hyperparameters]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "adadelta": Adadelta,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
}

# Known to torch.optim, not yet to optbench: the sweep file is told so instead of "unknown".
NOT_YET = frozenset(
    {"adafactor", "adamax", "asgd", "lbfgs", "lion", "muon", "nadam", "radam", "rprop", "sam", "sparseadam"}
)
NOT_YET_ARGUMENTS = frozenset({"amsgrad", "centered", "maximize"})
