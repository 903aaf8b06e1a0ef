"""Whether an optimizer works here: a few dozen steps of the network on digits, and what they show."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import yaml
from torch import Tensor

from optbench import randomness
from optbench.axes import PARAMETERS
from optbench.datasets import load
from optbench.document import Dumper
from optbench.errors import UserError
from optbench.model import Network
from optbench.optimizers import OPTIMIZERS, Hyperparameters, library
from optbench.optimizers.stacked import StackedOptimizer
from optbench.spec import parse
from optbench.trials import expand

_SOURCE = "sweep"
STEPS, BATCH_SIZE, TIMED_STEPS, SEED = 40, 64, 9, 0
# One that takes seconds for a step is judged by fewer of them.
FEWEST_STEPS, SECONDS = 6, 3.0


@dataclass(frozen=True)
class Finding:
    """One answer: what was asked, whether it is well, and what was seen."""

    check: str
    ok: bool
    seen: str


class _Training:
    """The network under one optimizer, step by step."""

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        self._data, self._network = load("digits"), Network()
        self._lr, self._same_T = hyperparameters.lr, torch.zeros(1, dtype=torch.int64)
        self._order_SN = randomness.permutation([SEED], 1, len(self._data.train.labels), "cpu")
        self.parameters_TP = self._network.initialize([SEED], "cpu")
        shapes = [shape for shape, _ in self._network.architecture.shapes.values()]
        self.optimizer = StackedOptimizer(self.parameters_TP, shapes, [hyperparameters], [SEED])
        self.losses: list[float] = []

    def step(self) -> float:
        """One step; returns its seconds. Raises `_StepError` when the optimizer did."""
        if not self.optimizer.failures:
            steps = self._order_SN.shape[1] // BATCH_SIZE
            first = self.optimizer.steps % steps * BATCH_SIZE
            batch_SB = self._order_SN[:, first : first + BATCH_SIZE]
            images = self._data.normalise(self._data.train.images[batch_SB], torch.float32)
            labels = self._data.train.labels[batch_SB]
            started = time.perf_counter()
            loss_T, gradients_TP = self._loss_and_gradients(images, labels)
            lr_T1 = torch.full((1, 1), self._lr)
            self.optimizer.step(loss_T, gradients_TP, lr_T1, [self._lr], lambda _: self._again(images, labels))
            seconds = time.perf_counter() - started
            self.losses.append(float(loss_T))
        if self.optimizer.failures:
            raise _StepError(self.optimizer.failures[0])
        return seconds

    def _loss_and_gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self._network.loss_and_gradients(self.parameters_TP, images, labels, self._same_T)

    def _again(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            loss_T, gradients_TP = self._loss_and_gradients(images, labels)
        return loss_T[0], gradients_TP[0]


class _StepError(Exception):
    """The traceback of an optimizer that raised."""


def hyperparameters_of(name: str, settings: Sequence[str], folder: Path) -> Hyperparameters:
    """An optimizer by its name in a sweep file, with `--set` settings. Raises `UserError`."""
    for setting in settings:
        key, _, value = setting.partition("=")
        if value.lstrip().startswith("{min"):
            raise UserError(f"--set {setting}: give each hyperparameter one value")
        if key in {"optimizer", "num_samples", *PARAMETERS}:
            raise UserError(f"--set {setting}: {key} is no hyperparameter of an optimizer")
    block = yaml.dump({"optimizers": {"it": {"optimizer": name}}}, Dumper=Dumper)
    try:
        sweep = parse(
            f"dataset: digits\nepochs: 1\n{block}",
            source=_SOURCE,
            settings=[f"optimizers.it.{setting}" for setting in settings],
            folder=folder,
        )
        trials = expand(sweep)
    except UserError as error:  # in the words of this command, which knows of no sweep
        words = re.sub(rf"{_SOURCE}(:\d+:\d+)?: (it: )?| \(use 'exclude' .*\)", "", str(error))
        raise UserError(words.replace("optimizers.it.", "")) from None
    if len(trials) > 1:
        raise UserError(f"{name}: give each hyperparameter one value")
    return trials[0].hyperparameters


def check(hyperparameters: Hyperparameters) -> list[Finding]:
    """What is found out about an optimizer, in seconds. One that raises has a single finding, its traceback."""
    torch.set_num_threads(1)
    training = _Training(hyperparameters)
    try:
        started = time.monotonic()
        while training.optimizer.steps < STEPS and (
            training.optimizer.steps < FEWEST_STEPS or time.monotonic() - started < SECONDS
        ):
            training.step()
        steps = training.optimizer.steps
        return [
            _learns(training),
            _state(training),
            _cost(hyperparameters),
            _is_the_same("deterministic", training, _again(hyperparameters, steps)),
            _is_the_same("checkpoint", training, _from_checkpoint(hyperparameters, steps)),
            *_licence(hyperparameters),
        ]
    except _StepError as error:
        hint = library.advice(hyperparameters.algorithm.removeprefix(f"{library.NAME}."))
        last = str(error).strip().splitlines()[-1]
        return [Finding("steps", False, f"{last}\n{error}" + (f"\nIt is known to work with {hint}." if hint else ""))]


def _learns(training: _Training) -> Finding:
    losses = training.losses
    first, last = losses[0], sum(losses[-5:]) / len(losses[-5:])
    seen = f"{len(losses)} steps at batch_size {BATCH_SIZE}: training loss from {first:.3f} to {last:.3f}"
    return Finding("steps", last < first, seen + ("" if last < first else "; try another lr, --set lr=VALUE"))


def _state(training: _Training) -> Finding:
    share = training.optimizer.state_size() / training.parameters_TP.numel()
    return Finding("state", True, f"{share:.2f} numbers for each parameter")


def _cost(hyperparameters: Hyperparameters) -> Finding:
    """Median time of a step, gradient included, against SGD's, in alternation."""
    ours, sgd = _Training(hyperparameters), _Training(OPTIMIZERS["sgd"](lr=1e-3))
    ratios = [ours.step() / sgd.step() for _ in range(TIMED_STEPS + 1)][1:]  # the first one makes the state
    return Finding("cost", True, f"{median(ratios):.2f} × a step with SGD, gradient included")


