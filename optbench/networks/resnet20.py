"""ResNet-20 for small images (He, Zhang, Ren and Sun, 2016, "Deep residual learning for image recognition", 4.2).

The paper's, with 0.27 million parameters for CIFAR-10: shortcuts have none (its option A), and initial weights of
convolutions are He's. Of the last layer, of which the paper says nothing, they are torch's.
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
    Shortcut,
    Sum,
)


def layers(classes: int) -> Sequence:
    """Convolution 16, three blocks each of two convolutions 16, 32 and 64, all of 3×3, global average-pool, linear."""
    return Sequence(
        *_normed("conv", "norm", 16),
        Activation(),
        *(layer for n in range(9) for layer in _block(f"block{n + 1}", 16 * 2 ** (n // 3), 2 if n in (3, 6) else 1)),
        GlobalPool(),
        Linear("linear", classes),
    )


def _block(name: str, channels: int, stride: int) -> tuple[Layer, ...]:
    branch = Sequence(
        *_normed(f"{name}.conv1", f"{name}.norm1", channels, stride),
        Activation(),
        *_normed(f"{name}.conv2", f"{name}.norm2", channels),
    )
    return Sum(branch, Shortcut(channels, stride)), Activation()


def _normed(convolution: str, norm: str, channels: int, stride: int = 1) -> tuple[Layer, ...]:
    made = Convolution(convolution, channels, 3, stride, padding=1, has_bias=False, weight=he_normal)
    return made, BatchNorm(norm)
