"""The networks by name, each a function from the number of classes to its layers.

This file does not import torch, so that sweep files are checked at once. To add a network, add a file like `lenet5.py`,
a name here, and a row in the table of `tests/test_networks.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from optbench.networks import (
    alexnet,
    cnn,
    deepobs_2c2d,
    deepobs_3c3d,
    densenet,
    inception,
    lenet5,
    mlp,
    resnet20,
    rnn,
    softmax,
    vgg,
    wide_resnet,
)
from optbench.networks.architecture import Architecture
from optbench.networks.layers import Sequence, Shape

NETWORKS: dict[str, Callable[..., Sequence]] = {
    "cnn": cnn.layers,
    "mlp": mlp.layers,
    "rnn": rnn.layers,
    "softmax": softmax.layers,
    "lenet5": lenet5.layers,
    "2c2d": deepobs_2c2d.layers,
    "3c3d": deepobs_3c3d.layers,
    "resnet20": resnet20.layers,
    "wide_resnet": wide_resnet.layers,
    "densenet": densenet.layers,
    "vgg": vgg.layers,
    "alexnet": alexnet.layers,
    "inception": inception.layers,
}


@cache
def architecture(name: str, image: Shape, classes: int) -> Architecture:
    """The network of this name for images (C, H, W) of so many classes. Raises `UserError` for too small images."""
    return Architecture(NETWORKS[name](classes), image)
