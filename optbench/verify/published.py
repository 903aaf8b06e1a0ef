"""What has been published: each folder of `cases/` has a sweep and, beside it, the numbers that it should give.

cases/NAME/sweep.yaml       an ordinary sweep file, with networks and optimizers of its own beside it
cases/NAME/published.yaml   a `Case`: source, numbers, what is left out when there is little time
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from optbench.errors import UserError, did_you_mean
from optbench.scores import Score
from optbench.sweep.spec import Sweep, read

FOLDER = Path(__file__).parent / "cases"
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


class Published(BaseModel):
    """A number that was published: an accuracy after an epoch or a step, in percent.

    Either `sd` and `n`, the standard deviation (of n − 1) and the number of the runs that it is the mean of; or, where
    one run was published, `tolerance`: by how much the mean of other runs may differ from it.
    `optimizer` is a label of the sweep, None where it has one.
    """

    model_config = _STRICT

    optimizer: str | None = None
    epoch: int | None = Field(None, ge=1)
    step: int | None = Field(None, ge=1)
    score: Annotated[Score, Field(strict=False)]
    mean: float
    sd: float | None = Field(None, gt=0)
    n: int = Field(1, ge=1)
    tolerance: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.epoch is None) == (self.step is None):
            raise ValueError("takes an epoch or a step")
        if (self.sd is None) == (self.tolerance is None) or (self.n > 1) != (self.sd is not None):
            raise ValueError("takes sd and n, the number of runs, or the tolerance of one")
        if self.score.is_loss:
            raise ValueError("takes an accuracy: losses are not compared in percent")
        return self

    @property
    def in_words(self) -> str:
        """Which accuracy it is: "sgd: test, epoch 5"."""
        of = "" if self.optimizer is None else f"{self.optimizer}: "
        when = f"epoch {self.epoch}" if self.step is None else f"step {self.step:,}"
        return f"{of}{self.score.words.partition(' ')[0]}, {when}"


class Case(BaseModel):
    """A published result: where it is from, its numbers, and how the sweep differs from the recipe, in `notes`.

    `quick` are settings of the sweep, `key=value` each, for few seeds and the first epochs.
    """

    model_config = _STRICT

    name: str
    title: str
    source: str
    notes: str
    quick: tuple[str, ...] = Field(strict=False)
    values: tuple[Published, ...] = Field(strict=False, min_length=1)

    @property
    def sweep_file(self) -> Path:
        """The sweep that should give these numbers."""
        return FOLDER / self.name / "sweep.yaml"

    def sweep(self, quick: bool = False) -> Sweep:
        """That sweep, in whole or quick. Raises `UserError`."""
        return read(self.sweep_file, self.quick if quick else ())

    @cached_property
    def with_sd(self) -> int:
        """How many of its numbers are means of several runs."""
        return sum(value.sd is not None for value in self.values)


def names() -> list[str]:
    """The cases that there are."""
    return sorted(path.parent.name for path in FOLDER.glob("*/published.yaml"))


def case(name: str) -> Case:
    """The case of this name. Raises `UserError`."""
    if name not in names():
        raise UserError(f"nothing is published as '{name}'; {did_you_mean(name, names())}")
    path = FOLDER / name / "published.yaml"
    data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Case.model_validate({"name": name} | data)
