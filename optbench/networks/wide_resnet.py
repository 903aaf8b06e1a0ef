"""Wide residual networks (Zagoruyko and Komodakis, 2016, "Wide residual networks"): WRN-16-2 by default.

WRN-28-10 has the paper's 36.5 million parameters for CIFAR-10. As in the authors' code, a block that changes the number
of channels shares its first normalisation with its shortcut, and initial weights of convolutions are He's. Without the
dropout that the paper tries inside blocks; initial weights of the last layer are torch's.
"""

from __future__ import annotations

from optbench.networks.initial import he_normal
from optbench.networks.layers import (
    Activation,
    BatchNorm,
    Convolution,
    GlobalPool,
    Layer,
    Linear,
    Sequence,
    Sum,
    blocks_per_stage,
)


def layers(classes: int, *, depth: int = 16, width: int = 2) -> Sequence:
    """Convolution 16, blocks of two convolutions 32, 64 and 128, all of 3×3, global average-pool, linear."""
    n, inputs = blocks_per_stage(depth), 16
    blocks: list[Layer] = []
    for i in range(3 * n):
        channels = 16 * width * 2 ** (i // n)
        blocks += _block(f"block{i + 1}", inputs, channels, stride=2 if i in (n, 2 * n) else 1)
        inputs = channels
    return Sequence(
        _convolution("conv", 16, 3), *blocks, BatchNorm("norm"), Activation(), GlobalPool(), Linear("linear", classes)
    )


def _block(name: str, inputs: int, channels: int, stride: int) -> tuple[Layer, ...]:
    first = BatchNorm(f"{name}.norm1"), Activation()
    branch = (
        _convolution(f"{name}.conv1", channels, 3, stride),
        BatchNorm(f"{name}.norm2"),
        Activation(),
        _convolution(f"{name}.conv2", channels, 3),
    )
    if inputs == channels:
        return (Sum(Sequence(*first, *branch), Sequence()),)
    return *first, Sum(Sequence(*branch), _convolution(f"{name}.shortcut", channels, 1, stride))


def _convolution(name: str, channels: int, size: int, stride: int = 1) -> Convolution:
    return Convolution(name, channels, size, stride, padding=size // 2, has_bias=False, weight=he_normal)