def _again(hyperparameters: Hyperparameters, steps: int) -> _Training:
    training = _Training(hyperparameters)
    for _ in range(steps):
        training.step()
    return training


def _from_checkpoint(hyperparameters: Hyperparameters, steps: int) -> _Training:
    """Half the steps, state and weights through a file in memory, and the other half with a new object."""
    before, after = _Training(hyperparameters), _Training(hyperparameters)
    for _ in range(steps // 2):
        before.step()
    file = io.BytesIO()
    torch.save((before.optimizer.state_dict(), before.parameters_TP), file)
    file.seek(0)
    state, parameters_TP = torch.load(file, weights_only=False)
    after.parameters_TP.copy_(parameters_TP)
    after.optimizer.load_state_dict(state)
    for _ in range(steps - steps // 2):
        after.step()
    return after


def _is_the_same(name: str, one: _Training, other: _Training) -> Finding:
    same = torch.equal(one.parameters_TP.nan_to_num(nan=9e9), other.parameters_TP.nan_to_num(nan=9e9))
    questions: dict[str, Callable[[bool], str]] = {
        "deterministic": lambda yes: f"a second training ends at {'the same' if yes else 'other'} weights, bit by bit",
        "checkpoint": lambda yes: f"saved and loaded half-way, it ends at {'the same' if yes else 'other'} weights",
    }
    return Finding(name, same, questions[name](same))


def _licence(hyperparameters: Hyperparameters) -> list[Finding]:
    licence = library.LICENCES.get(hyperparameters.algorithm.removeprefix(f"{library.NAME}."))
    return [Finding("licence", True, licence)] if licence else []
