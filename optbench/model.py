"""The fixed network, written over a stack.

conv 1→16 3×3, ReLU, conv 16→32 3×3, ReLU, max-pool 2, Dropout2d, flatten 4608, linear 64, ReLU, dropout, linear 10.
300,426 parameters, PyTorch's default initialisation.

Shape suffixes: T trials, S distinct seeds among them, B batch, C channels, H W image, F features, K classes,
P all parameters of one trial in a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optbench import randomness

# name: (shape, fan-in); torch draws weights and biases alike from U(-1/√fan_in, 1/√fan_in).
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "conv1.weight": ((16, 1, 3, 3), 9),
    "conv1.bias": ((16,), 9),
    "conv2.weight": ((32, 16, 3, 3), 144),
    "conv2.bias": ((32,), 144),
    "linear1.weight": ((64, 4608), 4608),
    "linear1.bias": ((64,), 4608),
    "linear2.weight": ((10, 64), 64),
    "linear2.bias": ((10,), 64),
}
SIZES = {name: math.prod(shape) for name, (shape, _) in SHAPES.items()}
PARAMETERS = sum(SIZES.values())

CONV_UNITS, LINEAR_UNITS = 32, 64  # what the two dropouts decide for each example: channels, features
DROPOUT_UNITS = CONV_UNITS + LINEAR_UNITS

# One image in float32: input, both convolutions, pooled values with int64 indices, and gradients of the same sizes.
ACTIVATION_BYTES = 2 * 4 * (28 * 28 + 16 * 26 * 26 + 32 * 24 * 24 + 3 * 4608 + 3 * 64)


def initialize(seeds: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Initial weights (T, P), one row for each seed; the same seed gives the same row on every device."""
    uniform_TP = randomness.weights(seeds, PARAMETERS, device)
    bounds = [torch.full((SIZES[name],), 1 / math.sqrt(fan_in)) for name, (_, fan_in) in SHAPES.items()]
    return ((2 * uniform_TP - 1) * torch.cat(bounds).to(device)).to(dtype)


def weights(parameters_TP: Tensor) -> dict[str, Tensor]:
    """Views of the parameters under their names, each (T, *shape)."""
    parts = parameters_TP.split(list(SIZES.values()), dim=1)
    return {name: part.unflatten(1, shape) for part, (name, (shape, _)) in zip(parts, SHAPES.items(), strict=True)}


