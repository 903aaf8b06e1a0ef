"""Whether an optimizer works here: a few dozen steps of the network on digits, and what they show."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from torch import Tensor

from optbench.data.datasets import load
from optbench.errors import ArgumentError, UserError
from optbench.machine.device import settings_given_back
from optbench.optimizers import OPTIMIZERS, library
from optbench.sweep.document import Dumper, Problem, SweepError
from optbench.sweep.lookup import RESERVED
from optbench.sweep.spec import parse
from optbench.sweep.stacks import Stack
from optbench.sweep.trials import Trial, expand
from optbench.training.engine import Training
from optbench.training.stacked import StackedOptimizer

EPOCHS, STEPS, BATCH_SIZE, TIMED_STEPS = 3, 40, 64, 9
# An optimizer that takes seconds for a step is judged by fewer steps.
FEWEST_STEPS, SECONDS = 6, 3.0
# What losses are compared with: usual learning rates, not tuned. One that gains less than this share of what both of
# them gain hardly learns.
REFERENCES, HARDLY = {"sgd": 0.1, "adam": 1e-3}, 0.1


_HOW_TO_SET = r"optbench check-optimizer OPTIMIZER --set \1=VALUE"


@dataclass(frozen=True)
class Finding:
    """One answer: what was checked, whether it is all right, what was seen, and what is not as it should be even so."""

    check: str
    ok: bool
    seen: str
    but: str = ""


class Watched:
    """Trials, step by step; the losses are those of the first."""

    def __init__(self, *trials: Trial) -> None:
        first = trials[0]
        self._training = Training(Stack(trials), load(first.dataset, split_seed=first.split_seed), "cpu")
        self.losses: list[float] = []
        self._initial_TP = self.parameters_TP.clone()

    @property
    def optimizer(self) -> StackedOptimizer:
        return self._training.optimizer

    @property
    def parameters_TP(self) -> Tensor:
        return self._training.parameters_TP

    @property
    def state_TX(self) -> Tensor:
        """All that training changes of the networks, weights and buffers."""
        return torch.cat([self._training.parameters_TP, self._training.buffers_TQ], dim=1)

    @property
    def loss(self) -> float:
        """The training loss at the end, the mean of the last five steps."""
        last = self.losses[-5:]
        return sum(last) / len(last)

    @property
    def has_moved(self) -> bool:
        """Whether a weight has changed."""
        return not torch.equal(self.parameters_TP, self._initial_TP)

    def step(self) -> float:
        """One step; returns its seconds. Raises `StepError` when the optimizer did."""
        if not self.optimizer.failures:
            started = time.perf_counter()
            loss_T = self._training.step()
            seconds = time.perf_counter() - started
            self.losses.append(float(loss_T[0]))
        if self.optimizer.failures:
            raise StepError(self.optimizer.failures[0])
        return seconds

    def through_a_file(self) -> Watched:
        """Another training that goes on from this one's checkpoint, written to a file in memory and read again."""
        file = io.BytesIO()
        torch.save(self._training.state_dict(), file)
        file.seek(0)
        other = Watched(self._training.trials[0])
        other._training.load_state_dict(torch.load(file, weights_only=False))
        return other


class StepError(Exception):
    """The traceback of an optimizer that raised."""

    @property
    def reason(self) -> str:
        """Its last line."""
        return str(self).strip().splitlines()[-1]


def trial_of(name: str, settings: Sequence[str], folder: Path) -> Trial:
    """A trial of an optimizer, by its name in a sweep file, with settings `key=value`. Raises `UserError`."""
    for setting in settings:
        key, _, value = setting.partition("=")
        if value.lstrip().startswith("{min"):
            raise ArgumentError("set", setting, "give each hyperparameter one value")
        if key in RESERVED:
            raise ArgumentError("set", setting, f"{key} is not an optimizer's hyperparameter")
    parameters = {"batch_size": BATCH_SIZE, "dropout": 0}
    sweep = {"dataset": "digits", "parameters": parameters, "optimizers": {"it": {"optimizer": name}}}
    trials = trials_of(sweep, "optimizers.it.", settings, folder, _HOW_TO_SET)
    if len(trials) > 1:
        raise UserError(f"{name}: give each hyperparameter one value")
    return trials[0]


def trials_of(
    sweep: Mapping[str, Any], prefix: str, settings: Sequence[str], folder: Path, command: str
) -> list[Trial]:
    """The trials of a sweep that exists only for a check, with settings of what is at `prefix` in it.

    Raises `SweepError` in words for a user who has no sweep file; `command` shows how to set what is missing.
    """

    def told(problem: Problem) -> Problem:
        message = re.sub(r"^it: | \(use 'exclude' .*\)", "", problem.message)
        message = re.sub(r"^(?:needs|missing key) '?(\w+)'?$", rf"needs \1: '{command}'", message)
        place = problem.place if problem.place and problem.place.is_setting else None
        own = place and replace(place, source=place.source.removeprefix(prefix))
        return replace(problem, place=own, message=message)

    text = yaml.dump({**sweep, "epochs": EPOCHS}, Dumper=Dumper)
    try:
        return expand(parse(text, settings=[f"{prefix}{setting}" for setting in settings], folder=folder))
    except SweepError as error:
        raise SweepError(map(told, error.problems)) from None


