"""The commonest update rules as one Triton kernel each: every number is read once and written once.

Written with torch's operations, Adam's update passes over 23 arrays of the parameters' size, where 7 are enough:
p, g, m and v read, p, m and v written. At batch 64 the optimizer then moves more bytes than all convolutions.

The formulas and the names are those of `rules.py`, with which the tests compare these kernels.
Shapes: T trials, P parameters of one trial; a hyperparameter is (T, 1).
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from optbench.machine.launch import launch
from optbench.training.rules import Tensors, Update, corrections, kept_of_gradient

_BLOCK, _WARPS = 1024, 4  # numbers of a program; a thread loads four at a time, 16 bytes


@triton.jit
def _numbers(parameters, BLOCK: tl.constexpr):
    """This program's trial, the places of its numbers, and which of them exist."""
    trial = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return trial, trial * parameters + place, place < parameters


@triton.jit
def _adam(
    p_TP, g_TP, m_TP, v_TP, lr_T, beta1_T, beta2_T, eps_T, decay_T, correction1_T, correction2_T, parameters,
    HAS_DECAY: tl.constexpr, DECOUPLED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    trial, place, there = _numbers(parameters, BLOCK)
    p, g = tl.load(p_TP + place, mask=there), tl.load(g_TP + place, mask=there)
    m, v = tl.load(m_TP + place, mask=there), tl.load(v_TP + place, mask=there)
    lr, beta1, beta2 = tl.load(lr_T + trial), tl.load(beta1_T + trial), tl.load(beta2_T + trial)
    if HAS_DECAY:
        decay = tl.load(decay_T + trial)
        if DECOUPLED:
            p = p * (1 - lr * decay)
        else:
            g = g + decay * p
    m = m + (g - m) * (1 - beta1)
    v = v * beta2 + g * g * (1 - beta2)
    denominator = tl.sqrt(v) / tl.sqrt(tl.load(correction2_T + trial)) + tl.load(eps_T + trial)
    p = p - lr / tl.load(correction1_T + trial) * (m / denominator)
    tl.store(p_TP + place, p, mask=there)
    tl.store(m_TP + place, m, mask=there)
    tl.store(v_TP + place, v, mask=there)


@triton.jit
def _sgd(
    p_TP, g_TP, buffer_TP, lr_T, decay_T, momentum_T, kept_T, nesterov_T, parameters,
    HAS_DECAY: tl.constexpr, HAS_MOMENTUM: tl.constexpr, HAS_NESTEROV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    trial, place, there = _numbers(parameters, BLOCK)
    p, g = tl.load(p_TP + place, mask=there), tl.load(g_TP + place, mask=there)
    if HAS_DECAY:
        g = g + tl.load(decay_T + trial) * p
    if HAS_MOMENTUM:
        momentum = tl.load(momentum_T + trial)
        buffer = tl.load(buffer_TP + place, mask=there) * momentum + g * tl.load(kept_T + trial)
        tl.store(buffer_TP + place, buffer, mask=there)
        if HAS_NESTEROV:
            nesterov = tl.load(nesterov_T + trial)
            g = g * nesterov + buffer * tl.where(nesterov != 0, momentum, 1.0)
        else:
            g = buffer
    tl.store(p_TP + place, p - tl.load(lr_T + trial) * g, mask=there)


def _run_adam(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor, is_decoupled: bool) -> None:
    correction1, correction2 = corrections(p, h, t)
    decay = h.get("weight_decay")
    launch(
        _adam, _grid(p),
        p, g, s["exp_avg"], s["exp_avg_sq"], lr, h["beta1"], h["beta2"], h["eps"], lr if decay is None else decay,
        correction1, correction2, p.shape[1],
        HAS_DECAY=decay is not None, DECOUPLED=is_decoupled, BLOCK=_BLOCK, num_warps=_WARPS,
    )  # fmt: skip


def _grid(p: Tensor) -> tuple[int, int]:
    return triton.cdiv(p.shape[1], _BLOCK), len(p)


def adam(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    """Like `rules.adam`, without `amsgrad`."""
    _run_adam(p, g, s, h, lr, t, is_decoupled=False)


def adamw(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    """Like `rules.adamw`, without `amsgrad`."""
    _run_adam(p, g, s, h, lr, t, is_decoupled=True)


def sgd(p: Tensor, g: Tensor, s: Tensors, h: Tensors, lr: Tensor, t: Tensor) -> None:
    """Like `rules.sgd`."""
    has_momentum = "momentum" in h
    launch(
        _sgd, _grid(p),
        p, g, s["momentum_buffer"] if has_momentum else g, lr, h.get("weight_decay", lr), h.get("momentum", lr),
        kept_of_gradient(h, t) if has_momentum else lr, h.get("nesterov", lr), p.shape[1],
        HAS_DECAY="weight_decay" in h, HAS_MOMENTUM=has_momentum, HAS_NESTEROV="nesterov" in h,
        BLOCK=_BLOCK, num_warps=_WARPS,
    )  # fmt: skip


# The update of a rule, and the hyperparameter that it does not support.
UPDATES: dict[str, tuple[Update, str | None]] = {
    "sgd": (sgd, None),
    "adam": (adam, "amsgrad"),
    "adamw": (adamw, "amsgrad"),
}


@cache
def obstacle_on(device: torch.device) -> str:
    """Why kernels cannot be built or run there; empty if they can.

    Triton needs a C compiler, and a GPU that is not too old.
    """
    one = torch.ones(1, 1, device=device)
    try:
        sgd(one, one.clone(), {}, {}, one, one)
    except Exception as error:  # any error of a compiler or a driver
        return f"{type(error).__name__}: {error}"
    return ""


def update_of(name: str, hyperparameters: Tensors) -> Update | None:
    """The kernel of a rule for a group with these hyperparameters; None if there is none.

    Kernels know one number for each trial, no weight decay that differs among its parameters.
    """
    update, unknown = UPDATES.get(name, (None, None))
    has_one_number = all(column.shape[1] == 1 for column in hyperparameters.values())
    return update if has_one_number and unknown not in hyperparameters else None
