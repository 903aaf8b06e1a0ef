"""optbench itself: on a GPU one stack of all trials in this process, on a CPU stacks in one worker process per core.

Training seconds are those of the rows, which leave evaluation out; evaluation is the rest of the time between two
rows. A GPU's first epoch is the warm-up: the time it takes beyond the others (capture, compiling) counts as set-up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from workload import DROPOUT, Result, Settings, evaluated

from optbench import execution
from optbench.machine import device
from optbench.sweep.spec import parse
from optbench.sweep.stacks import Stack, plan
from optbench.sweep.trials import expand
from optbench.training import engine

_STACK_ON_CPU = 4


def _on_gpu(settings: Settings, stacks: list[Stack]) -> Iterator[tuple[Stack, list[dict[str, Any]]]]:
    device.make_deterministic(settings.device)  # as `optbench run`
    data = settings.load().to(settings.device)
    for stack in stacks:
        for rows in engine.train(stack, data, settings.device):
            yield stack, rows


def _sweep(settings: Settings) -> str:
    """A sweep file of so many trials: seeds, or learning rates with one seed."""
    shared = settings.has_shared_seed
    rates = [round(1e-3 * (1 + i / 1000), 6) for i in range(settings.trials)] if shared else 1e-3
    return (
        f"dataset: {settings.dataset}\nepochs: {settings.epochs}\nseeds: {1 if shared else settings.trials}\n"
        f"parameters: {{dropout: {DROPOUT}, batch_size: {settings.batch_size}, precision: {settings.precision}}}\n"
        f"optimizers: {{adam: {{lr: {rates}}}}}"
    )


def run(settings: Settings) -> Result:
    """All trials."""
    trials = expand(parse(_sweep(settings)))
    on_cpu = settings.device == "cpu"
    workers = execution.default_workers() if on_cpu else 1
    share = -(-settings.trials // workers)
    stacks = plan(trials, size=min(share, _STACK_ON_CPU) if on_cpu else settings.trials)
    workers = min(workers, len(stacks))
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    events = execution.run(stacks, "cpu", workers, data_dir) if on_cpu else _on_gpu(settings, stacks)

    setup_seconds: float | None = None
    arrived: dict[str, list[float]] = {}  # stack → wall clock at each epoch
    trained: dict[str, list[float]] = {}  # stack → seconds of training so far at each epoch
    accuracies: dict[int, dict[str, float]] = {}
    for stack, rows in events:
        if not isinstance(rows, list):
            raise RuntimeError(rows)
        broken = [row for row in rows if row["status"] in ("failed", "diverged")]
        if broken:
            raise RuntimeError(f"a trial {broken[0]['status']}: {broken[0].get('error')}")
        if setup_seconds is None:
            setup_seconds = time.time() - settings.launched
        arrived.setdefault(stack.stack_id, []).append(time.perf_counter())
        trained.setdefault(stack.stack_id, []).append(rows[0]["train_seconds"])
        if rows[0]["epoch"] == settings.epochs:
            for trial, row in zip(stack.trials, rows, strict=True):
                accuracies[trial.seed] = {name: row[f"{name}_accuracy"] for name in ("train", "val", "test")}
        started = {i: seconds for i, seconds in trained.items() if len(seconds) > 1 + _warm_up(settings)}
        spent = sum(seconds[-1] - seconds[_warm_up(settings)] for seconds in started.values())
        if settings.budget is not None and len(started) >= workers and spent / workers >= settings.budget:
            break
    events.close()

    first = _warm_up(settings)
    images = train_seconds = evaluated_images = evaluation_seconds = 0
    steps = len(settings.load().train.labels) // settings.batch_size
    per_evaluation = sum(len(split.labels) for split in evaluated(settings.load()).values())
    for stack in stacks:
        seconds, clock = trained.get(stack.stack_id, []), arrived.get(stack.stack_id, [])
        epochs = len(seconds) - 1 - first
        if epochs < 1:
            continue
        spent = seconds[-1] - seconds[first]
        images += epochs * steps * settings.batch_size * len(stack)
        train_seconds += spent
        evaluated_images += epochs * per_evaluation * len(stack)
        evaluation_seconds += clock[-1] - clock[first] - spent
        if first:
            # By the wall clock, since the engine's own leaves the recording out.
            usual = statistics.median(b - a for a, b in pairwise(clock[1:]))
            setup_seconds += max(0.0, clock[1] - clock[0] - usual)
    # The workers train at the same time.
    notes = {"stacks of": max(map(len, stacks)), "workers": workers}
    return Result(
        setup_seconds,
        images,
        train_seconds / workers,
        evaluated_images,
        evaluation_seconds / workers,
        accuracies,
        notes,
    )


def _warm_up(settings: Settings) -> int:
    """How many epochs go by before the clock starts."""
    return int(settings.device == "cuda" and settings.epochs > 1)
