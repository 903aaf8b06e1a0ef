"""A multilayer perceptron: by default two hidden layers of 500 and 300."""

from __future__ import annotations

from optbench.networks.layers import FIRST, SECOND, Dropout, Flatten, Hidden, Layer, Linear, Sequence


def layers(classes: int, *, widths: tuple[int, ...] = (500, 300)) -> Sequence:
    """Linear 500, dropout, linear 300, dropout, linear."""
    hidden: list[Layer] = []
    for n, width in enumerate(widths, start=1):
        rate = SECOND if n == len(widths) else FIRST
        hidden += [Hidden(f"linear{n}", width), Dropout(f"dropout{n}", rate)]
    return Sequence(Flatten(), *hidden, Linear(f"linear{len(widths) + 1}", classes))
