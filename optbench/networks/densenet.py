"""DenseNet-BC for small images (Huang et al., 2017, "Densely connected convolutional networks").

Of depth 40 and growth 12 by default; with depth 100 it has the paper's 0.8 million parameters for CIFAR-10. As there,
1×1 convolutions have four times as many channels as a layer adds, the layers between blocks halve the channels, and
initial weights of convolutions are He's. Without the dropout that the paper has where images are not augmented; initial
weights of the last layer are torch's.
"""

from __future__ import annotations

from optbench.networks.initial import he_normal
from optbench.networks.layers import (
    Activation,
    AveragePool,
    BatchNorm,
    Concatenation,
    Convolution,
    GlobalPool,
    Layer,
    Linear,
    Sequence,
    blocks_per_stage,
)


def layers(classes: int, *, depth: int = 40, growth: int = 12) -> Sequence:
    """Convolution 24, three blocks of six layers that each add 12 channels of 3×3, global average-pool, linear."""
    n, channels = blocks_per_stage(depth), 2 * growth
    blocks: list[Layer] = []
    for i in range(3 * n):
        if i in (n, 2 * n):
            channels //= 2
            blocks += *_normed(f"transition{i // n}.norm", f"transition{i // n}.conv", channels, 1), AveragePool(2)
        blocks.append(_dense(f"layer{i + 1}", growth))
        channels += growth
    return Sequence(
        _convolution("conv", 2 * growth, 3),
        *blocks,
        BatchNorm("norm"),
        Activation(),
        GlobalPool(),
        Linear("linear", classes),
    )


def _dense(name: str, growth: int) -> Concatenation:
    narrow = _normed(f"{name}.norm1", f"{name}.conv1", 4 * growth, 1)
    return Concatenation(Sequence(), Sequence(*narrow, *_normed(f"{name}.norm2", f"{name}.conv2", growth, 3)))


def _normed(norm: str, convolution: str, channels: int, size: int) -> tuple[Layer, ...]:
    return BatchNorm(norm), Activation(), _convolution(convolution, channels, size)


def _convolution(name: str, channels: int, size: int) -> Convolution:
    return Convolution(name, channels, size, padding=size // 2, has_bias=False, weight=he_normal)
