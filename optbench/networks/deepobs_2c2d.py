"""`2c2d` of DeepOBS (Schneider, Balles and Hennig, 2019, "DeepOBS: a deep learning optimizer benchmark suite").

Initial weights are normal with standard deviation 0.05, cut off at ±0.1; biases start at 0.05.
"""

from __future__ import annotations

from optbench.networks.initial import Constant, TruncatedNormal
from optbench.networks.layers import Activation, Convolution, Flatten, Hidden, Linear, MaxPool, Sequence

_WEIGHT, _BIAS = TruncatedNormal(0.05), Constant(0.05)


def layers(classes: int) -> Sequence:
    """Convolution 32 of 5×5, max-pool 2, convolution 64 of 5×5, max-pool 2, linear 1024, linear."""
    return Sequence(
        Convolution("conv1", 32, 5, padding=2, weight=_WEIGHT, bias=_BIAS),
        MaxPool(2),
        Activation(),
        Convolution("conv2", 64, 5, padding=2, weight=_WEIGHT, bias=_BIAS),
        MaxPool(2),
        Activation(),
        Flatten(),
        Hidden("linear1", 1024, weight=_WEIGHT, bias=_BIAS),
        Linear("linear2", classes, weight=_WEIGHT, bias=_BIAS),
    )
