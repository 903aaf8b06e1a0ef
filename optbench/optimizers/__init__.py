"""The optimizers by name, each with its hyperparameters: `torch.optim`'s argument names, defaults and valid ranges.

This file knows no torch, so that sweep files are checked at once; the update rules are in `rules.py`.
Adding an optimizer is a class and a row here, a function and a row there, and a row in the test's table.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from optbench.bounds import BelowOne, NonNegative, UpToOne

Shrinking = Annotated[float, Field(gt=0, lt=1)]
Growing = Annotated[float, Field(gt=1, allow_inf_nan=False)]
Betas = Annotated[tuple[BelowOne, BelowOne], Field(strict=False)]


class Hyperparameters(BaseModel):
    """What an optimizer takes; the fields' defaults are torch's. Numbers must be numbers, not strings or booleans."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    lr: NonNegative


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
    centered: bool = False


class Rprop(Hyperparameters):
    lr: NonNegative = 1e-2
    etas: Annotated[tuple[Shrinking, Growing], Field(strict=False)] = (0.5, 1.2)
    step_sizes: Annotated[tuple[NonNegative, NonNegative], Field(strict=False)] = (1e-6, 50.0)


class ASGD(Hyperparameters):
    lr: NonNegative = 1e-2
    lambd: NonNegative = 1e-4
    alpha: NonNegative = 0.75
    weight_decay: NonNegative = 0.0


class Adam(Hyperparameters):
    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False


class AdamW(Adam):
    weight_decay: NonNegative = 1e-2


class Adamax(Hyperparameters):
    lr: NonNegative = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0


class NAdam(Hyperparameters):
    lr: NonNegative = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum_decay: NonNegative = 4e-3
    decoupled_weight_decay: bool = False


class RAdam(Hyperparameters):
    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = False


class Lion(Hyperparameters):
    """Not in torch.optim; arguments and defaults are those of the paper's own code."""

    lr: NonNegative = 1e-4
    betas: Betas = (0.9, 0.99)
    weight_decay: NonNegative = 0.0


OPTIMIZERS: dict[str, type[Hyperparameters]] = {
    "sgd": SGD,
    "asgd": ASGD,
    "adagrad": Adagrad,
    "adadelta": Adadelta,
    "rmsprop": RMSprop,
    "rprop": Rprop,
    "adam": Adam,
    "adamw": AdamW,
    "adamax": Adamax,
    "nadam": NAdam,
    "radam": RAdam,
    "lion": Lion,
}

# Known to torch.optim, not yet to optbench: the sweep file is told so instead of "unknown".
NOT_YET = frozenset(
    {"adafactor", "adamax", "asgd", "lbfgs", "lion", "muon", "nadam", "radam", "rprop", "sam", "sparseadam"}
)
NOT_YET_ARGUMENTS = frozenset({"maximize", "t0"})
