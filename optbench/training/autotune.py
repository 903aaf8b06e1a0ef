"""What is fastest on this device, measured once and remembered in the user's cache.

Remembered, because the same stack must train in the same way when a sweep is resumed: other ways round differently.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from optbench import networks
from optbench.errors import warn_slower
from optbench.machine import device as devices
from optbench.machine.device import clock
from optbench.machine.isolation import CallFailedError, Isolated
from optbench.networks.network import Network
from optbench.training.step import RecordingError, record

_log = logging.getLogger(__name__)

_REPEATS = 7
_LARGEST_ERROR = 0.2  # of gradients, relative; bf16 and turned relus make up to half of it
_SECONDS = 120.0  # for one candidate: the start of a process and of CUDA, compiling, warming up
# What failed may work once a compiler is installed, or another program has freed its memory: it is tried again.
_FAILURES_HOLD_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Choice:
    """What was measured to be best, and by name why others could not be measured."""

    value: str | int
    failures: Mapping[str, str] = field(default_factory=dict)


def remembered(key: str, measure: Callable[[], Choice]) -> str | int:
    """What was measured under this key before, else what is measured now; kept if the cache can be written.

    If some candidates failed, the choice is kept for a day.
    """
    from platformdirs import user_cache_path

    path = user_cache_path("optbench") / "autotune.json"
    known = _read(path)
    entry = known.get(key)
    if entry is None or (entry.get("failures") and time.time() > entry["time"] + _FAILURES_HOLD_SECONDS):
        choice = measure()
        entry = {"value": choice.value, "failures": dict(choice.failures), "time": time.time()}
        _write(path, json.dumps(_read(path) | {key: entry}, indent=1))  # another process may have written meanwhile
    value: str | int = entry["value"]
    return value


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """What is in the cache; nothing if there is none, or none of this form."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    return {
        key: entry for key, entry in entries if isinstance(entry, dict) and {"value", "failures", "time"} <= set(entry)
    }


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        pass  # it is measured again


def with_convolution(network: Network, trials: int, batch_size: int, device: torch.device) -> Network:
    """The network with the way to convolve that is fastest for stacks of about that many trials.

    On a CPU that is always the loop over the trials, so that a trial's bits do not depend on its stack.
    """
    if device.type == "cpu" or not network.ways:
        return network
    trials = 1 << (trials - 1).bit_length()
    frozen = ["head alone"] if network.is_frozen else []
    names = (str(networks.identity(network.model)), network.activation, network.precision, *frozen)
    images = f"{batch_size} × {' × '.join(map(str, network.image))}"
    key = f"{devices.key(device)}, convolution, {', '.join(names)}, {trials} × {images}"
    return replace(network, convolution=str(remembered(key, lambda: fastest(network, trials, batch_size, device))))


def fastest(network: Network, trials: int, batch_size: int, device: torch.device) -> Choice:
    """The convolution with which loss and gradients of a stack take the least time on random images.

    Each is tried in another process, where one that crashes or hangs costs only itself; a warning says why.
    Raises `torch.OutOfMemoryError` where none fits into the memory, `RuntimeError` where none works at all.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the other process needs the memory
    seconds: dict[str, float] = {}
    failures: dict[str, str] = {}
    is_too_large = False
    for name in network.ways:
        if name in network.computed.waits and device.type == "cuda":
            continue
        candidate = replace(network, convolution=name)
        try:
            probe = _elsewhere().call(_probe, candidate, trials, batch_size, str(device), seconds=_SECONDS)
        except CallFailedError as error:
            if devices.is_out_of_memory(error):
                is_too_large = True
            else:
                failures[name] = str(error)
            continue
        if probe.unrecorded:
            _elsewhere().close()  # a recording that broke off may leave anything behind
        if probe.unfit:
            _log.info("convolution %s is not for this network or machine: %s", name, probe.unfit)
        elif not probe.error < _LARGEST_ERROR:
            failures[name] = f"its gradients differ from those of float64 by {probe.error:.2g}"
        else:
            seconds[name] = probe.seconds
    if not seconds:
        if is_too_large:
            raise torch.OutOfMemoryError(f"out of memory: no convolution of {trials} trials of {batch_size} images")
        raise RuntimeError(f"no convolution works on {device}: {failures}")
    for name, reason in failures.items():
        warn_slower(f"convolution {name} is left out on {device}", reason)
    return Choice(min(seconds, key=lambda name: seconds[name]), failures)


@cache
def _elsewhere() -> Isolated:
    """One process for all that this one measures, since CUDA takes seconds to start."""
    isolated = Isolated()
    atexit.register(isolated.close)
    return isolated


@dataclass(frozen=True)
class Probe:
    """How long a step of a candidate takes and how far its gradients are off.

    `unfit` says why it cannot be used for this network or machine at all, `unrecorded` why it was timed unrecorded.
    """

    seconds: float = math.inf
    error: float = 0.0
    unfit: str = ""
    unrecorded: str = ""


def _probe(network: Network, trials: int, batch_size: int, device: str) -> Probe:
    """Measure a candidate as a stack will use it: with the same settings, recorded, on random images.

    The error is that of the last trial's gradient, relative to float64 on the CPU.
    """
    place = torch.device(device)
    devices.make_deterministic(device)
    devices.allow_tf32(network.precision == "tf32")
    generator = torch.Generator().manual_seed(0)
    images_SBCHW = torch.randn(1, batch_size, *network.image, generator=generator)
    labels_SB = torch.randint(network.classes, (1, batch_size), generator=generator)
    exact = replace(network, precision="fp32", convolution="loop")
    try:
        expected_1P = _gradient(exact, images_SBCHW.double(), labels_SB)
    except RuntimeError:  # a module from elsewhere may say itself what type it computes in
        expected_1P = _gradient(exact, images_SBCHW, labels_SB).double()

    same_T = torch.zeros(trials, dtype=torch.int64, device=device)
    parameters_TP, buffers_TQ = network.initialize([0], device)[same_T], network.buffers([0], device)[same_T]
    batch = images_SBCHW.to(device), labels_SB.to(device), same_T, None, buffers_TQ
    try:
        _, gradients_TP = network.loss_and_gradients(parameters_TP, *batch)
    except (NotImplementedError, ImportError) as error:  # Triton comes with torch only on Linux
        return Probe(unfit=str(error))
    error_P = gradients_TP[-1].cpu().double() - expected_1P[0]
    relative = (torch.linalg.norm(error_P) / torch.linalg.norm(expected_1P)).item()
    del gradients_TP

    def step() -> object:
        return network.loss_and_gradients(parameters_TP, *batch)

    try:
        return Probe(_seconds(record(step, [], place) or step, place), relative)
    except RecordingError as error:
        return Probe(_seconds(step, place), relative, unrecorded=str(error))
    finally:
        if place.type == "cuda":
            torch.cuda.empty_cache()  # the waiting process needs the memory


def _gradient(network: Network, images_SBCHW: Tensor, labels_SB: Tensor) -> Tensor:
    """That of a trial with seed 0 at its initial weights, on the CPU and in the type of the images, (1, P)."""
    dtype, same_1 = images_SBCHW.dtype, torch.zeros(1, dtype=torch.int64)
    parameters_1P, buffers_1Q = network.initialize([0], "cpu", dtype), network.buffers([0], "cpu", dtype)
    _, gradients_1P = network.loss_and_gradients(parameters_1P, images_SBCHW, labels_SB, same_1, None, buffers_1Q)
    return gradients_1P


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(_REPEATS):
        started = clock(device)
        step()
        times.append(clock(device) - started)
    return median(times[1:])
