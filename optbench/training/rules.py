"""Update rules over a stack: every trial at once, each with its own hyperparameters.

Shapes: T trials, P parameters of one trial (all its tensors, flattened and concatenated). Parameters, gradients and
state are (T, P); a hyperparameter is (T, 1), but weight_decay (T, P) where it differs among a trial's parameters; the
number t of the step, from 1 on, is a float64 tensor of no dimensions. Rules work in place, may use the gradient as
scratch space, and never look at a value on the host: a step may be a CUDA graph, recorded once and replayed.
The formulas are those of `torch.optim`'s documentation; tests compare each rule with torch, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def _add_weight_decay(p: Tensor, g: Tensor, h: Tensors) -> None:
    if "weight_decay" in h:
        g.addcmul_(p, h["weight_decay"])


def kept_of_gradient(h: Tensors, t: Tensor) -> Tensor:
    """The share of the gradient that enters SGD's momentum."""
    kept = torch.ones_like(h["momentum"])
    if "dampening" in h:
        # The first gradient enters the buffer undampened; without momentum torch keeps no buffer to dampen.
        kept = kept - h["dampening"] * ((h["momentum"] != 0) & (t > 1))
    return kept


def sgd(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    _add_weight_decay(p, g, h)
    if "momentum" in h:
        momentum, buffer = h["momentum"], s["momentum_buffer"]
        buffer.mul_(momentum).addcmul_(g, kept_of_gradient(h, t))
        if "nesterov" in h:
            nesterov = h["nesterov"]
            g.mul_(nesterov).addcmul_(buffer, torch.where(nesterov != 0, momentum, 1))
        else:
            g.copy_(buffer)
    p.addcmul_(g, -lr)


def asgd(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    """Only the iterates: the average that torch also keeps from step t0 on takes no part in the training."""
    _add_weight_decay(p, g, h)
    eta = s["eta"]
    eta.copy_(torch.where(t == 1, lr, eta))
    p.mul_(1 - h["lambd"] * eta).addcmul_(g, -eta)
    eta.copy_(lr / (1 + h["lambd"] * lr * t) ** h["alpha"])


def adagrad(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    _add_weight_decay(p, g, h)
    total = s["sum"]
    if "initial_accumulator_value" in h:
        total.add_(h["initial_accumulator_value"] * (t == 1))
    if "lr_decay" in h:
        lr = lr / (1 + (t - 1) * h["lr_decay"])
    total.addcmul_(g, g)
    p.addcmul_(g.div_(total.sqrt().add_(h["eps"])), -lr)


def adadelta(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    _add_weight_decay(p, g, h)
    rho, eps = h["rho"], h["eps"]
    square, change = s["square_avg"], s["acc_delta"]
    square.mul_(rho).addcmul_(g, g * (1 - rho))
    delta = (change + eps).sqrt_().div_((square + eps).sqrt_()).mul_(g)
    change.mul_(rho).addcmul_(delta, delta * (1 - rho))
    p.addcmul_(delta, -lr)


def rmsprop(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    _add_weight_decay(p, g, h)
    alpha, square = h["alpha"], s["square_avg"]
    square.mul_(alpha).addcmul_(g, g * (1 - alpha))
    variance = square
    if "centered" in h:
        mean = s["grad_avg"].lerp_(g, 1 - alpha)
        variance = torch.where(h["centered"] != 0, square - mean * mean, square)
    g.div_(variance.sqrt().add_(h["eps"]))
    if "momentum" in h:
        g = s["momentum_buffer"].mul_(h["momentum"]).add_(g)
    p.addcmul_(g, -lr)


def rprop(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    size, previous = s["step_size"], s["prev"]
    size.copy_(torch.where(t == 1, lr, size))
    agreement = torch.sign(g * previous)
    factor = torch.where(agreement > 0, h["eta_plus"], torch.where(agreement < 0, h["eta_minus"], 1))
    torch.clamp(size.mul_(factor), h["step_size_min"], h["step_size_max"], out=size)
    g.masked_fill_(agreement < 0, 0)  # the step that went too far is not followed by another one
    p.addcmul_(torch.sign(g), -size)
    previous.copy_(g)


def _moments(g: Tensor, s: Tensors, h: Tensors) -> None:
    s["exp_avg"].lerp_(g, 1 - h["beta1"])
    s["exp_avg_sq"].mul_(h["beta2"]).addcmul_(g, g * (1 - h["beta2"]))


def corrections(p: Tensor, h: Tensors, t: Tensor) -> tuple[Tensor, Tensor]:
    """1 - βᵗ of both moments, computed in float64: 1 - 0.999¹ loses three digits in float32."""
    first, second = (1 - h[beta].double() ** t for beta in ("beta1", "beta2"))
    return first.to(p.dtype), second.to(p.dtype)


def _adam_step(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    correction1, correction2 = corrections(p, h, t)
    _moments(g, s, h)
    second = s["exp_avg_sq"]
    if "amsgrad" in h:
        largest = s["max_exp_avg_sq"]
        torch.maximum(largest, second, out=largest)
        second = torch.where(h["amsgrad"] != 0, largest, second)
    denominator = second.sqrt().div_(correction2.sqrt()).add_(h["eps"])
    p.addcmul_(torch.div(s["exp_avg"], denominator, out=denominator), -lr / correction1)


def adam(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    _add_weight_decay(p, g, h)
    _adam_step(p, g, s, h, lr, t)


def adamw(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    if "weight_decay" in h:
        p.mul_(1 - lr * h["weight_decay"])
    _adam_step(p, g, s, h, lr, t)


def adamax(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    _add_weight_decay(p, g, h)
    correction1, _ = corrections(p, h, t)
    norm = s["exp_inf"]
    s["exp_avg"].lerp_(g, 1 - h["beta1"])
    torch.maximum(norm.mul_(h["beta2"]), g.abs_().add_(h["eps"]), out=norm)
    p.addcmul_(s["exp_avg"] / norm, -lr / correction1)


def _decay_one_way_or_the_other(p: Tensor, g: Tensor, h: Tensors, lr: Tensor) -> None:
    """Weight decay in the gradient, or for the trials with `decoupled_weight_decay` on the weights."""
    if "weight_decay" in h:
        decoupled = h.get("decoupled_weight_decay", torch.zeros_like(lr))
        decay = h["weight_decay"]
        p.mul_(1 - lr * decay * decoupled)
        g.addcmul_(p, decay * (1 - decoupled))


def nadam(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    _decay_one_way_or_the_other(p, g, h, lr)
    _, correction2 = corrections(p, h, t)
    mu, mu_next = (h["beta1"] * (1 - 0.5 * 0.96 ** (step * h["momentum_decay"])) for step in (t, t + 1))
    product = s["mu_product"]
    product.copy_(torch.where(t == 1, mu, product * mu))
    _moments(g, s, h)
    denominator = (s["exp_avg_sq"] / correction2).sqrt_().add_(h["eps"])
    p.addcmul_(g.div_(denominator), -lr * (1 - mu) / (1 - product))
    p.addcmul_(s["exp_avg"] / denominator, -lr * mu_next / (1 - product * mu_next))


def radam(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    _decay_one_way_or_the_other(p, g, h, lr)
    correction1, correction2 = corrections(p, h, t)
    _moments(g, s, h)
    beta2 = h["beta2"].double()
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    # Below 5 the variance is not yet tractable and the step is only that of momentum.
    tractable = length > 5
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    rectification = torch.where(tractable, ratio, 0).sqrt().to(p.dtype)
    adaptive = correction2.sqrt() / s["exp_avg_sq"].sqrt().add_(h["eps"])
    scale = torch.where(tractable, rectification * adaptive, 1)
    p.addcmul_(scale.mul_(s["exp_avg"]), -lr / correction1)


def lion(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    """Chen et al., 2023, "Symbolic discovery of optimization algorithms", algorithm 2."""
    average = s["exp_avg"]
    if "weight_decay" in h:
        p.mul_(1 - lr * h["weight_decay"])
    p.addcmul_(torch.sign(torch.lerp(g, average, h["beta1"])), -lr)
    average.lerp_(g, 1 - h["beta2"])


Update = Callable[[Tensor, Tensor, Tensors, Tensors, Tensor, Tensor], None]


@dataclass(frozen=True)
class Rule:
    """`update(p, g, state, hyperparameters, lr, t)` makes step t (from 1 on).

    `state` names its buffers, all zero at first, (T, P); `scalars` those with one number for each trial, (T, 1). A
    buffer that only one hyperparameter needs is under that one's name in `optional`.
    """

    update: Update
    state: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    optional: Mapping[str, str] = field(default_factory=dict)


_MOMENTS = ("exp_avg", "exp_avg_sq")
RULES: dict[str, Rule] = {
    "sgd": Rule(sgd, optional={"momentum": "momentum_buffer"}),
    "asgd": Rule(asgd, scalars=("eta",)),
    "adagrad": Rule(adagrad, ("sum",)),
    "adadelta": Rule(adadelta, ("square_avg", "acc_delta")),
    "rmsprop": Rule(rmsprop, ("square_avg",), optional={"momentum": "momentum_buffer", "centered": "grad_avg"}),
    "rprop": Rule(rprop, ("step_size", "prev")),
    "adam": Rule(adam, _MOMENTS, optional={"amsgrad": "max_exp_avg_sq"}),
    "adamw": Rule(adamw, _MOMENTS, optional={"amsgrad": "max_exp_avg_sq"}),
    "adamax": Rule(adamax, ("exp_avg", "exp_inf")),
    "nadam": Rule(nadam, _MOMENTS, scalars=("mu_product",)),
    "radam": Rule(radam, _MOMENTS),
    "lion": Rule(lion, ("exp_avg",)),
}
