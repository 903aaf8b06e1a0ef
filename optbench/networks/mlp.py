"""A multilayer perceptron: two hidden layers of 500 and 300."""

from __future__ import annotations

from optbench.networks.layers import FIRST, Dropout, Flatten, Hidden, Linear, Sequence


def layers(classes: int, *, widths: tuple[int, ...] = (500, 300)) -> Sequence:
    """Linear 500, dropout, linear 300, dropout, linear."""
    return Sequence(
        Flatten(),
        Hidden("linear1", 500),
        Dropout("dropout1", rate=FIRST),
        Hidden("linear2", 300),
        Dropout("dropout2"),
        Linear("linear3", classes),
    )
