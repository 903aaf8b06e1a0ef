"""Steps of a network with their own backward pass, where plain autograd would take longer.

Shape suffixes: T trials, B batch, C channels, H W image (of a recurrence: steps and their features), F features.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from optbench.networks.activations import Activation

Grads = tuple[Tensor | None, ...]


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation) -> Tensor:
        output = activation.apply_(x)
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)
        ctx.activation = activation
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Grads:
        (output,) = ctx.saved_tensors
        return ctx.activation.backward(grad, output), None


def is_independent(x_TBF: Tensor, outputs: int) -> bool:
    """Whether products of a layer round each trial as if it were alone.

    Where MKL multiplies on AMD's processors, that was found to hold for features in fours, and neither a single example
    nor a single output; else it rounds by where in memory a matrix begins, and by how many there are.
    """
    _, batch, features = x_TBF.shape
    return x_TBF.is_cuda or (features % 4 == 0 and batch > 1 and outputs > 1)


def _products(function: Callable[..., Tensor], together: bool, *tensors: Tensor) -> Tensor:
    """A batched product, of all trials together or of each by itself, from copies that begin where memory does."""
    if together:
        return function(*tensors)
    each = zip(*(tensor.split(1) for tensor in tensors), strict=True)
    return torch.cat([function(*(own.clone() for own in trial)) for trial in each])


class _Affine(torch.autograd.Function):
    # Plain autograd computes the gradient of W transposed, and transposing it back costs a fifth more.
    @staticmethod
    def forward(ctx: Any, x_TBF: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x_TBF, weight)
        ctx.together = is_independent(x_TBF, bias.shape[1])
        return _products(torch.baddbmm, ctx.together, bias.unsqueeze(1), x_TBF, weight.mT)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Grads:
        x_TBF, weight = ctx.saved_tensors
        grad_x = _products(torch.bmm, ctx.together, grad, weight) if ctx.needs_input_grad[0] else None
        return grad_x, _products(torch.bmm, ctx.together, grad.mT, x_TBF), grad.sum(dim=1)


class _Flatten(torch.autograd.Function):
    # The gradient comes back in the memory format of the image.
    @staticmethod
    def forward(ctx: Any, x: Tensor, trials: int) -> Tensor:
        ctx.shape = x.shape
        is_last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.memory_format = torch.channels_last if is_last else torch.contiguous_format
        return _features(x, trials)

    @staticmethod
    def backward(ctx: Any, grad_TBF: Tensor) -> Grads:
        return grad_TBF.transpose(0, 1).reshape(ctx.shape).contiguous(memory_format=ctx.memory_format), None


def _features(x: Tensor, trials: int) -> Tensor:
    x_BTCHW = x.view(len(x), trials, -1, *x.shape[2:])
    return x_BTCHW.transpose(0, 1).flatten(2)


class _Recurrence(torch.autograd.Function):
    # Plain autograd would add up the gradients of W_hh step by step; here they are one product for all steps.
    @staticmethod
    def forward(
        ctx: Any, x_THBW: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, activation: Activation
    ) -> Tensor:
        x_TNW = x_THBW.flatten(1, 2)
        ctx.together = is_independent(x_TNW, b_ih.shape[1])
        inputs_TNF = _products(torch.baddbmm, ctx.together, (b_ih + b_hh).unsqueeze(1), x_TNW, w_ih.mT)
        states_THBF: Tensor = inputs_TNF.unflatten(1, x_THBW.shape[1:3])  # step by step, states take their place
        steps = states_THBF.unbind(1)
        activation.apply_(steps[0])
        for before_TBF, step_TBF in pairwise(steps):
            activation.apply_(step_TBF.baddbmm_(before_TBF, w_hh.mT))
        ctx.save_for_backward(x_THBW, w_hh, states_THBF)
        ctx.activation = activation
        return steps[-1].clone()

    @staticmethod
    def backward(ctx: Any, grad_TBF: Tensor) -> Grads:
        x_THBW, w_hh, states_THBF = ctx.saved_tensors
        grads_THBF = torch.empty_like(states_THBF)  # of what the activation is applied to
        for step_TBF, state_TBF in reversed(list(zip(grads_THBF.unbind(1), states_THBF.unbind(1), strict=True))):
            step_TBF.copy_(ctx.activation.backward(grad_TBF, state_TBF))
            grad_TBF = torch.bmm(step_TBF, w_hh)
        every_TNF = grads_THBF.flatten(1, 2)
        grad_ih = _products(torch.bmm, ctx.together, every_TNF.mT, x_THBW.flatten(1, 2))
        grad_hh = torch.bmm(grads_THBF[:, 1:].flatten(1, 2).mT, states_THBF[:, :-1].flatten(1, 2))
        grad_b = every_TNF.sum(dim=1)
        return None, grad_ih, grad_hh, grad_b, grad_b, None


def call(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    """`function.apply`, with a type."""
    output: Tensor = function.apply(*arguments)
    return output


def activate_(x: Tensor, activation: Activation) -> Tensor:
    """The activation in place: no other layer and no backward pass may need `x`."""
    return call(_Activate, x, activation)


def affine(x_TBF: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b of every trial."""
    return call(_Affine, x_TBF, weight, bias)


def flatten(x: Tensor, trials: int) -> Tensor:
    """(B, T·C, H, W) → (T, B, C·H·W)."""
    return call(_Flatten, x, trials) if x.requires_grad else _features(x, trials)


def recur(x_THBW: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, activation: Activation) -> Tensor:
    """The last state (T, B, F) of hₛ = act(W_ih xₛ + b_ih + W_hh hₛ₋₁ + b_hh) over the steps H, beginning at zeros."""
    return call(_Recurrence, x_THBW, w_ih, w_hh, b_ih, b_hh, activation)
