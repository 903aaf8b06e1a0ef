"""The scores: what is measured of every trial after every epoch, on each split of the data."""

from __future__ import annotations

from enum import StrEnum, auto


class Score(StrEnum):
    """A score. As text it is the name of its column, which begins with the split and ends with what is measured there.

    In the order in which tables of numbers hold them.
    """

    test_accuracy = auto()
    val_accuracy = auto()
    train_accuracy = auto()
    test_loss = auto()
    val_loss = auto()
    train_loss = auto()

    @property
    def kind(self) -> str:
        """What is measured: accuracy, a share from 0 to 1, or loss."""
        return self.partition("_")[2]

    @property
    def is_loss(self) -> bool:
        """Whether less is better."""
        return self.kind == "loss"

    @property
    def sign(self) -> float:
        """1 where more is better, −1 for a loss: of scores times their sign, the larger is the better."""
        return -1.0 if self.is_loss else 1.0

    @property
    def scale(self) -> float:
        """What a value is multiplied by before it is shown: accuracies are shown in percent."""
        return 1.0 if self.is_loss else 100.0

    @property
    def words(self) -> str:
        """As a sentence says it: "validation accuracy"."""
        split = self.partition("_")[0]
        return f"{'validation' if split == 'val' else split} {self.kind}"

    @property
    def heading(self) -> str:
        """As the head of a column says it: "validation accuracy %"."""
        return self.words if self.is_loss else f"{self.words} %"

    def written(self, value: float, digits: int = 6) -> str:
        """A value in a sentence: "98.50 %", or a loss with so many significant digits."""
        return f"{value:.{digits}g}" if self.is_loss else f"{self.scale * value:.2f} %"
