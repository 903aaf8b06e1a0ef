"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012, "ImageNet classification with deep convolutional neural networks").

In the form for images of 32 × 32 that is met most often, with 23,272,266 parameters for CIFAR-10: the widths are those
of Krizhevsky (2014, "One weird trick for parallelizing convolutional neural networks"), which torchvision has, windows
are of 3 × 3, pools do not overlap, and nothing is normalised. Dropout has its first rate before the first linear layer,
and its second before the second. Initial weights are torch's.
"""

from __future__ import annotations

from optbench.networks.layers import (
    FIRST,
    Activation,
    Convolution,
    Dropout,
    Flatten,
    Hidden,
    Linear,
    MaxPool,
    Sequence,
)


def layers(classes: int, *, width: int = 4096) -> Sequence:
    """Convolutions 64, 192, 384, 256, 256 of 3×3, three max-pools 2, two of dropout and linear 4096, linear."""
    return Sequence(
        Convolution("conv1", 64, 3, stride=2, padding=1),
        MaxPool(2),
        Activation(),
        Convolution("conv2", 192, 3, padding=1),
        MaxPool(2),
        Activation(),
        Convolution("conv3", 384, 3, padding=1),
        Activation(),
        Convolution("conv4", 256, 3, padding=1),
        Activation(),
        Convolution("conv5", 256, 3, padding=1),
        MaxPool(2),
        Activation(),
        Flatten(),
        Dropout("dropout1", FIRST),
        Hidden("linear1", width),
        Dropout("dropout2"),
        Hidden("linear2", width),
        Linear("linear3", classes),
    )