def check(trial: Trial) -> list[Finding]:
    """Findings about a trial's optimizer, within seconds. One that raises has a single finding, its traceback."""
    with settings_given_back():
        torch.set_num_threads(1)
        return _check(trial)


def _check(trial: Trial) -> list[Finding]:
    training = Watched(trial)
    try:
        started = time.monotonic()
        while training.optimizer.steps < STEPS and (
            training.optimizer.steps < FEWEST_STEPS or time.monotonic() - started < SECONDS
        ):
            training.step()
        return [
            _learns(trial, training),
            _state(training),
            _cost(trial),
            deterministic(training, after(Watched(trial), training.optimizer.steps)),
            _checkpoint(trial, training),
            *_licence(trial.algorithm),
        ]
    except StepError as error:
        hint = library.advice(trial.algorithm.removeprefix(f"{library.NAME}."))
        known = f"\nIt is known to work with {hint}." if hint else ""
        return [Finding("steps", False, f"{error.reason}\n{error}{known}")]


def _learns(trial: Trial, training: Watched) -> Finding:
    """Whether its loss falls, and to where SGD and Adam bring it in as many steps on the same batches."""
    steps, first, last = len(training.losses), training.losses[0], training.loss
    if not training.has_moved:
        return Finding("steps", False, f"{steps} steps have changed no weight: they must change them in place")
    seen = f"{steps} steps at batch_size {BATCH_SIZE}: training loss from {first:.3f} to {last:.3f}"
    others = {
        name: after(Watched(replace(trial, hyperparameters=OPTIMIZERS[name](lr=lr))), steps).loss
        for name, lr in REFERENCES.items()
    }
    seen += f"; on the same batches {' and '.join(f'{n} to {others[n]:.3f} at lr={REFERENCES[n]:g}' for n in others)}"
    if not last < first:
        return Finding("steps", False, f"{seen}; try another lr")
    hardly = first - last < HARDLY * (first - max(others.values()))
    return Finding("steps", True, seen, "it hardly learns at this lr" if hardly else "")


def _state(training: Watched) -> Finding:
    (cost,) = training.optimizer.costs()
    return Finding("state", True, f"{cost.state_per_parameter:.2f} numbers for each parameter")


def _cost(trial: Trial) -> Finding:
    """Median time of a step, gradient included, against SGD's, in alternation."""
    ours, sgd = Watched(trial), Watched(replace(trial, hyperparameters=OPTIMIZERS["sgd"](lr=1e-3)))
    ratios = [ours.step() / sgd.step() for _ in range(TIMED_STEPS + 1)][1:]  # the first one makes the state
    return Finding("cost", True, f"{median(ratios):.2f} × a step with SGD, gradient included")


def after(training: Watched, steps: int) -> Watched:
    """The training, so many steps later."""
    for _ in range(steps):
        training.step()
    return training


def _from_checkpoint(trial: Trial, steps: int) -> Watched:
    """Half the steps, and the other half with a new object that read the first one's state."""
    half = after(Watched(trial), steps // 2)
    return after(half.through_a_file(), steps - steps // 2)


def deterministic(training: Watched, again: Watched) -> Finding:
    """Whether a second training is the first one again."""
    same = torch.equal(without_nan(training.state_TX), without_nan(again.state_TX))
    return Finding(
        "deterministic", same, f"a second training ends at {'the same' if same else 'other'} weights, bit by bit"
    )


def _checkpoint(trial: Trial, training: Watched) -> Finding:
    """A sweep begins an interrupted trial again and needs no checkpoint; who trains for days does."""
    try:
        other = _from_checkpoint(trial, training.optimizer.steps)
        same = torch.equal(without_nan(training.state_TX), without_nan(other.state_TX))
        found = f"it ends at {'the same' if same else 'other'} weights"
    except Exception as error:  # whatever its own methods raise
        same, found = False, f"it raises {error.reason if isinstance(error, StepError) else repr(error)}"
    but = "" if same else "it does not go on from a checkpoint"
    return Finding("checkpoint", True, f"saved and loaded half-way, {found}", but)


def without_nan(state: Tensor) -> Tensor:
    """The same tensor, but a NaN is a number like any other, so that what is the same is equal."""
    return state.nan_to_num(nan=9e9)


def _licence(algorithm: str) -> list[Finding]:
    licence = library.LICENCES.get(algorithm.removeprefix(f"{library.NAME}."))
    return [Finding("licence", True, licence)] if licence else []
