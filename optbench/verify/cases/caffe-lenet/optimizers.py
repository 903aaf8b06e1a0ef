"""Caffe's SGD as its MNIST example uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class CaffeSGD(torch.optim.Optimizer):
    """v ← momentum · v + lr · (gradient + weight_decay · w), w ← w − v; for biases, which are vectors, lr is doubled.

    Unlike torch's SGD, a velocity keeps the learning rates of the steps that made it.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 5e-4
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; the closure is not called."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                lr = group["lr"] * (2 if weight.dim() == 1 else 1)
                state = self.state[weight]
                velocity = state.setdefault("velocity", torch.zeros_like(weight))
                velocity.mul_(group["momentum"]).add_(weight.grad + group["weight_decay"] * weight, alpha=lr)
                weight.sub_(velocity)
