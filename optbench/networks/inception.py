"""Small Inception of Zhang et al. (2017, "Understanding deep learning requires rethinking generalization", figure 3).

Its modules are simpler than those of GoogLeNet (Szegedy et al., 2015, "Going deeper with convolutions"). 1,651,114
parameters for CIFAR-10: the published 1,649,402, and a weight for each of the 1,712 channels that are normalised. Where
windows are 2 apart, the first begins one pixel outside the image. The last pool is over all that is left, 7 × 7 pixels
in the paper, which crops images to 28 × 28. The paper does not give initial weights: here they are torch's.
"""

from __future__ import annotations

from optbench.networks.layers import (
    Activation,
    BatchNorm,
    Concatenation,
    Convolution,
    GlobalPool,
    Layer,
    Linear,
    MaxPool,
    Sequence,
)


def layers(classes: int) -> Sequence:
    """Convolution 96, eight modules of 1×1 and 3×3 side by side, halved twice, global average-pool, linear."""
    return Sequence(
        *_normed("first", 96, 3),
        _module("module1", 32, 32),
        _module("module2", 32, 48),
        _halved("half1", 80),
        _module("module3", 112, 48),
        _module("module4", 96, 64),
        _module("module5", 80, 80),
        _module("module6", 48, 96),
        _halved("half2", 96),
        _module("module7", 176, 160),
        _module("module8", 176, 160),
        GlobalPool(),
        Linear("linear", classes),
    )


def _module(name: str, narrow: int, wide: int) -> Concatenation:
    return Concatenation(Sequence(*_normed(f"{name}.narrow", narrow, 1)), Sequence(*_normed(f"{name}.wide", wide, 3)))


def _halved(name: str, channels: int) -> Concatenation:
    return Concatenation(Sequence(*_normed(name, channels, 3, stride=2)), MaxPool(3, stride=2, padding=1))


def _normed(name: str, channels: int, size: int, stride: int = 1) -> tuple[Layer, ...]:
    convolution = Convolution(f"{name}.conv", channels, size, stride, padding=size // 2, has_bias=False)
    return convolution, BatchNorm(f"{name}.norm"), Activation()
