"""Two convolutions, one pooling and two linear layers, as in PyTorch's MNIST example: the default."""

from __future__ import annotations

from optbench.networks.layers import (
    Activation,
    Convolution,
    Dropout,
    Dropout2d,
    Flatten,
    Hidden,
    Linear,
    MaxPool,
    Sequence,
    Trunk,
)


def layers(classes: int) -> Sequence:
    """Convolutions 16 and 32 of 3×3, max-pool 2, Dropout2d, linear 64, dropout, linear."""
    return Sequence(
        Trunk(
            Convolution("conv1", 16, 3),
            Activation(),
            Convolution("conv2", 32, 3),
            MaxPool(2),
            Activation(),  # a monotone function: the same after pooling, and there a quarter of the numbers
            Dropout2d("dropout1"),
            Flatten(),
        ),
        Hidden("linear1", 64),
        Dropout("dropout2"),
        Linear("linear2", classes),
    )
