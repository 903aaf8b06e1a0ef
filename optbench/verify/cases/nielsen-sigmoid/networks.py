"""The shallow network of Nielsen's book, with its initial weights."""

from __future__ import annotations

from torch import Tensor, nn

HIDDEN = 100


class Shallow(nn.Module):
    """Linear 100, sigmoid, linear; 79,510 parameters.

    The first weights are normal with variance 1 / 100, the number of the layer's outputs, its biases with variance 1;
    the second layer starts at 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(784, HIDDEN), nn.Linear(HIDDEN, 10)
        nn.init.normal_(self.hidden.weight, std=HIDDEN**-0.5)
        nn.init.normal_(self.hidden.bias)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, 28, 28) → logits (B, 10)."""
        logits: Tensor = self.output(self.hidden(images.flatten(1)).sigmoid())
        return logits
