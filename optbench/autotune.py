"""What is fastest on this device, measured once and remembered in the user's cache.

Remembered, because the same stack must train in the same way when a sweep is resumed: other ways round differently.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from optbench.model import CLASSES, CONVOLUTIONS, Network
from optbench.step import clock, record

_REPEATS = 7
_REFERENCE = "grouped"
_LARGEST_ERROR = 0.2  # of gradients, relative; bf16 and turned relus make up to half of it


def remembered(key: str, measure: Callable[[], str | int]) -> str | int:
    """What was measured under this key at some time, else what is measured now; kept if the cache can be written."""
    from platformdirs import user_cache_path

    path = user_cache_path("optbench") / "autotune.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = measure()
        _write(path, json.dumps(known, indent=1))
    value: str | int = known[key]
    return value


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        pass  # it is measured again


def device_key(device: torch.device) -> str:
    """What measurements on a device hold for."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, torch {torch.__version__}"


def with_convolution(network: Network, trials: int, batch_size: int, device: torch.device) -> Network:
    """The network with the way to convolve that is fastest for stacks of about so many trials.

    On a CPU that is the loop over the trials, whatever their number, so that a trial's bits do not depend on its stack.
    """
    if network.model != "cnn" or device.type == "cpu":
        return network
    trials = 1 << (trials - 1).bit_length()
    key = f"{device_key(device)}, convolution, {network.activation}, {network.precision}, {trials} × {batch_size}"
    return replace(network, convolution=str(remembered(key, lambda: fastest(network, trials, batch_size, device))))


def fastest(network: Network, trials: int, batch_size: int, device: torch.device) -> str:
    """The name of the convolution with which loss and gradients of a stack take the least time on random images.

    One that cannot run here, for want of memory or of Triton, or whose gradients are others, is none. Raises
    `torch.OutOfMemoryError` when there is none at all.
    """
    generator = torch.Generator().manual_seed(0)
    images_SBCHW = torch.randn(1, batch_size, 1, 28, 28, generator=generator).to(device)
    labels_SB = torch.randint(CLASSES, (1, batch_size), generator=generator).to(device)
    same_T = torch.zeros(trials, dtype=torch.int64, device=device)
    parameters_TP = network.initialize([0], device)[same_T]
    batch = images_SBCHW, labels_SB, same_T

    expected_P: Tensor | None = None
    seconds = {}
    for name in dict.fromkeys([_REFERENCE, *CONVOLUTIONS]):
        if name == "loop" and device.type == "cuda":  # it asks the host for the trials' seeds, which ends a recording
            continue
        candidate = replace(network, convolution=name)
        try:
            last_P = candidate.loss_and_gradients(parameters_TP, *batch)[1][-1].clone()
            expected_P = last_P if expected_P is None else expected_P
            error = torch.linalg.norm(last_P - expected_P) / torch.linalg.norm(expected_P)
            if error < _LARGEST_ERROR:
                seconds[name] = _seconds(candidate, parameters_TP, batch, device)
        except Exception:  # a compiler's, a driver's; which ones there are nobody knows
            continue
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if not seconds:
        raise torch.OutOfMemoryError(f"CUDA out of memory: no convolution of {trials} trials of {batch_size} images")
    return min(seconds, key=lambda name: seconds[name])


def _seconds(
    network: Network, parameters_TP: Tensor, batch: tuple[Tensor, Tensor, Tensor], device: torch.device
) -> float:
    def work() -> object:
        return network.loss_and_gradients(parameters_TP, *batch)

    run = record(work, [], device) or work
    times = []
    for _ in range(_REPEATS):
        started = clock(device)
        run()
        times.append(clock(device) - started)
    return median(times[1:])
