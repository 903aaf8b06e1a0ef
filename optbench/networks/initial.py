"""Distributions of initial weights, each a function of one uniform number for each weight.

Some follow from the shape of the weight: (D, F), outputs and inputs, or (D, C, H, W) with channels C and windows H × W.

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
        return _normal(uniform, self.deviation, share=math.erf(math.sqrt(2)))


@dataclass(frozen=True)
class Normal:
    """Normal around 0 with standard deviation `deviation`."""

    deviation: float

    def draw(self, uniform: Tensor) -> Tensor:
        return _normal(uniform, self.deviation)


@dataclass(frozen=True)
class Constant:
    """The same number everywhere."""

    value: float

    def draw(self, uniform: Tensor) -> Tensor:
        return uniform.new_full(uniform.shape, self.value)


def he_normal(shape: tuple[int, ...]) -> Normal:
    """N(0, 2 / inputs), which keeps the variance from one relu to the next (He et al., 2015, "Delving deep into …")."""
    return Normal(math.sqrt(2 / math.prod(shape[1:])))


def glorot_normal(shape: tuple[int, ...]) -> TruncatedNormal:
    """TensorFlow's: with variance 2 / (inputs + outputs) after the cut (Glorot and Bengio, 2010)."""
    return TruncatedNormal(math.sqrt(2 / _inputs_and_outputs(shape)) / _DEVIATION_AFTER_CUT)


def glorot_uniform(shape: tuple[int, ...]) -> Uniform:
    """With variance 2 / (inputs + outputs) (Glorot and Bengio, 2010)."""
    return Uniform(math.sqrt(6 / _inputs_and_outputs(shape)))


_DEVIATION_AFTER_CUT = 0.87962566103423978  # of a standard normal distribution, cut off at ±2


def _inputs_and_outputs(shape: tuple[int, ...]) -> int:
    outputs, inputs, *window = shape
    return (inputs + outputs) * math.prod(window)


def _normal(uniform: Tensor, deviation: float, share: float = 1.0) -> Tensor:
    """Normal numbers, of which only the middle `share` is drawn."""
    # In float64 on the CPU, then rounded: the last bits of erfinv differ between devices.
    symmetric = (2 * uniform - 1).cpu().double() + 2.0**-24  # -1 + 2⁻²⁴ … 1 - 2⁻²⁴, so that both tails are alike
    normal = (symmetric * share).erfinv() * math.sqrt(2)
    return (normal * deviation).to(uniform)
