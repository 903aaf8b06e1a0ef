"""Learning-rate schedules: the factor on the base learning rate, as a pure function of the step.

Epoch-wise schedules change between epochs and have torch's meaning; the others change every step. Epochs and steps
count from 0. `reduce_lr_on_plateau` alone depends on what happened and is a small state machine.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from optbench.bounds import Factor, NonNegative


class Schedule(BaseModel):
    """A schedule and its parameters; `str(schedule)` is its label: the name and what differs from the defaults."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str

    def multiplier(self, epoch: int, step: int, total_steps: int) -> float:
        """What the base learning rate is multiplied with at `step` of `total_steps`, in `epoch`."""
        return 1.0

    def __str__(self) -> str:
        shown = {k: v for k, v in self if k != "name" and v != type(self).model_fields[k].default}
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in shown.items())})" if shown else self.name


class Constant(Schedule):
    """lr throughout."""

    name: Literal["constant"] = "constant"


class Exponential(Schedule):
    """lr · gamma^epoch (torch's ExponentialLR)."""

    name: Literal["exponential"] = "exponential"
    gamma: Factor = 0.9

    def multiplier(self, epoch: int, step: int, total_steps: int) -> float:
        return float(self.gamma**epoch)


class Step(Schedule):
    """lr · gamma^⌊epoch / step_size⌋ (torch's StepLR)."""

    name: Literal["step"] = "step"
    step_size: Annotated[int, Field(ge=1)]
    gamma: Factor = 0.1

    def multiplier(self, epoch: int, step: int, total_steps: int) -> float:
        return float(self.gamma ** (epoch // self.step_size))


class Cosine(Schedule):
    """lr · (1 + cos(π · step / total_steps)) / 2: half a cosine down to 0 (Loshchilov and Hutter, 2017)."""

    name: Literal["cosine"] = "cosine"

    def multiplier(self, epoch: int, step: int, total_steps: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / total_steps))


class ReduceLROnPlateau(Schedule):
    """Multiply by `factor` when `val_loss` has not improved for more than `patience` epochs (torch's meaning)."""

    name: Literal["reduce_lr_on_plateau"] = "reduce_lr_on_plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 10
    threshold: NonNegative = 1e-4
    cooldown: Annotated[int, Field(ge=0)] = 0
    min_lr: NonNegative = 0.0


AnySchedule = Constant | Exponential | Step | ReduceLROnPlateau | Cosine

SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "exponential": Exponential,
    "step": Step,
    "reduce_lr_on_plateau": ReduceLROnPlateau,
    "cosine": Cosine,
}

# Promised for later: the sweep file is told so instead of "unknown".
NOT_YET = frozenset(
    {
        "constant_with_warmup",
        "linear",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
        "warmup_stable_decay",
        "multistep",
        "one_cycle",
    }
)


class LearningRate:
    """The learning rate of one trial on its way through the training."""

    def __init__(self, schedule: Schedule, lr: float, steps_per_epoch: int, epochs: int) -> None:
        self._schedule, self._base = schedule, lr
        self._steps_per_epoch, self._total_steps = steps_per_epoch, steps_per_epoch * epochs
        self._best, self._bad_epochs, self._cooling = math.inf, 0, 0

    def of_epoch(self, epoch: int) -> list[float]:
        """The learning rate of each step of this epoch (the first is epoch 0)."""
        first = epoch * self._steps_per_epoch
        steps = range(first, first + self._steps_per_epoch)
        return [self._base * self._schedule.multiplier(epoch, step, self._total_steps) for step in steps]

    def observe(self, val_loss: float) -> None:
        """Tell the schedule how the epoch ended; only `reduce_lr_on_plateau` listens. NaN is no improvement."""
        plateau = self._schedule
        if not isinstance(plateau, ReduceLROnPlateau):
            return
        if val_loss < self._best * (1 - plateau.threshold):
            self._best, self._bad_epochs = val_loss, 0
        else:
            self._bad_epochs += 1
        if self._cooling > 0:
            self._cooling, self._bad_epochs = self._cooling - 1, 0
        if self._bad_epochs > plateau.patience:
            lr = max(self._base * plateau.factor, plateau.min_lr)
            if self._base - lr > 1e-8:  # torch's eps: too small a change is none
                self._base = lr
            self._cooling, self._bad_epochs = plateau.cooldown, 0
