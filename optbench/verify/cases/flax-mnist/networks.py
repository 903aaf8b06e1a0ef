"""The network of Flax's MNIST example, with Flax's initial weights."""

from __future__ import annotations

import math

from torch import Tensor, nn

_CUT_OFF_SD = 0.87962566103423978  # of a standard normal distribution that is cut off at ±2


class FlaxCNN(nn.Module):
    """Convolution 32 of 3×3, average-pool 2, convolution 64 of 3×3, average-pool 2, linear 256, linear, with padding.

    Weights are normal with variance 1 / fan-in after they are cut off at two standard deviations; biases start at 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(3136, 256),
            nn.ReLU(),
            nn.Linear(256, 10),
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                sd = math.sqrt(1 / parameter[0].numel()) / _CUT_OFF_SD
                nn.init.trunc_normal_(parameter, std=sd, a=-2 * sd, b=2 * sd)
            else:
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, 28, 28) → logits (B, 10)."""
        logits: Tensor = self.layers(images)
        return logits
