"""How fast stacks of each network train on a CPU, against the loop that everybody writes.

    python experiments/peers/networks.py -o results/throughput/cpu-networks.json

loop: one process with torch's own number of threads, the network as a plain module (`tests/modules.py`, or the user's
own) under fused Adam, batches taken from a tensor of images. stacks: a single-threaded process for each core, each with
a stack in optbench's engine. Both train on random images with evaluation excluded, in alternation, after warming up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optbench import __version__, networks
from optbench.data.datasets import Dataset, Split
from optbench.data.info import DATASETS, OwnData
from optbench.execution import default_workers
from optbench.execution.processes import spawn
from optbench.machine.device import cpu_name, make_deterministic
from optbench.networks import NETWORKS
from optbench.sweep.spec import parse
from optbench.sweep.stacks import Stack
from optbench.sweep.trials import expand
from optbench.training.engine import Training

ROOT = Path(__file__).resolve().parents[2]
_IMAGE = (1, 28, 28)
_IMAGES = 2048  # that are trained on, in one epoch after the other
_RATE = 1e-6  # of learning: weights hardly move, so that no network diverges
_WARM_UP = 1.0  # seconds
OWN = ("./own_networks.py:Convnet", "./own_networks.py:SmallResnet")


def random_data(image: tuple[int, ...], examples: int) -> Dataset:
    """Images of ten classes."""
    generator = torch.Generator().manual_seed(0)
    info = replace(DATASETS["digits"], image=image, train=examples, mean=(0.5,) * image[0], std=(0.25,) * image[0])
    pixels = torch.randint(256, (examples, *image), generator=generator, dtype=torch.uint8)
    split = Split(pixels, torch.randint(10, (examples,), generator=generator))
    return Dataset(OwnData("random", info, "", ROOT), info, split, split, split, split)


def stacked_step(model: str, given: argparse.Namespace) -> Callable[[], object]:
    """A step of a stack."""
    make_deterministic("cpu")
    data = random_data(_IMAGE, _IMAGES)
    sweep = f"dataset: digits\nepochs: 1\nparameters: {{model: softmax}}\noptimizers: {{adam: {{lr: {_RATE}}}}}"
    (trial,) = expand(parse(sweep))
    named = networks.model(model, {}, Path(__file__).parent)
    trial = replace(
        trial, dataset=data.name, model=named, batch_size=given.batch_size, precision=given.precision, epochs=10**6
    )
    return Training(Stack((trial,) * given.trials), data, "cpu").step


class _Drawn(dict[str, Tensor]):
    """What dropout multiplies with, drawn anew whenever it is asked for."""

    def __init__(self, units: dict[str, int], batch_size: int) -> None:
        super().__init__()
        self._units, self._batch_size = units, batch_size

    def __missing__(self, name: str) -> Tensor:
        return F.dropout(torch.ones(self._batch_size, self._units[name]), 0.25)


def plain_step(model: str, given: argparse.Namespace) -> Callable[[], object]:
    """A step of the plain loop."""
    sys.path.insert(0, str(ROOT))
    from tests.modules import MODULES

    data = random_data(_IMAGE, _IMAGES)
    images, labels = data.normalise(data.train.images, torch.float32), data.train.labels
    named = networks.model(model, {}, Path(__file__).parent)
    architecture = networks.architecture(named, _IMAGE, 10)
    if model in MODULES:
        net = MODULES[model][0]("relu")
        drawn = _Drawn({name: units for name, (_, units) in architecture.dropout.items()}, given.batch_size)
        forward = lambda batch: net(images[batch], drawn)  # noqa: E731
    else:
        net = architecture.build(0)
        forward = lambda batch: net(images[batch])  # noqa: E731
    optimizer = torch.optim.Adam(net.parameters(), lr=_RATE, fused=True)

    def batches() -> Any:
        while True:
            for batch in torch.randperm(_IMAGES).split(given.batch_size):
                if len(batch) == given.batch_size:
                    yield batch

    order = batches()

    def step() -> None:
        batch = next(order)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=given.precision == "bf16"):
            loss = F.cross_entropy(forward(batch), labels[batch])
        loss.backward()
        optimizer.step()

    return step


# ---------------------------------------------------------------- processes


def serve(connection: Connection, make: Callable[[str, argparse.Namespace], Callable[[], object]], *what: Any) -> None:
    """Make a step, warm up, and then, for each number of seconds that comes, say how many steps a second it makes."""
    step = make(*what)
    _rate(step, _WARM_UP)
    connection.send(0.0)
    while seconds := connection.recv():
        connection.send(_rate(step, seconds))


def _rate(step: Callable[[], object], seconds: float) -> float:
    started, steps = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        step()
        steps += 1
    return steps / (time.perf_counter() - started)


class Contestant:
    """Processes that train at the same time, and how many images × trials each of their steps trains."""

    def __init__(self, connections: list[Connection], images: int) -> None:
        self._connections, self._images = connections, images
        for connection in connections:
            connection.recv()  # it has warmed up

    def throughput(self, seconds: float) -> float:
        """Images × trials per second, of all processes together."""
        for connection in self._connections:
            connection.send(seconds)
        return self._images * sum(connection.recv() for connection in self._connections)

    def close(self) -> None:
        for connection in self._connections:
            connection.send(0.0)


def measure(model: str, given: argparse.Namespace) -> dict[str, Any]:
    """The throughput of both, a value for each round."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=serve, args=(theirs, plain_step, model, given), daemon=True).start()
    loop = Contestant([ours], given.batch_size)
    workers = [spawn(serve, stacked_step, model, given)[0] for _ in range(default_workers())]
    stacks = Contestant(workers, given.batch_size * given.trials)
    found: dict[str, list[float]] = {"loop": [], "stacks": []}
    for _ in range(given.rounds):
        found["loop"].append(loop.throughput(given.seconds))
        found["stacks"].append(stacks.throughput(given.seconds))
    loop.close()
    stacks.close()
    return {"model": model, **found, "ratio": [b / a for a, b in zip(found["loop"], found["stacks"], strict=True)]}


def table(found: list[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = [
        "| network | loop, images/s | stacks, images × trials/s | ratio (minimum to maximum) |",
        "|---|---|---|---|",
    ]
    for row in found:
        ratios = row["ratio"]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| `{row['model']}` | {median(row['loop']):,.0f} | {median(row['stacks']):,.0f} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join([*NETWORKS, *OWN]), help="names, or files beside this one")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    about = {"cpu": cpu_name(), "torch": torch.__version__, "optbench": __version__, "image": _IMAGE}
    found: list[dict[str, Any]] = []
    for model in given.models.split(","):
        found.append(measure(model, given))
        if given.output:  # what is measured is kept, whatever comes
            options = {name: value for name, value in vars(given).items() if name not in ("output", "models")}
            given.output.write_text(
                json.dumps(about | options | {"networks": found}, indent=1) + "\n", encoding="utf-8"
            )
        print(table(found[-1:]).splitlines()[-1], file=sys.stderr)
    print(table(found))


if __name__ == "__main__":
    main()
