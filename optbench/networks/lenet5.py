"""LeNet-5 (LeCun, Bottou, Bengio and Haffner, 1998, "Gradient-based learning applied to document recognition").

As it is built today, with 61,706 parameters for images of 28 × 28 and 10 classes. The paper's pools have a factor, a
bias and an activation of their own, its second convolution leaves out some pairs of channels, its last layer measures
distances to fixed codes, and its images have 32 × 32 pixels. Here pools are plain averages, all channels are connected,
the last layer is linear, the first convolution pads 28 × 28 images, and initial weights are torch's. The paper's
activation is a scaled tanh: `activation: tanh` is closest to it.
"""

from __future__ import annotations

from optbench.networks.layers import Activation, AveragePool, Convolution, Flatten, Hidden, Linear, Sequence


def layers(classes: int) -> Sequence:
    """Convolution 6 of 5×5, average-pool 2, convolution 16 of 5×5, average-pool 2, linear 120, linear 84, linear."""
    return Sequence(
        Convolution("conv1", 6, 5, padding=2),
        Activation(),
        AveragePool(2),
        Convolution("conv2", 16, 5),
        Activation(),
        AveragePool(2),
        Flatten(),
        Hidden("linear1", 120),
        Hidden("linear2", 84),
        Linear("linear3", classes),
    )
