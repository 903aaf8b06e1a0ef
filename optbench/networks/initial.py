"""Distributions of initial weights, each a function of one uniform number for each weight.

This file does not import torch: the numbers come as a tensor, whose own methods do the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Initial(Protocol):
    """What a parameter is before training."""

    def draw(self, uniform: Tensor) -> Tensor:
        """The weights for uniform numbers in [0, 1), float32 like them and of the same shape."""


@dataclass(frozen=True)
class Uniform:
    """Between -bound and bound."""

    bound: float

    @classmethod
    def by_fan_in(cls, fan_in: int) -> Uniform:
        """torch's default for weights and biases alike: U(-1/√fan_in, 1/√fan_in)."""
        return cls(1 / math.sqrt(fan_in))

    def draw(self, uniform: Tensor) -> Tensor:
        return (2 * uniform - 1) * self.bound


@dataclass(frozen=True)
class TruncatedNormal:
    """Normal around 0, cut off on both sides at twice `deviation`, its standard deviation before the cut."""

    deviation: float

    def draw(self, uniform: Tensor) -> Tensor:
        # In float64 on the CPU, then rounded: the last bits of erfinv differ between devices.
        symmetric = (2 * uniform - 1).cpu().double() + 2.0**-24  # -1 + 2⁻²⁴ … 1 - 2⁻²⁴, so that both tails are alike
        normal = (symmetric * math.erf(math.sqrt(2))).erfinv() * math.sqrt(2)
        return (normal * self.deviation).to(uniform)


@dataclass(frozen=True)
class Constant:
    """The same number everywhere."""

    value: float

    def draw(self, uniform: Tensor) -> Tensor:
        return uniform.new_full(uniform.shape, self.value)
