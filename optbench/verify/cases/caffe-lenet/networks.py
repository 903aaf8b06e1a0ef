"""The LeNet of Caffe's MNIST example, with Caffe's initial weights."""

from __future__ import annotations

import math

from torch import Tensor, nn


class CaffeLeNet(nn.Module):
    """Convolution 20 of 5×5, max-pool 2, convolution 50 of 5×5, max-pool 2, linear 500, ReLU, linear.

    Weights are uniform with variance 1 / fan-in, which Caffe calls xavier; biases start at 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 20, 5),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(800, 500),
            nn.ReLU(),
            nn.Linear(500, 10),
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                bound = math.sqrt(3 / parameter[0].numel())
                nn.init.uniform_(parameter, -bound, bound)
            else:
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, 28, 28) → logits (B, 10)."""
        logits: Tensor = self.layers(images)
        return logits
