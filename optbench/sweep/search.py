"""Searched values: the ranges of a sweep file, and the numbers that are drawn from them.

Draw i of a search does not depend on what is drawn after it, so a search can be made longer; and it is the same for
every optimizer, so that each is tried at the same points of its own ranges.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from optbench.optimizers.schedules import SCHEDULES, Schedule

Method = Literal["sobol", "random", "halton"]


@dataclass(frozen=True)
class Range:
    """The numbers from `min` to `max`, evenly or, if `log`, by their logarithm; whole ones if `integer`."""

    min: float
    max: float
    log: bool = False
    integer: bool = False

    def __str__(self) -> str:
        return f"{{min: {self.min:g}, max: {self.max:g}{', log: true' if self.log else ''}}}"

    def at(self, share: float) -> float:
        """The number at a share (0 to 1) of the range, rounded: what is printed is what was used, on every machine."""
        if self.integer:  # each whole number gets an equal part of the range
            low, high = self.min - 0.5, self.max + 0.5
            value = _between(max(low, 0.5) if self.log else low, high, share, self.log)
            return min(int(self.max), max(int(self.min), math.floor(value + 0.5)))
        value = _between(self.min, self.max, share, self.log)
        digits = 3 - math.floor(math.log10(value if self.log else self.max - self.min))
        return min(self.max, max(self.min, round(value, digits if self.log else digits + 1)))


def _between(low: float, high: float, share: float, log: bool) -> float:
    if log:
        return math.exp(math.log(low) + (math.log(high) - math.log(low)) * share)
    return low + (high - low) * share


@dataclass(frozen=True)
class SearchedSchedule:
    """A schedule with ranges among its parameters, which are pairs of name and value."""

    name: str
    parameters: tuple[tuple[str, Any], ...]


def ranges(value: Any) -> int:
    """How many numbers have to be drawn for a value of an axis: the ranges in it."""
    if isinstance(value, Range):
        return 1
    if isinstance(value, SearchedSchedule):
        return sum(ranges(parameter) for _, parameter in value.parameters)
    return sum(map(ranges, value)) if isinstance(value, tuple) else 0


def fill(value: Any, shares: Iterator[float]) -> Any:
    """The value with a number in place of each of its ranges, each at the next of the shares."""
    if isinstance(value, Range):
        return value.at(next(shares))
    if isinstance(value, SearchedSchedule):
        return schedule(value.name, {name: fill(parameter, shares) for name, parameter in value.parameters})
    return tuple(fill(part, shares) for part in value) if isinstance(value, tuple) else value


def schedule(name: str, parameters: dict[str, Any]) -> Schedule | SearchedSchedule:
    """A schedule, or one still to be drawn when a parameter is a range."""
    if any(map(ranges, parameters.values())):
        return SearchedSchedule(name, tuple(parameters.items()))
    return SCHEDULES[name](**parameters)


def draws(method: Method, seed: int, dimensions: int) -> Iterator[tuple[float, ...]]:
    """Endless points of the unit cube.

    `sobol` and `halton` fill it evenly (Sobol, 1967, with the direction numbers of Joe and Kuo, 2008; Halton, 1960) and
    are moved by one random shift for each dimension, modulo 1 (Cranley and Patterson, 1976): the plain sequences begin
    in a corner of the cube. The generator of Python's `random` gives the same numbers in every version.
    """
    if method == "random":
        for i in count():
            yield tuple(random.Random(f"{seed} {i} {d}").random() for d in range(dimensions))
    from scipy.stats import qmc

    shifts = [random.Random(f"{seed} {d}").random() for d in range(dimensions)]
    engine = (qmc.Sobol if method == "sobol" else qmc.Halton)(max(1, dimensions), scramble=False)
    for i in count():
        for point in engine.random(1 if i == 0 else 2 ** (i - 1)):  # 1, 1, 2, 4…: Sobol's numbers come in powers of two
            yield tuple((float(x) + shift) % 1.0 for x, shift in zip(point, shifts, strict=False))
