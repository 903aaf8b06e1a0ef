"""Made-up results in any number, with the columns, parts and outline of a real sweep."""

from __future__ import annotations

import hashlib
import json
import math
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optbench.results.store import SCHEMA, Outline, Store
from optbench.scores import Score
from optbench.sweep.axes import PARAMETERS

# label: algorithm, best lr, and its hyperparameters beside lr
OPTIMIZERS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "sgd": ("sgd", 0.05, {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}),
    "nesterov": ("sgd", 0.02, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0}),
    "adam": ("adam", 1e-3, {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}),
    "adamw": ("adamw", 1e-3, {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}),
    "nadam": ("nadam", 1e-3, {"betas": [0.9, 0.999], "eps": 1e-8, "momentum_decay": 0.004}),
    "rmsprop": ("rmsprop", 1e-3, {"alpha": 0.99, "centered": False, "momentum": 0.0}),
    "adagrad": ("adagrad", 0.01, {"eps": 1e-10, "lr_decay": 0.0}),
    "lion": ("lion", 2e-4, {"betas": [0.9, 0.99], "weight_decay": 0.0}),
}
_STATE = {"sgd": 0.0, "nesterov": 1.0, "rmsprop": 1.0, "adagrad": 1.0, "lion": 1.0}  # per parameter; else 2
SCHEDULES = ("constant", "cosine", "linear", "step(step_size=3, gamma=0.3)")
BATCH_SIZES = (32, 128)
DROPOUTS = ((0.0, 0.0), (0.25, 0.25), (0.1, 0.25), (0.5, 0.5))
_SPLITS = {"train": 5_000, "val": 5_000, "test": 10_000}  # images
_STEPS = {32: 1718, 128: 429}  # of an epoch
_AT_ONCE = 2_000_000  # rows; the memory this takes


