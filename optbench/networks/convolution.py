"""Ways to compute a convolution of every trial with its own weights.

Images are (B, T·C, H, W), the channels of all trials side by side.

Shape suffixes: T trials, B batch, C channels, H W image, D channels of the output, N its pixels, Q numbers in a window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optbench.networks.functions import call

# Images (B, T·C, H, W), weight (T, D, C, h, w), bias (T, D), stride, padding → (B, T·D, H, W).
Convolve = Callable[[Tensor, Tensor, Tensor | None, int, int], Tensor]


def grouped(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """All trials as groups of one convolution, for devices where a launch costs more than the arithmetic."""
    x, flat = (tensor.contiguous(memory_format=memory_format) for tensor in (x, weight.flatten(0, 1)))
    return F.conv2d(x, flat, None if bias is None else bias.flatten(), stride, padding, groups=len(weight))


def unfolded(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """One product with the patches of the images; these take the images' memory times the pixels of a window."""
    size = weight.shape[-1]
    x_BTCHW = F.pad(x, [padding] * 4).unflatten(1, (len(weight), -1))
    windows = x_BTCHW.unfold(-2, size, stride).unfold(-2, size, stride).movedim((-2, -1), (3, 4))
    patches_BTQN = windows.flatten(2, 4).flatten(3)
    x_BTDN = torch.matmul(weight.flatten(2), patches_BTQN)
    if bias is not None:
        x_BTDN = x_BTDN + bias.unsqueeze(-1)
    x_BTDHW: Tensor = x_BTDN.unflatten(-1, windows.shape[-2:])
    return x_BTDHW.flatten(1, 2)


def of_one_trial(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """In channels-last memory throughout, for a stack of one trial on a CPU."""
    flat = weight.squeeze(0), None if bias is None else bias.squeeze(0)
    return call(_ChannelsLast, x, *flat, stride, padding)


class _ChannelsLast(torch.autograd.Function):
    """In channels-last memory a convolution on a CPU is up to twice as fast, pooling seven times.

    Plain autograd mixes it with the usual memory format in the backward pass, which loses all of that again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        x, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
        ctx.save_for_backward(x, weight)
        ctx.biases = None if bias is None else list(bias.shape)
        ctx.geometry = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1
        return F.conv2d(x, weight, bias, stride, padding).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        if x.dtype == torch.float32:  # in other types it would change how sums are rounded
            x, weight = _strided_as_channels_last(x), _strided_as_channels_last(weight)
        wanted = ctx.needs_input_grad[:3]
        grads = torch.ops.aten.convolution_backward(grad, x, weight, ctx.biases, *ctx.geometry, wanted)
        return *grads, None, None


def _strided_as_channels_last(x: Tensor) -> Tensor:
    """One channel lies in memory alike in both formats; with strides of the other, a backward pass would copy it."""
    _, channels, _, width = x.shape
    return x.as_strided(x.shape, (x[0].numel(), 1, channels * width, channels))
