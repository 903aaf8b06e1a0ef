"""Two networks as anybody writes them, for `networks.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Convnet(nn.Module):
    """Two convolutions with dropout, as in PyTorch's MNIST example."""

    def __init__(self, in_channels: int, image_size: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.dropout1, self.dropout2 = nn.Dropout2d(0.1), nn.Dropout(0.25)
        self.linear1 = nn.Linear(32 * (image_size // 2 - 2) ** 2, 64)
        self.linear2 = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.dropout1(self.features(images)).flatten(1)
        logits: Tensor = self.linear2(self.dropout2(torch.relu(self.linear1(x))))
        return logits


class Block(nn.Module):
    """Two normalised convolutions around which the input passes by."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.inner(x))


class SmallResnet(nn.Sequential):
    """Four residual blocks, two of them at half the size."""

    def __init__(self, in_channels: int, num_classes: int, width: int = 16) -> None:
        super().__init__(
            *(nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(Block(width), Block(width), nn.MaxPool2d(2), Block(width), Block(width)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)),
        )