class _Trunk(torch.autograd.Function):
    """relu(max_pool(conv2(relu(conv1(images))))) of one trial, in channels-last memory.

    Two facts make the detour worth it on a CPU: in channels-last memory the convolution is up to twice, the pooling
    seven times as fast, and autograd left alone mixes the two layouts in the backward pass, which costs it all again.
    relu(max_pool(x)) equals max_pool(relu(x)) and touches a quarter of the elements.
    """

    @staticmethod
    def forward(ctx: Any, images_BCHW: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        w1, w2 = (w.contiguous(memory_format=torch.channels_last) for w in (w1, w2))
        conv1 = F.conv2d(images_BCHW, w1, b1).relu_().contiguous(memory_format=torch.channels_last)
        conv2 = F.conv2d(conv1, w2, b2)
        pooled, winners = F.max_pool2d(conv2, 2, return_indices=True)
        output = pooled.contiguous().relu_()
        ctx.save_for_backward(images_BCHW, w1, conv1, w2, conv2, winners, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images_BCHW, w1, conv1, w2, conv2, winners, output = ctx.saved_tensors
        aten = torch.ops.aten
        grad = aten.threshold_backward(grad.contiguous(), output, 0).contiguous(memory_format=torch.channels_last)
        grad = aten.max_pool2d_with_indices_backward(grad, conv2, [2, 2], [2, 2], [0, 0], [1, 1], False, winners)
        geometry = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        grad, grad_w2, grad_b2 = aten.convolution_backward(grad, conv1, w2, [32], *geometry, [True, True, True])
        grad = aten.threshold_backward(grad, conv1, 0)
        _, grad_w1, grad_b1 = aten.convolution_backward(grad, images_BCHW, w1, [16], *geometry, [False, True, True])
        return None, grad_w1, grad_b1, grad_w2, grad_b2


def _trunk_loop(images_SBCHW: Tensor, seed_of_T: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Trial by trial: on a CPU faster than any stacked convolution, and bitwise independent of the stack."""
    names = ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")
    trials = zip(seed_of_T.tolist(), *(w[name].unbind(0) for name in names), strict=True)
    outputs = [
        _Trunk.apply(images_SBCHW[seed], *tensors)  # type: ignore[no-untyped-call]
        for seed, *tensors in trials
    ]
    return torch.stack(outputs)


def _trunk_grouped(images_SBCHW: Tensor, seed_of_T: Tensor, w: dict[str, Tensor]) -> Tensor:
    """All trials as groups of one convolution, for devices on which a launch costs more than its arithmetic."""
    trials = len(seed_of_T)
    x = images_SBCHW[seed_of_T].squeeze(2).transpose(0, 1)  # (B, T, H, W): each trial is a group with one channel
    x = F.conv2d(x, w["conv1.weight"].flatten(0, 1), w["conv1.bias"].flatten(), groups=trials).relu()
    x = F.conv2d(x, w["conv2.weight"].flatten(0, 1), w["conv2.bias"].flatten(), groups=trials)
    x = F.max_pool2d(x, 2).relu()
    return x.view(len(x), trials, 32, *x.shape[2:]).transpose(0, 1)


def forward(w: dict[str, Tensor], images_SBCHW: Tensor, seed_of_T: Tensor, scale_TBU: Tensor | None) -> Tensor:
    """Logits (T, B, K) of a stack.

    `images_SBCHW` are normalised; trial t sees the batch `seed_of_T[t]`, an int64 index. `scale_TBU` holds what dropout
    multiplies each example's 32 channels and 64 features with (0 or 1 / (1 - p)); None means evaluation.
    """
    trunk = _trunk_grouped if images_SBCHW.is_cuda else _trunk_loop
    x_TBCHW = trunk(images_SBCHW, seed_of_T, w)
    if scale_TBU is not None:
        x_TBCHW = x_TBCHW * scale_TBU[..., :CONV_UNITS, None, None]
    x_TBF = torch.baddbmm(w["linear1.bias"].unsqueeze(1), x_TBCHW.flatten(2), w["linear1.weight"].mT).relu()
    if scale_TBU is not None:
        x_TBF = x_TBF * scale_TBU[..., CONV_UNITS:]
    return torch.baddbmm(w["linear2.bias"].unsqueeze(1), x_TBF, w["linear2.weight"].mT)


def losses(logits_TBK: Tensor, labels_TB: Tensor) -> Tensor:
    """Cross-entropy of log-softmax for each example, (T, B)."""
    return F.cross_entropy(logits_TBK.flatten(0, 1), labels_TB.flatten(), reduction="none").view(labels_TB.shape)


def loss_and_gradients(
    parameters_TP: Tensor,
    images_SBCHW: Tensor,
    labels_SB: Tensor,
    seed_of_T: Tensor,
    scale_TBU: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Each trial's mean loss over its own batch (T,) and its gradient (T, P).

    The T losses are summed for the backward pass, so the gradients stay apart: each is as if alone.
    """
    leaves = {name: view.detach().requires_grad_() for name, view in weights(parameters_TP).items()}
    logits_TBK = forward(leaves, images_SBCHW, seed_of_T, scale_TBU)
    loss_T = losses(logits_TBK, labels_SB[seed_of_T]).mean(dim=1)
    gradients = torch.autograd.grad(loss_T.sum(), list(leaves.values()))
    return loss_T.detach(), torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
