"""Update rules over a stack: every trial at once, each with its own hyperparameters.

Shapes: T trials, P parameters of one trial (all its tensors, flattened and concatenated). Parameters, gradients and
state are (T, P); a hyperparameter is (T, 1). Rules work in place and may use the gradient as scratch space.
The formulas are those of `torch.optim`'s documentation; tests hold each rule against torch, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def _add_weight_decay(p: Tensor, g: Tensor, h: Tensors) -> None:
    if "weight_decay" in h:
        g.addcmul_(p, h["weight_decay"])


def sgd(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: int) -> None:
    _add_weight_decay(p, g, h)
    if "momentum" in h:
        momentum, buffer = h["momentum"], s["momentum_buffer"]
        # The first gradient enters the buffer undampened; without momentum torch keeps no buffer to dampen.
        kept = 1 - h["dampening"] * (momentum != 0) if "dampening" in h and t > 1 else torch.ones_like(momentum)
        buffer.mul_(momentum).addcmul_(g, kept)
        if "nesterov" in h:
            nesterov = h["nesterov"]
            g.mul_(nesterov).addcmul_(buffer, torch.where(nesterov != 0, momentum, 1))
        else:
            g.copy_(buffer)
    p.addcmul_(g, -lr)


def adagrad(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: int) -> None:
    _add_weight_decay(p, g, h)
    total = s["sum"]
    if t == 1 and "initial_accumulator_value" in h:
        total.add_(h["initial_accumulator_value"])
    if "lr_decay" in h:
        lr = lr / (1 + (t - 1) * h["lr_decay"])
    total.addcmul_(g, g)
    p.addcmul_(g.div_(total.sqrt().add_(h["eps"])), -lr)


def adadelta(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: int) -> None:
    _add_weight_decay(p, g, h)
    rho, eps = h["rho"], h["eps"]
    square, change = s["square_avg"], s["acc_delta"]
    square.mul_(rho).addcmul_(g, g * (1 - rho))
    delta = (change + eps).sqrt_().div_((square + eps).sqrt_()).mul_(g)
    change.mul_(rho).addcmul_(delta, delta * (1 - rho))
    p.addcmul_(delta, -lr)


def rmsprop(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: int) -> None:
    _add_weight_decay(p, g, h)
    alpha, square = h["alpha"], s["square_avg"]
    square.mul_(alpha).addcmul_(g, g * (1 - alpha))
    g.div_(square.sqrt().add_(h["eps"]))
    if "momentum" in h:
        g = s["momentum_buffer"].mul_(h["momentum"]).add_(g)
    p.addcmul_(g, -lr)


def _adam_step(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: int) -> None:
    beta1, beta2 = h["beta1"], h["beta2"]
    # Bias corrections in float64: 1 - 0.999¹ has lost three digits in float32.
    correction1, correction2 = ((1 - beta.double() ** t).to(p.dtype) for beta in (beta1, beta2))
    s["exp_avg"].lerp_(g, 1 - beta1)
    s["exp_avg_sq"].mul_(beta2).addcmul_(g, g * (1 - beta2))
    denominator = s["exp_avg_sq"].sqrt().div_(correction2.sqrt()).add_(h["eps"])
    p.addcmul_(torch.div(s["exp_avg"], denominator, out=denominator), -lr / correction1)


def adam(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: int) -> None:
    _add_weight_decay(p, g, h)
    _adam_step(p, g, s, h, lr, t)


def adamw(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: int) -> None:
    if "weight_decay" in h:
        p.mul_(1 - lr * h["weight_decay"])
    _adam_step(p, g, s, h, lr, t)


Update = Callable[[Tensor, Tensor, Tensors, Tensors, Tensor, int], None]


@dataclass(frozen=True)
class Rule:
    """`update(p, g, state, hyperparameters, lr, t)` makes step t (from 1 on); `state` names its zero-filled buffers."""

    update: Update
    state: tuple[str, ...]


RULES: dict[str, Rule] = {
    "sgd": Rule(sgd, ("momentum_buffer",)),
    "adagrad": Rule(adagrad, ("sum",)),
    "adadelta": Rule(adadelta, ("square_avg", "acc_delta")),
    "rmsprop": Rule(rmsprop, ("square_avg", "momentum_buffer")),
    "adam": Rule(adam, ("exp_avg", "exp_avg_sq")),
    "adamw": Rule(adamw, ("exp_avg", "exp_avg_sq")),
}

# Terms that vanish at 0 are left out of the update when they are 0 for every trial of the group.
_OPTIONAL = {"weight_decay", "momentum", "dampening", "nesterov", "lr_decay", "initial_accumulator_value"}


def _columns(hyperparameters: Sequence[Mapping[str, Any]], like: Tensor) -> dict[str, Tensor]:
    """Hyperparameters of a group's trials as (T, 1) tensors; `betas` becomes beta1 and beta2, `lr` is left out."""
    rows = [dict(row) for row in hyperparameters]
    for row in rows:
        row.pop("lr", None)
        if "betas" in row:
            row["beta1"], row["beta2"] = row.pop("betas")
    columns = {}
    for name in rows[0]:
        values = [float(row[name]) for row in rows]
        if any(values) or name not in _OPTIONAL:
            columns[name] = torch.tensor(values, dtype=torch.float64).to(like).unsqueeze(1)
    return columns


@dataclass
class _Group:
    rows: slice
    update: Update
    hyperparameters: Tensors
    state: Tensors


class StackedOptimizer:
    """Updates a stack in place. Neighbouring trials with the same optimizer share one call of its rule.

    `parameters_TP` are the weights; `optimizers` names each trial's rule; `hyperparameters` holds a mapping for each.
    """

    def __init__(
        self, parameters_TP: Tensor, optimizers: Sequence[str], hyperparameters: Sequence[Mapping[str, Any]]
    ) -> None:
        self.parameters_TP = parameters_TP
        self.steps = 0
        self._groups: list[_Group] = []
        for name, members in groupby(range(len(optimizers)), key=lambda t: optimizers[t]):
            trials = list(members)
            rows, rule = slice(trials[0], trials[-1] + 1), RULES[name]
            columns = _columns([hyperparameters[t] for t in trials], parameters_TP)
            needed = [s for s in rule.state if s != "momentum_buffer" or "momentum" in columns]
            state = {s: torch.zeros_like(parameters_TP[rows]) for s in needed}
            self._groups.append(_Group(rows, rule.update, columns, state))

    def step(self, gradients_TP: Tensor, lr_T1: Tensor) -> None:
        """One update with this step's learning rates, (T, 1); the gradients are overwritten."""
        self.steps += 1
        for group in self._groups:
            p, g, lr = (x[group.rows] for x in (self.parameters_TP, gradients_TP, lr_T1))
            group.update(p, g, group.state, group.hyperparameters, lr, self.steps)
