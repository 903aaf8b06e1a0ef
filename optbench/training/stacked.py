"""The optimizers of a stack: neighbours with the same update rule step together, all others one by one.

Shape suffixes: T trials, P parameters of one trial (all its tensors, flattened and concatenated).
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from optbench.errors import warn_slower
from optbench.optimizers.hyperparameters import Hyperparameters
from optbench.training.adapter import Cost, LeafOptimizer, Shape
from optbench.training.rules import RULES, Tensors, Update

# Terms that vanish at 0 are left out of the update when they are 0 for every trial of the group.
_VANISHING = {
    "weight_decay",
    "momentum",
    "dampening",
    "nesterov",
    "lr_decay",
    "initial_accumulator_value",
    "centered",
    "amsgrad",
    "decoupled_weight_decay",
}
# Pairs and the names of their two parts.
_PAIRS = {
    "betas": ("beta1", "beta2"),
    "etas": ("eta_minus", "eta_plus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}


def _columns(hyperparameters: Sequence[Mapping[str, Any]], like: Tensor) -> dict[str, Tensor]:
    """Hyperparameters of a group's trials as (T, 1) tensors; `betas` becomes beta1 and beta2, `lr` is left out."""
    rows = []
    for given in hyperparameters:
        row: dict[str, Any] = {}
        for name, value in given.items():
            row |= dict(zip(_PAIRS[name], value, strict=True)) if name in _PAIRS else {name: value}
        del row["lr"]
        rows.append(row)
    columns = {}
    for name in rows[0]:
        values = [float(row[name]) for row in rows]
        if any(values) or name not in _VANISHING:
            columns[name] = torch.tensor(values, dtype=torch.float64).to(like).unsqueeze(1)
    return columns


def _mask_decay(columns: dict[str, Tensor], weight_decay_on: Sequence[str], shapes: Sequence[Shape]) -> None:
    """Make `weight_decay` (T, P), with 0 for what does not decay, where a trial decays only its weights."""
    if "weight_decay" in columns and "weights" in weight_decay_on:
        is_weight = [torch.full((math.prod(shape),), len(shape) >= 2) for shape in shapes]
        decays_all_T1 = torch.tensor([on == "all" for on in weight_decay_on]).unsqueeze(1)
        decays_TP = decays_all_T1 | torch.cat(is_weight)
        columns["weight_decay"] = columns["weight_decay"] * decays_TP.to(columns["weight_decay"])


@dataclass
class _Group:
    """Neighbouring trials with one rule; their state and hyperparameters are rows of tensors.

    `needed_by` names the hyperparameter without which a buffer of the state is not needed.
    """

    rows: slice
    update: Update
    hyperparameters: Tensors
    state: Tensors
    needed_by: Mapping[str, str]

    def state_sizes(self) -> list[int]:
        """How many numbers the rule of each trial keeps; a buffer that only a neighbour needs is not its own."""
        sizes = [0] * (self.rows.stop - self.rows.start)
        for name, buffer in self.state.items():
            option = self.needed_by.get(name)
            is_own = [True] * len(sizes) if option is None else self.hyperparameters[option].bool().flatten().tolist()
            sizes = [size + own * buffer[0].numel() for size, own in zip(sizes, is_own, strict=True)]
        return sizes


@dataclass
class _Single:
    """A trial with an optimizer object of its own; None once it has failed or diverged."""

    row: int
    optimizer: LeafOptimizer | None


