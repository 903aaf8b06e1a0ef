"""`3c3d` of DeepOBS (Schneider, Balles and Hennig, 2019, "DeepOBS: a deep learning optimizer benchmark suite").

895,210 parameters for CIFAR-10. As in its TensorFlow version, weights of convolutions start from a truncated Glorot
normal distribution, those of linear layers from a Glorot uniform one, and biases at 0. Pools are TensorFlow's "same"
where a side is even, as all are for CIFAR-10: only the last window reaches outside, by one pixel. Where a side is odd,
as that of the last pool for images of 28 × 28, TensorFlow's windows reach outside at both ends, and here at neither.
"""

from __future__ import annotations

from optbench.networks.initial import Constant, glorot_normal, glorot_uniform
from optbench.networks.layers import Activation, Convolution, Flatten, Hidden, Layer, Linear, MaxPool, Sequence

_ZERO = Constant(0.0)


def layers(classes: int) -> Sequence:
    """Convolutions 64 of 5×5, 96 and 128 of 3×3, each with max-pool 3 by steps of 2, linear 512, linear 256, linear."""
    return Sequence(
        *_convolution("conv1", 64, size=5),
        *_convolution("conv2", 96, size=3),
        *_convolution("conv3", 128, size=3, padding=1),
        Flatten(),
        Hidden("linear1", 512, weight=glorot_uniform, bias=_ZERO),
        Hidden("linear2", 256, weight=glorot_uniform, bias=_ZERO),
        Linear("linear3", classes, weight=glorot_uniform, bias=_ZERO),
    )


def _convolution(name: str, channels: int, size: int, padding: int = 0) -> tuple[Layer, ...]:
    convolution = Convolution(name, channels, size, padding=padding, weight=glorot_normal, bias=_ZERO)
    return convolution, MaxPool(3, stride=2, ceil=True), Activation()
