"""One candidate for a part of the training step: is it right, and how fast is it?

    python3 experiments/peers/candidates.py convolution triton --precision tf32,bf16
    python3 experiments/peers/candidates.py update adam
    python3 experiments/peers/candidates.py step adam

A kernel that writes to the wrong memory breaks what its process does afterwards, so run each candidate in its own
process. Every figure is printed as soon as it is measured, as a line of JSON. Errors are relative, in the 2-norm, the
largest of all trials. The exit code is 1 where one is larger than its tolerance.

Shape suffixes: T trials, S distinct seeds among them, B batch, C channels, H W image, P parameters of one trial.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from optbench.data.datasets import load
from optbench.machine.device import allow_tf32, clock, make_deterministic
from optbench.networks.network import Network
from optbench.optimizers import OPTIMIZERS
from optbench.sweep.spec import parse
from optbench.sweep.stacks import Stack
from optbench.sweep.trials import expand
from optbench.training import engine, step
from optbench.training.rules import RULES
from optbench.training.stacked import _columns

Figures = dict[str, Any]
# For loss and gradient: large, because rounding also turns a relu on or off, or lets another pixel win.
TOLERANCE = {"fp32": 1e-3, "tf32": 5e-2, "bf16": 0.2}
OF_UPDATES, OF_REPLAY = 1e-4, 1e-3  # tolerances: of ten updates, and between recorded and launched
_LR = 0.01


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest one, in the 2-norm over the last dimension; NaN where any is."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    errors = torch.linalg.vector_norm(found - expected, dim=-1) / torch.linalg.vector_norm(expected, dim=-1)
    return float(errors.max())


def milliseconds(work: Callable[[], object], given: argparse.Namespace) -> float:
    """Median of some calls, after one that warms up."""
    seconds = []
    for _ in range(1 + given.repeats):
        started = clock(given.device)
        work()
        seconds.append(clock(given.device) - started)
    return 1e3 * median(seconds[1:])


def convolution(name: str, given: argparse.Namespace) -> Iterator[Figures]:
    """Loss and gradients of the cnn with one way to convolve: against float64 on the CPU, then timed."""
    generator = torch.Generator().manual_seed(0)
    exact = Network()
    images_SBCHW = torch.randn(2, given.batch_size, *exact.image, generator=generator)
    labels_SB = torch.randint(exact.classes, (2, given.batch_size), generator=generator)

    def batch(trials: int) -> list[Tensor]:
        return [exact.initialize(range(trials), "cpu"), images_SBCHW, labels_SB, torch.arange(trials) % 2]

    in_double = [x.double() if x.is_floating_point() else x for x in batch(given.trials)]
    expected = exact.loss_and_gradients(*in_double)
    for precision in given.precision:
        network = Network(precision=precision, convolution=name)
        allow_tf32(precision == "tf32")
        found = network.loss_and_gradients(*(x.to(given.device) for x in batch(given.trials)))
        loss_error, gradient_error = map(relative_error, found, expected)
        of = {"convolution": name, "precision": precision, "batch_size": given.batch_size}
        errors = {"loss_error": loss_error, "gradient_error": gradient_error}
        yield of | {"trials": given.trials} | errors | {"tolerance": TOLERANCE[precision]}
        for trials in given.timed:
            work = partial(network.loss_and_gradients, *(x.to(given.device) for x in batch(trials)))
            yield of | {"trials": trials} | launched_and_replayed(work, given, can_record=name != "loop")


def launched_and_replayed(
    work: Callable[[], tuple[Tensor, ...]], given: argparse.Namespace, can_record: bool
) -> Figures:
    """Milliseconds of the work, launched and recorded, and how far apart their results are."""
    launched = torch.cat([tensor.flatten() for tensor in work()])
    figures: Figures = {"launched_milliseconds": milliseconds(work, given)}
    recorded: list[Tensor] = []

    def recording() -> None:
        recorded[:] = work()

    replay = step.record(recording, [], torch.device(given.device)) if can_record else None
    if replay is not None:
        replay()
        error = relative_error(torch.cat([tensor.flatten() for tensor in recorded]), launched)
        figures |= {"replay_error": error, "tolerance": OF_REPLAY, "replay_milliseconds": milliseconds(replay, given)}
    return figures


def update(name: str, given: argparse.Namespace) -> Iterator[Figures]:
    """Ten updates by a rule's kernel, against those of the rule in float64 on the CPU; then both on the device."""
    from optbench.training.update_kernels import UPDATES

    options = {"momentum": 0.9} if name == "sgd" else {}
    hyperparameters_T = [OPTIMIZERS[name](lr=_LR, weight_decay=0.01, **options).model_dump()] * given.trials
    generator = torch.Generator().manual_seed(0)
    start_TP, *gradients_NTP = torch.randn(11, given.trials, given.parameters, generator=generator)
    rule = RULES[name]

    def ten_updates(apply: Callable[..., None], device: str, dtype: torch.dtype) -> Callable[[], Tensor]:
        p, *gradients = (x.to(device, dtype, copy=True) for x in (start_TP, *gradients_NTP))
        columns = _columns(hyperparameters_T, p)
        needed = [*rule.state, *(buffer for key, buffer in rule.optional.items() if key in columns)]
        state = {buffer: torch.zeros_like(p) for buffer in needed}
        lr_T1 = torch.full((given.trials, 1), _LR, device=device, dtype=dtype)

        def work() -> Tensor:
            for n, gradient in enumerate(gradients):
                t = torch.tensor(n + 1.0, dtype=torch.float64, device=device)
                apply(p, gradient.clone(), state, columns, lr_T1, t)
            return p

        return work

    moved_TP = ten_updates(rule.update, "cpu", torch.float64)() - start_TP
    kernel = ten_updates(UPDATES[name][0], given.device, torch.float32)
    plain = ten_updates(rule.update, given.device, torch.float32)
    of = {"update": name, "trials": given.trials}
    yield of | {"error": relative_error(kernel().cpu() - start_TP, moved_TP), "tolerance": OF_UPDATES}
    for how, work in (("kernel", kernel), ("rule", plain)):
        yield of | {f"{how}_milliseconds": milliseconds(work, given) / len(gradients_NTP)}


