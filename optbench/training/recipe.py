"""What a recipe adds to training: smoothed labels, clipped gradients, averaged weights.

Each is made for the trials of a stack, and does nothing where none of them has it. A trial without it has the same bits
beside others with it.

Shape suffixes: T trials, P parameters, Q buffers, A trials whose weights are averaged, X numbers of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optbench.sweep.trials import Trial


def label_smoothing(trials: Sequence[Trial], like: Tensor) -> Tensor | None:
    """The trials' `label_smoothing` (T,); None where no label is smoothed."""
    values = [trial.label_smoothing for trial in trials]
    return torch.tensor(values, dtype=like.dtype, device=like.device) if any(values) else None


class Clipping:
    """Scales each trial's gradient down to a norm of at most its `clip_norm`, as `torch.nn.utils.clip_grad_norm_`."""

    _EPS = 1e-6  # torch's

    def __init__(self, trials: Sequence[Trial], like: Tensor) -> None:
        norms = [trial.clip_norm for trial in trials]
        self._is_on = any(norm is not None for norm in norms)
        column = torch.tensor([norm or torch.inf for norm in norms], dtype=torch.float64)
        self._clip_norm_T1 = column.to(like).unsqueeze(1)

    def clip_(self, gradients_TP: Tensor, rows: slice = slice(None)) -> None:
        """Scale the gradients of these rows in place; on a CPU each by what it would be scaled by alone."""
        if not self._is_on:
            return
        clip_norm_T1 = self._clip_norm_T1[rows]
        norm_T1 = torch.linalg.vector_norm(gradients_TP, dim=1, keepdim=True)
        scale_T1 = (clip_norm_T1 / (norm_T1 + self._EPS)).clamp(max=1)
        # Where nothing is clipped, not even by inf / inf: 1 leaves every bit as it is.
        gradients_TP.mul_(torch.where(clip_norm_T1.isinf(), 1, scale_T1))


class MovingAverage:
    """Exponential moving averages of the rows of tensors, such as weights (T, P) and buffers (T, Q).

    average ← ema · average + (1 − ema) · row, from the first values on; kept of the trials that have an `ema`.
    """

    def __init__(self, trials: Sequence[Trial], *tensors_TX: Tensor) -> None:
        self._rows = [t for t, trial in enumerate(trials) if trial.ema is not None]
        like = tensors_TX[0]
        self._index_A = torch.tensor(self._rows, dtype=torch.int64, device=like.device)
        weights = [1 - trial.ema for trial in trials if trial.ema is not None]
        self._weight_A1 = torch.tensor(weights, dtype=torch.float64).to(like).unsqueeze(1)
        self._averages_AX = [tensor_TX[self._index_A] for tensor_TX in tensors_TX]

    def update(self, *tensors_TX: Tensor) -> None:
        """Move the averages towards the rows; after each step."""
        if self._rows:
            for average_AX, tensor_TX in zip(self._averages_AX, tensors_TX, strict=True):
                average_AX.lerp_(tensor_TX.index_select(0, self._index_A), self._weight_A1)

    def averaged(self, *tensors_TX: Tensor) -> list[Tensor]:
        """The tensors with averages in place of the rows that have one; others as they are, if none has."""
        if not self._rows:
            return list(tensors_TX)
        both = zip(tensors_TX, self._averages_AX, strict=True)
        return [tensor_TX.index_copy(0, self._index_A, average_AX) for tensor_TX, average_AX in both]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with only these rows."""
        place = {t: a for a, t in enumerate(self._rows)}
        mine = [place[t] for t in rows if t in place]
        self._weight_A1 = self._weight_A1[mine]
        self._averages_AX = [average_AX[mine] for average_AX in self._averages_AX]
        self._rows = [new for new, t in enumerate(rows) if t in place]
        self._index_A = torch.tensor(self._rows, dtype=torch.int64, device=self._weight_A1.device)

    def state_dict(self) -> dict[str, Any]:
        """The averages."""
        return {"averages": [average_AX.clone() for average_AX in self._averages_AX]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one with the same trials left off."""
        for average_AX, own_AX in zip(self._averages_AX, state["averages"], strict=True):
            average_AX.copy_(own_AX)
