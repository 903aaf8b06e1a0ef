"""Whether a network works here: a few dozen steps on a dataset, and what they show."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from optbench.data.datasets import load
from optbench.elsewhere import one_line
from optbench.errors import UserError
from optbench.machine.device import settings_given_back
from optbench.networks.foreign import ForeignArchitecture
from optbench.networks.network import Network
from optbench.optimizers import OPTIMIZERS
from optbench.sweep.document import SweepError, Unfit
from optbench.sweep.stacks import Stack
from optbench.sweep.trials import Trial
from optbench.training.check import (
    BATCH_SIZE,
    HARDLY,
    REFERENCES,
    STEPS,
    TIMED_STEPS,
    Finding,
    Watched,
    after,
    deterministic,
    trials_of,
    without_nan,
)
from optbench.training.engine import network_of

_HOW_TO_SET = r"optbench check-model MODEL --set \1=VALUE"
_TOGETHER_STEPS = 6
_WAITS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "_unique2", "masked_select"}
# A network that takes long for a step is judged by fewer steps.
_FEWEST_STEPS, _SECONDS = 15, 1.5
# Of gradients, relative; in float32 turned relus make up to a tenth.
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 0.2}


class UnfitError(UserError):
    """A network that cannot train on the data."""


def trial_of(model: str, settings: Sequence[str], dataset: str, folder: Path) -> Trial:
    """A trial of a network with Adam, by its name in a sweep file, with settings `key=value`.

    Raises `UnfitError` where it cannot train on the dataset, `UserError` where there is no such network.
    """
    parameters = {"batch_size": BATCH_SIZE, "model": {"name": model}}
    sweep = {"dataset": dataset, "parameters": parameters, "optimizers": {"adam": {"lr": REFERENCES["adam"]}}}
    try:
        trials = trials_of(sweep, "parameters.model.", settings, folder, _HOW_TO_SET)
    except SweepError as error:
        if all(isinstance(problem, Unfit) for problem in error.problems):
            raise UnfitError(str(error)) from None
        raise
    if len(trials) > 1:
        raise UserError(f"{model}: give each argument one value")
    return trials[0]


def findings_about(model: str, settings: Sequence[str], dataset: str, folder: Path) -> tuple[str, list[Finding]]:
    """A network with its arguments, and findings about it; only one, the reason, if it cannot train on the dataset."""
    try:
        trial = trial_of(model, settings, dataset, folder)
    except UnfitError as error:
        return model, [Finding("network", False, str(error))]
    return trial.model, check(trial)


def check(trial: Trial) -> list[Finding]:
    """Findings about a trial's network, within seconds."""
    with settings_given_back():
        torch.set_num_threads(1)
        network = network_of(Stack((trial,)), "cpu")
        training = Watched(trial)
        steps, started = 0, time.monotonic()
        while steps < STEPS and (steps < _FEWEST_STEPS or time.monotonic() - started < _SECONDS):
            training.step()
            steps += 1
        return [
            _network(network),
            _learns(trial, training),
            deterministic(training, after(Watched(trial), steps)),
            _alone(trial),
            *([_vmapped(network, trial), _recordable(network, trial)] if "vmapped" in network.ways else []),
            _cost(network, trial),
        ]


def _network(network: Network) -> Finding:
    """What it is made of."""
    own = network.architecture
    layers = len({name.rpartition(".")[0] for name in own.shapes})
    seen = f"{own.size:,} parameters in {layers} layer{'s' * (layers != 1)}"
    if own.buffer_shapes:
        seen += f", {len(own.buffer_shapes)} buffers"
    if own.dropout:
        places = zip(own.dropout.items(), own.rates((0.0, 0.0)), strict=True)
        if isinstance(own, ForeignArchitecture):
            each = [f"{name} p={rate:g} ({units} units)" for (name, (_, units)), rate in places]
        else:
            each = [f"{name} ({units} units)" for (name, (_, units)), _ in places]
        seen += f", dropout at {', '.join(each)}"
    return Finding("network", True, seen)


def _learns(trial: Trial, training: Watched) -> Finding:
    """Whether its loss falls, with Adam or with SGD on the same batches."""
    steps, first = len(training.losses), training.losses[0]
    sgd = OPTIMIZERS["sgd"](lr=REFERENCES["sgd"])
    last = {"adam": training.loss, "sgd": after(Watched(replace(trial, hyperparameters=sgd)), steps).loss}
    ends = " and ".join(f"{loss:.3f} with {name} at lr={REFERENCES[name]:g}" for name, loss in last.items())
    seen = f"{steps} steps at batch_size {BATCH_SIZE}: training loss from {first:.3f} to {ends}"
    best = min((loss for loss in last.values() if loss == loss), default=first)
    if not best < first:
        return Finding("steps", False, f"{seen}; it does not learn")
    return Finding("steps", True, seen, "it hardly learns" if first - best < HARDLY * first else "")