def whole_step(name: str, given: argparse.Namespace) -> Iterator[Figures]:
    """Two epochs of a stack on digits, its step recorded, against the same with every kernel launched."""
    sweep = f"dataset: digits\nepochs: 2\nseeds: {given.trials}\noptimizers: {{{name}: {{lr: 0.001}}}}"
    trials = expand(parse(f"{sweep}\nparameters: {{batch_size: {given.batch_size}, dropout: 0.25}}"))
    losses = {}
    for how in ("recorded", "launched"):
        unrecorded = mock.patch.object(step, "record", return_value=None)
        with unrecorded if how == "launched" else nullcontext():
            *_, before, rows = engine.train(Stack(tuple(trials)), load("digits").to(given.device), given.device)
        losses[how] = torch.tensor([row["val_loss"] for row in rows])
        seconds = rows[0]["train_seconds"] - before[0]["train_seconds"]
        yield {"step": name, "how": how, "milliseconds": 1e3 * seconds / (rows[0]["step"] - before[0]["step"])}
    yield {"step": name, "replay_error": relative_error(*losses.values()), "tolerance": OF_REPLAY}


KINDS: dict[str, Callable[[str, argparse.Namespace], Iterator[Figures]]] = {
    "convolution": convolution,
    "update": update,
    "step": whole_step,
}


def append(figures: Figures, output: Path | None) -> None:
    """Add a line of JSON to the file."""
    if output:
        with output.open("a", encoding="utf-8") as stream:
            print(json.dumps(figures), file=stream)


def with_commas(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """The type of an option that takes several values."""
    return lambda text: [kind(part) for part in text.split(",")]


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name", help="a way to convolve, or an optimizer")
    parser.add_argument("--precision", type=with_commas(str), default=list(TOLERANCE), help="with commas; default: all")
    parser.add_argument("--trials", type=int, default=8, help="T where errors are measured")
    parser.add_argument("--timed", type=with_commas(int), default=[32, 128], help="T where time is, with commas")
    parser.add_argument("--repeats", type=int, default=11, help="how often it is timed")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--parameters", type=int, default=Network().architecture.size, help="that are updated")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="append the lines of JSON to this file")
    given = parser.parse_args()
    make_deterministic(given.device)
    are_right = True
    for figures in KINDS[given.kind](given.name, given):
        print(json.dumps(figures), flush=True)
        append(figures, given.output)
        errors = [value for key, value in figures.items() if key.endswith("error")]
        are_right &= all(error <= figures["tolerance"] for error in errors)  # NaN is not
    return int(not are_right)


if __name__ == "__main__":
    sys.exit(main())