def write(
    folder: Path,
    trials: int,
    epochs: int,
    *,
    optimizers: int = len(OPTIMIZERS),
    schedules: int = len(SCHEDULES),
    batch_sizes: int = len(BATCH_SIZES),
    dropouts: int = len(DROPOUTS),
    seeds: int = 5,
    confirm: int = 0,
    diverged: float = 0.05,
    stack_size: int = 4,
    trials_per_part: int | None = None,
    seed: int = 0,
) -> Store:
    """Write a folder of results of about `trials` trials, all done, as a run would have left it.

    The grid has the first so many optimizers, schedules, batch sizes and dropout rates, and as many learning rates as
    it takes, the last of them not with everything; each configuration trains with `seeds` seeds, and of each optimizer
    the best one by val_accuracy with `confirm` more. A share `diverged` of the configurations does so, those with the
    largest learning rates. A part holds a stack unless `trials_per_part` says otherwise. The same arguments give the
    same rows.
    """
    generator = np.random.default_rng(seed)
    labels = list(OPTIMIZERS)[:optimizers]
    groups = list(product(SCHEDULES[:schedules], BATCH_SIZES[:batch_sizes], DROPOUTS[:dropouts], labels))
    each = max(1, (trials - confirm * len(labels)) // seeds // len(labels))  # the same number for every optimizer
    configurations = each * len(labels)
    n_lr = math.ceil(configurations / len(groups))
    exponents = np.linspace(-1.5, 1.5, n_lr) if n_lr > 1 else np.zeros(1)
    grid = [(*group, float(x)) for x in exponents for group in groups][:configurations]

    x = np.array([values[4] for values in grid])
    quality = 0.985 - 0.03 * x**2 - np.array([0.01 * sum(values[2]) for values in grid])
    quality -= 0.004 * np.array([values[3] == labels[0] for values in grid])
    quality -= 0.002 * np.array([values[0] == SCHEDULES[0] for values in grid]) - generator.normal(0, 0.002, len(grid))
    lost = np.zeros(len(grid), bool)
    lost[np.argsort(-x, kind="stable")[: round(diverged * len(grid))]] = True

    pairs = [(i, s, "tune") for s in range(seeds) for i in range(len(grid))]
    accuracy = quality[[i for i, *_ in pairs]] + generator.normal(0, 0.002, len(pairs))
    speed = generator.uniform(0.5, 1.5, len(pairs) + confirm * len(labels))
    scores = _learned(accuracy, speed[: len(pairs)], np.array(epochs), _SPLITS["val"]).reshape(seeds, -1).mean(axis=0)
    chosen = [max(range(k, len(grid), len(labels)), key=lambda i: scores[i] - lost[i]) for k in range(len(labels))]
    pairs += [(i, 10_000 + s, "confirm") for s in range(confirm) for i in chosen]
    accuracy = np.concatenate([accuracy, quality[chosen * confirm] + generator.normal(0, 0.002, confirm * len(labels))])
    of_trial, seed_of, phase_of = (np.array(column) for column in zip(*pairs, strict=True))
    ids = [_hash("configuration", seed, i) for i in range(len(grid))]
    trial_ids = [_hash(ids[i], s) for i, s, _ in pairs]

    store = Store(folder)
    outline = Outline(
        name=folder.name,
        metric=Score.val_accuracy,
        trial_ids=tuple(trial_ids[: len(grid) * seeds]),
        confirm_ids=tuple(trial_ids[len(grid) * seeds :]),
        optimizers=dict.fromkeys(labels, each * seeds + confirm),
        budgets=dict.fromkeys(labels, each),
    )
    folder.mkdir(parents=True, exist_ok=True)
    store.write_meta("outline.json", json.dumps(vars(outline), indent=1))

    end = np.where(lost[of_trial], generator.integers(1, max(2, epochs // 2), len(pairs)), epochs)
    stacks = np.arange(len(pairs)) // stack_size
    shared = {column.name: column.of(axis.default) for axis in PARAMETERS.values() for column in axis.columns} | {
        "sweep": folder.name,
        "dataset": "mnist",
        "epochs": epochs,
        "model": "cnn",
        "activation": "relu",
        "loss": "cross_entropy",
        "classes": 10,
        "train_images": 55_000,
        "val_images": _SPLITS["val"],
        "train_eval_images": _SPLITS["val"],
        "test_images": _SPLITS["test"],
        "workers": 2,
        "device": "cpu",
        "cpu": "a made-up CPU",
        "precision": "fp32",
        "gradients_per_step": 1.0,
        "peak_memory_bytes": None,
        "convolution": "loop",
        "error": None,
        "optbench_version": "0.1.0",
        "torch_version": "2.13.0+cpu",
        "python_version": "3.11.7",
        "os": "Linux 6.1 x86_64",
    }
    of_grid = {
        "configuration_id": ids,
        "optimizer": [values[3] for values in grid],
        "algorithm": [OPTIMIZERS[values[3]][0] for values in grid],
        "lr": [OPTIMIZERS[values[3]][1] * 10 ** values[4] for values in grid],
        "hyperparameters": [json.dumps(OPTIMIZERS[values[3]][2], sort_keys=True) for values in grid],
        "schedule": [values[0] for values in grid],
        "batch_size": [values[1] for values in grid],
        "dropout": [values[2][0] if len({*values[2]}) == 1 else None for values in grid],
        "dropout_conv": [values[2][0] for values in grid],
        "dropout_linear": [values[2][1] for values in grid],
        "state_per_parameter": [_STATE.get(values[3], 2.0) for values in grid],
    }
    arrays = {name: pa.array(values, SCHEMA.field(name).type) for name, values in of_grid.items()}
    stack_ids = pa.array([_hash("stack", seed, int(i)) for i in range(stacks[-1] + 1)])
    in_part = trials_per_part or stack_size
    at_once = max(1, _AT_ONCE // ((epochs + 1) * in_part)) * in_part
    for first in range(0, len(pairs), at_once):
        # The rows of some parts, in the order in which runs write them: part by part, epoch by epoch.
        some = np.arange(first, min(first + at_once, len(pairs)))
        part, epoch, trial = (
            column.ravel()
            for column in np.broadcast_arrays((some // in_part)[:, None], np.arange(epochs + 1)[None, :], some[:, None])
        )
        there = epoch <= end[trial]
        part, epoch, trial = part[there], epoch[there], trial[there]
        order = np.lexsort((trial, epoch, part))
        part, epoch, trial = part[order], epoch[order], trial[order]
        is_lost = lost[of_trial][trial]
        nan = is_lost & (epoch == end[trial])
        columns: dict[str, Any] = {name: _take(array, of_trial[trial]) for name, array in arrays.items()}
        columns |= {
            "trial_id": _take(pa.array(trial_ids), trial),
            "phase": pa.array(phase_of[trial]),
            "seed": seed_of[trial],
            "epoch": epoch,
            "step": epoch * _steps(of_grid["batch_size"], of_trial[trial]),
            "status": _take(pa.array(["finished", "diverged"]), is_lost.astype(int)),
            "scheduled_lr": _take(arrays["lr"], of_trial[trial]),
            "train_seconds": epoch * 7.3 * (1 + 0.05 * speed[stacks[trial] % len(speed)]),
            "stack": _take(stack_ids, stacks[trial]),
            "stack_size": np.full(len(trial), stack_size),
        }
        for split, images in _SPLITS.items():
            bonus = 0.004 if split == "train" else 0.0
            wobble = generator.normal(0, 0.003, len(trial)) * (1 - epoch / epochs)  # the end is as it was selected
            score = _learned(accuracy[trial] + bonus + wobble, speed[trial], epoch, images)
            columns[f"{split}_accuracy"] = np.where(nan, np.nan, score)
            columns[f"{split}_loss"] = np.where(nan, np.nan, _as_measured(2.5 * (1.02 - score), generator))
        columns["steps"] = pa.nulls(len(trial), pa.int64())
        columns |= {name: _constant(name, value, len(trial)) for name, value in shared.items() if name not in columns}
        table = pa.table(
            [pa.array(columns[name]).cast(SCHEMA.field(name).type) for name in SCHEMA.names], schema=SCHEMA
        )
        bounds = np.flatnonzero(np.diff(part, prepend=-1, append=part[-1] + 1))
        for a, b in pairwise(bounds):
            path = folder / f"part-{_hash('part', seed, int(part[a]))}.parquet"
            pq.write_table(table.slice(a, b - a), path, compression="zstd")
    return store


def _learned(accuracy: np.ndarray, speed: np.ndarray, epoch: np.ndarray, images: int) -> np.ndarray:
    """Accuracy after so many epochs, from chance to what the trial ends with, as a share of so many images."""
    score = 0.1 + (accuracy - 0.1) * (1 - np.exp(-speed * epoch))
    return np.round(np.clip(score, 0, 1) * images) / images


def _hash(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _take(values: pa.Array, positions: np.ndarray) -> pa.Array:
    return values.take(pa.array(positions))


def _constant(name: str, value: object, n: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, SCHEMA.field(name).type), n)


def _steps(batch_sizes: list[int], positions: np.ndarray) -> np.ndarray:
    return np.array([_STEPS[size] for size in batch_sizes])[positions]


def _as_measured(losses: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """With the digits of single precision that a real loss has, which no compression takes away."""
    return (losses * generator.uniform(0.999, 1.001, len(losses))).astype(np.float32).astype(float)
