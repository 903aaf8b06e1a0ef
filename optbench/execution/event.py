"""What happens to a stack, and what is asked about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optbench.sweep.stacks import Stack


@dataclass(frozen=True)
class Failure:
    """Why a stack could not be trained: a traceback, or how its worker died."""

    error: str
    is_too_large: bool = False  # smaller stacks of the same trials may succeed


@dataclass(frozen=True)
class Halved:
    """The stack was too large: it goes on as these, from the start."""

    into: tuple[Stack, ...]


@dataclass(frozen=True)
class Stopped:
    """Trials that stop training: others were better."""

    trial_ids: frozenset[str]


Message = list[dict[str, Any]] | Failure | Stopped | Halved
Event = tuple[Stack, Message]


def halve(stack: Stack, new: deque[Stack]) -> Halved:
    """Put the halves of a stack first in the queue of stacks that have not begun."""
    halves = Halved(stack.halves())
    new.extendleft(reversed(halves.into))
    return halves


# Which trials of a stack stop after an epoch; None until enough other trials have got that far.
Verdict = Callable[[Stack, int], frozenset[str] | None]


def never(stack: Stack, epoch: int) -> frozenset[str]:
    """The verdict where nothing is stopped."""
    return frozenset()
