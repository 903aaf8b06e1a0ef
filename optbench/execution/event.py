"""What happens to a stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optbench.stacks import Stack


@dataclass(frozen=True)
class Failure:
    """Why a stack could not be trained: a traceback, or how its worker died."""

    error: str


Event = tuple[Stack, list[dict[str, Any]] | Failure]