def _alone(trial: Trial) -> Finding:
    """Whether it trains in a stack as it does alone, beside one that diverges and one of another seed."""
    sgd = OPTIMIZERS["sgd"]
    diverging = replace(trial, hyperparameters=trial.hyperparameters.model_copy(update={"lr": 1e30}))
    neighbour = replace(trial, hyperparameters=sgd(lr=REFERENCES["sgd"]), seed=trial.seed + 1)
    alone_1X = after(Watched(trial), _TOGETHER_STEPS).state_TX
    together_TX = after(Watched(diverging, trial, neighbour), _TOGETHER_STEPS).state_TX
    same = torch.equal(without_nan(alone_1X[0]), without_nan(together_TX[1]))
    return Finding(
        "stack", same, f"beside others, one of which diverges, it has {'the same' if same else 'other'} bits as alone"
    )


def _batch(trial: Trial) -> tuple[Tensor, Tensor]:
    """The first images of the training set and their labels, (1, B, C, H, W) and (1, B)."""
    data = load(trial.dataset, split_seed=trial.split_seed)
    some = data.train[:BATCH_SIZE]
    return data.normalise(some.images[None], torch.float32), some.labels[None]


def _vmapped(network: Network, trial: Trial) -> Finding:
    """Whether it can be vectorised over trials, which a GPU may prefer; dropout aside."""
    batch = _batch(trial)
    try:
        dtype, loop_TP = torch.float64, _gradients(network, "loop", torch.float64, *batch)
    except RuntimeError:  # some say themselves what type they compute in
        dtype, loop_TP = torch.float32, _gradients(network, "loop", torch.float32, *batch)
    try:
        vmapped_TP = _gradients(network, "vmapped", dtype, *batch)
    except Exception as reason:
        return Finding("vmapped", True, f"no: {one_line(reason)}", "a GPU can run it only trial by trial")
    error = float(torch.linalg.norm(vmapped_TP - loop_TP) / torch.linalg.norm(loop_TP))
    seen = f"vectorised over trials, its gradients differ by {error:.1g} of their size in {str(dtype)[6:]}"
    return Finding("vmapped", True, seen, "" if error < _TOLERANCES[dtype] else "vectorised it is another network")


class _Waits(TorchDispatchMode):
    """Notes what a GPU would have to wait for: the host asks for a value."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _recordable(network: Network, trial: Trial) -> Finding:
    """Whether a GPU can record a step of it once and replay it."""
    with _Waits() as waits:
        _gradients(network, "loop", torch.float32, *_batch(trial))
    if not waits.found:
        return Finding("graph", True, "no step waits for a value, so that a GPU can record it")
    what = "its forward pass looks at values of tensors (item, if, nonzero), and so may depend on the data"
    return Finding("graph", True, f"no: {what}", "a GPU cannot record its steps and launches them one by one")


def _gradients(network: Network, way: str, dtype: torch.dtype, images_SBCHW: Tensor, labels_SB: Tensor) -> Tensor:
    """Those of two seeds, at their initial weights."""
    seeds = [0, 1]
    parameters_TP, buffers_TQ = network.initialize(seeds, "cpu", dtype), network.buffers(seeds, "cpu", dtype)
    same_T = torch.zeros(len(seeds), dtype=torch.int64)
    _, gradients_TP = replace(network, convolution=way).loss_and_gradients(
        parameters_TP, images_SBCHW.to(dtype), labels_SB, same_T, None, buffers_TQ
    )
    return gradients_TP


def _cost(network: Network, trial: Trial) -> Finding:
    """Median time of a step with Adam; of a module from elsewhere beside a plain loop, in alternation."""
    ours, own = Watched(trial), network.architecture
    gflop = own.step_operations * BATCH_SIZE / 1e9
    operations = f", {gflop:.2f} GFLOP" if gflop else ""
    plain = _plain_step(own, *_batch(trial)) if isinstance(own, ForeignArchitecture) else None
    try:
        times = [(ours.step(), plain() if plain else 1.0) for _ in range(TIMED_STEPS + 1)][1:]  # the first makes state
    except RuntimeError as error:
        return Finding("cost", True, f"a plain loop over the module raises {one_line(error)}")
    beside = f"; a plain loop takes {median(other / t for t, other in times):.2f} × as long" if plain else ""
    return Finding("cost", True, f"{1e3 * median(t for t, _ in times):.1f} ms a step on one core{operations}{beside}")


def _plain_step(own: ForeignArchitecture, images_SBCHW: Tensor, labels_SB: Tensor) -> Callable[[], float]:
    """A step as anybody would write it; returns its seconds."""
    module = own.build(0).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=REFERENCES["adam"], fused=True)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(module(images_SBCHW[0]), labels_SB[0]).backward()
        optimizer.step()
        return time.perf_counter() - started

    return step
