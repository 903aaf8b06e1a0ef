"""What every optimizer's hyperparameters have in common."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from optbench.optimizers.bounds import NonNegative


class Hyperparameters(BaseModel):
    """What an optimizer takes; the fields' defaults are torch's. Numbers must be numbers, not strings or booleans.

    `algorithm` is the optimizer's name in a sweep file. One with a `stacked` update rule takes its step for many trials
    at once; any other is a genuine `torch.optim.Optimizer` for each trial. `source` is a digest of code that may change
    under the same name; empty for the code of optbench and torch.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    algorithm: ClassVar[str]
    provider: ClassVar[str] = "torch.optim"
    stacked: ClassVar[bool] = True
    source: ClassVar[str] = ""

    lr: NonNegative
