"""Training throughput of optbench against everybody's own for-loop, side by side on this machine's CPU.

    python experiments/peers/plain_loop.py [--data-dir DIR] [--trials T] [--repeats R]

A: a plain sequential PyTorch loop: the same network as an nn.Module, torch.optim.Adam, data as tensors in memory,
   PyTorch's default number of threads; one epoch of MNIST, batch 64, dropout 0.25.
B: optbench on all cores, T trials of the same.
Evaluation is left out of both, and so is start-up. Runs alternate A B A B …, each in a process of its own. The metric
is images × trials per second, as median (minimum to maximum); the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

BATCH = 64


def plain(data_dir: Path | None) -> float:
    """Images per second of the plain loop."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from optbench.datasets import load

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 16, 3)
            self.conv2 = nn.Conv2d(16, 32, 3)
            self.dropout1 = nn.Dropout2d(0.25)
            self.linear1 = nn.Linear(4608, 64)
            self.dropout2 = nn.Dropout(0.25)
            self.linear2 = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.conv1(x))
            x = F.relu(self.conv2(x))
            x = self.dropout1(F.max_pool2d(x, 2))
            x = self.dropout2(F.relu(self.linear1(x.flatten(1))))
            return F.log_softmax(self.linear2(x), dim=1)

    data = load("mnist", data_dir)
    images = (data.train.images.float() / 255 - data.info.mean) / data.info.std
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    order = torch.randperm(len(images))
    batches = order[: len(order) // BATCH * BATCH].split(BATCH)

    def train(batches: Sequence[torch.Tensor]) -> None:
        for batch in batches:
            optimizer.zero_grad()
            loss = F.nll_loss(net(images[batch, None]), data.train.labels[batch])
            loss.backward()
            optimizer.step()

    train(batches[:10])
    started = time.perf_counter()
    train(batches)
    return len(batches) * BATCH / (time.perf_counter() - started)


def stacked(data_dir: Path | None, trials: int) -> float:
    """Images × trials per second of optbench, all workers together."""
    from optbench import execution
    from optbench.datasets import DATASETS
    from optbench.spec import parse
    from optbench.stacks import plan
    from optbench.trials import expand

    workers = execution.default_workers()
    sweep = parse(f"dataset: mnist\nepochs: 1\nseeds: {trials}\nparameters: {{dropout: 0.25}}\noptimizers: {{adam: }}")
    stacks = plan(expand(sweep), size=-(-trials // workers) if trials < 4 * workers else 4)
    seconds = {}
    for stack, rows in execution.run(stacks, "cpu", workers, data_dir):
        if not isinstance(rows, list):
            sys.exit(rows.error)
        seconds[stack.stack_id] = rows[0]["train_seconds"]
    images = DATASETS["mnist"].train // BATCH * BATCH * trials
    return images / (sum(seconds.values()) / workers)  # the workers train at the same time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["plain", "stacked"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(plain(given.data_dir) if given.only == "plain" else stacked(given.data_dir, given.trials))
        return
    measured: dict[str, list[float]] = {"plain": [], "stacked": []}
    for repeat in range(given.repeats):
        for name, values in measured.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            values.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(f"{repeat + 1}/{given.repeats} {name}: {values[-1]:.0f}", file=sys.stderr)
    measured["ratio"] = [b / a for a, b in zip(measured["plain"], measured["stacked"], strict=True)]
    import torch

    summary = {
        name: {"median": statistics.median(v), "min": min(v), "max": max(v), "values": v}
        for name, v in measured.items()
    }
    setup = {"torch": torch.__version__, "cores": os.cpu_count(), "trials": given.trials, "batch_size": BATCH}
    print(json.dumps({"unit": "images × trials per second", **setup, **summary}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