class StackedOptimizer:
    """Updates a stack in place.

    `parameters_TP` are the weights, `shapes` those of one trial's tensors in their order; `weight_decay_on` says what
    decays of each trial, "all" or "weights", those of two or more dimensions. An optimizer that raises stops only its
    own trial: `failures` holds its traceback by row, and the trial's weights no longer change. One that raises at
    numbers that are not finite has diverged, not failed: the trial's weights become NaN.
    """

    def __init__(
        self,
        parameters_TP: Tensor,
        shapes: Sequence[Shape],
        hyperparameters: Sequence[Hyperparameters],
        seeds: Sequence[int],
        weight_decay_on: Sequence[str] = (),
    ) -> None:
        decayed = weight_decay_on or ["all"] * len(hyperparameters)
        self.parameters_TP = parameters_TP
        self._step_number = torch.zeros((), dtype=torch.float64, device=parameters_TP.device)
        self.failures: dict[int, str] = {}
        self._groups: list[_Group] = []
        self._singles: list[_Single] = []
        algorithms = [given.algorithm for given in hyperparameters]
        for name, members in groupby(range(len(algorithms)), key=lambda t: algorithms[t]):
            trials = list(members)
            if name in RULES:
                columns = _columns([hyperparameters[t].model_dump() for t in trials], parameters_TP)
                _mask_decay(columns, [decayed[t] for t in trials], shapes)
                self._groups.append(self._group(name, columns, slice(trials[0], trials[-1] + 1)))
                continue
            for t in trials:
                self._singles.append(_Single(t, None))
                with self._recorded(self._singles[-1]):
                    leaf = LeafOptimizer(parameters_TP[t], shapes, hyperparameters[t], seeds[t], decayed[t])
                    self._singles[-1].optimizer = leaf

    def _group(self, name: str, columns: Tensors, rows: slice) -> _Group:
        rule = RULES[name]
        needed = [*rule.state, *(buffer for name, buffer in rule.optional.items() if name in columns)]
        state = {buffer: torch.zeros_like(self.parameters_TP[rows]) for buffer in needed}
        state |= {scalar: torch.zeros_like(self.parameters_TP[rows, :1]) for scalar in rule.scalars}
        needed_by = {buffer: option for option, buffer in rule.optional.items()}
        return _Group(rows, self._kernel(name, columns) or rule.update, columns, state, needed_by)

    def _kernel(self, name: str, columns: Tensors) -> Update | None:
        """The rule as one kernel, if there is one for this device and type; a warning says why it cannot be used."""
        if not self.parameters_TP.is_cuda or self.parameters_TP.dtype != torch.float32:
            return None
        if not self.parameters_TP.is_contiguous():  # a few columns of larger rows
            return None
        try:
            from optbench.training.update_kernels import obstacle_on, update_of

            obstacle = obstacle_on(self.parameters_TP.device)
        except ModuleNotFoundError as error:  # Triton comes with torch only on Linux
            obstacle = str(error)
        if obstacle:
            warn_slower("optimizers run without fused kernels, which is slower", obstacle)
            return None
        return update_of(name, columns)

    @contextmanager
    def _recorded(self, single: _Single) -> Iterator[None]:
        try:
            yield
        except Exception:
            single.optimizer = None
            self.failures[single.row] = traceback.format_exc()

    def step(
        self,
        loss_T: Tensor,
        gradients_TP: Tensor,
        lr_T1: Tensor,
        lrs: Sequence[float],
        again: Callable[[int], tuple[Tensor, Tensor]],
    ) -> None:
        """One update with this step's learning rates, as a tensor and as numbers; the gradients are overwritten.

        `again(t)` computes loss and gradient of one trial at its present weights, on the same batch.
        """
        self.step_groups(gradients_TP, lr_T1)
        self.step_singles(loss_T, gradients_TP, lrs, again)

    @property
    def steps(self) -> int:
        """How many steps were made; waits for the device."""
        return int(self._step_number.item())

    def step_groups(self, gradients_TP: Tensor, lr_T1: Tensor) -> None:
        """The part of `step` that is stacked rules: the same work on the same memory each time."""
        self._step_number.add_(1)
        for group in self._groups:
            p, g, lr = (x[group.rows] for x in (self.parameters_TP, gradients_TP, lr_T1))
            group.update(p, g, group.state, group.hyperparameters, lr, self._step_number)

    def step_singles(
        self,
        loss_T: Tensor,
        gradients_TP: Tensor,
        lrs: Sequence[float],
        again: Callable[[int], tuple[Tensor, Tensor]],
    ) -> None:
        """The part of `step` that is optimizer objects, which may do anything."""
        for single in self._singles:
            if single.optimizer is None:
                continue
            t, optimizer = single.row, single.optimizer
            if not loss_T[t].isfinite():
                single.optimizer = None  # many would raise; its trial is over
                continue
            with self._recorded(single):
                optimizer.step(loss_T[t], gradients_TP[t], lrs[t], lambda t=t: again(t))  # type: ignore[misc]
            if t in self.failures and not (gradients_TP[t].isfinite().all() and self.parameters_TP[t].isfinite().all()):
                del self.failures[t]
                self.parameters_TP[t] = math.nan

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the weights are those to evaluate, where an optimizer trains at others."""
        self._set_training(False)
        try:
            yield
        finally:
            self._set_training(True)

    def _set_training(self, training: bool) -> None:
        for single in self._singles:
            if single.optimizer is not None:
                with self._recorded(single):
                    single.optimizer.set_training(training)

    def tensors(self) -> list[Tensor]:
        """What `step_groups` changes besides the weights."""
        return [self._step_number, *(buffer for group in self._groups for buffer in group.state.values())]

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on with the same weights, in tensors and plain values."""
        singles = [single.optimizer.state_dict() if single.optimizer else None for single in self._singles]
        return {"steps": self.steps, "groups": [dict(group.state) for group in self._groups], "singles": singles}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one with the same trials left off."""
        self._step_number.fill_(state["steps"])
        for group, buffers in zip(self._groups, state["groups"], strict=True):
            group.state = {name: buffer.clone() for name, buffer in buffers.items()}
        for single, own in zip(self._singles, state["singles"], strict=True):
            if single.optimizer is not None and own is not None:
                single.optimizer.load_state_dict(own)

    def costs(self) -> list[Cost]:
        """What each trial's optimizer costs, by row; a rule needs the gradient of the step and no other."""
        trials, parameters = self.parameters_TP.shape
        costs = [Cost(None, None)] * trials
        for group in self._groups:
            costs[group.rows] = [Cost(size / parameters, 1.0) for size in group.state_sizes()]
        for single in self._singles:
            if single.optimizer is not None:
                costs[single.row] = single.optimizer.cost()
        return costs

    def keep(self, rows: Sequence[int], parameters_TP: Tensor) -> None:
        """Go on with only these rows; `parameters_TP` are their weights, at another place in memory."""
        self.parameters_TP = parameters_TP
        new = {old: t for t, old in enumerate(rows)}
        self.failures = {new[old]: error for old, error in self.failures.items() if old in new}
        groups = []
        for group in self._groups:
            kept = [old for old in range(group.rows.start, group.rows.stop) if old in new]
            if kept:
                index = torch.tensor([old - group.rows.start for old in kept], device=parameters_TP.device)
                group.hyperparameters = {name: column[index] for name, column in group.hyperparameters.items()}
                group.state = {name: buffer[index] for name, buffer in group.state.items()}
                group.rows = slice(new[kept[0]], new[kept[-1]] + 1)
                groups.append(group)
        self._groups = groups
        self._singles = [single for single in self._singles if single.row in new]
        for single in self._singles:
            single.row = new[single.row]
            if single.optimizer is not None:
                single.optimizer.move(parameters_TP[single.row])
