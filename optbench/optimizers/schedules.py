"""Learning-rate schedules: the factor on the base learning rate, as a pure function of the step.

Epoch-wise schedules change between epochs and have torch's meaning; the others change every step and have the meaning
they have in Hugging Face's transformers. torch's class names stand for torch's classes, whose step is the epoch. Epochs
and steps count from 0. Only `reduce_lr_on_plateau` depends on what happened: it is a small state machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from optbench.optimizers.bounds import Factor, NonNegative, Positive, UpToOne


@dataclass(frozen=True)
class Position:
    """Where a training is once its warmup is over: `step` of `steps` since then, after `warmup` others, in `epoch`.

    `lr` is the base learning rate.
    """

    lr: float
    epoch: int
    step: int
    steps: int
    warmup: int


class Schedule(BaseModel):
    """A schedule and its parameters; `str(schedule)` is its label: the name and what differs from the defaults.

    Every schedule takes `warmup_steps`, over which the learning rate first rises from 0 in a straight line; a number
    below 1 is a share of all steps. A schedule that changes every step runs over the steps that are left, one that
    changes between epochs keeps its epochs.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str
    warmup_steps: NonNegative = 0.0

    def multiplier(self, lr: float, epoch: int, step: int, total_steps: int) -> float:
        """What the base learning rate `lr` is multiplied with at `step` of `total_steps`, in `epoch`."""
        warmup = _steps(self.warmup_steps, total_steps)
        if step < warmup:
            return step / warmup
        return self.after_warmup(Position(lr, epoch, step - warmup, total_steps - warmup, warmup))

    def after_warmup(self, at: Position) -> float:
        """The multiplier once the warmup is over."""
        return 1.0

    def __str__(self) -> str:
        shown = {k: v for k, v in self if k != "name" and v != type(self).model_fields[k].default}
        return f"{self.name}({', '.join(f'{k}={_written(v)}' for k, v in shown.items())})" if shown else self.name


def _steps(number: float, total_steps: int) -> int:
    """A number of steps; below 1 it is a share of all."""
    return min(total_steps, round(number * total_steps if number < 1 else number))


def _written(value: Any) -> str:
    """A parameter as a sweep file writes it."""
    return str(list(value)) if isinstance(value, tuple) else f"{value:g}"


