"""VGG-11 (Simonyan and Zisserman, 2015, "Very deep convolutional networks for large-scale image recognition", A).

In its usual form for small images, with 9,231,114 parameters for CIFAR-10: each convolution is normalised over the
batch (Ioffe and Szegedy, 2015), and one linear layer takes the place of the paper's three. Pools keep what remains at
the edge of an odd side, so that images of 28 × 28, too, can be halved five times. Initial weights are torch's.
"""

from __future__ import annotations

from optbench.networks.layers import Activation, BatchNorm, Convolution, Flatten, Layer, Linear, MaxPool, Sequence

_STAGES = (64,), (128,), (256, 256), (512, 512), (512, 512)


def layers(classes: int) -> Sequence:
    """Eight normed convolutions 64 to 512 of 3×3, five max-pools 2, linear."""
    made: list[Layer] = []
    n = 0
    for stage in _STAGES:
        for channels in stage:
            n += 1
            made += Convolution(f"conv{n}", channels, 3, padding=1), BatchNorm(f"norm{n}"), Activation()
        made.append(MaxPool(2, ceil=True))
    return Sequence(*made, Flatten(), Linear("linear", classes))
