"""Softmax regression: no hidden layer."""

from __future__ import annotations

from optbench.networks.layers import Flatten, Linear, Sequence


def layers(classes: int) -> Sequence:
    """Linear."""
    return Sequence(Flatten(), Linear("linear", classes))