def _half_cosine(progress: float) -> float:
    """From 1 at 0 down to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


class Constant(Schedule):
    """lr throughout."""

    name: Literal["constant"] = "constant"


class ConstantWithWarmup(Schedule):
    """lr, after a rise from 0 over warmup_steps."""

    name: Literal["constant_with_warmup"] = "constant_with_warmup"
    warmup_steps: Positive = 0.1


class Linear(Schedule):
    """lr · (1 − step / steps): a straight line down to 0."""

    name: Literal["linear"] = "linear"

    def after_warmup(self, at: Position) -> float:
        return 1 - at.step / at.steps


class Cosine(Schedule):
    """lr · (1 + cos(π · step / steps)) / 2: half a cosine down to 0 (Loshchilov and Hutter, 2017)."""

    name: Literal["cosine"] = "cosine"

    def after_warmup(self, at: Position) -> float:
        return _half_cosine(at.step / at.steps)


class CosineWithRestarts(Schedule):
    """num_cycles half cosines of equal length, each from lr down to 0 (Loshchilov and Hutter, 2017)."""

    name: Literal["cosine_with_restarts"] = "cosine_with_restarts"
    num_cycles: Annotated[int, Field(ge=1)] = 2

    def after_warmup(self, at: Position) -> float:
        # The remainder of whole numbers: where a cycle begins must not depend on the rounding of a fraction.
        return _half_cosine((at.step * self.num_cycles % at.steps) / at.steps)


class Polynomial(Schedule):
    """lr · (1 − step / steps)^power (torch's PolynomialLR over all steps)."""

    name: Literal["polynomial"] = "polynomial"
    power: Positive = 1.0

    def after_warmup(self, at: Position) -> float:
        return float((1 - at.step / at.steps) ** self.power)


class InverseSqrt(Schedule):
    """lr · √(timescale / (timescale + step)); timescale is warmup_steps, or 10,000 without (Zhai et al., 2022)."""

    name: Literal["inverse_sqrt"] = "inverse_sqrt"

    def after_warmup(self, at: Position) -> float:
        timescale = at.warmup or 10_000
        return math.sqrt(timescale / (timescale + at.step))


class InverseTime(Schedule):
    """lr · (1 + gamma · step)^−power (Caffe's "inv"; with power 1 TensorFlow's InverseTimeDecay)."""

    name: Literal["inverse_time"] = "inverse_time"
    gamma: Positive = 1e-4
    power: Positive = 1.0

    def after_warmup(self, at: Position) -> float:
        return float((1 + self.gamma * at.step) ** -self.power)


class WarmupStableDecay(Schedule):
    """lr after a rise over warmup_steps, and half a cosine down to 0 in the last decay_steps (Hu et al., 2024)."""

    name: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    warmup_steps: NonNegative = 0.1
    decay_steps: Positive = 0.2

    def after_warmup(self, at: Position) -> float:
        decay = min(at.steps, _steps(self.decay_steps, at.steps + at.warmup))
        return _half_cosine(max(0, at.step - (at.steps - decay)) / decay) if decay else 1.0


class OneCycle(Schedule):
    """Up to lr in the first pct_start of all steps and down to almost 0, along half cosines (torch's OneCycleLR)."""

    name: Literal["one_cycle"] = "one_cycle"
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 25.0
    final_div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1e4

    def after_warmup(self, at: Position) -> float:
        peak, last = self.pct_start * at.steps - 1, at.steps - 1  # torch's, fraction and all
        low = 1 / self.div_factor
        if at.step < peak:
            return 1 + (low - 1) * _half_cosine(at.step / peak)
        end = low / self.final_div_factor
        return end + (1 - end) * _half_cosine((at.step - peak) / (last - peak))


class Exponential(Schedule):
    """lr · gamma^epoch (torch's ExponentialLR)."""

    name: Literal["exponential"] = "exponential"
    gamma: Factor = 0.9

    def after_warmup(self, at: Position) -> float:
        return float(self.gamma**at.epoch)


class Step(Schedule):
    """lr · gamma^⌊epoch / step_size⌋ (torch's StepLR)."""

    name: Literal["step"] = "step"
    step_size: Annotated[int, Field(ge=1)]
    gamma: Factor = 0.1

    def after_warmup(self, at: Position) -> float:
        return float(self.gamma ** (at.epoch // self.step_size))


class MultiStep(Schedule):
    """lr · gamma^(number of milestones reached); milestones are epochs (torch's MultiStepLR)."""

    name: Literal["multistep"] = "multistep"
    milestones: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)]
    gamma: Factor = 0.1

    def after_warmup(self, at: Position) -> float:
        return float(self.gamma ** sum(at.epoch >= milestone for milestone in self.milestones))


class ReduceLROnPlateau(Schedule):
    """Multiply by `factor` when `val_loss` has not improved for more than `patience` epochs (torch's meaning)."""

    name: Literal["reduce_lr_on_plateau"] = "reduce_lr_on_plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 10
    threshold: NonNegative = 1e-4
    cooldown: Annotated[int, Field(ge=0)] = 0
    min_lr: NonNegative = 0.0


class ConstantLR(Schedule):
    """lr · factor for total_iters epochs, then lr (torch's ConstantLR)."""

    name: Literal["ConstantLR"] = "ConstantLR"
    factor: UpToOne = 1 / 3
    total_iters: Annotated[int, Field(ge=1)] = 5

    def after_warmup(self, at: Position) -> float:
        return self.factor if at.epoch < self.total_iters else 1.0


class LinearLR(Schedule):
    """From lr · start_factor to lr · end_factor in a straight line over total_iters epochs (torch's LinearLR)."""

    name: Literal["LinearLR"] = "LinearLR"
    start_factor: Factor = 1 / 3
    end_factor: UpToOne = 1.0
    total_iters: Annotated[int, Field(ge=1)] = 5

    def after_warmup(self, at: Position) -> float:
        progress = min(at.epoch, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * progress


class PolynomialLR(Schedule):
    """lr · (1 − epoch / total_iters)^power, and 0 from epoch total_iters on (torch's PolynomialLR)."""

    name: Literal["PolynomialLR"] = "PolynomialLR"
    total_iters: Annotated[int, Field(ge=1)] = 5
    power: Positive = 1.0

    def after_warmup(self, at: Position) -> float:
        return float((1 - min(at.epoch, self.total_iters) / self.total_iters) ** self.power)


class CosineAnnealingLR(Schedule):
    """Half a cosine from lr to eta_min over T_max epochs, and back up after it (torch's CosineAnnealingLR)."""

    name: Literal["CosineAnnealingLR"] = "CosineAnnealingLR"
    T_max: Annotated[int, Field(ge=1)]
    eta_min: NonNegative = 0.0

    def after_warmup(self, at: Position) -> float:
        return _above(self.eta_min, at, _half_cosine(at.epoch / self.T_max))


class CosineAnnealingWarmRestarts(Schedule):
    """Half cosines from lr to eta_min, the first of T_0 epochs, each T_mult times as long as the last (torch's)."""

    name: Literal["CosineAnnealingWarmRestarts"] = "CosineAnnealingWarmRestarts"
    T_0: Annotated[int, Field(ge=1)]
    T_mult: Annotated[int, Field(ge=1)] = 1
    eta_min: NonNegative = 0.0

    def after_warmup(self, at: Position) -> float:
        epoch, length = at.epoch, self.T_0
        while epoch >= length:
            epoch, length = epoch - length, length * self.T_mult
        return _above(self.eta_min, at, _half_cosine(epoch / length))


def _above(floor: float, at: Position, share: float) -> float:
    """The multiplier that leads from the base learning rate at 1 to `floor` at 0."""
    low = floor / at.lr if at.lr else 0.0
    return low + (1 - low) * share


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "constant_with_warmup": ConstantWithWarmup,
    "linear": Linear,
    "cosine": Cosine,
    "cosine_with_restarts": CosineWithRestarts,
    "polynomial": Polynomial,
    "inverse_sqrt": InverseSqrt,
    "inverse_time": InverseTime,
    "warmup_stable_decay": WarmupStableDecay,
    "one_cycle": OneCycle,
    "exponential": Exponential,
    "step": Step,
    "multistep": MultiStep,
    "reduce_lr_on_plateau": ReduceLROnPlateau,
    "ConstantLR": ConstantLR,
    "LinearLR": LinearLR,
    "PolynomialLR": PolynomialLR,
    "CosineAnnealingLR": CosineAnnealingLR,
    "CosineAnnealingWarmRestarts": CosineAnnealingWarmRestarts,
}

# torch's classes that are the same as one of those above.
ALIASES = {
    "ExponentialLR": "exponential",
    "StepLR": "step",
    "MultiStepLR": "multistep",
    "OneCycleLR": "one_cycle",
    "ReduceLROnPlateau": "reduce_lr_on_plateau",
}

# torch's classes that a sweep file cannot express, and why.
IMPOSSIBLE = {
    "LambdaLR": "it takes a Python function",
    "MultiplicativeLR": "it takes a Python function",
    "SequentialLR": "it is made of other schedules; each one here takes warmup_steps",
    "ChainedScheduler": "it is made of other schedules; each one here takes warmup_steps",
    "CyclicLR": "its learning rates are set in the schedule, not in lr; 'one_cycle' takes lr",
}


class LearningRate:
    """The learning rate of one trial during training."""

    def __init__(self, schedule: Schedule, lr: float, steps_per_epoch: int, total_steps: int) -> None:
        self._schedule, self._base = schedule, lr
        self._steps_per_epoch, self._total_steps = steps_per_epoch, total_steps
        self._best, self._bad_epochs, self._cooling = math.inf, 0, 0

    def of_epoch(self, epoch: int) -> list[float]:
        """The learning rate of each step of this epoch (the first is epoch 0)."""
        first = epoch * self._steps_per_epoch
        steps = range(first, min(first + self._steps_per_epoch, self._total_steps))  # the last epoch may be shorter
        return [self._base * self._schedule.multiplier(self._base, epoch, step, self._total_steps) for step in steps]

    def observe(self, loss: float) -> None:
        """Tell the schedule how the epoch ended; only `reduce_lr_on_plateau` uses it. NaN is not an improvement."""
        plateau = self._schedule
        if not isinstance(plateau, ReduceLROnPlateau):
            return
        if loss < self._best * (1 - plateau.threshold):
            self._best, self._bad_epochs = loss, 0
        else:
            self._bad_epochs += 1
        if self._cooling > 0:
            self._cooling, self._bad_epochs = self._cooling - 1, 0
        if self._bad_epochs > plateau.patience:
            lr = max(self._base * plateau.factor, plateau.min_lr)
            if self._base - lr > 1e-8:  # torch's eps: a smaller change is not made
                self._base = lr
            self._cooling, self._bad_epochs = plateau.cooldown, 0

    def state_dict(self) -> dict[str, float]:
        """What depends on how the epochs ended."""
        return {"base": self._base, "best": self._best, "bad_epochs": self._bad_epochs, "cooling": self._cooling}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one with the same schedule left off."""
        self._base, self._best = state["base"], state["best"]
        self._bad_epochs, self._cooling = state["bad_epochs"], state["cooling"]
