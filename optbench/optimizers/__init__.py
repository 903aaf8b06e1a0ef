"""The optimizers by name, each with its hyperparameters: `torch.optim`'s argument names, defaults and valid ranges.

This file does not import torch, so that sweep files are checked at once; the update rules are in `training/rules.py`.
To add an optimizer, add a class and a row here, a function and a row there, and a row in the test's table. Optimizers
from elsewhere get their class from `foreign.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from optbench.optimizers.bounds import BelowOne, NonNegative, UpToOne
from optbench.optimizers.hyperparameters import Hyperparameters

Shrinking = Annotated[float, Field(gt=0, lt=1)]
Growing = Annotated[float, Field(gt=1, allow_inf_nan=False)]
Betas = Annotated[tuple[BelowOne, BelowOne], Field(strict=False)]


class SGD(Hyperparameters):
    algorithm = "sgd"

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
    algorithm = "adagrad"

    lr: NonNegative = 1e-2
    lr_decay: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 0.0
    eps: NonNegative = 1e-10


class Adadelta(Hyperparameters):
    algorithm = "adadelta"

    lr: NonNegative = 1.0
    rho: UpToOne = 0.9
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 0.0


class RMSprop(Hyperparameters):
    algorithm = "rmsprop"

    lr: NonNegative = 1e-2
    alpha: UpToOne = 0.99
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum: NonNegative = 0.0
    centered: bool = False


class Rprop(Hyperparameters):
    algorithm = "rprop"

    lr: NonNegative = 1e-2
    etas: Annotated[tuple[Shrinking, Growing], Field(strict=False)] = (0.5, 1.2)
    step_sizes: Annotated[tuple[NonNegative, NonNegative], Field(strict=False)] = (1e-6, 50.0)


class ASGD(Hyperparameters):
    algorithm = "asgd"

    lr: NonNegative = 1e-2
    lambd: NonNegative = 1e-4
    alpha: NonNegative = 0.75
    weight_decay: NonNegative = 0.0


class Adam(Hyperparameters):
    algorithm = "adam"

    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False


class AdamW(Adam):
    algorithm = "adamw"

    weight_decay: NonNegative = 1e-2


class Adamax(Hyperparameters):
    algorithm = "adamax"

    lr: NonNegative = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0


class NAdam(Hyperparameters):
    algorithm = "nadam"

    lr: NonNegative = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum_decay: NonNegative = 4e-3
    decoupled_weight_decay: bool = False


class RAdam(Hyperparameters):
    algorithm = "radam"

    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = False


class Lion(Hyperparameters):
    """Not in torch.optim; arguments and defaults are those of the paper's own code."""

    algorithm = "lion"
    provider = "optbench"

    lr: NonNegative = 1e-4
    betas: Betas = (0.9, 0.99)
    weight_decay: NonNegative = 0.0


class Adafactor(Hyperparameters):
    algorithm = "adafactor"
    stacked = False

    lr: NonNegative = 1e-2
    beta2_decay: Annotated[float, Field(le=0, allow_inf_nan=False)] = -0.8
    eps: Annotated[tuple[NonNegative | None, NonNegative], Field(strict=False)] = (None, 1e-3)
    d: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    weight_decay: NonNegative = 0.0


class LBFGS(Hyperparameters):
    """Up to `max_iter` evaluations of the batch's loss and gradient in each step."""

    algorithm = "lbfgs"
    stacked = False

    lr: NonNegative = 1.0
    max_iter: Annotated[int, Field(ge=1)] = 20
    max_eval: Annotated[int, Field(ge=1)] | None = None
    tolerance_grad: NonNegative = 1e-7
    tolerance_change: NonNegative = 1e-9
    history_size: Annotated[int, Field(ge=1)] = 100
    line_search_fn: Literal["strong_wolfe"] | None = None


class Muon(Hyperparameters):
    """torch's Muon for every weight matrix (a convolution's is out × in·height·width), AdamW for the biases.

    AdamW has the same weight decay, torch's betas and eps, and `adamw_lr`, which a schedule scales like lr.
    """

    algorithm = "muon"
    provider = "torch.optim"
    stacked = False

    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.1
    momentum: BelowOne = 0.95
    nesterov: bool = True
    eps: NonNegative = 1e-7
    ns_steps: Annotated[int, Field(ge=1, lt=100)] = 5
    adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None
    adamw_lr: NonNegative = 1e-3


class SAM(Hyperparameters):
    """SGD with the gradient at the worst point within `rho` of the weights: two gradients for each step."""

    algorithm = "sam"
    provider = "optbench"
    stacked = False

    lr: NonNegative = 1e-3
    rho: NonNegative = 0.05
    adaptive: bool = False
    momentum: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SAM:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


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
    "adafactor": Adafactor,
    "lbfgs": LBFGS,
    "muon": Muon,
    "sam": SAM,
}

# Known to torch, impossible or meaningless here; the user is told why instead of "unknown".
IMPOSSIBLE = {"sparseadam": "it takes only sparse gradients, and those of this network are dense"}
# What papers and other libraries call an argument.
SYNONYMS = {"learning_rate": "lr", "wd": "weight_decay"}
IMPOSSIBLE_ARGUMENTS = {
    "maximize": "the loss is minimized",
    "t0": "the average that begins at t0 takes no part in the training",
}
