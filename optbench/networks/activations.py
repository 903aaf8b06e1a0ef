"""The activation functions by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_aten = torch.ops.aten


class Activation(NamedTuple):
    """A monotone function and its backward pass, which needs only the output: the input need not be kept."""

    apply_: Callable[[Tensor], Tensor]  # in place
    backward: Callable[[Tensor, Tensor], Tensor]  # gradient of the output, output → gradient of the input
    slope: float | None = None  # below zero, if it is the identity above


def _sigmoid_(x: Tensor) -> Tensor:
    # On a CPU torch.sigmoid rounds the last few elements of a tensor differently from the rest, and which trial's
    # elements those are depends on the stack.
    return x.neg_().exp_().add_(1).reciprocal_() if x.device.type == "cpu" else x.sigmoid_()


_SLOPE = 0.01  # of leaky_relu below zero; torch's default
ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(torch.relu_, lambda grad, output: _aten.threshold_backward(grad, output, 0), 0.0),
    "leaky_relu": Activation(
        lambda x: F.leaky_relu_(x, _SLOPE),
        lambda grad, output: _aten.leaky_relu_backward(grad, output, _SLOPE, True),
        _SLOPE,
    ),
    "tanh": Activation(torch.tanh_, _aten.tanh_backward),
    "sigmoid": Activation(_sigmoid_, _aten.sigmoid_backward),
}
