"""A recurrent network that reads an image row by row."""

from __future__ import annotations

from optbench.networks.layers import Dropout, Linear, Recurrence, Sequence


def layers(classes: int) -> Sequence:
    """Recurrent layer of 128 over the rows of the image, dropout of its last state, linear."""
    return Sequence(Recurrence("rnn", 128), Dropout("dropout"), Linear("linear", classes))
