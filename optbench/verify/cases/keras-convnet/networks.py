"""The network of Keras's simple MNIST convnet, with Keras's initial weights."""

from __future__ import annotations

from torch import Tensor, nn


class KerasConvnet(nn.Module):
    """Convolution 32 of 3×3, max-pool 2, convolution 64 of 3×3, max-pool 2, dropout, linear; 34,826 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(1600, 10),
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, 28, 28) → logits (B, 10)."""
        logits: Tensor = self.layers(images)
        return logits
